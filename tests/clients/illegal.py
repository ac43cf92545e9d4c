#!/usr/bin/python3
"""Sends requests that libnbd would refuse by itself (strict mode off) and asserts how each is answered.

usage: illegal.py URI SIZE. The export must offer flush, FUA, trim and write-zeroes; its content is overwritten.
After each illegal request a legal one on the same connection must still work.
"""
import sys
import nbd

uri, size = sys.argv[1], int(sys.argv[2])
checks = 0


def connect():
    handle = nbd.NBD()
    handle.add_meta_context("base:allocation")
    handle.connect_uri(uri)
    handle.set_strict_mode(0)
    assert handle.get_size() == size, handle.get_size()
    return handle


def refused(what, expect, call):
    """`expect`: names of the errors that the protocol document allows here."""
    global checks
    try:
        call()
    except nbd.Error as error:
        assert error.errno in expect, f"{what}: {error.errno}, expected one of {expect}"
    else:
        raise AssertionError(f"{what}: was accepted")
    assert not h.aio_is_dead() and not h.aio_is_closed(), f"{what}: the connection ended"
    assert h.pread(512, 0) == first, f"{what}: a read afterwards finds something else"
    checks += 1


h = connect()
first = bytes(range(256)) * 2
h.pwrite(first, 0)
block = b"x" * 4096
status = lambda *_: 0

refused("read beyond the end", ["EINVAL"], lambda: h.pread(512, size))
refused("read across the end", ["EINVAL"], lambda: h.pread(4096, size - 512))
refused("read at the end of 64 bits", ["EINVAL"], lambda: h.pread(4096, 2**64 - 4096))
refused("structured read beyond the end", ["EINVAL"], lambda: h.pread_structured(512, size, status))
refused("write beyond the end", ["ENOSPC", "EINVAL"], lambda: h.pwrite(block, size))
refused("write across the end", ["ENOSPC", "EINVAL"], lambda: h.pwrite(block, size - 512))
refused("trim beyond the end", ["EINVAL", "ENOSPC"], lambda: h.trim(4096, size))
refused("zeroes beyond the end", ["ENOSPC", "EINVAL"], lambda: h.zero(4096, size - 512))
refused("zeroes over 64 bits", ["ENOSPC", "EINVAL"], lambda: h.zero(2**32 - 512, 2**64 - 512))
refused("block status beyond the end", ["EINVAL"], lambda: h.block_status(4096, size, status))
refused("cache beyond the end", ["EINVAL"], lambda: h.cache(4096, size))
refused("unaligned read", ["EINVAL"], lambda: h.pread(512, 1))
refused("unaligned length of a read", ["EINVAL"], lambda: h.pread(100, 0))
refused("unaligned write", ["EINVAL"], lambda: h.pwrite(b"x" * 512, 511))
refused("unaligned length of a write", ["EINVAL"], lambda: h.pwrite(b"x" * 100, 0))
refused("unaligned trim", ["EINVAL"], lambda: h.trim(100, 0))
refused("unaligned zeroes", ["EINVAL"], lambda: h.zero(100, 0))
refused("read of 64 MiB", ["EINVAL", "EOVERFLOW"], lambda: h.pread(64 << 20, 0))
refused("unknown flag on a write", ["EINVAL"], lambda: h.pwrite(block, 0, 1 << 14))
refused("unknown flag on a read", ["EINVAL"], lambda: h.pread(512, 0, 1 << 14))
refused("unknown flag on a flush", ["EINVAL"], lambda: h.flush(1 << 14))
h.shutdown()

# A write of 64 MiB may be answered with an error, or end the connection; it must not take effect.
h = connect()
try:
    h.pwrite(b"y" * (64 << 20), 0)
except nbd.Error:
    pass
else:
    raise AssertionError("a write of 64 MiB was accepted")
h = connect()
assert h.pread(512, 0) == first, "an oversized write took effect"
checks += 1

# Lengths of zero are left open by the protocol; here they must not hang nor harm.
for call in (lambda: h.pread(0, 0), lambda: h.trim(0, 0), lambda: h.zero(0, 0)):
    try:
        call()
    except nbd.Error as error:
        assert error.errno == "EINVAL", error.errno
    checks += 1
assert h.pread(512, 0) == first

# Legal, but rarely sent.
h.pwrite(block, 4096, nbd.CMD_FLAG_FUA)
h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.trim(4096, 12288, nbd.CMD_FLAG_FUA)
if h.can_fast_zero():
    h.zero(4096, 16384, nbd.CMD_FLAG_FAST_ZERO)
if h.can_df():
    chunks = []
    h.pread_structured(65536, 0, lambda data, offset, kind, error: chunks.append((offset, len(data), kind)), nbd.CMD_FLAG_DF)
    assert len(chunks) == 1, f"DF forbids fragments: {chunks}"
    checks += 1
assert h.pread(4096, 4096) == block
extents = []
h.block_status(65536, 0, lambda context, offset, entries, error: extents.extend(entries) or 0)
assert sum(extents[0::2]) >= 512, extents
one = []
h.block_status(65536, 0, lambda context, offset, entries, error: one.extend(entries) or 0, nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 2 and one[0] <= 65536, one
checks += 3
h.shutdown()
print(checks)
