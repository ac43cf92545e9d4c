//! One session in the full feature phase: the loop that every command of an initiator goes through.
//!
//! One task per connection, one turn of it: take what one read brought, hand all of it to the device server, gather what
//! is ready, answer with one vectored write. A command that is answered at once costs no trip through the executor. A
//! turn is bounded, so that connections of one worker take turns; what an initiator can make us hold is bounded by the
//! session's limits, and one that stops reading or sending is cut off.

mod collect;
mod timing;

use super::Timeouts;
use super::router::{Ran, Router, Started};
use super::sessions::Listed;
use crate::frontend::channel::Channel;
use crate::frontend::line::{LARGE_DATA_BYTES, Line, Received, Standing, TURN_READS, TURN_REQUESTS};
use crate::frontend::payload::{PATIENCE, Part};
use base::Output;
use collect::{Pending, Signal};
use futures_util::stream::FuturesUnordered;
use iscsi::{Advertised, Execute, Limits, ManageTag, Next, Session, Tag};
use scsi::{Command, Ended, Outcome, Response};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Instant;
use timing::Timing;
use world::{Completion, LocalFuture};

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    LoggedOut,
    /// The initiator went away without a word.
    HungUp,
    /// The controller ended it.
    Closed,
    /// Somebody asked for its end.
    Dropped,
    /// The same initiator port logged in again.
    Replaced,
    /// A target cold reset.
    Reset,
    /// The initiator took nothing, or sent nothing that it was asked for.
    Silent(&'static str),
    /// The initiator did not speak the protocol.
    Broken(&'static str),
    Lost(#[expect(dead_code, reason = "it is in the log line of the end")] io::Error),
}

/// What a session has besides its socket.
pub(super) struct Served {
    pub router: Rc<Router>,
    /// What SendTargets tells of the own target.
    pub own: Advertised,
    pub listed: Listed,
    pub part: Part,
    pub timeouts: Timeouts,
    /// Completes when the target goes away.
    pub closed: LocalFuture<()>,
    /// Completes when the server stops.
    pub stopped: LocalFuture<()>,
    /// Asked for after a target cold reset.
    pub end_others: Box<dyn Fn()>,
}

/// Serves a session until it ends.
pub(super) async fn serve(
    channel: Channel,
    session: Session<Started>,
    out: Output,
    unread: Vec<u8>,
    served: Served,
) -> End {
    let Served { router, own, listed, part, timeouts, closed, stopped, end_others } = served;
    let mut connection = Connection {
        line: Line::new(channel, out, unread, part),
        session,
        router,
        own,
        end_others,
        events: FuturesUnordered::new(),
        timing: Timing::new(timeouts, Instant::now()),
        listed,
        end: None,
        gave_up: false,
    };
    connection.listen(closed, stopped);
    let end = poll_fn(|context| connection.turns(context)).await;
    let Connection { line: Line { channel, part, .. }, router, events, listed, session, .. } = connection;
    drop(part);
    // Whatever is still under way goes on in the device, unheard; the tasks are aborted with the nexus.
    drop((events, session));
    router.close().await;
    drop(router);
    drop(listed);
    if !matches!(end, End::HungUp | End::Silent(_) | End::Lost(_)) {
        channel.close().await;
    }
    end
}

struct Connection {
    line: Line,
    session: Session<Started>,
    router: Rc<Router>,
    own: Advertised,
    end_others: Box<dyn Fn()>,
    events: FuturesUnordered<Pending>,
    timing: Timing,
    listed: Listed,
    /// Set when no more commands are taken.
    end: Option<End>,
    /// Set when the last answers are not waited for any more.
    gave_up: bool,
}

impl Connection {
    fn turns(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let whole = Limits::default();
        let Some(room) = self.line.begin(context, whole.room) else {
            return Poll::Ready(End::Silent("others waited for what it held"));
        };
        self.session.limits = Limits { room, ..whole };
        let turned = self.turn(context);
        let (out, now) = (&self.line.out, Instant::now());
        let waits = !self.session.has_room(out) && self.session.has_room_within(&whole, out);
        let standing = Standing {
            held_bytes: self.session.held_bytes(out),
            waits_for_client: !out.is_empty() || self.session.waits_for_data(),
            waits_for_room: waits && self.end.is_none(),
        };
        if self.line.moved || !standing.waits_for_client {
            self.timing.moved = now;
        }
        self.listed.counters.commands_in_flight.store(self.session.commands_under_way(), Relaxed);
        if self.line.settle(&standing, context, now) {
            self.complain_later();
        }
        turned
    }

    fn complain_later(&mut self) {
        self.events.push(Pending::Signal(Box::pin(tokio::time::sleep(PATIENCE)), Signal::Waited));
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let mut commands = TURN_REQUESTS;
        for _ in 0..TURN_READS {
            let received = self.receive(context, &mut commands);
            self.collect(context);
            self.say_goodbye();
            let sent = match self.line.send(context) {
                Poll::Ready(Err(error)) => return Poll::Ready(self.end.take().unwrap_or(End::Lost(error))),
                sent => sent.is_ready(),
            };
            let answered = sent && self.session.running() == 0;
            if (self.gave_up || answered)
                && let Some(end) = self.end.take()
            {
                return Poll::Ready(end);
            }
            match received {
                Received::Some if commands > 0 => {}
                Received::Full if self.session.has_room(&self.line.out) => {}
                Received::Some => break,
                // A command that waited may have room now that something was answered.
                Received::All if self.session.can_admit(&self.line.out) => {}
                Received::All | Received::Full | Received::Ended => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The answer to a logout, once everything else was answered.
    fn say_goodbye(&mut self) {
        if matches!(self.end, Some(End::LoggedOut)) && self.session.running() == 0 {
            self.session.logged_out(&mut self.line.out);
        }
    }

    /// Parses and hands on what is in the input; if there was nothing, what one read brings.
    fn receive(&mut self, context: &mut Context<'_>, commands: &mut u32) -> Received {
        if self.end.is_some() {
            return Received::Ended;
        }
        if let Some(received) = self.parse(commands) {
            return received;
        }
        let free_bytes = self.session.limits.room.payload_bytes.saturating_sub(self.session.held_bytes(&self.line.out));
        match self.line.read(context, self.session.payload(), free_bytes) {
            Poll::Pending => return Received::All,
            Poll::Ready(Ok(0)) => self.finish(End::HungUp),
            Poll::Ready(Ok(_)) => {
                self.timing.heard = None;
                return self.parse(commands).unwrap_or(Received::Some);
            }
            Poll::Ready(Err(error)) => self.finish(End::Lost(error)),
        }
        Received::Ended
    }

    /// Hands on what is in the input; `None` when all of it was used.
    fn parse(&mut self, commands: &mut u32) -> Option<Received> {
        let input = std::mem::take(&mut self.line.input);
        let mut rest = input.rest();
        let mut end = None;
        let stopped = loop {
            if *commands == 0 {
                break Some(Received::Some);
            }
            match self.session.next(&mut rest, &mut self.line.out) {
                Next::Command { tag, lun, cdb, attribute, offered } => {
                    *commands -= 1;
                    let (number, cdb) = (tag.number(), cdb.as_slice());
                    let command = Command { tag: number, lun, cdb, attribute, data_out_offered: offered };
                    let task = self.router.start(command);
                    let wanted = task.data_out_bytes();
                    self.session.takes(&tag, task.memory_bytes());
                    if let Some(execute) = self.session.gather(tag, wanted, task, &mut self.line.out) {
                        self.execute(execute);
                    }
                }
                Next::Execute(execute) => self.execute(execute),
                Next::Manage { tag, lun, function } => match self.router.manage(function, lun) {
                    Completion::Ready(outcome) => self.managed(tag, outcome),
                    pending => self.events.push(Pending::Manage(Some(tag), pending)),
                },
                Next::Targets(tag, _) => {
                    self.session.advertise(tag, std::slice::from_ref(&self.own), &mut self.line.out)
                }
                Next::Starved => break None,
                Next::Full => break Some(Received::Full),
                Next::Logout => end = Some(End::LoggedOut),
                Next::Broken(why) => end = Some(End::Broken(why)),
            }
            if end.is_some() || self.end.is_some() {
                break Some(Received::Ended);
            }
        };
        let left = rest.len();
        self.line.input = input;
        self.line.input.leave(left);
        if matches!(stopped, Some(Received::Full)) {
            self.line.input.compact();
        }
        if let Some(end) = end {
            self.finish(end);
        }
        stopped
    }

    fn execute(&mut self, execute: Execute<Started>) {
        let Execute { tag, task, data } = execute;
        self.line.large_data |= data.len() >= LARGE_DATA_BYTES;
        if !data.is_empty() {
            self.listed.counters.written_bytes.fetch_add(data.len() as u64, Relaxed);
        }
        match task.run(data) {
            Completion::Ready(ran) => self.ended(tag, ran),
            pending => self.events.push(Pending::Command(Some(tag), pending)),
        }
    }

    fn ended(&mut self, tag: Tag, ran: Ran) {
        if let Some(wanted) = ran.wanted {
            self.session.wanted(&tag, wanted);
        }
        match ran.ended {
            Ended::Response(response) => {
                let read = response.data.iter().map(block::Segment::len).sum::<u64>();
                if read > 0 {
                    self.listed.counters.read_bytes.fetch_add(read, Relaxed);
                }
                self.respond(tag, response);
            }
            Ended::Aborted => self.session.forget(tag),
        }
    }

    fn respond(&mut self, tag: Tag, response: Response) {
        self.session.respond(tag, response, &mut self.line.out);
    }

    fn managed(&mut self, tag: ManageTag, outcome: Outcome) {
        let cold = tag.is_cold_reset();
        self.session.managed(tag, outcome, &mut self.line.out);
        if cold && outcome == Outcome::Complete {
            (self.end_others)();
            self.finish(End::Reset);
        }
    }
}
