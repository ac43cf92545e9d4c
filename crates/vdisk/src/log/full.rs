//! A client's frame that finds the disk full while this vDisk or another one of the shard has a history: the history goes
//! first, then the frame is tried again.

use super::Record;
use super::batch::Batch;
use super::queue::Item;
use crate::flush::first_of;
use crate::vdisk::Vdisk;
use crate::{Kind, Result};
use std::rc::Rc;

/// How long a frame waits for room that the history gives up, ns: 10 s, a checkpoint and some syncs of a busy disk.
const WAIT_NS: u64 = 10_000_000_000;
/// How often it is tried again.
const TRIES: u32 = 3;

impl Vdisk {
    /// Appends the frame; where there is no room for it, what histories hold is given up.
    pub(super) async fn append_user_with_room(self: &Rc<Self>, batch: &Batch) -> Result<()> {
        let mut result = self.append_user(batch).await;
        for _ in 0..TRIES {
            let is_full = matches!(&result, Err(error) if error.kind == Kind::Full);
            if !is_full || !self.context.load.may_give_history.get() || !self.wait_for_room().await {
                break;
            }
            result = self.append_user(batch).await;
        }
        result
    }

    /// What makes room, which the append that failed has asked for, goes through the log: it is served meanwhile. `false`:
    /// something else comes first.
    async fn wait_for_room(self: &Rc<Self>) -> bool {
        let clock = &self.context.world.clock;
        let deadline = clock.now().0 + WAIT_NS;
        self.room_wanted.set(true);
        while self.room_wanted.get() {
            let left = deadline.saturating_sub(clock.now().0);
            let next = self.queue.borrow_mut().background.pop_front();
            match next {
                // The content is to be what it was when the frame was made.
                Some(item) if !may_go_first(&item) => {
                    self.queue.borrow_mut().background.push_front(item);
                    self.room_wanted.set(false);
                    return false;
                }
                Some(item) => drop(self.run_background(item).await),
                None if left == 0 => self.room_wanted.set(false),
                None => {
                    let bells = first_of(self.queued.notified(), self.room_made.notified());
                    first_of(bells, clock.sleep(left)).await;
                }
            }
        }
        true
    }

    /// Whoever waits for room tries again.
    pub fn room_was_made(&self) {
        if self.room_wanted.replace(false) {
            self.room_made.notify();
        }
    }
}

fn may_go_first(item: &Item) -> bool {
    !matches!(
        item,
        Item::Control { record: Record::Rollback(..) | Record::Delete, .. } | Item::Cut { .. } | Item::Stop { .. }
    )
}
