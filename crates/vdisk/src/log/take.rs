//! A frame that takes extents over from elsewhere: a control frame with a record of where they are.
//!
//! What it names is held before it is appended, and stays held if that fails: it may be on the disk all the same, and be found by
//! a recovery. A checkpoint of a later frame gives it up like any other copy, and that frame makes the one that failed void.

use super::frame::FrameKind;
use super::piece::Piece;
use super::{CopiedRun, CopyRecord, Record};
use crate::copy::Extents;
use crate::map::NeedPage;
use crate::recovery::replay::{Change, copied};
use crate::vdisk::Vdisk;
use crate::{Error, Kind, Result};
use base::units::BLOCK;
use pool::Purpose;
use std::rc::Rc;

impl Vdisk {
    /// Blocks from `block` on become what was lent, all or nothing.
    pub(super) async fn append_taken(self: &Rc<Self>, block: u64, lent: &Extents) -> Result<()> {
        self.writable()?;
        self.rewrite_first().await?;
        let record = CopyRecord::of(block, lent);
        if record.runs.is_empty() {
            return Ok(());
        }
        self.check_taken(&record)?;
        let bytes = Record::Copy(Box::new(record.clone())).encode();
        if bytes.len() > self.frame_payload_max() as usize {
            return Err(Error::new(Kind::Unsupported, "more than one frame takes"));
        }
        debug_assert_eq!(Record::decode(&bytes), Ok(Record::Copy(Box::new(record.clone()))));
        let pieces = vec![Piece::Control { bytes: bytes.into() }];
        // A full disk is to say so before anything is held. (What else fails is tried again by the append.)
        let len = self.draft(FrameKind::Control, &pieces, None).len;
        match self.open_for(len + BLOCK as u32, Purpose::Normal).await {
            Err(error) if error.kind == Kind::Full => return Err(error),
            _ => {}
        }
        self.tell_the_disk().await?;
        while let Err(need) = self.check_pages(&record) {
            self.load(need).await?;
        }
        self.hold_taken(&record);
        let appended = match self.append(FrameKind::Control, &pieces, Purpose::Normal).await {
            Ok(appended) => appended,
            Err(error) => {
                self.make_void().await;
                return Err(error);
            }
        };
        if let Change::Runs(runs) = copied(record) {
            for (block, addresses) in runs.iter() {
                let applied = self.replay_run(*block, addresses, appended.sequence);
                applied.expect("the pages were brought into memory before the append");
            }
        }
        self.watch_map_memory();
        self.count_content_bytes(copied_log_bytes(appended.len.into()));
        self.user_log_bytes.set(self.user_log_bytes.get() + u64::from(appended.len));
        self.note_unsynced(appended, pieces, Vec::new());
        Ok(())
    }

    /// The number of the frame that failed goes to another one, if that can be had now, and a checkpoint is due.
    async fn make_void(self: &Rc<Self>) {
        if let Err(error) = self.append_nothing().await {
            tracing::warn!(vdisk = %self.id, %error, "what a copy that failed would have taken over is held until something is written");
        }
        self.count_log_bytes(BLOCK);
        self.arm_quiet_checkpoint();
    }

    /// A copy failed, may be on the disk all the same, and no other frame has its number: the end of the log is not known.
    pub(crate) fn copy_is_in_doubt(&self) -> bool {
        let state = self.state.borrow();
        state.accounts.groups.iter().any(|(_, account)| account.copied_at > Some(state.position.sequence))
    }

    /// Every page that applying the record will touch is in memory, or the first one that is not.
    fn check_pages(&self, record: &CopyRecord) -> std::result::Result<(), NeedPage> {
        let state = self.state.borrow();
        record.runs.iter().try_for_each(|(block, run)| match run {
            CopiedRun::Clear(count, _) => state.tree.check_clear(*block, *count),
            CopiedRun::Extents(extents) => state.tree.check_run(*block, extents.len() as u64),
        })
    }
}

/// As it counts until the next checkpoint: what a replay keeps of such a frame in memory is all of it, and of other log one byte in
/// hundreds.
pub(crate) fn copied_log_bytes(len: u64) -> u64 {
    len.max(BLOCK) * 16
}
