//! What crosses the border between a transport and the device server (SAM-5 chapter 5, "Execute Command", and chapter 7,
//! task management).

use crate::Sense;
use block::Segment;

/// A command as the transport received it.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// Chosen by the transport, unique among the nexus' commands under way: task management names it.
    pub tag: u64,
    /// Eight bytes as SAM-5 4.7 lays them out.
    pub lun: [u8; 8],
    /// 6 to 260 bytes; what is shorter than its operation code asks for is refused.
    pub cdb: &'a [u8],
    pub attribute: Attribute,
    /// How many bytes of data-out the initiator offers (SAM-5 5.1, Data-Out Buffer Size; iSCSI: the expected data transfer length
    /// of a command with W). Some commands refuse an amount that is not what their CDB asks for.
    pub data_out_offered: u32,
}

/// SAM-5 8.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    Simple,
    Ordered,
    HeadOfQueue,
    Aca,
}

/// SAM-5 5.3.1; the value is the status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    ConditionMet = 0x04,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
    TaskAborted = 0x40,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: Status,
    /// With [`Status::CheckCondition`], else `None`.
    pub sense: Option<Sense>,
    /// Data-in, in order, already cut to the CDB's allocation length. The transport cuts it to what the initiator expects and
    /// computes the residual from its whole length.
    pub data: Vec<Segment>,
}

/// How a task ended.
#[derive(Debug, Clone)]
pub enum Ended {
    Response(Response),
    /// By task management or the loss of something: the initiator gets no response.
    Aborted,
}

/// Task management functions (SAM-5 chapter 7). `LogicalUnitReset` and the task set functions act on the logical unit named
/// with them, `TargetReset` on all of the target, `NexusReset` on what the nexus has with all of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    AbortTask {
        tag: u64,
    },
    AbortTaskSet,
    ClearAca,
    ClearTaskSet,
    LogicalUnitReset,
    TargetReset,
    NexusReset,
    /// Says whether the task is there.
    QueryTask {
        tag: u64,
    },
    QueryTaskSet,
    QueryAsynchronousEvent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    /// Of a query: yes. Three bytes of additional response information (SAM-5 7.9).
    Succeeded([u8; 3]),
    TaskDoesNotExist,
    IncorrectLun,
    NotSupported,
    Rejected,
}
