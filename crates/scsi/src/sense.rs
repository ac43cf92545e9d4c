//! Sense data: what went wrong, in SPC-4's words.

#[cfg(test)]
mod tests;

/// SPC-4 4.5.6; the value is the sense key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    NoSense = 0x0,
    RecoveredError = 0x1,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    CopyAborted = 0xa,
    AbortedCommand = 0xb,
    Miscompare = 0xe,
    Completed = 0xf,
}

/// Sense data of one command, encoded as the logical unit's control mode page asks for (fixed or descriptor format).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sense {
    pub key: Key,
    /// Additional sense code and qualifier.
    pub asc: u8,
    pub ascq: u8,
    /// 8 to 252 bytes, as they go to the initiator.
    pub bytes: Vec<u8>,
}

/// How sense data is laid out (SPC-4 4.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Fixed,
    Descriptor,
}

/// Additional sense code and qualifier (SPC-4 annex F).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub u8, pub u8);

impl Code {
    pub(crate) const NONE: Code = Code(0x00, 0x00);
    pub(crate) const OPERATION_IN_PROGRESS: Code = Code(0x00, 0x16);
    pub(crate) const BECOMING_READY: Code = Code(0x04, 0x01);
    pub(crate) const SANITIZE_IN_PROGRESS: Code = Code(0x04, 0x1b);
    pub(crate) const PORT_UNAVAILABLE: Code = Code(0x04, 0x0c);
    pub(crate) const INVALID_INFORMATION_UNIT: Code = Code(0x0e, 0x03);
    pub(crate) const UNREACHABLE_COPY_TARGET: Code = Code(0x08, 0x04);
    pub(crate) const THIRD_PARTY_FAILURE: Code = Code(0x0d, 0x01);
    pub(crate) const COPY_TARGET_NOT_REACHABLE: Code = Code(0x0d, 0x02);
    pub(crate) const UNRECOVERED_READ: Code = Code(0x11, 0x00);
    pub(crate) const PARAMETER_LIST_LENGTH: Code = Code(0x1a, 0x00);
    pub(crate) const MISCOMPARE: Code = Code(0x1d, 0x00);
    pub(crate) const INVALID_OPCODE: Code = Code(0x20, 0x00);
    pub(crate) const LBA_OUT_OF_RANGE: Code = Code(0x21, 0x00);
    pub(crate) const INVALID_FIELD_IN_CDB: Code = Code(0x24, 0x00);
    pub(crate) const LUN_NOT_SUPPORTED: Code = Code(0x25, 0x00);
    pub(crate) const INVALID_FIELD_IN_LIST: Code = Code(0x26, 0x00);
    pub(crate) const INVALID_RELEASE: Code = Code(0x26, 0x04);
    pub(crate) const TOO_MANY_TARGETS: Code = Code(0x26, 0x06);
    pub(crate) const UNKNOWN_TARGET_TYPE: Code = Code(0x26, 0x07);
    pub(crate) const TOO_MANY_SEGMENTS: Code = Code(0x26, 0x08);
    pub(crate) const UNKNOWN_SEGMENT_TYPE: Code = Code(0x26, 0x09);
    pub(crate) const INLINE_DATA_TOO_LONG: Code = Code(0x26, 0x0b);
    pub(crate) const WRITE_PROTECTED: Code = Code(0x27, 0x00);
    pub(crate) const SOFTWARE_WRITE_PROTECTED: Code = Code(0x27, 0x02);
    pub(crate) const SPACE_ALLOCATION_FAILED: Code = Code(0x27, 0x07);
    pub(crate) const POWER_ON_OR_RESET: Code = Code(0x29, 0x00);
    pub(crate) const DEVICE_RESET: Code = Code(0x29, 0x03);
    pub(crate) const NEXUS_LOSS: Code = Code(0x29, 0x07);
    pub(crate) const LUNS_CHANGED: Code = Code(0x3f, 0x0e);
    pub(crate) const MODE_PARAMETERS_CHANGED: Code = Code(0x2a, 0x01);
    pub(crate) const RESERVATIONS_PREEMPTED: Code = Code(0x2a, 0x03);
    pub(crate) const RESERVATIONS_RELEASED: Code = Code(0x2a, 0x04);
    pub(crate) const REGISTRATIONS_PREEMPTED: Code = Code(0x2a, 0x05);
    pub(crate) const CAPACITY_CHANGED: Code = Code(0x2a, 0x09);
    pub(crate) const COMMANDS_CLEARED: Code = Code(0x2f, 0x00);
    pub(crate) const SANITIZE_FAILED: Code = Code(0x31, 0x03);
    pub(crate) const INTERNAL_TARGET_FAILURE: Code = Code(0x44, 0x00);
    pub(crate) const INVALID_MESSAGE: Code = Code(0x49, 0x00);
    pub(crate) const INSUFFICIENT_RESOURCES: Code = Code(0x55, 0x03);
    pub(crate) const INSUFFICIENT_REGISTRATIONS: Code = Code(0x55, 0x04);
}

/// What the sense key specific bytes say (SPC-4 4.5.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Specific {
    /// Byte of the CDB at which an error was found, and the leftmost bit of the field.
    Cdb { byte: u16, bit: Option<u8> },
    /// The same for the parameter list.
    List { byte: u16, bit: Option<u8> },
    /// Parts of 65,536.
    Progress(u16),
}

/// Why a command ends with CHECK CONDITION, before it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub key: Key,
    pub code: Code,
    /// LBA, or byte offset of a miscompare.
    pub information: Option<u64>,
    pub command_specific: Option<u64>,
    pub specific: Option<Specific>,
}

impl Condition {
    pub(crate) const fn new(key: Key, code: Code) -> Condition {
        Condition { key, code, information: None, command_specific: None, specific: None }
    }
    pub(crate) const fn illegal(code: Code) -> Condition {
        Condition::new(Key::IllegalRequest, code)
    }
    /// INVALID FIELD IN CDB, all of byte `byte`.
    pub(crate) const fn cdb(byte: u16) -> Condition {
        Condition::illegal(Code::INVALID_FIELD_IN_CDB).specific(Specific::Cdb { byte, bit: None })
    }
    /// INVALID FIELD IN CDB, the field whose leftmost bit is `bit` of byte `byte`.
    pub(crate) const fn cdb_bit(byte: u16, bit: u8) -> Condition {
        Condition::illegal(Code::INVALID_FIELD_IN_CDB).specific(Specific::Cdb { byte, bit: Some(bit) })
    }
    /// INVALID FIELD IN PARAMETER LIST at `byte`.
    pub(crate) const fn list(byte: u16) -> Condition {
        Condition::illegal(Code::INVALID_FIELD_IN_LIST).specific(Specific::List { byte, bit: None })
    }
    pub(crate) const fn list_bit(byte: u16, bit: u8) -> Condition {
        Condition::illegal(Code::INVALID_FIELD_IN_LIST).specific(Specific::List { byte, bit: Some(bit) })
    }
    pub(crate) const fn list_length() -> Condition {
        Condition::illegal(Code::PARAMETER_LIST_LENGTH)
    }
    pub(crate) const fn information(mut self, information: u64) -> Condition {
        self.information = Some(information);
        self
    }
    pub(crate) const fn command_specific(mut self, value: u64) -> Condition {
        self.command_specific = Some(value);
        self
    }
    pub(crate) const fn specific(mut self, specific: Specific) -> Condition {
        self.specific = Some(specific);
        self
    }

    pub(crate) fn encode(&self, format: Format) -> Sense {
        let bytes = match format {
            Format::Fixed => self.fixed(),
            Format::Descriptor => self.descriptors(),
        };
        Sense { key: self.key, asc: self.code.0, ascq: self.code.1, bytes }
    }

    /// SPC-4 4.5.3. An information field that does not fit is left out: VALID is zero then.
    fn fixed(&self) -> Vec<u8> {
        let mut bytes = vec![0; 18];
        let information = self.information.and_then(|information| u32::try_from(information).ok());
        bytes[0] = 0x70 | if information.is_some() { 0x80 } else { 0 };
        bytes[2] = self.key as u8;
        bytes[3..7].copy_from_slice(&information.unwrap_or(0).to_be_bytes());
        bytes[7] = 10;
        let command_specific = self.command_specific.and_then(|value| u32::try_from(value).ok());
        bytes[8..12].copy_from_slice(&command_specific.unwrap_or(0).to_be_bytes());
        bytes[12] = self.code.0;
        bytes[13] = self.code.1;
        if let Some(specific) = self.specific {
            bytes[15..18].copy_from_slice(&specific.encode());
        }
        bytes
    }

    /// SPC-4 4.5.2.
    fn descriptors(&self) -> Vec<u8> {
        let mut bytes = vec![0x72, self.key as u8, self.code.0, self.code.1, 0, 0, 0, 0];
        for (kind, value, valid) in [(0, self.information, 0x80), (1, self.command_specific, 0)] {
            if let Some(value) = value {
                bytes.extend([kind, 0x0a, valid, 0]);
                bytes.extend(value.to_be_bytes());
            }
        }
        if let Some(specific) = self.specific {
            bytes.extend([2, 6, 0, 0]);
            bytes.extend(specific.encode());
            bytes.push(0);
        }
        bytes[7] = (bytes.len() - 8) as u8;
        bytes
    }
}

impl Specific {
    /// SKSV and what follows it.
    fn encode(self) -> [u8; 3] {
        let field = |flags: u8, byte: u16, bit: Option<u8>| {
            let [high, low] = byte.to_be_bytes();
            [0x80 | flags | bit.map_or(0, |bit| 0x08 | bit), high, low]
        };
        match self {
            Specific::Cdb { byte, bit } => field(0x40, byte, bit),
            Specific::List { byte, bit } => field(0, byte, bit),
            Specific::Progress(done) => field(0, done, None),
        }
    }
}
