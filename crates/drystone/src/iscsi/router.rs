//! Commands of a session on their way to the worker of their logical unit. Those of the session's own worker are called
//! directly; each other worker that has some runs a task for the session, which is sent the commands in their order.
//!
//! What such a task holds is bounded: it is sent no more than it has been promised room for.

mod far;

use super::part::Part;
use super::seam::{FoundUnit, Units};
use crate::frontend::Workers;
use bytes::Bytes;
use far::{Far, FarTask};
use scsi::{Command, Ended, Event, Function, Nexus, Outcome, TargetPort, Task};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc;
use world::Completion;

/// Events that the session has not looked at; each of them is a unit attention, or shows in the end of its task, as well.
const EVENTS_MAX: usize = 64;

/// By what a session's nexuses are known.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    pub initiator: String,
    pub relative_target_port: u16,
    /// Where it is not that of the logical units' own.
    pub target_name: Option<String>,
    /// Portal group tag, of which the target port's name is made.
    pub group: u16,
    /// Of all ports of the target.
    pub all_target_ports: Vec<u16>,
}

impl Ports {
    pub fn nexus(&self) -> Nexus {
        let target = self.target_name.as_deref().map(|target_name| TargetPort { target_name, tag: self.group });
        Nexus::new(&self.initiator, self.relative_target_port, target).with_ports(&self.all_target_ports)
    }
}

/// A session's logical units, wherever they are.
pub(super) struct Router {
    pub here: Part,
    /// Index of this worker.
    worker: usize,
    workers: Arc<dyn Workers<dyn Units>>,
    ports: Ports,
    /// By worker.
    far: RefCell<BTreeMap<usize, Rc<Far>>>,
    /// By logical unit number, of those that are elsewhere.
    routes: RefCell<BTreeMap<u64, Route>>,
    /// Of other workers.
    events: tokio::sync::Mutex<mpsc::Receiver<Event>>,
    tell: mpsc::Sender<Event>,
    over: Cell<bool>,
}

#[derive(Clone)]
struct Route {
    far: Rc<Far>,
    key: u64,
    sector_bytes: u32,
}

/// A command that was started.
pub(super) enum Started {
    Here(Task),
    Far(FarTask),
}

/// How it ended.
pub(super) struct Ran {
    pub ended: Ended,
    /// Data-out that it wanted, where [`Started::data_out_bytes`] did not know.
    pub wanted: Option<u32>,
}

impl From<Ended> for Ran {
    fn from(ended: Ended) -> Ran {
        Ran { ended, wanted: None }
    }
}

impl Router {
    pub fn new(here: Part, worker: usize, workers: Arc<dyn Workers<dyn Units>>, ports: Ports) -> Router {
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        Router {
            here,
            worker,
            workers,
            ports,
            far: RefCell::default(),
            routes: RefCell::default(),
            events: tokio::sync::Mutex::new(events),
            tell,
            over: Cell::new(false),
        }
    }

    pub fn start(&self, command: Command<'_>) -> Started {
        let route = scsi::lun_number(command.lun).and_then(|lun| self.routes.borrow().get(&lun).cloned());
        match route {
            None => Started::Here(self.here.nexus.start(command)),
            Some(route) => Started::Far(Far::start(&route.far, command, route.sector_bytes)),
        }
    }

    pub fn manage(&self, function: Function, lun: [u8; 8]) -> Completion<Outcome> {
        if matches!(function, Function::TargetReset | Function::NexusReset) {
            return self.reset(function);
        }
        let route = scsi::lun_number(lun).and_then(|lun| self.routes.borrow().get(&lun).cloned());
        match route {
            None => self.here.nexus.manage(function, lun),
            Some(route) => route.far.manage(function, lun),
        }
    }

    /// All of them: the first that is not carried out tells.
    fn reset(&self, function: Function) -> Completion<Outcome> {
        let here = self.here.nexus.manage(function, [0; 8]);
        let far: Vec<Rc<Far>> = self.far.borrow().values().cloned().collect();
        if far.is_empty() {
            return here;
        }
        let far: Vec<_> = far.iter().map(|far| far.manage(function, [0; 8])).collect();
        Completion::pending(async move {
            let mut outcome = here.await;
            for one in far {
                let one = one.await;
                outcome = if outcome == Outcome::Complete { one } else { outcome };
            }
            outcome
        })
    }

    /// One listener at a time.
    pub async fn next_event(&self) -> Event {
        let mut events = self.events.lock().await;
        tokio::select! {
            event = self.here.nexus.next_event() => event,
            Some(event) = events.recv() => event,
        }
    }

    /// Numbers, and the keys of what is there.
    pub fn luns(&self) -> BTreeMap<u64, u64> {
        let routes = self.routes.borrow();
        self.here.luns().into_iter().chain(routes.iter().map(|(lun, route)| (*lun, route.key))).collect()
    }

    /// Attaches them, and shows nothing of them yet. One that cannot be attached is left out. Whether that is all there is to
    /// be had: no other try would get more.
    pub async fn hold_all(&self, wanted: &[FoundUnit]) -> bool {
        let mut settled = true;
        for unit in wanted {
            if let Err(error) = self.hold(unit).await {
                settled &= error.kind != block::Kind::Unavailable;
                let (vdisk, lun) = (&unit.found.name, unit.lun);
                tracing::warn!(vdisk, lun, %error, "a vDisk could not be attached");
            }
        }
        settled
    }

    /// Shows what is attached already.
    pub async fn show_all(&self) {
        for lun in self.luns().into_keys() {
            self.show(lun).await;
        }
        self.report().await;
    }

    async fn hold(&self, unit: &FoundUnit) -> block::Result<()> {
        if unit.found.worker == self.worker {
            return self.here.hold(unit).await;
        }
        if self.over.get() {
            return Err(block::Error::new(block::Kind::Unavailable, "the session has ended"));
        }
        let far = self.far_at(unit.found.worker);
        far.hold(unit.clone()).await?;
        let sector_bytes = unit.found.geometry.sector_bytes;
        self.routes.borrow_mut().insert(unit.lun, Route { far, key: unit.unit_key(), sector_bytes });
        Ok(())
    }

    async fn show(&self, lun: u64) {
        let route = self.routes.borrow().get(&lun).cloned();
        match route {
            None => self.here.show(lun),
            Some(route) => route.far.show(lun).await,
        }
    }

    fn far_at(&self, worker: usize) -> Rc<Far> {
        let mut all = self.far.borrow_mut();
        let open = || Far::open(&*self.workers, worker, self.ports.clone(), self.tell.clone());
        all.entry(worker).or_insert_with(open).clone()
    }

    async fn take(&self, lun: u64) {
        let route = self.routes.borrow().get(&lun).cloned();
        match route {
            None => self.here.take(lun).await,
            // Commands go on to be sent there, where nothing has this number from now on, so that their order stays.
            Some(route) => route.far.take(lun).await,
        }
        self.routes.borrow_mut().remove(&lun);
    }

    /// What REPORT LUNS tells, whichever logical unit is asked.
    pub async fn report(&self) {
        let luns: Vec<u64> = self.luns().into_keys().collect();
        if self.here.nexus.report(luns.clone()) {
            self.here.nexus.announce_luns();
        }
        let far: Vec<Rc<Far>> = self.far.borrow().values().cloned().collect();
        for far in far {
            far.report(luns.clone()).await;
        }
    }

    /// Takes away what is none of these.
    pub async fn keep(&self, wanted: &[FoundUnit]) {
        let keys: BTreeSet<(u64, u64)> = wanted.iter().map(|unit| (unit.lun, unit.unit_key())).collect();
        for (lun, _) in self.luns().into_iter().filter(|one| !keys.contains(one)) {
            self.take(lun).await;
        }
    }

    /// Makes these the logical units. One that cannot be attached is left out; as [`Router::hold_all`].
    pub async fn become_like(&self, wanted: &[FoundUnit]) -> bool {
        let before = self.luns();
        self.keep(wanted).await;
        let new = wanted.iter().filter(|unit| before.get(&unit.lun) != Some(&unit.unit_key()));
        let mut settled = true;
        for unit in new {
            settled &= self.hold_all(std::slice::from_ref(unit)).await;
            if self.luns().contains_key(&unit.lun) {
                self.show(unit.lun).await;
            }
        }
        self.report().await;
        settled
    }

    /// The session is over. Completes when no worker has anything of it any more.
    pub async fn close(&self) {
        self.here.end();
        self.over.set(true);
        self.routes.borrow_mut().clear();
        let far = std::mem::take(&mut *self.far.borrow_mut());
        for far in far.into_values() {
            far.close().await;
        }
    }
}

impl Started {
    /// What the initiator is to be asked for. Of a command of another worker it is all that is offered: what the command wants
    /// is found there.
    pub fn data_out_bytes(&self) -> u32 {
        match self {
            Started::Here(task) => task.data_out_bytes(),
            Started::Far(task) => task.offered,
        }
    }

    pub fn memory_bytes(&self) -> u64 {
        match self {
            Started::Here(task) => task.memory_bytes(),
            Started::Far(task) => task.memory_bytes,
        }
    }

    pub fn run(self, data: Bytes) -> Completion<Ran> {
        match self {
            Started::Here(task) => match task.run(data) {
                Completion::Ready(ended) => Completion::Ready(ended.into()),
                pending => Completion::pending(async move { pending.await.into() }),
            },
            Started::Far(task) => task.run(data),
        }
    }
}
