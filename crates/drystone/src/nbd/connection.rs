//! One connection in the transmission phase: the loop that every read and write of a guest goes through.
//!
//! One task per connection, one turn of it: take what one read brought, submit all of it, gather what is ready, answer
//! with one vectored write. A request whose completion is ready at once costs no allocation and no trip through the
//! executor. A turn is bounded, so that connections of one worker take turns; what a client can make us hold is bounded
//! by the session's limits, and a client that does not read is not read from either.

use crate::frontend::Attached;
use crate::frontend::channel::Channel;
use crate::frontend::line::{GRACE, LARGE_DATA_BYTES, Line, Received, Standing, TURN_READS, TURN_REQUESTS};
use crate::frontend::payload::{PATIENCE, Part};
use block::{BlockDevice, Geometry, Kind, Reply};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nbd::{Limits, Next, Output, Session, Source, Tag};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use world::{Completion, LocalFuture};

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

/// What a connection has of its vDisk.
pub(super) struct Opened {
    pub export: Attached,
    /// The devices of [`Source::Bitmap`].
    pub differences: Vec<Attached>,
}

/// Serves a connection until it ends. `stopped` asks it to end, after answering what is under way.
pub(super) async fn serve(
    channel: Channel,
    session: Session,
    out: Output,
    unread: Vec<u8>,
    opened: Opened,
    part: Part,
    stopped: LocalFuture<()>,
) -> End {
    let Opened { export: Attached { device, closed, hold }, differences } = opened;
    let (mut bitmaps, mut signals, mut holds) = (Vec::new(), vec![closed, stopped], vec![hold]);
    for Attached { device, closed, hold } in differences {
        bitmaps.push(device);
        signals.push(closed);
        holds.push(hold);
    }
    let mut connection = Connection {
        line: Line::new(channel, out, unread, part),
        session,
        device,
        bitmaps,
        events: FuturesUnordered::new(),
        end: None,
        gave_up: false,
    };
    for signal in signals {
        connection.events.push(Pending::Signal(signal, Signal::Close));
    }
    let end = poll_fn(|context| connection.turns(context)).await;
    let Connection { line: Line { channel, part, .. }, device, bitmaps, events, .. } = connection;
    drop(part);
    // Requests that are still under way (the socket failed, or the grace ended) go on in the device, unheard.
    drop((events, device, bitmaps));
    drop(holds);
    if !matches!(end, End::HungUp | End::Silent | End::Lost(_)) {
        channel.close().await;
    }
    end
}

struct Connection {
    line: Line,
    session: Session,
    device: Rc<dyn BlockDevice>,
    /// What the client selected to have it compared with, in its order.
    bitmaps: Vec<Rc<dyn BlockDevice>>,
    events: FuturesUnordered<Pending>,
    /// Set when no more requests are taken.
    end: Option<End>,
    /// Set when the last replies are not waited for any more.
    gave_up: bool,
}

impl Connection {
    fn turns(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let whole = Limits::default();
        let Some(room) = self.line.begin(context, whole.room) else { return Poll::Ready(End::Silent) };
        self.session.limits = Limits { room, ..whole };
        let turned = self.turn(context);
        let out = &self.line.out;
        let waits = !self.session.has_room(out) && self.session.has_room_within(&whole, out);
        let standing = Standing {
            held_bytes: self.session.held_bytes(out),
            waits_for_client: !out.is_empty() || self.session.payload().is_some(),
            waits_for_room: waits && self.end.is_none(),
        };
        if self.line.settle(&standing, context, Instant::now()) {
            self.complain_later();
        }
        turned
    }

    fn complain_later(&mut self) {
        self.events.push(Pending::Signal(Box::pin(tokio::time::sleep(PATIENCE)), Signal::Waited));
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let mut requests = TURN_REQUESTS;
        for _ in 0..TURN_READS {
            let received = self.receive(context, &mut requests);
            self.collect(context);
            let sent = match self.line.send(context) {
                Poll::Ready(Err(error)) => return Poll::Ready(self.end.take().unwrap_or(End::Lost(error))),
                sent => sent.is_ready(),
            };
            let answered = sent && self.session.requests_under_way() == 0;
            if (self.gave_up || answered)
                && let Some(end) = self.end.take()
            {
                return Poll::Ready(end);
            }
            match received {
                Received::Some if requests > 0 => {}
                Received::Full if self.session.has_room(&self.line.out) => {}
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
        let free_bytes = self.session.limits.room.payload_bytes.saturating_sub(self.session.held_bytes(&self.line.out));
        match self.line.read(context, self.session.payload(), free_bytes) {
            Poll::Pending => return Received::All,
            Poll::Ready(Ok(0)) => self.finish(End::HungUp),
            Poll::Ready(Ok(_)) => return self.parse(&geometry, requests).unwrap_or(Received::Some),
            Poll::Ready(Err(error)) => self.finish(End::Lost(error)),
        }
        Received::Ended
    }

    /// Submits what is in the input; `None` when all of it was used.
    fn parse(&mut self, geometry: &Geometry, requests: &mut u32) -> Option<Received> {
        let mut rest = self.line.input.rest();
        let mut end = None;
        let stopped = loop {
            if *requests == 0 {
                break Some(Received::Some);
            }
            match self.session.next(&mut rest, geometry, &mut self.line.out) {
                Next::Request(tag, request) => {
                    *requests -= 1;
                    self.line.large_data =
                        matches!(&request, block::Request::Write { data, .. } if data.len() >= LARGE_DATA_BYTES);
                    match self.device_of(&tag).submit(request) {
                        Completion::Ready(result) => self.session.reply(tag, result, &mut self.line.out),
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
        self.line.input.leave(left);
        if matches!(stopped, Some(Received::Full)) {
            self.line.input.compact();
        }
        if let Some(end) = end {
            self.finish(end);
        }
        stopped
    }

    fn device_of(&self, tag: &Tag) -> &dyn BlockDevice {
        match tag.source() {
            Source::Export => &*self.device,
            Source::Bitmap(index) => &*self.bitmaps[index as usize],
        }
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
                Event::Signal(Signal::Waited) if self.line.complain(Instant::now()) => self.complain_later(),
                Event::Signal(Signal::Waited) => {}
            }
        }
    }

    fn answer(&mut self, tag: Tag, result: block::Result<Reply>) {
        // A client that is cut off asks again elsewhere; one that is told ESHUTDOWN gives its guest an I/O error.
        let asks_again = |kind| matches!(kind, Kind::Unavailable | Kind::Fenced);
        match &result {
            Err(error) if self.end.is_some() && asks_again(error.kind) => self.session.forget(tag),
            _ => self.session.reply(tag, result, &mut self.line.out),
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
