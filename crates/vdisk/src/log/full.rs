//! A client's frame that finds the disk full while this vDisk or another one of the shard has a history: the history goes
//! first, then the frame is tried again.

use super::Record;
use super::batch::Batch;
use super::queue::{Item, refuse};
use crate::flush::first_of;
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use std::rc::Rc;

/// How long a frame waits for room, ns: 30 s, as long as clients commonly wait for an answer. What histories hold comes free
/// with a checkpoint and some syncs of a busy disk.
const WAIT_NS: u64 = 30_000_000_000;
/// How often all was looked through for room before the frame is refused, though histories may still hold something.
const SEARCHES_MAX: u32 = 3;

/// What is known of room for a client's frame that found none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Room {
    /// No frame waits.
    #[default]
    Unasked,
    Wanted,
    /// All was looked through that could come free.
    Searched,
}

/// Why a frame waits no longer.
enum Ended {
    /// Something came free.
    Freed,
    Searched,
    /// Something comes first that changes what the frame was made for, or it has waited too long.
    GivenUp,
}

impl Vdisk {
    /// Appends the frame; where there is no room for it, what histories hold is given up.
    pub(super) async fn append_user_with_room(self: &Rc<Self>, batch: &Batch) -> Result<()> {
        let deadline = self.context.world.now().0 + WAIT_NS;
        let mut searches = 0;
        loop {
            let freed = self.context.load.freed.get();
            let result = self.append_user(batch).await;
            let is_full = matches!(&result, Err(error) if error.kind == Kind::Full);
            if !is_full || searches == SEARCHES_MAX || !self.context.may_give_history() {
                return result;
            }
            self.room.set(Room::Wanted);
            let ended = self.wait_for_room(freed, deadline).await;
            self.room.set(Room::Unasked);
            match ended {
                Ended::Freed => {}
                Ended::Searched => searches += 1,
                Ended::GivenUp => return result,
            }
        }
    }

    /// What makes room, which the append that failed has asked for, goes through the log: it is served meanwhile.
    /// `freed`: what had come free before it failed.
    async fn wait_for_room(self: &Rc<Self>, freed: u64, deadline: u64) -> Ended {
        let (clock, load) = (&self.context.world.clock, &self.context.load);
        loop {
            let left = deadline.saturating_sub(clock.now().0);
            if left == 0 {
                return Ended::GivenUp;
            }
            let has_freed = load.freed.get() != freed;
            // What whoever makes room waits for comes first, or more room would wait for this frame.
            let next = self.queue.borrow_mut().background.pop_front();
            match next {
                // Others would wait for it with us, who may be the ones that give room.
                Some(item @ Item::Cut { .. }) => {
                    refuse(item, Error::new(Kind::Full, "the disk is full, and a write waits for room"));
                }
                // The content is to be what it was when the frame was made.
                Some(item) if !may_go_first(&item) => {
                    self.queue.borrow_mut().background.push_front(item);
                    return if has_freed { Ended::Freed } else { Ended::GivenUp };
                }
                Some(item) => drop(self.run_background(item).await),
                None if has_freed => return Ended::Freed,
                None if self.room.get() == Room::Searched => return Ended::Searched,
                None => {
                    let bells = first_of(self.queued.notified(), self.room_searched.notified());
                    first_of(first_of(bells, load.room_came.notified()), clock.sleep(left)).await;
                }
            }
        }
    }

    /// A frame of a client waits for room.
    pub fn wants_room(&self) -> bool {
        self.room.get() == Room::Wanted
    }

    /// Everything was looked through: who waits tries once more, and may ask for another search.
    pub fn room_was_searched(&self) {
        if self.wants_room() {
            self.room.set(Room::Searched);
            self.room_searched.notify();
        }
    }
}

fn may_go_first(item: &Item) -> bool {
    !matches!(item, Item::Control { record: Record::Rollback(..) | Record::Delete, .. } | Item::Stop { .. })
}
