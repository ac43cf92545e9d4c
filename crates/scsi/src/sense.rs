//! Sense data: what went wrong, in SPC-4's words.

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
    /// 18 to 252 bytes, as they go to the initiator.
    pub bytes: Vec<u8>,
}
