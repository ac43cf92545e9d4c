//! The handshake and option haggling: from the greeting to the chosen export.
//!
//! Invariants: nothing that was agreed before TLS survives it; a byte beyond the option that chose the export is left
//! in the input for the session; one step answers at most one option, so replies never pile up.

mod options;
mod reply;
#[cfg(test)]
mod tests;

use crate::wire::{self, ALLOCATION_CONTEXT, ALLOCATION_CONTEXT_ID, BITMAP_CONTEXT_ID, option, option_reply};
use crate::{Limits, Output, Selected, Session};
use base::{Reader, Truncated};
use block::Geometry;
use options::{Choice, Contexts, MetaQuery};

/// Longest data of an option that is kept. Names end at 4 KiB and a client asks for a handful of contexts; what is
/// longer is answered with ERR_TOO_BIG and dropped as it comes in.
pub const OPTION_BYTES_MAX: usize = 16 << 10;
/// Size of an option header: magic, option, length.
const OPTION_HEADER: usize = 16;

/// One vDisk as a client may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// At most 4096 bytes.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    pub geometry: Geometry,
}

/// What can be chosen. Asked anew for each option; names are matched exactly.
pub trait Directory {
    /// Names and descriptions, in the order in which they are to be listed.
    fn list(&self) -> Vec<(String, String)>;
    /// `name` as the client sent it; empty asks for the default export, if there is one.
    fn find(&self, name: &str) -> Option<Export>;
    /// What an export can be compared with: each is a dirty bitmap of this name. Without duplicates.
    fn bitmaps(&self, name: &str) -> Vec<String>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPolicy {
    /// STARTTLS is refused.
    Off,
    /// The client may start TLS.
    Offered,
    /// Nothing but STARTTLS and ABORT is answered before TLS.
    Required,
}

/// What the owner of the socket is to do next. Whatever it is, the output is sent first.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// All input was used: bring more.
    Starved,
    /// An option was answered: send the output, then call again with the rest of the input.
    Answered,
    /// Run a TLS handshake as the server, then [`Negotiation::tls_started`].
    StartTls,
    /// The client wants the export of this name, and it existed a moment ago: attach it, then
    /// [`Negotiation::accept`] or [`Negotiation::refuse`].
    Select(String),
    /// Close, for this reason.
    Close(&'static str),
}

/// Why a chosen export is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It does not exist (any more).
    Unknown,
    /// It exists and cannot be served; the text is shown to the client.
    Unavailable(String),
    /// The controller is shutting down.
    Shutdown,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Header,
    Data {
        option: u32,
        len: usize,
    },
    /// This much data of a refused option is still to come.
    Skip {
        left: usize,
    },
    TlsHandshake,
    Selected(Choice),
}

#[derive(Debug)]
pub struct Negotiation {
    state: State,
    /// The part of the current message that has arrived.
    buffer: Vec<u8>,
    tls: TlsPolicy,
    tls_active: bool,
    fixed_newstyle: bool,
    no_zeroes: bool,
    structured: bool,
    /// What was selected, and for which export.
    contexts: Option<(String, Contexts)>,
}

impl Negotiation {
    /// Puts the greeting into `out`.
    pub fn start(tls: TlsPolicy, out: &mut Output) -> Self {
        out.put(&wire::INIT_PASSWD.to_be_bytes());
        out.put(&wire::IHAVEOPT.to_be_bytes());
        out.put(&(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES).to_be_bytes());
        Negotiation {
            state: State::ClientFlags,
            buffer: Vec::new(),
            tls,
            tls_active: false,
            fixed_newstyle: false,
            no_zeroes: false,
            structured: false,
            contexts: None,
        }
    }

    /// Takes from the front of `input` what belongs to the next message and acts on it if it is complete.
    pub fn step(&mut self, input: &mut &[u8], directory: &dyn Directory, out: &mut Output) -> Step {
        loop {
            match &mut self.state {
                State::ClientFlags => {
                    if !gather(&mut self.buffer, input, 4) {
                        return Step::Starved;
                    }
                    if let Some(close) = self.client_flags() {
                        return close;
                    }
                }
                State::Header => {
                    if !gather(&mut self.buffer, input, OPTION_HEADER) {
                        return Step::Starved;
                    }
                    if let Some(step) = self.header(out) {
                        return step;
                    }
                }
                State::Data { option, len } => {
                    let (option, len) = (*option, *len);
                    if !gather(&mut self.buffer, input, len) {
                        return Step::Starved;
                    }
                    self.state = State::Header;
                    let data = std::mem::take(&mut self.buffer);
                    return self.option(option, &data, !input.is_empty(), directory, out);
                }
                State::Skip { left } => {
                    let gone = (*left).min(input.len());
                    *input = input.get(gone..).unwrap_or_default();
                    *left -= gone;
                    if *left > 0 {
                        return Step::Starved;
                    }
                    self.state = State::Header;
                }
                State::TlsHandshake | State::Selected(_) => {
                    panic!("stepped while the owner of the socket had something to do: {:?}", self.state)
                }
            }
        }
    }

    /// The TLS handshake that [`Step::StartTls`] asked for has succeeded.
    pub fn tls_started(&mut self) {
        assert!(matches!(self.state, State::TlsHandshake), "TLS was not asked for: {:?}", self.state);
        self.state = State::Header;
        self.tls_active = true;
        self.structured = false;
        self.contexts = None;
    }

    /// Gives the client the export it chose: the last bytes of the negotiation go into `out`.
    pub fn accept(self, export: &Export, limits: Limits, out: &mut Output) -> Session {
        let State::Selected(choice) = &self.state else { panic!("nothing was selected: {:?}", self.state) };
        match choice.option {
            option::EXPORT_NAME => reply::export_name(export, self.transmission_flags(export), self.no_zeroes, out),
            _ => reply::info(choice, export, self.transmission_flags(export), out),
        }
        let selected = Selected {
            allocation: self.selected().is_some_and(|contexts| contexts.allocation),
            bitmaps: self.selected_bitmaps().len() as u32,
        };
        Session::new(self.structured, selected, limits)
    }

    /// The dirty bitmaps that the client selected for the export it has chosen, in the order of
    /// [`crate::Source::Bitmap`].
    pub fn selected_bitmaps(&self) -> &[String] {
        self.selected().map_or(&[], |contexts| &contexts.bitmaps)
    }

    fn selected(&self) -> Option<&Contexts> {
        let (State::Selected(choice), Some((name, contexts))) = (&self.state, &self.contexts) else { return None };
        (*name == choice.name).then_some(contexts)
    }

    /// Refuses the chosen export; the client may choose another, unless it used EXPORT_NAME.
    pub fn refuse(&mut self, refusal: &Refusal, out: &mut Output) -> Step {
        let State::Selected(choice) = std::mem::replace(&mut self.state, State::Header) else {
            panic!("nothing was selected")
        };
        let (code, text) = match refusal {
            Refusal::Unknown => (option_reply::ERR_UNKNOWN, "no such vDisk"),
            Refusal::Unavailable(text) => (option_reply::ERR_POLICY, text.as_str()),
            Refusal::Shutdown => (option_reply::ERR_SHUTDOWN, "the controller is shutting down"),
        };
        if choice.option == option::EXPORT_NAME {
            return Step::Close("the chosen export is not available, and NBD_OPT_EXPORT_NAME knows no error");
        }
        reply::error(choice.option, code, text, out);
        Step::Answered
    }

    fn client_flags(&mut self) -> Option<Step> {
        let known = u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        let flags = Reader::new(&self.buffer).u32_be().expect("four bytes were gathered");
        self.buffer.clear();
        if flags & !known != 0 {
            return Some(Step::Close("the client set unknown handshake flags"));
        }
        self.fixed_newstyle = flags & u32::from(wire::FLAG_FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
        self.state = State::Header;
        None
    }

    fn header(&mut self, out: &mut Output) -> Option<Step> {
        let (magic, option, len) = parse_header(&self.buffer).expect("a whole header was gathered");
        self.buffer.clear();
        if magic != wire::IHAVEOPT {
            return Some(Step::Close("an option has a wrong magic number"));
        }
        if !self.fixed_newstyle && option != option::EXPORT_NAME {
            return Some(Step::Close("a client without fixed newstyle sent an option other than NBD_OPT_EXPORT_NAME"));
        }
        if len as usize <= OPTION_BYTES_MAX {
            self.state = State::Data { option, len: len as usize };
            return None;
        }
        if option == option::EXPORT_NAME {
            return Some(Step::Close("an export name is too long"));
        }
        self.state = State::Skip { left: len as usize };
        reply::error(option, option_reply::ERR_TOO_BIG, "the option's data is too long", out);
        Some(Step::Answered)
    }

    fn option(&mut self, kind: u32, data: &[u8], more: bool, directory: &dyn Directory, out: &mut Output) -> Step {
        if self.tls == TlsPolicy::Required && !self.tls_active && !matches!(kind, option::STARTTLS | option::ABORT) {
            if kind == option::EXPORT_NAME {
                return Step::Close("TLS is required and was not started");
            }
            reply::error(kind, option_reply::ERR_TLS_REQD, "this server requires TLS", out);
            return Step::Answered;
        }
        match kind {
            option::EXPORT_NAME => return self.export_name(data, directory),
            option::ABORT => {
                reply::ack(kind, out);
                return Step::Close("the client ended the negotiation");
            }
            option::STARTTLS => return self.start_tls(data, more, out),
            option::GO => return self.go(data, directory, out),
            option::INFO => self.info(data, directory, out),
            option::LIST if data.is_empty() => reply::list(&directory.list(), out),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                reply::ack(kind, out);
            }
            option::LIST | option::STRUCTURED_REPLY => reply::invalid(kind, "this option has no data", out),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(kind, data, directory, out),
            // Extended headers are among the unknown ones for now.
            _ => reply::error(kind, option_reply::ERR_UNSUP, "this server does not know the option", out),
        }
        Step::Answered
    }

    fn export_name(&mut self, data: &[u8], directory: &dyn Directory) -> Step {
        let name = match std::str::from_utf8(data) {
            Ok(name) if name.len() <= wire::STRING_BYTES_MAX => name,
            _ => return Step::Close("an export name is no text"),
        };
        if directory.find(name).is_none() {
            return Step::Close("the client asked for an unknown export with NBD_OPT_EXPORT_NAME");
        }
        self.state = State::Selected(Choice { option: option::EXPORT_NAME, name: name.to_string(), asked: Vec::new() });
        Step::Select(name.to_string())
    }

    fn start_tls(&mut self, data: &[u8], more: bool, out: &mut Output) -> Step {
        let kind = option::STARTTLS;
        if self.tls_active {
            reply::invalid(kind, "TLS is active already", out);
        } else if !data.is_empty() {
            reply::invalid(kind, "this option has no data", out);
        } else if self.tls == TlsPolicy::Off {
            reply::error(kind, option_reply::ERR_POLICY, "TLS is not set up on this server", out);
        } else if more {
            // Plaintext that somebody put behind the option must never be taken for what came through TLS.
            return Step::Close("bytes followed NBD_OPT_STARTTLS before it was answered");
        } else {
            reply::ack(kind, out);
            self.state = State::TlsHandshake;
            return Step::StartTls;
        }
        Step::Answered
    }

    fn go(&mut self, data: &[u8], directory: &dyn Directory, out: &mut Output) -> Step {
        let Ok(choice) = Choice::parse(option::GO, data) else {
            reply::invalid(option::GO, "the option's data is malformed", out);
            return Step::Answered;
        };
        if directory.find(&choice.name).is_none() {
            reply::error(option::GO, option_reply::ERR_UNKNOWN, "no such vDisk", out);
            return Step::Answered;
        }
        let name = choice.name.clone();
        self.state = State::Selected(choice);
        Step::Select(name)
    }

    fn info(&mut self, data: &[u8], directory: &dyn Directory, out: &mut Output) {
        match Choice::parse(option::INFO, data) {
            Err(_) => reply::invalid(option::INFO, "the option's data is malformed", out),
            Ok(choice) => match directory.find(&choice.name) {
                Some(export) => reply::info(&choice, &export, self.transmission_flags(&export), out),
                None => reply::error(option::INFO, option_reply::ERR_UNKNOWN, "no such vDisk", out),
            },
        }
    }

    fn meta_context(&mut self, kind: u32, data: &[u8], directory: &dyn Directory, out: &mut Output) {
        let set = kind == option::SET_META_CONTEXT;
        if set {
            self.contexts = None;
        }
        if !self.structured {
            return reply::invalid(kind, "metadata contexts need structured replies", out);
        }
        let Ok(query) = MetaQuery::parse(data) else {
            return reply::invalid(kind, "the option's data is malformed", out);
        };
        if directory.find(&query.name).is_none() {
            return reply::error(kind, option_reply::ERR_UNKNOWN, "no such vDisk", out);
        }
        let bitmaps = directory.bitmaps(&query.name);
        let contexts = if set { query.selects(&bitmaps) } else { query.lists(bitmaps) };
        if set && contexts.bitmaps.len() > wire::BITMAPS_MAX {
            let text = "more dirty bitmaps than one connection may select";
            return reply::error(kind, option_reply::ERR_TOO_BIG, text, out);
        }
        let id = |id: u32| if set { id } else { 0 };
        if contexts.allocation {
            reply::meta_context(kind, id(ALLOCATION_CONTEXT_ID), &["", ALLOCATION_CONTEXT], out);
        }
        for (index, name) in contexts.bitmaps.iter().enumerate() {
            let parts = [wire::BITMAP_CONTEXT_PREFIX, name];
            reply::meta_context(kind, id(BITMAP_CONTEXT_ID + index as u32), &parts, out);
        }
        if set {
            self.contexts = Some((query.name, contexts));
        }
        reply::ack(kind, out);
    }

    fn transmission_flags(&self, export: &Export) -> u16 {
        use wire::export_flag::*;
        // A flush covers what was acknowledged on any connection, hence MULTI_CONN.
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO;
        flags |= SEND_CACHE | CAN_MULTI_CONN;
        if self.structured {
            flags |= SEND_DF;
        }
        if export.geometry.read_only {
            flags |= READ_ONLY;
        }
        flags
    }
}

fn parse_header(bytes: &[u8]) -> Result<(u64, u32, u32), Truncated> {
    let mut reader = Reader::new(bytes);
    Ok((reader.u64_be()?, reader.u32_be()?, reader.u32_be()?))
}

/// Moves bytes from `input` until `buffer` holds `want`; false if the input ended before.
fn gather(buffer: &mut Vec<u8>, input: &mut &[u8], want: usize) -> bool {
    let missing = want.saturating_sub(buffer.len()).min(input.len());
    let (head, tail) = input.split_at(missing);
    buffer.extend_from_slice(head);
    *input = tail;
    buffer.len() == want
}

/// The block sizes that a client is told: minimum, preferred, longest payload.
fn block_sizes(geometry: &Geometry) -> [u32; 3] {
    // Powers of two, as the specification asks. I/O of 512 bytes is taken whatever the sector is.
    let preferred = geometry.preferred_bytes.clamp(512, 1 << 20).next_power_of_two();
    [512, preferred, geometry.transfer_bytes_max.clamp(preferred, crate::PAYLOAD_BYTES_MAX)]
}
