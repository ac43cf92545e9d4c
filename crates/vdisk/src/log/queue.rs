//! What waits for the log task of a vDisk, and how it is asked.

use super::{Combine, Payload, Position, Record};
use crate::account::Accounts;
use crate::address::Address;
use crate::copy::Extents;
use crate::map::{Node, PagePlace, Tree};
use crate::references::Holds;
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use base::Sequence;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use world::local::{OneshotReceiver, OneshotSender, oneshot};

pub(crate) type Done = OneshotSender<Result<()>>;

pub(crate) enum Item {
    /// Any multiple of 512 bytes.
    Write {
        offset: u64,
        data: Payload,
        done: Done,
    },
    /// Any multiple of 512 bytes, at most [`Vdisk::atomic_bytes_max`].
    Combine {
        offset: u64,
        data: Bytes,
        how: Combine,
        done: Done,
    },
    /// Whole blocks. `fill`: `Address::NONE` or `ZEROS`.
    Clear {
        block: u64,
        count: u64,
        fill: Address,
        done: Done,
    },
    /// Blocks from `block` on become what was lent.
    Take {
        block: u64,
        lent: Rc<Extents>,
        done: Done,
    },
    Relocate {
        moves: Vec<Move>,
        done: OneshotSender<Result<u64>>,
    },
    Pages {
        pages: Vec<PageWrite>,
        rewrites: u64,
        done: Done,
    },
    /// Pages of a map of the past, which is no checkpoint's. What they lie in is held.
    PastPages {
        pages: Vec<PageWrite>,
        rewrites: u64,
        holds: Rc<RefCell<Holds>>,
        done: OneshotSender<Result<Vec<Replaced>>>,
    },
    /// A point of the history. Nothing happens if there is no history.
    Point {
        done: Done,
    },
    Checkpoint {
        record: Record,
        rewrites: u64,
        done: OneshotSender<Result<ControlPlace>>,
    },
    Control {
        record: Record,
        done: OneshotSender<Result<ControlPlace>>,
    },
    /// The state between two frames; `None` if a snapshot is waiting to be stored before it.
    Freeze {
        done: OneshotSender<Result<Option<Frozen>>>,
    },
    /// Nothing is appended until `go` comes, or its sender goes away.
    Cut {
        paused: OneshotSender<Result<()>>,
        go: OneshotReceiver<Record>,
        done: OneshotSender<Result<ControlPlace>>,
    },
    /// A frame without runs, whose only content is that what came before is synced.
    Proof {
        done: OneshotSender<Result<Sequence>>,
    },
    /// Everything that is to be appended once more has been.
    Settle {
        done: Done,
    },
    /// Append what was not synced once more, elsewhere.
    Rewrite {
        done: Done,
    },
    /// The task ends.
    Stop {
        done: OneshotSender<()>,
    },
}

/// Where a page was stored, and where it is now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replaced {
    pub old: Address,
    pub new: Address,
}

/// Where a control frame went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlPlace {
    pub at: Position,
    pub offset: u32,
}

/// A block to be stored elsewhere if the map still says `from`.
pub(crate) struct Move {
    pub block: u64,
    pub from: Address,
    pub data: Bytes,
}

#[derive(Clone)]
pub(crate) struct PageWrite {
    pub place: PagePlace,
    pub node: Rc<Node>,
    pub bytes: Bytes,
}

/// What a checkpoint starts from. What is in cells changes when frames that were not synced are appended elsewhere.
pub(crate) struct Frozen {
    pub tree: RefCell<Tree>,
    pub covers: Cell<Position>,
    pub accounts: RefCell<Accounts>,
    /// Taken by the record, which tells it once.
    pub dropped: RefCell<Vec<Rc<Cell<Address>>>>,
    pub rewrites: Cell<u64>,
    /// Log that need not be replayed any more when it is stored.
    pub log_bytes: Cell<u64>,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub user: VecDeque<Item>,
    pub background: VecDeque<Item>,
    /// The last frame came from the foreground: the background is next if it waits.
    pub(super) user_was_last: bool,
}

impl Queue {
    pub(super) fn pop_background(&mut self) -> Option<Item> {
        if self.user.is_empty() || self.user_was_last { self.background.pop_front() } else { None }
    }
}

impl Vdisk {
    pub(crate) fn enqueue(&self, item: Item) {
        if self.ended.get() {
            return;
        }
        {
            let mut queue = self.queue.borrow_mut();
            match item {
                Item::Write { .. } | Item::Combine { .. } | Item::Clear { .. } | Item::Take { .. } => {
                    queue.user.push_back(item);
                }
                _ => queue.background.push_back(item),
            }
        }
        self.queued.notify();
    }

    /// Queues an item that answers, and waits for the answer.
    pub(crate) async fn ask<T>(&self, make: impl FnOnce(OneshotSender<T>) -> Item) -> Result<T> {
        let (sender, receiver): (_, OneshotReceiver<T>) = oneshot();
        self.enqueue(make(sender));
        receiver.await.ok_or_else(closed)
    }
}

/// Instead of an answer.
pub(crate) fn closed() -> Error {
    Error::new(Kind::Closed, "the vDisk was closed meanwhile")
}

/// Answers an item that is not carried out.
pub(super) fn refuse(item: Item, error: Error) {
    match item {
        Item::Write { done, .. }
        | Item::Combine { done, .. }
        | Item::Clear { done, .. }
        | Item::Take { done, .. }
        | Item::Pages { done, .. }
        | Item::Settle { done }
        | Item::Point { done }
        | Item::Rewrite { done } => {
            done.send(Err(error));
        }
        Item::Relocate { done, .. } => done.send(Err(error)),
        Item::Proof { done } => done.send(Err(error)),
        Item::PastPages { done, .. } => done.send(Err(error)),
        Item::Control { done, .. } | Item::Checkpoint { done, .. } => done.send(Err(error)),
        Item::Freeze { done } => done.send(Err(error)),
        Item::Cut { paused, .. } => paused.send(Err(error)),
        Item::Stop { .. } => {}
    }
}
