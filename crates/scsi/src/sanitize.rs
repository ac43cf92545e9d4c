//! SANITIZE (SBC-3 5.22, 4.11).

use crate::fault::Fault;
use crate::sense::Condition;
use crate::table::Entry;
use crate::unit::LogicalUnit;
use std::rc::Rc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sanitize {
    #[default]
    Idle,
}

pub(crate) fn admits(_: &LogicalUnit, _: &Entry) -> Result<(), Fault> {
    Ok(())
}
pub(crate) fn pollable(_: &LogicalUnit) -> Option<Condition> {
    None
}
pub(crate) fn resume(_: &Rc<LogicalUnit>, _: Sanitize) {}
