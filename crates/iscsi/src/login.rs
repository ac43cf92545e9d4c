//! The login phase (RFC 7143 section 6.3): from the first byte to the full feature phase.
//!
//! Invariants: nobody enters without the proof that the target asks for; one step answers at most one request, so
//! answers never pile up; a byte beyond the last login request is left in the input for the session.

mod lead;
mod security;
#[cfg(test)]
mod tests;

use crate::chap::Secret;
use crate::encode::{Digests, put_bytes};
use crate::keys::{self, Parameters, Phase, RECEIVE_BYTES_MAX, SEGMENT_BYTES_DEFAULT};
use crate::session::{Begin, Limits, Session};
use crate::text::{self, Malformed, REJECT, Text};
use crate::wire::{
    Answer, HEADER, Header, LoginStatus, additional_bytes, data_bytes, flag, padding, request, response,
};
use base::Output;
use security::Security;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Login requests of one connection. CHAP and the operational keys take four; each may be continued a few times.
const REQUESTS_MAX: u32 = 32;

/// A target as discovery tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    pub name: String,
    /// Addresses and portal group tags.
    pub portals: Vec<(SocketAddr, u16)>,
}

/// Whether an initiator may log in to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    Granted {
        /// Names the target: one that comes to the same name later has another number.
        target: u64,
        /// What the initiator has to prove to know.
        chap: Option<Secret>,
        /// What is proven to an initiator that asks for it.
        mutual: Option<Secret>,
    },
    /// Nobody is let in for now.
    Unavailable,
    Forbidden,
    NotFound,
}

/// What the login asks about targets. Names of initiators come in lower case.
pub trait Directory {
    fn access(&self, target: &str, initiator: &str) -> Access;
    /// Of whom one is to be known by an initiator that wants to discover with CHAP only.
    fn discovery_secrets(&self, initiator: &str) -> Vec<Secret>;
    fn has_session(&self, tsih: u16) -> bool;
}

/// Who logged in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initiator {
    pub name: String,
    pub alias: Option<String>,
    pub isid: [u8; 6],
    /// The CHAP user that it proved to be.
    pub user: Option<String>,
}

/// What kind of session the initiator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    Discovery,
    Target(String),
}

/// What the owner of the socket is to do next. Whatever it is, the output is sent first.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// All input was used: bring more.
    Starved,
    /// A request was answered: send the output, then call again with the rest of the input.
    Answered,
    /// The initiator is through: [`Login::accept`] or [`Login::refuse`].
    Enter(Chosen),
    /// It did not prove who it is: send the output after a delay, close, log it.
    Unproven(&'static str),
    /// Close, for this reason; the output tells the initiator.
    Close(&'static str),
}

/// Fresh random bytes for each connection.
#[derive(Clone, Copy)]
pub struct Entropy {
    pub identifier: u8,
    pub challenge: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Security = 0,
    Operational = 1,
    FullFeature = 3,
}

/// What the first request says for the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    isid: [u8; 6],
    tsih: u16,
    connection: u16,
    task: u32,
}

/// How a request fails.
#[derive(Debug)]
struct Failure {
    status: LoginStatus,
    why: &'static str,
}

impl Failure {
    fn new(status: LoginStatus, why: &'static str) -> Failure {
        Failure { status, why }
    }
}

impl From<Malformed> for Failure {
    fn from(Malformed(why): Malformed) -> Failure {
        Failure::new(LoginStatus::InitiatorError, why)
    }
}

pub struct Login {
    portal_group: u16,
    /// The part of the current request that has arrived.
    buffer: Vec<u8>,
    requests: u32,
    identity: Option<Identity>,
    stage: Stage,
    /// What was gathered of a request that goes over several PDUs.
    text: Text,
    initiator: Initiator,
    chosen: Option<Chosen>,
    /// What the directory said of the chosen target: by this the initiator is let in.
    access: Option<Access>,
    security: Security,
    parameters: Parameters,
    /// Keys may be negotiated once (6.2.3).
    seen: BTreeSet<String>,
    declared: bool,
    command_number: u32,
    status_number: u32,
    /// The answer that is held back until the session is there.
    last: Option<(Answer, Text)>,
}

impl Login {
    pub fn new(portal_group: u16, entropy: Entropy) -> Login {
        Login {
            portal_group,
            buffer: Vec::new(),
            requests: 0,
            identity: None,
            stage: Stage::Security,
            text: Text::default(),
            initiator: Initiator::default(),
            chosen: None,
            access: None,
            security: Security::new(entropy),
            parameters: Parameters::default(),
            seen: BTreeSet::new(),
            declared: false,
            command_number: 0,
            status_number: 1,
            last: None,
        }
    }

    /// As far as it is known yet.
    pub fn initiator(&self) -> &Initiator {
        &self.initiator
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Takes from the front of `input` what belongs to the next request and acts on it if it is complete.
    pub fn step(&mut self, input: &mut &[u8], directory: &dyn Directory, out: &mut Output) -> Step {
        assert!(self.last.is_none(), "stepped while the owner of the socket had something to do");
        if !gather(&mut self.buffer, input, HEADER) {
            return Step::Starved;
        }
        let basic = *self.buffer.first_chunk::<HEADER>().expect("a whole header was gathered");
        let header = Header { basic, additional: Vec::new() };
        if self.requests == 0 && header.opcode() != request::LOGIN {
            return Step::Close("the first request is no login");
        }
        let len = data_bytes(&basic);
        if len > SEGMENT_BYTES_DEFAULT as usize || additional_bytes(&basic) > 0 {
            let failure = Failure::new(LoginStatus::InitiatorError, "a login request is too long");
            return self.fail(&header, failure, out);
        }
        if !gather(&mut self.buffer, input, HEADER + len + padding(len)) {
            return Step::Starved;
        }
        let buffer = std::mem::take(&mut self.buffer);
        let data = buffer.get(HEADER..HEADER + len).expect("it was gathered");
        match self.request(&header, data, directory, out) {
            Ok(step) => step,
            Err(failure) => self.fail(&header, failure, out),
        }
    }

    /// Lets the initiator in: the last bytes of the login go into `out`.
    pub fn accept<T>(mut self, tsih: u16, limits: Limits, out: &mut Output) -> Session<T> {
        let (answer, text) = self.last.take().expect("nothing was chosen");
        let window_end = self.command_number.wrapping_add(limits.commands).wrapping_sub(1);
        let answer = answer.half(14, tsih).word(32, window_end);
        put_bytes(answer, &text.bytes, Digests::default(), out);
        self.parameters.settle();
        Session::new(Begin {
            parameters: self.parameters,
            limits,
            command_number: self.command_number,
            status_number: self.status_number,
            connection: self.identity.map_or(0, |identity| identity.connection),
            own_target: match self.chosen {
                Some(Chosen::Target(name)) => Some(name),
                _ => None,
            },
        })
    }

    /// Refuses the session that was chosen; the connection is to be closed after that.
    pub fn refuse(&mut self, status: LoginStatus, out: &mut Output) {
        let (answer, _) = self.last.take().expect("nothing was chosen");
        let answer = answer.byte(1, (Stage::Operational as u8) << 2).half(36, status as u16);
        put_bytes(answer, &[], Digests::default(), out);
    }

    fn request(
        &mut self,
        header: &Header,
        data: &[u8],
        directory: &dyn Directory,
        out: &mut Output,
    ) -> Result<Step, Failure> {
        let error = |why| Failure::new(LoginStatus::InitiatorError, why);
        self.requests += 1;
        if header.opcode() != request::LOGIN {
            return Err(Failure::new(LoginStatus::InvalidDuringLogin, "a request during the login is no login"));
        }
        if self.requests > REQUESTS_MAX {
            return Err(error("the login does not come to an end"));
        }
        let [_, flags, _, version_min] = header.array::<4>(0);
        if version_min > 0 {
            return Err(Failure::new(LoginStatus::UnsupportedVersion, "the initiator asks for another version"));
        }
        let (transit, more) = (flags & flag::FINAL != 0, flags & flag::CONTINUE != 0);
        if transit && more {
            return Err(error("a login request is both the last of its stage and to be continued"));
        }
        self.identify(header)?;
        self.check_stage(flags >> 2 & 3)?;
        self.text.gather(data)?;
        if more {
            self.answer(header, self.stage, None, Text::default(), out);
            return Ok(Step::Answered);
        }
        let text = std::mem::take(&mut self.text);
        let pairs = text::parse(&text.bytes)?;
        let mut answers = Text::default();
        if self.chosen.is_none() {
            self.lead(&pairs, directory)?;
            if let Some(Chosen::Target(_)) = self.chosen {
                answers.put("TargetPortalGroupTag", self.portal_group);
            }
        }
        self.keys(&pairs, &mut answers)?;
        let next = if transit { self.transit(flags & 3)? } else { None };
        if self.stage == Stage::Operational && !std::mem::replace(&mut self.declared, true) {
            answers.put("MaxRecvDataSegmentLength", RECEIVE_BYTES_MAX);
        }
        if answers.bytes.len() > SEGMENT_BYTES_DEFAULT as usize {
            return Err(error("the initiator names too many keys that nobody knows"));
        }
        self.answer(header, self.stage, next, answers, out);
        self.stage = next.unwrap_or(self.stage);
        match (next, &self.chosen) {
            (Some(Stage::FullFeature), Some(chosen)) => Ok(Step::Enter(chosen.clone())),
            _ => Ok(Step::Answered),
        }
    }

    /// What must be the same in every request, and where numbers begin.
    fn identify(&mut self, header: &Header) -> Result<(), Failure> {
        let tsih = u16::from_be_bytes(header.array(14));
        let connection = u16::from_be_bytes(header.array(20));
        let identity = Identity { isid: header.array(8), tsih, connection, task: header.task() };
        match self.identity {
            None => {
                self.identity = Some(identity);
                self.initiator.isid = identity.isid;
                self.command_number = header.command_number();
                Ok(())
            }
            Some(first) if first == identity => Ok(()),
            Some(_) => Err(Failure::new(LoginStatus::InitiatorError, "login requests of one connection differ")),
        }
    }

    fn check_stage(&mut self, current: u8) -> Result<(), Failure> {
        let wrong = || Failure::new(LoginStatus::InitiatorError, "a login request is of the wrong stage");
        let stage = match current {
            0 => Stage::Security,
            1 => Stage::Operational,
            _ => return Err(wrong()),
        };
        if self.chosen.is_none() && self.text.bytes.is_empty() {
            self.stage = stage;
        }
        if self.stage == stage { Ok(()) } else { Err(wrong()) }
    }

    fn keys(&mut self, pairs: &[(&str, &str)], answers: &mut Text) -> Result<(), Failure> {
        let phase = if self.chosen == Some(Chosen::Discovery) { Phase::Discovery } else { Phase::Normal };
        for (key, value) in pairs {
            if !self.seen.insert((*key).to_string()) {
                return Err(Failure::new(LoginStatus::InitiatorError, "a key was sent twice"));
            }
            match *key {
                "InitiatorName" | "SessionType" | "TargetName" | "InitiatorAlias" => {}
                "AuthMethod" if self.stage != Stage::Security => answers.put(key, REJECT),
                "AuthMethod" => self.security.choose_method(value, answers)?,
                _ if key.starts_with("CHAP_") => {}
                _ => keys::negotiate(key, value, phase, &mut self.parameters, answers),
            }
        }
        let find = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        self.security.chap(&find, self.stage == Stage::Security, answers)
    }

    /// `None`: not yet.
    fn transit(&mut self, wanted: u8) -> Result<Option<Stage>, Failure> {
        let next = match (self.stage, wanted) {
            (Stage::Security, 1) => Stage::Operational,
            (Stage::Security | Stage::Operational, 3) => Stage::FullFeature,
            _ => return Err(Failure::new(LoginStatus::InitiatorError, "there is no such stage to go to")),
        };
        if !self.security.is_satisfied(self.stage == Stage::Security)? {
            return Ok(None);
        }
        self.initiator.user = self.security.user();
        Ok(Some(next))
    }

    fn answer(&mut self, header: &Header, stage: Stage, next: Option<Stage>, text: Text, out: &mut Output) {
        let transit = next.map_or(0, |next| flag::FINAL | next as u8);
        let answer = self.response(header, transit | (stage as u8) << 2).half(14, 0);
        self.status_number = self.status_number.wrapping_add(1);
        if next == Some(Stage::FullFeature) {
            self.last = Some((answer, text));
        } else {
            put_bytes(answer, &text.bytes, Digests::default(), out);
        }
    }

    fn response(&self, header: &Header, flags: u8) -> Answer {
        let [a, b, c, d, e, f] = header.array::<6>(8);
        Answer::new(response::LOGIN, flags)
            .lun(&[a, b, c, d, e, f, 0, 0])
            .half(14, u16::from_be_bytes(header.array(14)))
            .task(header.task())
            .word(24, self.status_number)
            .word(28, self.command_number)
            .word(32, self.command_number)
    }

    fn fail(&mut self, header: &Header, failure: Failure, out: &mut Output) -> Step {
        let answer = self.response(header, header.flags() & 0x0c).half(36, failure.status as u16);
        put_bytes(answer, &[], Digests::default(), out);
        match failure.status {
            LoginStatus::AuthenticationFailure => Step::Unproven(failure.why),
            _ => Step::Close(failure.why),
        }
    }
}

/// Moves bytes from the front of `input` to `buffer` until that holds `len` of them.
fn gather(buffer: &mut Vec<u8>, input: &mut &[u8], len: usize) -> bool {
    let missing = len.saturating_sub(buffer.len()).min(input.len());
    let (head, tail) = input.split_at(missing);
    buffer.extend_from_slice(head);
    *input = tail;
    buffer.len() >= len
}
