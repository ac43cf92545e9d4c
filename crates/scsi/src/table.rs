//! Every command that is implemented: dispatch, the check of reserved bits and REPORT SUPPORTED OPERATION CODES all read this one table.

#[cfg(test)]
mod tests;

use crate::call::{Call, Ran};
use crate::cdb::Cdb;
use crate::fault::Fault;
use crate::sense::{Code, Condition};
use crate::{
    atomic, capacity, copy, inquiry, lba_status, mode, prefetch, read, ready, report, request_sense, reservation,
    sanitize, synchronize, unmap, verify, write, write_same,
};
use bytes::Bytes;
use world::Completion;

/// What a reservation of another nexus does to a command (SPC-4 table 66, SBC-3 table 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whatever is reserved.
    Always,
    /// Despite a persistent reservation, not despite RESERVE(6).
    Status,
    /// Not despite an exclusive access reservation.
    Read,
    /// Not despite any reservation.
    Write,
    /// The command looks for itself.
    Own,
}

pub(crate) struct Entry {
    pub opcode: u8,
    /// Low five bits of byte 1, where the operation code is shared.
    pub action: Option<u8>,
    /// Bits of the CDB behind the operation code that are evaluated (SPC-4 6.35.3), those of the service action left out.
    pub usage: &'static [u8],
    pub access: Access,
    /// Carried out although a unit attention is pending.
    pub despite_attention: bool,
    /// Carried out while the medium is being sanitized (SBC-3 4.11.2).
    pub despite_sanitize: bool,
    /// What the CDB says wrongly, or how many bytes of data-out it asks for.
    pub check: fn(&Call) -> Result<u32, Fault>,
    pub execute: fn(&Call, Bytes) -> Completion<Ran>,
}

type Check = fn(&Call) -> Result<u32, Fault>;
type Execute = fn(&Call, Bytes) -> Completion<Ran>;

/// For commands whose CDB has nothing to be checked beyond its reserved bits, and that take no data.
fn plain(_: &Call) -> Result<u32, Fault> {
    Ok(0)
}

const fn entry(opcode: u8, usage: &'static [u8], access: Access, check: Check, execute: Execute) -> Entry {
    Entry { opcode, action: None, usage, access, despite_attention: false, despite_sanitize: false, check, execute }
}

impl Entry {
    const fn action(mut self, action: u8) -> Entry {
        self.action = Some(action);
        self
    }
    const fn despite_attention(mut self) -> Entry {
        self.despite_attention = true;
        self
    }
    const fn despite_sanitize(mut self) -> Entry {
        self.despite_sanitize = true;
        self
    }

    pub(crate) fn cdb_bytes(&self) -> usize {
        self.usage.len() + 1
    }

    /// A reserved bit that is set is an invalid field (SPC-4 3.3.11); so is NACA, as NORMACA is zero.
    pub(crate) fn check_reserved(&self, cdb: &Cdb) -> Result<(), Fault> {
        let bytes = cdb.bytes().iter().skip(1).zip(self.usage).enumerate();
        for (index, (byte, usage)) in bytes {
            let action = if index == 0 && self.action.is_some() { 0x1f } else { 0 };
            let reserved = byte & !(usage | action);
            if reserved != 0 {
                let bit = 7 - reserved.leading_zeros() as u8;
                return Err(Condition::cdb_bit(index as u16 + 1, bit).into());
            }
        }
        Ok(())
    }
}

pub(crate) enum Found {
    Entry(&'static Entry),
    Refused(Condition),
}

/// The command that a CDB asks for.
pub(crate) fn find(cdb: &[u8]) -> Found {
    let Some(opcode) = cdb.first() else { return Found::Refused(Condition::illegal(Code::INVALID_OPCODE)) };
    let first = FIRST[usize::from(*opcode)];
    if first == NOWHERE {
        return Found::Refused(Condition::illegal(Code::INVALID_OPCODE));
    }
    let action = cdb.get(1).map_or(0, |byte| byte & 0x1f);
    let entries = TABLE.iter().skip(usize::from(first)).take_while(|entry| entry.opcode == *opcode);
    for entry in entries {
        if entry.action.is_none_or(|own| own == action) {
            if cdb.len() < entry.cdb_bytes() {
                return Found::Refused(Condition::cdb(cdb.len() as u16));
            }
            return Found::Entry(entry);
        }
    }
    Found::Refused(Condition::cdb_bit(1, 4))
}

const NOWHERE: u8 = u8::MAX;

/// Where an operation code's entries begin.
static FIRST: [u8; 256] = index();

const fn index() -> [u8; 256] {
    let mut first = [NOWHERE; 256];
    let mut at = TABLE.len();
    while at > 0 {
        at -= 1;
        first[TABLE[at].opcode as usize] = at as u8;
    }
    first
}

/// The GROUP NUMBER field: statistics that are not collected (GROUP_SUP is zero), so that it is ignored.
const GROUP: u8 = 0x1f;
const CONTROL: u8 = 0;
/// DPO and FUA.
const CACHE: u8 = 0x18;

/// DPO and BYTCHK.
const VERIFY: u8 = 0x16;

/// The CDBs in the layout that all block commands share, with `flags` in byte 1.
macro_rules! blocks {
    (10, $flags:expr) => {
        &[$flags, 0xff, 0xff, 0xff, 0xff, GROUP, 0xff, 0xff, CONTROL]
    };
    (12, $flags:expr) => {
        &[$flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, CONTROL]
    };
    (16, $flags:expr) => {
        &[$flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, CONTROL]
    };
}

/// An allocation or list length of four bytes at byte 6, 10 or wherever the zeros before it say.
const RESULTS: &[u8] = &[0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL];
const PERSISTENT_IN: &[u8] = &[0, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL];
const PERSISTENT_OUT: &[u8] = &[0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, CONTROL];
const NOTHING_5: &[u8] = &[0, 0, 0, 0, CONTROL];
const NOTHING_9: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, CONTROL];

/// In order of operation codes and service actions.
pub(crate) static TABLE: &[Entry] = {
    use Access::{Always, Own, Read, Status, Write};
    &[
        entry(0x00, NOTHING_5, Status, plain, ready::test_unit_ready),
        entry(0x03, &[0x01, 0, 0, 0xff, CONTROL], Always, plain, request_sense::execute)
            .despite_attention()
            .despite_sanitize(),
        entry(0x08, &[0x1f, 0xff, 0xff, 0xff, CONTROL], Read, read::check, read::execute),
        entry(0x0a, &[0x1f, 0xff, 0xff, 0xff, CONTROL], Write, write::check, write::execute),
        entry(0x12, &[0x01, 0xff, 0xff, 0xff, CONTROL], Always, inquiry::check, inquiry::execute)
            .despite_attention()
            .despite_sanitize(),
        entry(0x15, &[0x11, 0, 0, 0xff, CONTROL], Write, mode::check_select_6, mode::select_6),
        entry(0x16, NOTHING_5, Own, plain, reservation::reserve),
        entry(0x17, NOTHING_5, Own, plain, reservation::release),
        entry(0x1a, &[0x08, 0xff, 0xff, 0xff, CONTROL], Read, mode::check_sense, mode::sense_6),
        entry(0x1b, &[0x01, 0, 0, 0xf7, CONTROL], Own, ready::check_start_stop, ready::start_stop),
        entry(
            0x1c,
            &[0x01, 0xff, 0xff, 0xff, CONTROL],
            Read,
            ready::check_receive_diagnostic,
            ready::receive_diagnostic,
        ),
        entry(0x1d, &[0x14, 0, 0, 0, CONTROL], Write, ready::check_send_diagnostic, ready::send_diagnostic),
        entry(0x1e, &[0, 0, 0, 0x01, CONTROL], Own, ready::check_prevent, ready::prevent),
        entry(
            0x25,
            &[0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, CONTROL],
            Status,
            capacity::check_10,
            capacity::execute_10,
        ),
        entry(0x28, blocks!(10, CACHE), Read, read::check, read::execute),
        entry(0x2a, blocks!(10, CACHE), Write, write::check, write::execute),
        entry(0x2e, blocks!(10, VERIFY), Write, verify::check_write, verify::execute_write),
        entry(0x2f, blocks!(10, VERIFY), Read, verify::check, verify::execute),
        entry(0x34, blocks!(10, 0x02), Read, prefetch::check, prefetch::execute),
        entry(0x35, blocks!(10, 0x06), Write, synchronize::check, synchronize::execute),
        entry(0x37, &[0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, CONTROL], Read, plain, ready::defects_10),
        entry(0x41, blocks!(10, 0x08), Write, write_same::check, write_same::execute),
        entry(0x42, &[0, 0, 0, 0, 0, GROUP, 0xff, 0xff, CONTROL], Write, unmap::check, unmap::execute),
        entry(0x48, &[0xa0, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL], Write, sanitize::check_overwrite, sanitize::overwrite)
            .action(0x01),
        entry(0x48, &[0xa0, 0, 0, 0, 0, 0, 0, 0, CONTROL], Write, sanitize::check_erase, sanitize::erase).action(0x02),
        entry(0x48, &[0xa0, 0, 0, 0, 0, 0, 0, 0, CONTROL], Write, sanitize::check_erase, sanitize::erase).action(0x03),
        entry(0x48, &[0xa0, 0, 0, 0, 0, 0, 0, 0, CONTROL], Write, plain, sanitize::exit_failure_mode).action(0x1f),
        entry(0x55, &[0x11, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL], Write, mode::check_select_10, mode::select_10),
        entry(0x56, NOTHING_9, Own, plain, reservation::reserve),
        entry(0x57, NOTHING_9, Own, plain, reservation::release),
        entry(0x5a, &[0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, CONTROL], Read, mode::check_sense, mode::sense_10),
        entry(0x5e, PERSISTENT_IN, Status, plain, reservation::keys).action(0x00),
        entry(0x5e, PERSISTENT_IN, Status, plain, reservation::reservation).action(0x01),
        entry(0x5e, PERSISTENT_IN, Status, plain, reservation::capabilities).action(0x02),
        entry(0x5e, PERSISTENT_IN, Status, plain, reservation::full_status).action(0x03),
        entry(0x5f, PERSISTENT_OUT, Status, reservation::check, reservation::execute).action(0x00),
        entry(0x5f, PERSISTENT_OUT, Status, reservation::check, reservation::execute).action(0x01),
        entry(0x5f, PERSISTENT_OUT, Status, reservation::check, reservation::execute).action(0x02),
        entry(0x5f, PERSISTENT_OUT, Status, reservation::check, reservation::execute).action(0x03),
        entry(0x5f, PERSISTENT_OUT, Status, reservation::check, reservation::execute).action(0x04),
        entry(0x5f, PERSISTENT_OUT, Status, reservation::check, reservation::execute).action(0x05),
        entry(0x5f, PERSISTENT_OUT, Status, reservation::check, reservation::execute).action(0x06),
        entry(0x5f, PERSISTENT_OUT, Status, reservation::check, reservation::execute).action(0x07),
        entry(
            0x83,
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL],
            Write,
            copy::check,
            copy::execute,
        )
        .action(0x00),
        entry(0x84, RESULTS, Read, copy::check_results, copy::copy_status).action(0x00),
        entry(0x84, RESULTS, Read, copy::check_results, copy::held_data).action(0x01),
        entry(0x84, RESULTS, Read, plain, copy::operating_parameters).action(0x03),
        entry(0x84, RESULTS, Read, copy::check_results, copy::failed_segment).action(0x04),
        entry(0x88, blocks!(16, CACHE), Read, read::check, read::execute),
        entry(
            0x89,
            &[CACHE, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, GROUP, CONTROL],
            Write,
            atomic::check_compare,
            atomic::compare,
        ),
        entry(0x8a, blocks!(16, CACHE), Write, write::check, write::execute),
        entry(0x8b, blocks!(16, CACHE), Write, atomic::check_or, atomic::or),
        entry(0x8e, blocks!(16, VERIFY), Write, verify::check_write, verify::execute_write),
        entry(0x8f, blocks!(16, VERIFY), Read, verify::check, verify::execute),
        entry(0x90, blocks!(16, 0x02), Read, prefetch::check, prefetch::execute),
        entry(0x91, blocks!(16, 0x06), Write, synchronize::check, synchronize::execute),
        entry(0x93, blocks!(16, 0x09), Write, write_same::check, write_same::execute),
        entry(
            0x9c,
            &[CACHE, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, GROUP, CONTROL],
            Write,
            atomic::check_atomic,
            atomic::atomic,
        ),
        entry(
            0x9e,
            &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, CONTROL],
            Status,
            capacity::check_16,
            capacity::execute_16,
        )
        .action(0x10),
        entry(
            0x9e,
            &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, CONTROL],
            Read,
            lba_status::check,
            lba_status::execute,
        )
        .action(0x12),
        entry(0xa0, &[0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL], Always, report::check_luns, report::luns)
            .despite_attention()
            .despite_sanitize(),
        entry(
            0xa3,
            &[0xe0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL],
            Status,
            report::check_port_groups,
            report::port_groups,
        )
        .action(0x0a),
        entry(
            0xa3,
            &[0, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, CONTROL],
            Read,
            report::check_commands,
            report::commands,
        )
        .action(0x0c),
        entry(
            0xa3,
            &[0, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL],
            Read,
            report::check_functions,
            report::functions,
        )
        .action(0x0d),
        entry(0xa8, blocks!(12, CACHE), Read, read::check, read::execute),
        entry(0xaa, blocks!(12, CACHE), Write, write::check, write::execute),
        entry(0xae, blocks!(12, VERIFY), Write, verify::check_write, verify::execute_write),
        entry(0xaf, blocks!(12, VERIFY), Read, verify::check, verify::execute),
        entry(
            0xb7,
            &[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, CONTROL],
            Read,
            plain,
            ready::defects_12,
        ),
    ]
};
