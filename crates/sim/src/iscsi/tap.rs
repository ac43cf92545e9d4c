//! Sits between the device server and the engine and knows what may not reach the engine any more: what a task management
//! function has named, once its response has come.

use block::{BlockDevice, Geometry, Reply, Request, Result};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use world::Completion;

/// A write by what it writes: its place, and the beginning of its data, which no two writes of a run have in common.
type Mark = (u64, Bytes);

const MARK_BYTES: usize = 24;

pub struct Tap {
    device: Rc<dyn BlockDevice>,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    /// Changes that the engine has begun and not answered, in the order in which they came.
    under_way: RefCell<BTreeMap<u64, Option<Mark>>>,
    serial: Cell<u64>,
    ended: RefCell<BTreeSet<Mark>>,
}

impl Tap {
    pub fn new(device: Rc<dyn BlockDevice>) -> Rc<Tap> {
        Rc::new(Tap { device, state: Rc::default() })
    }

    /// A moment, for [`Tap::assert_stopped`].
    pub fn now(&self) -> u64 {
        self.state.serial.get()
    }

    /// The initiator was told that this write has ended without an answer.
    pub fn assert_ended(&self, offset: u64, data: &[u8]) {
        let Some(mark) = mark(offset, data) else { return };
        let runs = self.state.under_way.borrow().values().flatten().any(|other| *other == mark);
        assert!(!runs, "a write at {offset} is still under way although task management has ended it");
        self.state.ended.borrow_mut().insert(mark);
    }

    /// The initiator was told that everything has ended that was begun before this moment.
    pub fn assert_stopped(&self, before: u64) {
        let first = self.state.under_way.borrow().keys().next().copied();
        let first = first.unwrap_or(u64::MAX);
        assert!(first >= before, "change {first} is still under way although a reset has ended all before {before}");
    }
}

fn mark(offset: u64, data: &[u8]) -> Option<Mark> {
    let head = data.get(..MARK_BYTES)?;
    // Zeros are written more than once.
    head.iter().any(|byte| *byte != 0).then(|| (offset, Bytes::copy_from_slice(head)))
}

impl BlockDevice for Tap {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        let mark = match &request {
            Request::Read { .. } | Request::Flush | Request::Prefetch { .. } | Request::BlockStatus { .. } => {
                return self.device.submit(request);
            }
            Request::Write { offset, data, .. } | Request::CompareAndWrite { offset, data, .. } => mark(*offset, data),
            Request::OrWrite { .. } | Request::Trim { .. } | Request::WriteZeroes { .. } => None,
        };
        if let Some(mark) = &mark {
            let ended = self.state.ended.borrow().contains(mark);
            assert!(!ended, "a write at {} begins although task management has ended it", mark.0);
        }
        let serial = self.state.serial.replace(self.state.serial.get() + 1);
        let pending = match self.device.submit(request) {
            Completion::Ready(done) => return Completion::Ready(done),
            pending => pending,
        };
        self.state.under_way.borrow_mut().insert(serial, mark);
        let state = self.state.clone();
        Completion::pending(async move {
            let done = pending.await;
            state.under_way.borrow_mut().remove(&serial);
            done
        })
    }
}
