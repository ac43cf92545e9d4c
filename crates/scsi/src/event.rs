//! What a nexus hears without having asked: asynchronous events, and tasks that others aborted while they gathered data.

use crate::Sense;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// What a transport that does not listen can leave behind. Events beyond are dropped: each of them is a unit attention or shows in
/// [`crate::Task::is_aborted`] as well.
const EVENTS_MAX: usize = 64;

/// For the transport of one nexus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// To be sent as the transport's asynchronous event notification. The unit attention is established as well.
    Asynchronous { lun: [u8; 8], sense: Sense },
    /// A task that was not run yet has been aborted, by this nexus or another one: no more data needs to be gathered for it.
    /// [`crate::Task::run`] says how it ends.
    TaskAborted { tag: u64 },
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
pub(crate) struct Events(RefCell<Queue>);

impl Events {
    pub(crate) fn push(&self, event: Event) {
        let waker = {
            let mut queue = self.0.borrow_mut();
            if queue.events.len() >= EVENTS_MAX || queue.events.contains(&event) {
                return;
            }
            queue.events.push_back(event);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Event> {
        let mut queue = self.0.borrow_mut();
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                queue.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
