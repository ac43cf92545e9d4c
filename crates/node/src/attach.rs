//! Connections to vDisks: counted, and ended when the vDisk goes away.

use crate::{Error, Kind, Result, Shard};
use base::VdiskId;
use block::BlockDevice;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use world::LocalFuture;
use world::local::{OneshotSender, oneshot};

/// How long a rollback waits for requests of those who are not connected, ns: 5 s, in steps of 1 ms. Each is one block request.
const IDLE_WAIT_NS: u64 = 5_000_000_000;
const IDLE_STEP_NS: u64 = 1_000_000;

/// By vDisk and number of the connection; sending asks the connection to end.
type Open = Rc<RefCell<BTreeMap<(VdiskId, u64), OneshotSender<()>>>>;

#[derive(Default)]
pub(crate) struct Attachments {
    next: Cell<u64>,
    open: Open,
}

/// One connection's hold on a vDisk; dropping it ends the hold.
pub struct Attachment {
    pub device: Rc<dyn BlockDevice>,
    /// Completes when the connection is to end.
    pub closed: LocalFuture<()>,
    pub hold: Hold,
}

pub struct Hold {
    open: Open,
    key: (VdiskId, u64),
}

impl Drop for Hold {
    fn drop(&mut self) {
        let sender = self.open.borrow_mut().remove(&self.key);
        drop(sender);
    }
}

impl Attachments {
    pub fn count(&self, id: VdiskId) -> u32 {
        self.open.borrow().range((id, 0)..=(id, u64::MAX)).count() as u32
    }
    pub fn total(&self) -> u32 {
        self.open.borrow().len() as u32
    }
    /// Connections since the start.
    pub fn accepted(&self) -> u64 {
        self.next.get()
    }
    /// Asks every connection to end; they are gone when the count says so.
    pub fn end(&self, id: Option<VdiskId>) {
        let mut open = self.open.borrow_mut();
        for ((of, _), sender) in open.iter_mut() {
            if id.is_none_or(|id| id == *of) {
                // The entry stays until the connection lets go of it; the sender in its place is never used.
                let (unused, _) = oneshot();
                std::mem::replace(sender, unused).send(());
            }
        }
    }
}

impl Shard {
    /// Waits for the vDisk to be recovered, if it is not yet.
    pub async fn attach(self: &Rc<Self>, id: VdiskId) -> Result<Attachment> {
        let vdisk = self.vdisk(id).await?;
        self.check_not_leaving(id)?;
        if self.rolling_back.borrow().contains(&id) || self.is_held(id) {
            return Err(Error::new(Kind::Busy, "the vDisk is being rolled back; try again"));
        }
        Ok(self.attachment(id, vdisk.device()))
    }

    /// Nobody connects to them from here on, until [`Shard::let_in`]. Who is connected stays.
    pub fn hold(&self, vdisks: &[VdiskId]) {
        self.held.borrow_mut().extend(vdisks);
    }

    pub fn let_in(&self, vdisks: &[VdiskId]) {
        let mut held = self.held.borrow_mut();
        vdisks.iter().for_each(|id| _ = held.remove(id));
    }

    pub fn is_held(&self, id: VdiskId) -> bool {
        self.held.borrow().contains(&id)
    }

    /// Of a vDisk that is held: what was acknowledged before it completes is all that will be. `Busy` while somebody is connected.
    pub async fn until_idle(self: &Rc<Self>, id: VdiskId) -> Result<()> {
        let vdisk = self.vdisk(id).await?;
        let mut waited_ns = 0;
        loop {
            let count = self.attachments.count(id);
            if count > 0 {
                return Err(Error::new(Kind::Busy, format!("{count} clients are connected")));
            }
            // Of others than clients, who are not connected while they ask.
            if vdisk.stats.in_flight.get() == 0 {
                return Ok(());
            }
            if waited_ns >= IDLE_WAIT_NS {
                return Err(Error::new(Kind::Busy, "requests are still under way after 5 s; try again"));
            }
            self.context.world.clock.sleep(IDLE_STEP_NS).await;
            waited_ns += IDLE_STEP_NS;
        }
    }

    pub(crate) fn check_not_leaving(&self, id: VdiskId) -> Result<()> {
        if self.leaving.borrow().contains(&id) {
            return Err(Error::new(Kind::Unavailable, "it is being deleted"));
        }
        Ok(())
    }

    /// `id`: under which it is counted.
    pub(crate) fn attachment(&self, id: VdiskId, device: Rc<dyn BlockDevice>) -> Attachment {
        let number = self.attachments.next.get();
        self.attachments.next.set(number + 1);
        let (sender, receiver) = oneshot();
        let open = self.attachments.open.clone();
        open.borrow_mut().insert((id, number), sender);
        let closed = Box::pin(async move {
            if receiver.await.is_none() {
                std::future::pending::<()>().await;
            }
        });
        Attachment { device, closed, hold: Hold { open, key: (id, number) } }
    }
}
