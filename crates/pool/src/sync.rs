//! One sync for all who wait: at most one is under way on a slab, and who comes meanwhile shares the next.

use crate::slab::Slab;
use crate::usage::{Counters, add};
use crate::{Error, Pool, Result};
use base::GroupId;
use std::rc::Rc;
use world::local::{OneshotReceiver, oneshot};
use world::{LocalFuture, World};

impl Pool {
    /// Every append to these groups that completed before this call survives power loss once it completes with `Ok`.
    /// `SyncFailed`: nothing is known of what was appended to them since the last sync that succeeded. A group that is
    /// unknown was freed: nothing of it is to survive.
    pub fn sync(&self, groups: &[GroupId]) -> LocalFuture<Result<()>> {
        let mut slabs: Vec<Rc<Slab>> = Vec::with_capacity(groups.len());
        for group in groups.iter().filter_map(|&id| self.group(id)) {
            if !slabs.iter().any(|slab| slab.id == group.slab.id) {
                slabs.push(group.slab.clone());
            }
        }
        self.sync_slabs(&slabs)
    }

    pub(crate) fn sync_slabs(&self, slabs: &[Rc<Slab>]) -> LocalFuture<Result<()>> {
        // Asked of every slab before the first is awaited: they sync side by side.
        let asked: Vec<Asked> = slabs.iter().map(|slab| self.ask(slab)).collect();
        Box::pin(async move {
            let mut result = Ok(());
            for asked in asked {
                result = result.and(asked.answer().await);
            }
            result
        })
    }

    pub(crate) fn sync_slab(&self, slab: &Rc<Slab>) -> LocalFuture<Result<()>> {
        let asked = self.ask(slab);
        Box::pin(asked.answer())
    }

    fn ask(&self, slab: &Rc<Slab>) -> Asked {
        if let Err(e) = slab.check_not_poisoned() {
            return Asked::Known(Err(e));
        }
        let mut waiters = slab.waiters.borrow_mut();
        if !slab.dirty.get() && !waiters.running {
            return Asked::Known(Ok(()));
        }
        let (sender, receiver) = oneshot();
        if !slab.dirty.get() {
            waiters.current.push(sender);
            return Asked::Waits(receiver);
        }
        waiters.next.push(sender);
        if !waiters.running {
            waiters.running = true;
            // A task of its own: a waiter that goes away must not take the sync of the others with it.
            self.world.spawn(drive(slab.clone(), self.world.clone(), self.counters.clone()));
        }
        Asked::Waits(receiver)
    }
}

enum Asked {
    Known(Result<()>),
    Waits(OneshotReceiver<Result<()>>),
}

impl Asked {
    async fn answer(self) -> Result<()> {
        match self {
            Asked::Known(result) => result,
            Asked::Waits(receiver) => receiver.await.unwrap_or_else(|| {
                Err(Error::new(crate::Kind::SyncFailed, "the shard stopped before the sync had ended"))
            }),
        }
    }
}

/// Syncs as long as somebody waits.
async fn drive(slab: Rc<Slab>, world: World, counters: Rc<Counters>) {
    while let Some(future) = begin(&slab) {
        let begun = world.now();
        let result = future.await;
        counters.sync_took(world.now().since_ns(begun));
        end(&slab, &counters, result);
    }
}

fn begin(slab: &Slab) -> Option<LocalFuture<world::Result<()>>> {
    let mut waiters = slab.waiters.borrow_mut();
    if waiters.next.is_empty() || slab.poisoned.get() {
        waiters.running = false;
        return None;
    }
    waiters.current = std::mem::take(&mut waiters.next);
    slab.sync_begins();
    Some(slab.file.sync())
}

fn end(slab: &Slab, counters: &Counters, result: world::Result<()>) {
    let mut woken = std::mem::take(&mut slab.waiters.borrow_mut().current);
    let result = result.map_err(|e| Error::sync_failed(&slab.name(), e));
    match &result {
        Ok(()) => slab.slots.borrow_mut().sync_succeeded(),
        Err(e) => {
            tracing::error!(slab = slab.id.0, error = ?e, "sync failed; the slab takes no writes until the next start");
            slab.poisoned.set(true);
            add(&counters.sync_failures, 1);
            woken.append(&mut slab.waiters.borrow_mut().next);
        }
    }
    woken.into_iter().for_each(|waiter| waiter.send(result.clone()));
}
