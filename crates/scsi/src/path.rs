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

pub(crate) struct Path {
    pub id: PathId,
    pub ports: Ports,
    /// The number under which this nexus sees the logical unit.
    pub lun: u64,
    /// All logical units of the target, for REPORT LUNS.
    pub luns: Rc<[u64]>,
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
    pub(crate) fn new(
        id: PathId,
        ports: Ports,
        lun: u64,
        luns: Rc<[u64]>,
        events: Rc<Events>,
        first: Attention,
    ) -> Path {
        let path = Path {
            id,
            ports,
            lun,
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
