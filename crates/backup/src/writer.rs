//! Writing a backup file, front to back.

use crate::header::Header;
use crate::record::{DATA_BYTES_MAX, Head, Kind, UNIT};
use base::crc::crc32c;
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// What is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub records: u64,
    /// Bytes of the vDisk that the file has.
    pub data_bytes: u64,
    /// Bytes that it says read as zeros.
    pub zero_bytes: u64,
    pub file_bytes: u64,
}

/// Records are given in the order of their offsets and do not overlap.
pub struct Writer<W> {
    sink: W,
    digest: Sha256,
    chain: u32,
    summary: Summary,
    /// Where the last record ends, and what the vDisk's size is.
    end: u64,
    size_bytes: u64,
    incremental: bool,
}

impl<W: Write> Writer<W> {
    pub fn begin(sink: W, header: &Header) -> io::Result<Writer<W>> {
        let mut writer = Writer {
            sink,
            digest: Sha256::new(),
            chain: 0,
            summary: Summary::default(),
            end: 0,
            size_bytes: header.to.size_bytes,
            incremental: header.from.is_some(),
        };
        let bytes = header.encode();
        writer.chain = crc32c(&bytes);
        writer.put(&bytes)?;
        Ok(writer)
    }

    /// `offset` and the length are multiples of 4096; at most [`DATA_BYTES_MAX`] at once.
    pub fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let len = data.len() as u64;
        assert!(len <= DATA_BYTES_MAX, "{len} bytes are too long for one record");
        self.head(Kind::Data, offset, len, crc32c(data))?;
        self.summary.data_bytes += len;
        self.put(data)
    }

    /// The range reads as zeros. A full backup says so by saying nothing.
    pub fn zeros(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if self.incremental {
            self.head(Kind::Zeros, offset, len, 0)?;
            self.summary.zero_bytes += len;
        }
        Ok(())
    }

    /// The end, without which a file is refused. The sink is flushed, and not synced.
    pub fn finish(mut self) -> io::Result<(W, Summary)> {
        let Summary { records, data_bytes, .. } = self.summary;
        let (bytes, _) = Head { kind: Kind::End, offset: records, len: data_bytes, payload_crc: 0 }.encode(self.chain);
        self.put(&bytes)?;
        let digest = self.digest.clone().finalize();
        self.put(&digest)?;
        self.sink.flush()?;
        Ok((self.sink, self.summary))
    }

    fn head(&mut self, kind: Kind, offset: u64, len: u64, payload_crc: u32) -> io::Result<()> {
        let is_next = offset >= self.end && len > 0 && offset % UNIT == 0 && len % UNIT == 0;
        assert!(is_next && offset + len <= self.size_bytes, "{len} bytes at {offset} behind {}", self.end);
        self.end = offset + len;
        self.summary.records += 1;
        let (bytes, chain) = Head { kind, offset, len, payload_crc }.encode(self.chain);
        self.chain = chain;
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.summary.file_bytes += bytes.len() as u64;
        self.sink.write_all(bytes)
    }
}
