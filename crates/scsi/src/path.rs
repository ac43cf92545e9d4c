//! What is kept for one I_T nexus with one logical unit (an I_T_L nexus).

use crate::attention::{Attention, Attentions};
use crate::copy::Copies;
use crate::event::Events;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Names an I_T_L nexus as long as its logical unit lives; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PathId(pub u64);

/// The two ports of a nexus: what a persistent registration is kept for, so that the same ports are the same nexus later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ports {
    /// The initiator port's name as its TransportID has it: for iSCSI `iqn…,i,0x` and the ISID (SPC-4 7.6.4.6).
    pub initiator: Rc<str>,
    pub relative_target_port: u16,
}

/// Numbers of the logical units of a target, as a nexus is told them.
pub(crate) type Luns = RefCell<Vec<u64>>;

/// What a nexus is to all of its logical units.
#[derive(Clone)]
pub(crate) struct Through {
    pub ports: Ports,
    /// Name of the target, and tag of its port.
    pub target: Option<(Rc<str>, u16)>,
    /// Relative identifiers of all ports of the target.
    pub all_ports: Rc<[u16]>,
    pub luns: Rc<Luns>,
    pub events: Rc<Events>,
}

pub(crate) struct Path {
    pub id: PathId,
    pub ports: Ports,
    /// The number under which this nexus sees the logical unit.
    pub lun: u64,
    /// The target through which it is seen, where that is not the logical unit's own, and the tag of its port.
    pub target: Option<(Rc<str>, u16)>,
    /// Relative identifiers of all ports of the target.
    pub all_ports: Rc<[u16]>,
    /// All logical units of the target, for REPORT LUNS.
    pub luns: Rc<Luns>,
    attentions: RefCell<Attentions>,
    /// Looked at by every command.
    attention_pending: Cell<bool>,
    /// PREVENT ALLOW MEDIUM REMOVAL.
    pub prevents_removal: Cell<bool>,
    /// Third-party copies and what became of them.
    pub copies: Copies,
    pub events: Rc<Events>,
}

impl Path {
    pub(crate) fn new(id: PathId, through: Through, lun: u64, first: Attention) -> Path {
        let Through { ports, target, all_ports, luns, events } = through;
        let path = Path {
            id,
            ports,
            lun,
            target,
            all_ports,
            luns,
            attentions: RefCell::default(),
            attention_pending: Cell::new(false),
            prevents_removal: Cell::new(false),
            copies: Copies::default(),
            events,
        };
        path.establish(first);
        path
    }
    pub(crate) fn establish(&self, attention: Attention) {
        self.attentions.borrow_mut().establish(attention);
        self.attention_pending.set(true);
    }
    /// Whether there is one, without clearing it.
    pub(crate) fn attention(&self) -> Option<Attention> {
        if self.attention_pending.get() { self.attentions.borrow().first() } else { None }
    }
    /// Tells one, which clears it.
    pub(crate) fn take_attention(&self) -> Option<Attention> {
        if !self.attention_pending.get() {
            return None;
        }
        let mut attentions = self.attentions.borrow_mut();
        let first = attentions.take();
        self.attention_pending.set(!attentions.is_empty());
        first
    }
}
