//! Every command that is implemented: dispatch, the check of reserved bits and REPORT SUPPORTED OPERATION CODES all read this one table.

use crate::call::{Call, Ran};
use crate::cdb::Cdb;
use crate::fault::Fault;
use crate::sense::{Code, Condition};
use crate::{capacity, inquiry, mode, read, ready, report, request_sense, synchronize, write};
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

/// In order of operation codes and service actions.
pub(crate) static TABLE: &[Entry] = {
    use Access::{Always, Read, Status, Write};
    &[
        entry(0x00, &[0, 0, 0, 0, CONTROL], Status, plain, ready::test_unit_ready),
        entry(0x03, &[0x01, 0, 0, 0xff, CONTROL], Always, plain, request_sense::execute)
            .despite_attention()
            .despite_sanitize(),
        entry(0x08, &[0x1f, 0xff, 0xff, 0xff, CONTROL], Read, read::check, read::execute),
        entry(0x0a, &[0x1f, 0xff, 0xff, 0xff, CONTROL], Write, write::check, write::execute),
        entry(0x12, &[0x01, 0xff, 0xff, 0xff, CONTROL], Always, inquiry::check, inquiry::execute)
            .despite_attention()
            .despite_sanitize(),
        entry(0x15, &[0x10, 0, 0, 0xff, CONTROL], Write, mode::check_select_6, mode::select_6),
        entry(0x1a, &[0x08, 0xff, 0xff, 0xff, CONTROL], Read, mode::check_sense, mode::sense_6),
        entry(
            0x25,
            &[0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, CONTROL],
            Status,
            capacity::check_10,
            capacity::execute_10,
        ),
        entry(0x28, &[CACHE, 0xff, 0xff, 0xff, 0xff, GROUP, 0xff, 0xff, CONTROL], Read, read::check, read::execute),
        entry(0x2a, &[CACHE, 0xff, 0xff, 0xff, 0xff, GROUP, 0xff, 0xff, CONTROL], Write, write::check, write::execute),
        entry(
            0x35,
            &[0x06, 0xff, 0xff, 0xff, 0xff, GROUP, 0xff, 0xff, CONTROL],
            Write,
            synchronize::check,
            synchronize::execute,
        ),
        entry(0x55, &[0x10, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL], Write, mode::check_select_10, mode::select_10),
        entry(0x5a, &[0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, CONTROL], Read, mode::check_sense, mode::sense_10),
        entry(
            0x88,
            &[CACHE, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, CONTROL],
            Read,
            read::check,
            read::execute,
        ),
        entry(
            0x8a,
            &[CACHE, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, CONTROL],
            Write,
            write::check,
            write::execute,
        ),
        entry(
            0x91,
            &[0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, CONTROL],
            Write,
            synchronize::check,
            synchronize::execute,
        ),
        entry(
            0x9e,
            &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, CONTROL],
            Status,
            capacity::check_16,
            capacity::execute_16,
        )
        .action(0x10),
        entry(0xa0, &[0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL], Always, report::check_luns, report::luns)
            .despite_attention()
            .despite_sanitize(),
        entry(
            0xa8,
            &[CACHE, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, CONTROL],
            Read,
            read::check,
            read::execute,
        ),
        entry(
            0xaa,
            &[CACHE, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, CONTROL],
            Write,
            write::check,
            write::execute,
        ),
    ]
};
