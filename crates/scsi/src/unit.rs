//! A logical unit: one vDisk as SCSI sees it, shared by all nexuses of its worker.
//!
//! Always holds: what is remembered for a nexus that is gone is bounded; nothing is borrowed across an await.

use crate::attention::Attention;
use crate::event::Event;
use crate::host::Host;
use crate::identity::Identity;
use crate::lun;
use crate::mode::Parameters;
use crate::path::{Path, PathId, Ports, Through};
use crate::reservation::Reservations;
use crate::sanitize::Sanitize;
use crate::sense::Format;
use crate::task_set::{Abort, Aborted, Described, TaskKey, TaskSet};
use crate::visit::Visitor;
use block::{BlockDevice, Geometry};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use world::local::{Notify, Semaphore};

/// Nexuses that were lost and are told so when they come again. One that is forgotten hears of a power on instead, which makes an
/// initiator ask for just as much.
const LOST_MAX: usize = 256;

pub struct LogicalUnit {
    pub(crate) device: Rc<dyn BlockDevice>,
    pub(crate) identity: Identity,
    pub(crate) host: Rc<dyn Host>,
    pub(crate) tasks: RefCell<TaskSet>,
    /// A task left the set, or was aborted.
    pub(crate) tasks_changed: Notify,
    /// In order of arrival.
    paths: RefCell<Vec<Rc<Path>>>,
    last_path: Cell<u64>,
    lost: RefCell<VecDeque<Ports>>,
    /// Nexuses that are gone while the device still carries out something of theirs.
    leaving: RefCell<Vec<(PathId, Ports)>>,
    /// Copies that other logical units carry out here.
    visitors: RefCell<Vec<Rc<Visitor>>>,
    /// As the initiators know it.
    geometry: Cell<Geometry>,
    pub(crate) mode: Cell<Parameters>,
    /// What a reset and a restart bring back.
    pub(crate) saved_mode: Cell<Parameters>,
    /// RESERVE(6): the holder.
    pub(crate) reserved: Cell<Option<PathId>>,
    pub(crate) reservations: RefCell<Reservations>,
    /// One PERSISTENT RESERVE OUT or other change of what is saved after the other.
    pub(crate) saving: Rc<Semaphore>,
    pub(crate) sanitize: RefCell<Sanitize>,
    /// What the host keeps.
    pub(crate) saved: RefCell<Vec<u8>>,
    /// Third-party copies under way.
    pub(crate) copies: Cell<u32>,
}

impl LogicalUnit {
    /// `kept`: what [`Host::save_state`] was given last, empty if never. A state that cannot be read is an error: to serve without
    /// its reservations would let a node write that has been fenced.
    pub fn new(
        device: Rc<dyn BlockDevice>,
        identity: Identity,
        host: Rc<dyn Host>,
        kept: &[u8],
    ) -> Result<Rc<LogicalUnit>, SavedStateError> {
        let saved = crate::saved::decode(kept)?;
        let geometry = device.geometry();
        let unit = Rc::new(LogicalUnit {
            device,
            identity,
            host,
            tasks: RefCell::default(),
            tasks_changed: Notify::default(),
            paths: RefCell::default(),
            last_path: Cell::new(0),
            lost: RefCell::default(),
            leaving: RefCell::default(),
            visitors: RefCell::default(),
            geometry: Cell::new(geometry),
            mode: Cell::new(saved.mode),
            saved_mode: Cell::new(saved.mode),
            reserved: Cell::new(None),
            reservations: RefCell::new(saved.reservations),
            saving: Semaphore::new(1),
            sanitize: RefCell::default(),
            saved: RefCell::new(kept.to_vec()),
            copies: Cell::new(0),
        });
        crate::sanitize::resume(&unit, saved.sanitize);
        Ok(unit)
    }

    /// Whether a logical unit for which the host keeps this has something to do at once, even if nobody comes: a sanitize
    /// operation was cut short. Where it cannot be read, [`LogicalUnit::new`] says so.
    pub fn goes_on(kept: &[u8]) -> bool {
        crate::saved::decode(kept).is_ok_and(|saved| matches!(saved.sanitize, Sanitize::Running { .. }))
    }

    /// A sanitize operation is under way, whoever is there still: the content changes until it has ended.
    pub fn is_sanitizing(&self) -> bool {
        matches!(*self.sanitize.borrow(), Sanitize::Running { .. })
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Compares the device's geometry with what the initiators know, and tells them of a difference. To be called when a resize or a
    /// switch to read-only is known to have happened; otherwise the next command notices.
    pub fn geometry_may_have_changed(&self) {
        let new = self.device.geometry();
        let old = self.geometry.replace(new);
        if old.size_bytes != new.size_bytes {
            self.announce(None, Attention::CapacityChanged);
        }
        // There is no attention of its own for it; the WP bit is in the header of every mode page (SBC-3 6.4.1).
        if old.read_only != new.read_only {
            self.announce(None, Attention::ModeParametersChanged);
        }
    }

    /// Whether one that is made anew would be the same to initiators that come later. Persistent registrations outlive
    /// their nexuses, whether they survive a restart or not, and mode parameters hold until a reset. What still runs in the device
    /// holds up those who come later.
    pub fn is_as_new(&self) -> bool {
        self.reservations.borrow().registrants.is_empty()
            && self.mode.get() == self.saved_mode.get()
            && *self.sanitize.borrow() == Sanitize::default()
            && self.copies.get() == 0
            && self.tasks.borrow().is_empty()
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry.get()
    }
    pub(crate) fn sense_format(&self) -> Format {
        if self.mode.get().descriptor_sense { Format::Descriptor } else { Format::Fixed }
    }

    pub(crate) fn attach(&self, through: Through, lun: u64) -> Rc<Path> {
        let id = self.new_path_id();
        let mut lost = self.lost.borrow_mut();
        let known = lost.iter().position(|other| *other == through.ports);
        let first = match known {
            Some(index) => {
                lost.remove(index);
                Attention::NexusLoss
            }
            None => Attention::PowerOn,
        };
        let path = Rc::new(Path::new(id, through, lun, first));
        self.paths.borrow_mut().push(path.clone());
        path
    }

    fn new_path_id(&self) -> PathId {
        let id = PathId(self.last_path.get() + 1);
        self.last_path.set(id.0);
        id
    }

    pub(crate) fn let_in(&self, port: &str) -> Rc<Visitor> {
        let visitor = Rc::new(Visitor { id: self.new_path_id(), port: port.into(), stopped: Cell::new(false) });
        self.visitors.borrow_mut().push(visitor.clone());
        visitor
    }
    pub(crate) fn let_out(&self, id: PathId) {
        self.visitors.borrow_mut().retain(|visitor| visitor.id != id);
        self.forget_counts();
    }

    /// Copies for initiators of which one of these is a port.
    pub(crate) fn visits_for(&self, ports: &[Ports]) -> Vec<PathId> {
        let visitors = self.visitors.borrow();
        let concerned = visitors.iter().filter(|visitor| ports.iter().any(|ports| visitor.is_for(&ports.initiator)));
        concerned.map(|visitor| visitor.id).collect()
    }

    /// I_T nexus loss (SAM-5 6.3.4): its tasks are aborted and what was kept for it is forgotten, persistent registrations excepted.
    pub(crate) fn detach(&self, path: &Path) {
        self.paths.borrow_mut().retain(|other| other.id != path.id);
        if self.reserved.get() == Some(path.id) {
            self.reserved.set(None);
        }
        self.abort(|task| (task.path == path.id).then_some(Abort::Silent));
        self.forget_ended(path);
        let mut lost = self.lost.borrow_mut();
        lost.push_back(path.ports.clone());
        if lost.len() > LOST_MAX {
            lost.pop_front();
        }
    }

    /// Keeps a nexus that is gone in mind until the last of its tasks has ended.
    fn forget_ended(&self, gone: &Path) {
        let mut leaving = self.leaving.borrow_mut();
        leaving.push((gone.id, gone.ports.clone()));
        leaving.retain(|(id, _)| self.tasks.borrow().has_any(*id));
        drop(leaving);
        self.forget_counts();
    }

    fn forget_counts(&self) {
        let paths = self.paths.borrow();
        self.tasks.borrow_mut().forget_all_but(|id| paths.iter().any(|path| path.id == id));
    }

    /// Nexuses between these ports: the one that is there, and those before it whose tasks have not all ended.
    pub(crate) fn ids_of(&self, which: impl Fn(&Ports) -> bool) -> Vec<PathId> {
        self.leaving.borrow_mut().retain(|(id, _)| self.tasks.borrow().has_any(*id));
        let (paths, leaving) = (self.paths.borrow(), self.leaving.borrow());
        let there = paths.iter().map(|path| (path.id, &path.ports));
        let all = there.chain(leaving.iter().map(|(id, ports)| (*id, ports)));
        all.filter(|(_, ports)| which(ports)).map(|(id, _)| id).collect()
    }

    /// Whether a copy that another logical unit carries out for this initiator port may read here, or write: it is kept out
    /// by all that would keep out a command that the initiator sent here itself.
    pub(crate) fn admits_copy(&self, initiator_port: &str, writes: bool) -> bool {
        let is_sanitized = *self.sanitize.borrow() != Sanitize::Idle;
        let is_protected = writes && self.mode.get().software_write_protect;
        !is_sanitized && !is_protected && crate::reservation::admits_copy(self, initiator_port, writes)
    }

    pub(crate) fn paths(&self) -> Vec<Rc<Path>> {
        self.paths.borrow().clone()
    }

    /// Relative identifiers of the target ports through which it is seen at present, `own` always among them.
    pub(crate) fn target_ports(&self, own: u16) -> Vec<u16> {
        let mut ports: Vec<u16> = self.paths.borrow().iter().map(|path| path.ports.relative_target_port).collect();
        ports.push(own);
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Names of the same ports, by number.
    pub(crate) fn target_port_names(&self, own: &Path) -> BTreeMap<u16, String> {
        let paths = self.paths.borrow();
        let named = |path: &Path| (path.ports.relative_target_port, self.target_port_name(path));
        paths.iter().map(|path| named(path)).chain([named(own)]).collect()
    }

    /// Name of the port of its target through which a nexus sees it (RFC 7143 section 4.2.8); empty: not told.
    pub(crate) fn target_port_name(&self, path: &Path) -> String {
        let tag = path.target.as_ref().map_or(path.ports.relative_target_port, |(_, tag)| *tag);
        match self.target_name(path) {
            "" => String::new(),
            target => format!("{target},t,0x{tag:04x}"),
        }
    }

    /// Name of the SCSI target device through which a nexus sees it; empty: not told.
    pub(crate) fn target_name<'a>(&'a self, path: &'a Path) -> &'a str {
        path.target.as_ref().map_or(&self.identity.target_name, |(name, _)| name)
    }

    /// Completes when nothing of this nexus is in the task set.
    pub(crate) async fn idle(&self, id: PathId) {
        while self.tasks.borrow().has_any(id) {
            self.tasks_changed.notified().await;
        }
    }

    /// A unit attention for every nexus but `but`.
    pub(crate) fn establish(&self, but: Option<PathId>, attention: Attention) {
        for path in self.paths.borrow().iter().filter(|path| Some(path.id) != but) {
            path.establish(attention);
        }
    }
    /// The same, and an asynchronous event with it.
    pub(crate) fn announce(&self, but: Option<PathId>, attention: Attention) {
        self.establish(but, attention);
        let sense = attention.condition().encode(self.sense_format());
        for path in self.paths.borrow().iter().filter(|path| Some(path.id) != but) {
            path.events.push(Event::Asynchronous { lun: lun::encode(path.lun), sense: sense.clone() });
        }
    }

    /// Marks tasks as aborted and tells the transports of those that still gather data; the caller waits for the others.
    /// A copy of another logical unit ends with its requests, even if none of them is here at the moment.
    pub(crate) fn abort(&self, how: impl Fn(&Described) -> Option<Abort>) -> Aborted {
        for visitor in self.visitors.borrow().iter() {
            if how(&Described { path: visitor.id, key: TaskKey::NONE }).is_some() {
                visitor.stopped.set(true);
            }
        }
        let aborted = self.tasks.borrow_mut().abort(how);
        let paths = self.paths.borrow();
        for (id, tag) in &aborted.gathering {
            if let Some(path) = paths.iter().find(|path| path.id == *id) {
                path.events.push(Event::TaskAborted { tag: *tag });
            }
        }
        self.tasks_changed.notify();
        aborted
    }

    /// Until none of these is in the task set any more.
    pub(crate) async fn ended(&self, tasks: Vec<crate::task_set::TaskKey>) {
        loop {
            let still = tasks.iter().any(|key| self.tasks.borrow().contains(*key));
            if !still {
                return;
            }
            self.tasks_changed.notified().await;
        }
    }
}

/// The state that the host kept is damaged or of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedStateError(pub &'static str);

impl std::fmt::Display for SavedStateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the saved state of a logical unit cannot be read: {}", self.0)
    }
}

impl std::error::Error for SavedStateError {}
