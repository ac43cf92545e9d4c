//! What a connection waits for besides its socket, and what it does when that happens.

use super::{Connection, End};
use crate::frontend::line::GRACE;
use crate::iscsi::router::Ran;
use futures_util::StreamExt;
use iscsi::{ManageTag, Notice, Tag};
use scsi::{Event, Outcome};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use world::{Completion, LocalFuture};

/// How long an initiator may take to log out when it was asked to. Linux does so at once; others never do.
const LOGOUT_TIME: Duration = Duration::from_secs(2);

pub(super) enum Pending {
    /// The tag is there until it is handed out with the result.
    Command(Option<Tag>, Completion<Ran>),
    Manage(Option<ManageTag>, Completion<Outcome>),
    Event(LocalFuture<Event>),
    Signal(LocalFuture<()>, Signal),
}

#[derive(Clone, Copy)]
pub(super) enum Signal {
    /// The vDisk goes away, or the server stops.
    Close,
    /// The initiator was asked to log out, and did not.
    Overdue,
    /// The session is to end now: somebody said so.
    Drop,
    GraceIsOver,
    /// For memory, as long as one waits patiently.
    Waited,
    /// Time to look whether the initiator is still there.
    Look,
}

pub(super) enum Happened {
    Command(Tag, Ran),
    Manage(ManageTag, Outcome),
    Event(Event),
    Signal(Signal),
}

impl Connection {
    /// Waits for all that may happen to the session.
    pub(super) fn listen(&mut self, closed: LocalFuture<()>, stopped: LocalFuture<()>) {
        let mut end = self.listed.end.clone();
        let dropped = Box::pin(async move {
            // An error says that nobody can ask for the end any more.
            if end.wait_for(|end| *end).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        for (future, signal) in [(closed, Signal::Close), (stopped, Signal::Close)] {
            self.events.push(Pending::Signal(future, signal));
        }
        self.events.push(Pending::Signal(dropped, Signal::Drop));
        self.listen_to_units();
        self.look_later();
    }

    fn listen_to_units(&mut self) {
        let router = self.router.clone();
        self.events.push(Pending::Event(Box::pin(async move { router.next_event().await })));
    }

    fn look_later(&mut self) {
        let until = self.timing.next_look(Instant::now());
        self.events.push(Pending::Signal(Box::pin(tokio::time::sleep(until)), Signal::Look));
    }

    pub(super) fn collect(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some(happened)) = self.events.poll_next_unpin(context) {
            match happened {
                Happened::Command(tag, ran) => self.ended(tag, ran),
                Happened::Manage(tag, outcome) => self.managed(tag, outcome),
                Happened::Event(event) => {
                    self.event(event);
                    self.listen_to_units();
                }
                Happened::Signal(signal) => self.signal(signal),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Asynchronous { lun, sense } if self.end.is_none() => {
                self.session.notify(&Notice::Sense { lun, sense }, &mut self.line.out);
            }
            Event::Asynchronous { .. } => {}
            Event::TaskAborted { tag } => {
                if let Some(execute) = self.session.stop_gathering(tag) {
                    self.execute(execute);
                }
            }
        }
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::GraceIsOver => self.gave_up = true,
            Signal::Waited if self.line.complain(Instant::now()) => self.complain_later(),
            Signal::Waited => {}
            _ if self.end.is_some() => {}
            Signal::Close => {
                let seconds = LOGOUT_TIME.as_secs() as u16;
                self.session.notify(&Notice::RequestLogout { seconds }, &mut self.line.out);
                self.events.push(Pending::Signal(Box::pin(tokio::time::sleep(LOGOUT_TIME)), Signal::Overdue));
            }
            Signal::Overdue => {
                self.session.notify(&Notice::Dropped, &mut self.line.out);
                self.finish(End::Closed);
            }
            Signal::Drop if self.listed.is_replaced() => {
                // The initiator lost this connection and is waiting on the next one.
                self.finish(End::Replaced);
                self.gave_up = true;
            }
            Signal::Drop => {
                self.session.notify(&Notice::Dropped, &mut self.line.out);
                self.finish(End::Dropped);
            }
            Signal::Look => self.look(),
        }
    }

    /// Takes no more commands; the session ends when the last one is answered, or when the grace is over.
    pub(super) fn finish(&mut self, end: End) {
        self.end = Some(end);
        self.events.push(Pending::Signal(Box::pin(tokio::time::sleep(GRACE)), Signal::GraceIsOver));
    }

    fn look(&mut self) {
        use super::timing::Verdict;
        let waits = !self.line.out.is_empty() || self.session.waits_for_data();
        if !self.session.has_room(&self.line.out) {
            // Nothing is read from it, so that its silence is ours.
            self.timing.heard = None;
        }
        match self.timing.judge(Instant::now(), waits, self.session.awaits_pong()) {
            Verdict::Alive => {}
            Verdict::Ask => self.session.ping(&mut self.line.out),
            Verdict::Stuck => {
                self.finish(End::Silent("it took no answers, or did not send what it was asked for"));
                self.gave_up = true;
            }
            Verdict::Dead => {
                self.finish(End::Silent("it did not answer a ping"));
                self.gave_up = true;
            }
        }
        if self.end.is_none() {
            self.look_later();
        }
    }
}

impl Future for Pending {
    type Output = Happened;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Happened> {
        match &mut *self {
            Pending::Command(tag, completion) => {
                let ran = ready!(Pin::new(completion).poll(context));
                Poll::Ready(Happened::Command(tag.take().expect("a completion completes once"), ran))
            }
            Pending::Manage(tag, completion) => {
                let outcome = ready!(Pin::new(completion).poll(context));
                Poll::Ready(Happened::Manage(tag.take().expect("a completion completes once"), outcome))
            }
            Pending::Event(future) => Poll::Ready(Happened::Event(ready!(future.as_mut().poll(context)))),
            Pending::Signal(future, signal) => {
                ready!(future.as_mut().poll(context));
                Poll::Ready(Happened::Signal(*signal))
            }
        }
    }
}
