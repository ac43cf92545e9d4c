//! Numbers and layouts of RFC 7143 section 11: the basic header segment and what its bytes mean.

use base::Reader;

/// Basic header segment, bytes.
pub const HEADER: usize = 48;
pub const DIGEST: usize = 4;
/// Names no task and no transfer.
pub const RESERVED_TAG: u32 = 0xffff_ffff;

/// What an initiator sends (11.2.1.2).
pub mod request {
    pub const NOP_OUT: u8 = 0x00;
    pub const COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
}

/// What a target sends (11.2.1.2).
pub mod response {
    pub const NOP_IN: u8 = 0x20;
    pub const COMMAND: u8 = 0x21;
    pub const TASK_MANAGEMENT: u8 = 0x22;
    pub const LOGIN: u8 = 0x23;
    pub const TEXT: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT: u8 = 0x26;
    pub const READY_TO_TRANSFER: u8 = 0x31;
    pub const ASYNCHRONOUS: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;
}

/// Additional header segments (11.2.2.1).
pub mod additional {
    pub const EXTENDED_CDB: u8 = 1;
    pub const BIDIRECTIONAL: u8 = 2;
}

/// Reasons of a Reject (11.17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    DataDigest = 0x02,
    Snack = 0x03,
    Protocol = 0x04,
    NotSupported = 0x05,
    TooManyImmediate = 0x06,
    TaskInProgress = 0x07,
    InvalidField = 0x09,
    LongOperation = 0x0a,
    WaitingForLogout = 0x0c,
}

/// Status class and detail of a Login Response (11.13.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum LoginStatus {
    Success = 0x0000,
    InitiatorError = 0x0200,
    AuthenticationFailure = 0x0201,
    AuthorizationFailure = 0x0202,
    NotFound = 0x0203,
    UnsupportedVersion = 0x0205,
    TooManyConnections = 0x0206,
    MissingParameter = 0x0207,
    SessionTypeNotSupported = 0x0209,
    SessionDoesNotExist = 0x020a,
    InvalidDuringLogin = 0x020b,
    TargetError = 0x0300,
    ServiceUnavailable = 0x0301,
    OutOfResources = 0x0302,
}

/// Flag bits of the second byte.
pub mod flag {
    pub const FINAL: u8 = 0x80;
    /// Text and login: more of the same request follows. Login: [`FINAL`] is the transit bit.
    pub const CONTINUE: u8 = 0x40;
    pub const READ: u8 = 0x40;
    pub const WRITE: u8 = 0x20;
    /// Residuals of responses and Data-In.
    pub const OVERFLOW: u8 = 0x04;
    pub const UNDERFLOW: u8 = 0x02;
    /// Data-In that carries the status.
    pub const STATUS: u8 = 0x01;
}

/// The basic header segment of a PDU that an initiator sent, and the additional segments behind it.
#[derive(Clone)]
pub struct Header {
    pub basic: [u8; HEADER],
    /// Usually empty; at most 1020 bytes.
    pub additional: Vec<u8>,
}

impl Header {
    pub fn opcode(&self) -> u8 {
        self.basic[0] & 0x3f
    }
    pub fn immediate(&self) -> bool {
        self.basic[0] & 0x40 != 0
    }
    pub fn flags(&self) -> u8 {
        self.basic[1]
    }
    pub fn is_final(&self) -> bool {
        self.flags() & flag::FINAL != 0
    }
    /// Length of the data segment without its padding.
    pub fn data_bytes(&self) -> usize {
        data_bytes(&self.basic)
    }
    pub fn lun(&self) -> [u8; 8] {
        self.array(8)
    }
    /// Initiator task tag.
    pub fn task(&self) -> u32 {
        self.word(16)
    }
    /// The fifth word: target transfer tag, referenced task tag, or expected data transfer length.
    pub fn fifth(&self) -> u32 {
        self.word(20)
    }
    pub fn command_number(&self) -> u32 {
        self.word(24)
    }
    pub fn expected_status_number(&self) -> u32 {
        self.word(28)
    }
    /// Big-endian word at a fixed place of the header.
    pub fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }
    pub fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let field = self.basic.get(at..).and_then(|rest| rest.first_chunk::<N>());
        *field.expect("places of fields are constants inside the header")
    }

    /// The additional segments in order, as type and content; `None` if they do not fit into their length.
    pub fn segments(&self) -> Option<Vec<(u8, &[u8])>> {
        let mut reader = Reader::new(&self.additional);
        let mut found = Vec::new();
        while !reader.is_empty() {
            let len = usize::from(reader.u16_be().ok()?);
            let kind = reader.u8().ok()?;
            let content = reader.take(len).ok()?;
            // Each is padded to a whole word.
            let padding = (3 + len).next_multiple_of(4) - (3 + len);
            reader.skip(padding).ok()?;
            found.push((kind & 0x3f, content));
        }
        Some(found)
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Header({:02x} {:02x}, task {:#x}", self.opcode(), self.flags(), self.task())?;
        write!(f, ", {} data bytes)", self.data_bytes())
    }
}

/// Length of the additional header segments, bytes.
pub fn additional_bytes(basic: &[u8; HEADER]) -> usize {
    usize::from(basic[4]) * 4
}

pub fn data_bytes(basic: &[u8; HEADER]) -> usize {
    u32::from_be_bytes([0, basic[5], basic[6], basic[7]]) as usize
}

/// Bytes of padding behind `len` bytes.
pub fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

/// Whether `a` comes before `b` (serial number arithmetic, RFC 1982).
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A header to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Answer(pub [u8; HEADER]);

impl Answer {
    pub fn new(opcode: u8, flags: u8) -> Answer {
        let mut basic = [0; HEADER];
        basic[0] = opcode;
        basic[1] = flags;
        Answer(basic)
    }
    pub fn byte(mut self, at: usize, value: u8) -> Answer {
        self.put(at, &[value]);
        self
    }
    pub fn half(mut self, at: usize, value: u16) -> Answer {
        self.put(at, &value.to_be_bytes());
        self
    }
    pub fn word(mut self, at: usize, value: u32) -> Answer {
        self.put(at, &value.to_be_bytes());
        self
    }
    pub fn lun(mut self, lun: &[u8; 8]) -> Answer {
        self.put(8, lun);
        self
    }
    pub fn task(self, task: u32) -> Answer {
        self.word(16, task)
    }
    fn put(&mut self, at: usize, value: &[u8]) {
        let field = self.0.get_mut(at..).and_then(|rest| rest.get_mut(..value.len()));
        field.expect("places of fields are constants inside the header").copy_from_slice(value);
    }
}
