//! Rewind: any moment of a window of the past can be made a snapshot, for the log is the history.
//!
//! Two things are kept for it ([decision 0011](../../../docs/decisions/0011-rewind.md)): now and then a *point*, a
//! snapshot that is shown to nobody, and every group that was written to behind the oldest of them, the *edge*. A moment
//! is had from the last point before it and the log behind that.
//!
//! Reading order: [`points`] (what is kept), [`walk`] (the log between two positions), [`past`] (a moment as a snapshot),
//! [`history`] (what is of note).

mod history;
mod past;
mod points;
mod walk;

pub use history::{Point, PointKind};
pub(crate) use points::History;

use crate::log::Record;
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use base::Sequence;
use std::rc::Rc;

/// How much of its past a vDisk keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewind {
    pub window_ns: u64,
    /// What the history may hold, bytes. 0: no limit.
    pub limit_bytes: u64,
}

/// A moment of the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Wall time, ns since 1970: what was written up to then. Where the clock was set back, what came later in the log is
    /// later.
    At(u64),
    /// Everything before the frame of this number, and not that.
    Before(Sequence),
}

/// What is said of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RewindInfo {
    pub rewind: Rewind,
    /// The oldest moment that can be had, wall time. `None`: there is none yet.
    pub since_ns: Option<u64>,
    /// The first frame that can be taken back.
    pub since: Option<Sequence>,
    /// What comes free when the history goes, about.
    pub held_bytes: u64,
    /// The history does not reach as far back as it should: the oldest of it went for space.
    pub cut_short: bool,
}

/// Shortest window: a minute. Points are taken every 32nd part of it, each of them a checkpoint.
pub const WINDOW_NS_MIN: u64 = 60_000_000_000;

impl Vdisk {
    /// Keeps the past from now on, or lets it go. Durable when it completes.
    pub async fn set_rewind(self: &Rc<Self>, rewind: Option<Rewind>) -> Result<()> {
        self.changeable()?;
        if rewind.is_some_and(|rewind| rewind.window_ns == 0) {
            return Err(Error::new(Kind::Invalid, "a window of no length"));
        }
        if self.rewind() != rewind {
            self.control(Record::Rewind(rewind)).await?;
            self.maintenance.notify();
        }
        Ok(())
    }

    pub fn rewind(&self) -> Option<Rewind> {
        self.state.borrow().history.as_ref().map(|history| history.rewind)
    }

    /// `None`: the past is not kept.
    pub fn rewind_info(&self) -> Option<RewindInfo> {
        let rewind = self.rewind()?;
        let points = self.points();
        let first = points.first();
        let cut_short = self.state.borrow().history.as_ref().is_some_and(|history| history.cut_short);
        let now_ns = self.context.world.clock.wall().0;
        let is_whole = first.is_some_and(|first| first.created_ns <= now_ns.saturating_sub(rewind.window_ns));
        Some(RewindInfo {
            rewind,
            since_ns: first.map(|first| first.created_ns),
            since: first.map(|first| first.sequence.next()),
            held_bytes: first.map_or(0, |first| self.held_since(first.sequence)),
            cut_short: cut_short && !is_whole,
        })
    }
}
