//! The sanitize operation itself: it belongs to the logical unit, not to a task.

use super::{Exit, Sanitize};
use crate::call::Call;
use crate::fault::{self, Fault};
use crate::medium;
use crate::saved;
use crate::unit::LogicalUnit;
use block::{Request, WriteZeroes};
use bytes::Bytes;
use std::rc::Rc;
use world::local::{OneshotReceiver, oneshot};

/// Unmapping says after each of these how far it is.
const ERASE_PIECE_BYTES: u32 = 1 << 30;

/// How fast an overwrite goes at most: what it leaves behind has to be reclaimed while it goes on, and other vDisks of the shard
/// want their share. A tebibyte takes an hour and a quarter, as on a fast hard disk; twice as fast would leave half as much to the others.
const OVERWRITE_BYTES_PER_SECOND: u64 = 256 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    Erase,
    Overwrite {
        /// What is written to each logical block.
        block: Bytes,
        /// Every other pass writes the complement.
        invert: bool,
        /// 1 to 31.
        passes: u8,
    },
}

/// What whoever began it can wait for.
pub(super) struct Signs {
    /// Whether it is kept, so that a restart does not forget it.
    pub begun: OneshotReceiver<block::Result<()>>,
    /// Whether it ended well.
    pub finished: OneshotReceiver<bool>,
}

/// Nothing new is let in from here on. All of it is a task of the host's: the command that began it may be dropped at any time.
pub(super) fn begin(call: &Call, plan: Plan, exit: Exit) -> Signs {
    let unit = call.unit.clone();
    let own = call.key;
    let running = Sanitize::Running { plan: Rc::new(plan), exit, progress: 0 };
    let before = unit.sanitize.replace(running.clone());
    let (begun_sender, begun) = oneshot();
    let (finished_sender, finished) = oneshot();
    call.unit.host.spawn(Box::pin(async move {
        let stored = store(&unit, &running).await;
        let failed = stored.is_err();
        begun_sender.send(stored);
        if failed {
            unit.sanitize.replace(before);
            return;
        }
        // What was let in before may still write.
        let others = unit.tasks.borrow().running_but(own);
        unit.ended(others).await;
        finished_sender.send(run(&unit).await);
    }));
    Signs { begun, finished }
}

/// Goes on with one that the last run of the process did not finish: from the start, as nobody knows how far it came.
pub(crate) fn resume(unit: &Rc<LogicalUnit>, saved: Sanitize) {
    let goes_on = matches!(saved, Sanitize::Running { .. });
    unit.sanitize.replace(saved);
    if goes_on {
        let task_unit = unit.clone();
        unit.host.spawn(Box::pin(async move {
            run(&task_unit).await;
        }));
    }
}

/// Out of the failure mode, unless another operation has begun meanwhile: that one must not be forgotten.
pub(super) async fn forget(unit: &LogicalUnit) -> Result<(), Fault> {
    let _turn = unit.saving.acquire(1).await;
    let has_failed = || matches!(&*unit.sanitize.borrow(), Sanitize::Failed { .. });
    if !has_failed() {
        return Ok(());
    }
    let reservations = unit.reservations.borrow().clone();
    let stored = saved::store(unit, &reservations, &Sanitize::Idle).await;
    stored.map_err(|error| fault::condition(&error, 0, unit.geometry().sector_bytes))?;
    if has_failed() {
        unit.sanitize.replace(Sanitize::Idle);
    }
    Ok(())
}

async fn store(unit: &LogicalUnit, sanitize: &Sanitize) -> block::Result<()> {
    let _turn = unit.saving.acquire(1).await;
    let reservations = unit.reservations.borrow().clone();
    saved::store(unit, &reservations, sanitize).await
}

async fn run(unit: &LogicalUnit) -> bool {
    let Sanitize::Running { plan, exit, .. } = unit.sanitize.borrow().clone() else { return false };
    let result = match &*plan {
        Plan::Erase => erase(unit).await,
        Plan::Overwrite { block, invert, passes } => overwrite(unit, block, *invert, *passes).await,
    };
    let failed = || Sanitize::Failed { exit };
    let end = if result.is_ok() { Sanitize::Idle } else { failed() };
    // If that cannot be kept, the next one who finds it sanitizes once more: it has not ended well, and nothing may be written
    // that this would take.
    let kept = store(unit, &end).await.is_ok();
    unit.sanitize.replace(if kept { end } else { failed() });
    kept && result.is_ok()
}

fn progress(unit: &LogicalUnit, done: u64, total: u64) {
    if let Sanitize::Running { progress, .. } = &mut *unit.sanitize.borrow_mut() {
        *progress = (u128::from(done) * 65536 / u128::from(total.max(1))).min(65535) as u16;
    }
}

async fn erase(unit: &LogicalUnit) -> block::Result<()> {
    let size_bytes = unit.device.geometry().size_bytes;
    for (offset, len) in medium::pieces(0, size_bytes, ERASE_PIECE_BYTES) {
        let how = WriteZeroes::Unmap;
        unit.device.submit(Request::WriteZeroes { offset, len: len.into(), how, fua: false }).await?;
        progress(unit, offset + u64::from(len), size_bytes);
    }
    unit.device.submit(Request::Flush).await?;
    Ok(())
}

async fn overwrite(unit: &LogicalUnit, block: &Bytes, invert: bool, passes: u8) -> block::Result<()> {
    let geometry = unit.device.geometry();
    let (size_bytes, piece_bytes) = (geometry.size_bytes, medium::piece_bytes(&geometry));
    let total = size_bytes * u64::from(passes);
    for pass in 0..passes {
        let complement = invert && pass % 2 == 1;
        let block: Vec<u8> = block.iter().map(|byte| if complement { !byte } else { *byte }).collect();
        let pattern = Bytes::from(block.repeat(piece_bytes as usize / block.len()));
        for (offset, len) in medium::pieces(0, size_bytes, piece_bytes) {
            let data = pattern.slice(..len as usize);
            unit.device.submit(Request::Write { offset, data, fua: false }).await?;
            unit.host.sleep(u64::from(len) * 1_000_000_000 / OVERWRITE_BYTES_PER_SECOND).await;
            progress(unit, u64::from(pass) * size_bytes + offset + u64::from(len), total);
        }
        unit.device.submit(Request::Flush).await?;
    }
    Ok(())
}
