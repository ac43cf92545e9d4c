//! The logical units that a session has on one worker: attached first, then seen through its nexus.
//!
//! Invariant: whatever leaves the nexus is let go of after the last of its tasks has ended, or been aborted.

use super::seam::{FoundUnit, Units};
use super::units::{self, Used};
use scsi::Nexus;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use world::LocalFuture;

/// How long what a logical unit has under way is waited for when it goes; it is aborted then.
const LEAVE_TIME: Duration = Duration::from_secs(10);

pub(super) struct Part {
    /// Dropped before what it is with.
    pub nexus: Nexus,
    /// By logical unit number.
    held: RefCell<BTreeMap<u64, Held>>,
    /// What is held is something else now.
    changed: Notify,
    /// Numbers of what is on its way out.
    going: RefCell<BTreeSet<u64>>,
    gone: Notify,
    units: Rc<dyn Units>,
    /// Nothing is attached any more.
    over: Cell<bool>,
}

struct Held {
    /// See [`FoundUnit::unit_key`].
    key: u64,
    used: Used,
    /// Completes when the vDisk goes away.
    closed: Option<LocalFuture<()>>,
    _hold: Box<dyn Any>,
}

impl Part {
    pub fn new(nexus: Nexus, units: Rc<dyn Units>) -> Part {
        Part {
            nexus,
            held: RefCell::default(),
            changed: Notify::new(),
            going: RefCell::default(),
            gone: Notify::new(),
            units,
            over: Cell::new(false),
        }
    }

    /// Attaches, and shows nothing of it yet.
    pub async fn hold(&self, unit: &FoundUnit) -> block::Result<()> {
        let attached = self.units.attach(unit.found.key, unit.found.snapshot).await?;
        let used = units::unit(unit, attached.device.clone(), &*self.units).await?;
        if self.over.get() {
            return Err(block::Error::new(block::Kind::Unavailable, "the session has ended"));
        }
        let held = Held { key: unit.unit_key(), used, closed: Some(attached.closed), _hold: attached.hold };
        self.held.borrow_mut().insert(unit.lun, held);
        self.changed.notify_one();
        Ok(())
    }

    /// What was attached is a logical unit of the nexus from now on; unless it was closed meanwhile, and is gone again.
    pub fn show(&self, lun: u64) {
        let unit = self.held.borrow().get(&lun).map(|held| held.used.unit.clone());
        if let Some(unit) = unit {
            self.nexus.put(lun, unit);
        }
    }

    /// There is nothing of this number any more, and nothing that was begun there goes on, when it completes.
    pub async fn take(&self, lun: u64) {
        let held = self.held.borrow_mut().remove(&lun);
        if held.is_some() {
            self.changed.notify_one();
            self.going.borrow_mut().insert(lun);
            if let Some(leaving) = self.nexus.take(lun) {
                // What has not ended then is aborted.
                let _ = tokio::time::timeout(LEAVE_TIME, leaving.idle()).await;
            }
            drop(held);
            self.going.borrow_mut().remove(&lun);
            self.gone.notify_waiters();
        }
        // It may be asked for twice: when its vDisk goes away, and when the VM does not have it any more.
        loop {
            let gone = self.gone.notified();
            if !self.going.borrow().contains(&lun) {
                return;
            }
            gone.await;
        }
    }

    /// The session is over: what is under way is aborted, and nothing comes in its place.
    pub fn end(&self) {
        self.over.set(true);
        let lost: Vec<_> = self.luns().into_keys().map(|lun| self.nexus.take(lun)).collect();
        drop(lost);
        let held = std::mem::take(&mut *self.held.borrow_mut());
        drop(held);
    }

    /// Numbers, and the keys of what is there.
    pub fn luns(&self) -> BTreeMap<u64, u64> {
        self.held.borrow().iter().map(|(lun, held)| (*lun, held.key)).collect()
    }

    /// The end of the only one.
    pub fn take_closed(&self) -> Option<LocalFuture<()>> {
        self.held.borrow_mut().values_mut().next().and_then(|held| held.closed.take())
    }

    /// The number of the next one whose vDisk goes away. One listener at a time.
    pub async fn next_closed(&self) -> u64 {
        loop {
            let closing = std::future::poll_fn(|context| {
                let mut held = self.held.borrow_mut();
                let closed = held.iter_mut().find_map(|(lun, held)| {
                    let closed = held.closed.as_mut()?;
                    closed.as_mut().poll(context).is_ready().then_some(*lun)
                });
                match closed {
                    Some(lun) => {
                        held.get_mut(&lun).expect("it was found").closed = None;
                        std::task::Poll::Ready(lun)
                    }
                    None => std::task::Poll::Pending,
                }
            });
            let changed = self.changed.notified();
            tokio::select! {
                lun = closing => return lun,
                () = changed => {}
            }
        }
    }
}
