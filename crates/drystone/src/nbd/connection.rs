//! One connection in the transmission phase: the loop that every read and write of a guest goes through.
//!
//! One task per connection, one turn of it: take what one read brought, submit all of it, gather what is ready, answer
//! with one vectored write. A request whose completion is ready at once costs no allocation and no trip through the
//! executor. A turn is bounded, so that connections of one worker take turns; what a client can make us hold is bounded
//! by the session's limits, and a client that does not read is not read from either.

use crate::frontend::Attached;
use crate::frontend::channel::Channel;
use crate::frontend::input::{INPUT_BYTES, Input};
use crate::frontend::payload::{PATIENCE, Part, Room};
use block::{BlockDevice, Geometry, Kind, Reply};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nbd::{Limits, Next, Output, Session, Tag};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use world::{Completion, LocalFuture};

/// A payload with more than this missing is read straight into its own memory.
const IN_PLACE_BYTES: usize = 16 << 10;
/// After a write of at least this size the next read is a small one: it finds the next header, and the payload behind
/// it goes in place instead of through the input buffer.
const LARGE_WRITE_BYTES: usize = 64 << 10;
const SMALL_READ_BYTES: usize = 4096;
/// Requests, and reads, after which a connection lets others have their turn. A quarter of a millisecond at 2 us each.
const TURN_REQUESTS: u32 = 128;
const TURN_READS: u32 = 16;
/// How long a connection that takes no more requests may take for its last replies.
const GRACE: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client said goodbye.
    Disconnected,
    /// The client went away without a word.
    HungUp,
    /// The controller ended it.
    Closed,
    /// The client neither read nor wrote, and others waited for what it held.
    Silent,
    /// The client did not speak the protocol.
    Broken(&'static str),
    Lost(#[expect(dead_code, reason = "it is in the log line of the end")] io::Error),
}

/// Serves a connection until it ends. `closed` asks it to end, after answering what is under way.
pub(super) async fn serve(
    channel: Channel,
    session: Session,
    out: Output,
    unread: Vec<u8>,
    attached: Attached,
    part: Part,
    stopped: LocalFuture<()>,
) -> End {
    let Attached { device, closed, hold } = attached;
    let mut connection = Connection {
        channel,
        session,
        device,
        out,
        input: Input::holding(unread),
        large_writes: false,
        events: FuturesUnordered::new(),
        part,
        will_complain: false,
        moved: false,
        end: None,
        gave_up: false,
    };
    for signal in [closed, stopped] {
        connection.events.push(Pending::Signal(signal, Signal::Close));
    }
    let end = poll_fn(|context| connection.turns(context)).await;
    let Connection { channel, device, events, part, .. } = connection;
    drop(part);
    // Requests that are still under way (the socket failed, or the grace ended) go on in the device, unheard.
    drop((events, device));
    drop(hold);
    if !matches!(end, End::HungUp | End::Silent | End::Lost(_)) {
        channel.close().await;
    }
    end
}

struct Connection {
    channel: Channel,
    session: Session,
    device: Rc<dyn BlockDevice>,
    out: Output,
    input: Input,
    large_writes: bool,
    events: FuturesUnordered<Pending>,
    part: Part,
    will_complain: bool,
    /// A byte was read or sent in this turn.
    moved: bool,
    /// Set when no more requests are taken.
    end: Option<End>,
    /// Set when the last replies are not waited for any more.
    gave_up: bool,
}

/// How far receiving got.
enum Received {
    /// The socket is empty; we are woken when it is not.
    All,
    /// There may be more.
    Some,
    /// The session takes no more for now.
    Full,
    Ended,
}

impl Connection {
    fn turns(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let Some(Room { payload_bytes, single_bytes }) = self.part.room(context.waker()) else {
            return Poll::Ready(End::Silent);
        };
        let payload_bytes = payload_bytes.min(Limits::default().payload_bytes);
        self.session.limits = Limits { payload_bytes, single_bytes, ..Limits::default() };
        self.moved = false;
        let turned = self.turn(context);
        let waits_for_client = !self.out.is_empty() || self.session.payload().is_some();
        self.part.settle(self.session.held_bytes(&self.out), waits_for_client, self.moved, Instant::now());
        let waits = !self.session.has_room(&self.out) && self.session.has_room_within(&Limits::default(), &self.out);
        if self.part.wait(waits && self.end.is_none()) {
            self.complain_later();
            // What there is may be enough for it now that it is in the queue.
            context.waker().wake_by_ref();
        }
        turned
    }

    fn complain_later(&mut self) {
        if std::mem::replace(&mut self.will_complain, true) {
            return;
        }
        self.events.push(Pending::Signal(Box::pin(tokio::time::sleep(PATIENCE)), Signal::Waited));
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let mut requests = TURN_REQUESTS;
        for _ in 0..TURN_READS {
            let received = self.receive(context, &mut requests);
            self.collect(context);
            let unsent = self.out.pending_bytes();
            let sent = match self.channel.poll_write(context, &mut self.out) {
                Poll::Ready(Err(error)) => return Poll::Ready(self.end.take().unwrap_or(End::Lost(error))),
                sent => sent.is_ready(),
            };
            self.moved |= self.out.pending_bytes() < unsent;
            let answered = sent && self.session.requests_under_way() == 0;
            if (self.gave_up || answered)
                && let Some(end) = self.end.take()
            {
                return Poll::Ready(end);
            }
            match received {
                Received::Some if requests > 0 => {}
                Received::Full if self.session.has_room(&self.out) => {}
                Received::Some => break,
                Received::All | Received::Full | Received::Ended => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Parses and submits what is in the input; if there was nothing, what one read brings.
    fn receive(&mut self, context: &mut Context<'_>, requests: &mut u32) -> Received {
        if self.end.is_some() {
            return Received::Ended;
        }
        let geometry = self.device.geometry();
        if let Some(received) = self.parse(&geometry, requests) {
            return received;
        }
        match self.read(context) {
            Poll::Pending => return Received::All,
            Poll::Ready(Ok(0)) => self.finish(End::HungUp),
            Poll::Ready(Ok(_)) => {
                self.moved = true;
                return self.parse(&geometry, requests).unwrap_or(Received::Some);
            }
            Poll::Ready(Err(error)) => self.finish(End::Lost(error)),
        }
        Received::Ended
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.channel.reads_in_place()
            && let Some((payload, missing)) = self.session.payload()
            && missing >= IN_PLACE_BYTES
        {
            return self.channel.poll_read_into(context, payload, missing);
        }
        let room = self.session.limits.payload_bytes.saturating_sub(self.session.held_bytes(&self.out));
        let limit = match self.large_writes {
            true => SMALL_READ_BYTES,
            // What cannot be taken on stays in the socket: a thousand connections that wait would keep 256 KiB each.
            false => usize::try_from(room).unwrap_or(INPUT_BYTES).clamp(SMALL_READ_BYTES, INPUT_BYTES),
        };
        self.input.fill(limit, |buffer| self.channel.poll_read(context, buffer))
    }

    /// Submits what is in the input; `None` when all of it was used.
    fn parse(&mut self, geometry: &Geometry, requests: &mut u32) -> Option<Received> {
        let mut rest = self.input.rest();
        let mut end = None;
        let stopped = loop {
            if *requests == 0 {
                break Some(Received::Some);
            }
            match self.session.next(&mut rest, geometry, &mut self.out) {
                Next::Request(tag, request) => {
                    *requests -= 1;
                    self.large_writes =
                        matches!(&request, block::Request::Write { data, .. } if data.len() >= LARGE_WRITE_BYTES);
                    match self.device.submit(request) {
                        Completion::Ready(result) => self.session.reply(tag, result, &mut self.out),
                        pending => self.events.push(Pending::Request(Some(tag), pending)),
                    }
                }
                Next::Starved => break None,
                Next::Full => break Some(Received::Full),
                Next::Disconnect => end = Some(End::Disconnected),
                Next::Broken(why) => end = Some(End::Broken(why)),
            }
            if end.is_some() {
                break Some(Received::Ended);
            }
        };
        let left = rest.len();
        self.input.leave(left);
        if matches!(stopped, Some(Received::Full)) {
            self.input.compact();
        }
        if let Some(end) = end {
            self.finish(end);
        }
        stopped
    }

    /// Takes no more requests; the connection ends when the last one is answered, or when the grace is over.
    fn finish(&mut self, end: End) {
        self.end = Some(end);
        self.events.push(Pending::Signal(Box::pin(tokio::time::sleep(GRACE)), Signal::GraceIsOver));
    }

    /// Answers what the device has completed.
    fn collect(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some(event)) = self.events.poll_next_unpin(context) {
            match event {
                Event::Completed(tag, result) => self.answer(tag, result),
                Event::Signal(Signal::Close) if self.end.is_none() => self.finish(End::Closed),
                Event::Signal(Signal::Close) => {}
                Event::Signal(Signal::GraceIsOver) => self.gave_up = true,
                Event::Signal(Signal::Waited) => {
                    self.will_complain = false;
                    if self.part.complain(Instant::now()) {
                        self.complain_later();
                    }
                }
            }
        }
    }

    fn answer(&mut self, tag: Tag, result: block::Result<Reply>) {
        // A client that is cut off asks again elsewhere; one that is told ESHUTDOWN gives its guest an I/O error.
        let asks_again = |kind| matches!(kind, Kind::Unavailable | Kind::Fenced);
        match &result {
            Err(error) if self.end.is_some() && asks_again(error.kind) => self.session.forget(tag),
            _ => self.session.reply(tag, result, &mut self.out),
        }
    }
}

/// What the connection waits for besides its socket.
enum Pending {
    /// The tag is there until it is handed out with the result.
    Request(Option<Tag>, Completion<block::Result<Reply>>),
    Signal(LocalFuture<()>, Signal),
}

#[derive(Clone, Copy)]
enum Signal {
    Close,
    GraceIsOver,
    /// For memory, as long as one waits patiently.
    Waited,
}

enum Event {
    Completed(Tag, block::Result<Reply>),
    Signal(Signal),
}

impl Future for Pending {
    type Output = Event;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Event> {
        match &mut *self {
            Pending::Request(tag, completion) => {
                let result = ready!(Pin::new(completion).poll(context));
                let tag = tag.take().expect("a completion completes once");
                Poll::Ready(Event::Completed(tag, result))
            }
            Pending::Signal(future, signal) => {
                ready!(future.as_mut().poll(context));
                Poll::Ready(Event::Signal(*signal))
            }
        }
    }
}
