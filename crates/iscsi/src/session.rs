//! The full feature phase of a session with one connection: requests out of bytes, bytes out of answers.
//!
//! Invariants: every [`Tag`] is answered exactly once, by [`Session::respond`] or [`Session::forget`]; commands go to the
//! device server in the order of their numbers; what a session can hold is bounded by its [`Limits`]. `T` is what the
//! owner keeps for a command while its data is gathered; it is dropped when the command is aborted before that is done.
//!
//! Data of a write comes in order (DataPDUInOrder and DataSequenceInOrder are both Yes), so that it is appended to one
//! buffer, immediate, unsolicited and solicited alike.

mod command;
mod data;
mod manage;
mod notice;
mod order;
mod receive;
mod reply;
mod room;
#[cfg(test)]
mod tests;
mod text;

pub use notice::Notice;
pub use text::{Scope, TextTag};

use crate::keys::Parameters;
use crate::wire::{Header, Reason, request};
use base::{Output, Room};
use bytes::{Bytes, BytesMut};
use data::Gathering;
use order::Early;
use receive::Receiver;
use scsi::{Attribute, Function};
use std::collections::{BTreeMap, VecDeque};

/// What one session may have under way, data that came unasked with commands that wait for room included: a command whose
/// data there is no room for is answered with TASK SET FULL, which makes an initiator send it again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The command window: commands with a number that are not answered. Never changed downwards while the session lives.
    pub commands: u32,
    /// Expected data of commands that were started, data of those that wait, and bytes of PDUs not yet sent.
    pub room: Room,
}

impl Default for Limits {
    /// 128 commands keep any disk busy (Linux queues 128 per session); 64 MiB as over NBD.
    fn default() -> Self {
        Limits { commands: 128, room: Room { payload_bytes: 64 << 20, single_bytes: 32 << 20 } }
    }
}

/// Commands and functions outside the window that may be under way at once; more are rejected.
const IMMEDIATE_MAX: u32 = 16;

/// A command that waits for its answer.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "every command is answered"]
pub struct Tag {
    task: u32,
    serial: u64,
}

impl Tag {
    /// What the device server knows the command by: unique among those under way, even if the initiator uses a task tag
    /// again.
    pub fn number(&self) -> u64 {
        self.serial
    }
}

/// A task management function that waits for its outcome.
#[derive(Debug)]
#[must_use = "every function is answered"]
pub struct ManageTag {
    task: u32,
    serial: u64,
    immediate: bool,
    cold: bool,
    affects: manage::Affects,
}

/// A command descriptor block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cdb {
    Short([u8; 16]),
    /// 17 to 260 bytes.
    Extended(Vec<u8>),
}

impl Cdb {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Cdb::Short(bytes) => bytes,
            Cdb::Extended(bytes) => bytes,
        }
    }
}

/// A command whose data is complete.
#[derive(Debug)]
pub struct Execute<T> {
    pub tag: Tag,
    pub task: T,
    pub data: Bytes,
}

/// What came out of the input.
#[derive(Debug)]
pub enum Next<T> {
    /// To be shown to the device server; what that wants goes to [`Session::gather`].
    /// `offered`: bytes of data-out that the initiator has for it.
    Command { tag: Tag, lun: [u8; 8], cdb: Cdb, attribute: Attribute, offered: u32 },
    /// To be executed.
    Execute(Execute<T>),
    /// To be done by the device server; the outcome goes to [`Session::managed`].
    Manage { tag: ManageTag, lun: [u8; 8], function: Function },
    /// Targets are asked for: [`Session::advertise`].
    Targets(TextTag, Scope),
    /// All input was used; a partial PDU is kept inside.
    Starved,
    /// Too much is unsent. The input stays where it is until some of it was sent.
    Full,
    /// The initiator is done: answer what is under way, then [`Session::logged_out`], send it, close. Nothing more is
    /// parsed.
    Logout,
    /// The initiator does not speak the protocol: close. Nothing more is parsed.
    Broken(&'static str),
}

#[derive(Debug)]
enum Stage<T> {
    /// Waits for room.
    Waiting(Box<Waiting>),
    /// Handed out as [`Next::Command`].
    Shown,
    Gathering(Box<Gathering<T>>),
    Running,
}

/// What is kept of a command until it is started.
#[derive(Debug)]
struct Waiting {
    cdb: Cdb,
    attribute: Attribute,
}

/// A command under way.
#[derive(Debug)]
struct Task<T> {
    serial: u64,
    lun: [u8; 8],
    immediate: bool,
    reads: bool,
    writes: bool,
    /// Expected data transfer length.
    expected: u32,
    /// Data-out that the device server wants of it.
    wanted: u32,
    /// Payload that counts against the limits: what came unasked while it waits, then all that it takes.
    held: u64,
    /// Data-out that came, in order and without what nobody wants.
    data: BytesMut,
    /// Data-out that came in all.
    received: u32,
    /// Unsolicited data is still to come; the number of its next PDU.
    unsolicited: Option<u32>,
    /// R2Ts that were sent.
    r2t_number: u32,
    /// Its data is damaged: how it ends.
    damaged: Option<reply::Condition>,
    stage: Stage<T>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// A logout was asked for, with this task tag.
    LoggingOut(u32),
    Broken(&'static str),
}

/// What a session begins with.
#[derive(Debug, Clone)]
pub struct Begin {
    pub parameters: Parameters,
    pub limits: Limits,
    pub command_number: u32,
    pub status_number: u32,
    pub connection: u16,
    /// `None`: a discovery session.
    pub own_target: Option<String>,
}

/// One session in the full feature phase.
#[derive(Debug)]
pub struct Session<T> {
    parameters: Parameters,
    /// The payload may be changed at any time; what is under way already stays.
    pub limits: Limits,
    connection: u16,
    own_target: Option<String>,
    state: State,
    receiver: Receiver,
    /// By initiator task tag.
    tasks: BTreeMap<u32, Task<T>>,
    /// Commands that wait for room, in order.
    waiting: VecDeque<(u32, u64)>,
    /// Requests that came before their turn.
    early: Early,
    /// Immediate functions that wait for the commands before them; counted as immediate.
    postponed: VecDeque<Header>,
    /// Commands whose data became complete while something else was looked at.
    ready: VecDeque<Execute<T>>,
    exchange: text::Exchange,
    expected_command: u32,
    status_number: u32,
    /// Commands with a number that are under way.
    numbered: u32,
    /// Commands and functions without.
    immediate: u32,
    /// Commands that were handed out.
    started: u32,
    /// Payload of commands that were shown to the device server.
    payload_bytes: u64,
    /// Data that came with commands that wait, or is announced with them.
    waiting_bytes: u64,
    serial: u64,
    transfer_tag: u32,
    /// Target transfer tag of a ping that was not answered.
    ping: Option<u32>,
}

impl<T> Session<T> {
    pub fn new(begin: Begin) -> Self {
        Session {
            parameters: begin.parameters,
            limits: begin.limits,
            connection: begin.connection,
            own_target: begin.own_target,
            state: State::Open,
            receiver: Receiver::new(begin.parameters.digests),
            tasks: BTreeMap::new(),
            waiting: VecDeque::new(),
            early: Early::default(),
            postponed: VecDeque::new(),
            ready: VecDeque::new(),
            exchange: text::Exchange::default(),
            expected_command: begin.command_number,
            status_number: begin.status_number,
            numbered: 0,
            immediate: 0,
            started: 0,
            payload_bytes: 0,
            waiting_bytes: 0,
            serial: 0,
            transfer_tag: 0,
            ping: None,
        }
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Commands that were taken from the initiator and not answered.
    pub fn commands_under_way(&self) -> u32 {
        self.tasks.len() as u32
    }

    /// Commands and functions that the device server has.
    pub fn running(&self) -> u32 {
        self.started
    }

    /// Whether the next step is the initiator's: data that was asked for or announced has not come.
    pub fn waits_for_data(&self) -> bool {
        self.receiver.is_amid() || self.tasks.values().any(|task| matches!(task.stage, Stage::Gathering(_)))
    }

    /// Takes the next event from the front of `input`. What needs no device server is answered into `out` on the way.
    pub fn next(&mut self, input: &mut &[u8], out: &mut Output) -> Next<T> {
        loop {
            match &self.state {
                State::Open => {}
                State::LoggingOut(_) => return Next::Logout,
                State::Broken(why) => return Next::Broken(why),
            }
            if let Some(execute) = self.next_ready() {
                return Next::Execute(execute);
            }
            if let Some(next) = self.admit(out) {
                return next;
            }
            if let Some((header, data)) = self.take_early() {
                if let Some(next) = self.dispatch(header, data, out) {
                    return next;
                }
                continue;
            }
            if let Some(next) = self.take_postponed(out) {
                return next;
            }
            if self.is_too_much_unsent(&self.limits, out) {
                return Next::Full;
            }
            match self.receive(input, out) {
                Some((header, data)) => {
                    if let Some(next) = self.arrived(header, data, out) {
                        return next;
                    }
                }
                None if self.is_open() && self.ready.is_empty() => return Next::Starved,
                None => {}
            }
        }
    }

    fn break_off(&mut self, why: &'static str) {
        self.state = State::Broken(why);
    }

    /// Last number of the window: what is under way uses up its places.
    fn window_end(&self) -> u32 {
        let free = self.limits.commands.saturating_sub(self.numbered);
        self.expected_command.wrapping_add(free).wrapping_sub(1)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A target transfer tag that nothing under way has.
    fn next_transfer_tag(&mut self) -> u32 {
        self.transfer_tag = self.transfer_tag.wrapping_add(1) & 0x7fff_ffff;
        self.transfer_tag
    }

    /// Whether no commands are taken, only what discovery needs.
    pub fn is_discovery(&self) -> bool {
        self.own_target.is_none()
    }

    fn next_ready(&mut self) -> Option<Execute<T>> {
        self.ready.pop_front()
    }

    /// A request that arrived whole, in its turn or not.
    fn arrived(&mut self, header: Header, data: BytesMut, out: &mut Output) -> Option<Next<T>> {
        match self.turn_of(&header) {
            order::Turn::Now => {
                self.expected_command = self.expected_command.wrapping_add(1);
                self.dispatch(header, data, out)
            }
            order::Turn::Unnumbered => self.dispatch(header, data, out),
            // On one connection nothing comes early but by mistake.
            order::Turn::Early if !self.keeps(data.len() as u64, out) => {
                self.break_off("more came before its turn than there is room for");
                None
            }
            order::Turn::Early => {
                self.early.keep(header, data);
                None
            }
            order::Turn::Ignored => None,
        }
    }

    fn dispatch(&mut self, header: Header, data: BytesMut, out: &mut Output) -> Option<Next<T>> {
        match header.opcode() {
            request::COMMAND => self.command(header, data, out),
            request::TASK_MANAGEMENT => self.manage(&header, out),
            request::NOP_OUT => self.nop_out(&header, data, out),
            request::TEXT => self.text(header, data, out),
            request::LOGOUT => self.logout(&header, out),
            // Nothing is ever sent again at ErrorRecoveryLevel 0.
            request::SNACK => self.reject_none(&header, Reason::Snack, out),
            request::LOGIN => self.reject_none(&header, Reason::Protocol, out),
            _ => self.reject_none(&header, Reason::NotSupported, out),
        }
    }

    /// A request whose data digest is wrong (7.8): the PDU is discarded. Its header is not, so that a number is used up
    /// and a command ends; at ErrorRecoveryLevel 0 the initiator could not fill the gap.
    fn damaged(&mut self, header: Header, out: &mut Output) {
        let ends = match self.turn_of(&header) {
            order::Turn::Now => {
                self.expected_command = self.expected_command.wrapping_add(1);
                true
            }
            order::Turn::Unnumbered => true,
            order::Turn::Early => {
                self.early.give_up(header.command_number());
                true
            }
            order::Turn::Ignored => false,
        };
        self.reject(&header, Reason::DataDigest, out);
        let is_command = header.opcode() == request::COMMAND && !self.is_discovery();
        if ends && is_command && !self.tasks.contains_key(&header.task()) {
            self.refuse_damaged(&header, out);
        }
    }
}

/// Longest transfer of one command; what claims more is refused by the device server.
const EXPECTED_BYTES_MAX: u32 = 32 << 20;
