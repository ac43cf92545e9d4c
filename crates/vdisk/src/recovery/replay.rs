//! Applying frames of the log again, where they are.

use crate::address::Address;
use crate::log::frame::{Frame, FrameKind, Run, RunKind};
use crate::log::{
    CopiedRun, CopyRecord, Position, Record, Unsynced, WalkedFrame, copied_log_bytes, piece_of, run_addresses,
};
use crate::map::NeedPage;
use crate::vdisk::{Context, State, Vdisk};
use crate::{Error, Result};
use base::units::BLOCK;
use base::{GroupId, Sequence};
use bytes::Bytes;
use pool::HEADER_PAGE;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

/// Frames whose map pages are brought into memory together.
const FRAMES_AT_ONCE: usize = 8192;
/// Map pages that are looked for before they are read, for each of these bytes that the map may take; and at most.
const BYTES_A_LOAD: u64 = 32 << 10;
const LOADS_AT_ONCE_MAX: u64 = 16 << 10;
/// Reads of map pages that are under way at a time.
const READS_AT_ONCE: usize = 32;
/// Pages with no more than this between them are read together, up to so much: a checkpoint stores them in a row, and a
/// log of any length touches most of them.
const GAP_BYTES: u32 = 32 << 10;
const READ_BYTES_MAX: u32 = 512 << 10;
/// Read at once of what is to be written again.
const REREAD_BYTES: u32 = 1 << 20;

/// A frame of the log to be applied again.
#[derive(Clone)]
pub(crate) struct Replayed {
    pub sequence: Sequence,
    pub kind: FrameKind,
    /// The frame's `durable_through`.
    pub durable: Sequence,
    pub before: Position,
    /// Where the frame starts in `at.group`.
    pub offset: u32,
    pub at: Position,
    /// Every checksum of its payload holds, or the frame is known to be synced and its payload was passed over.
    pub whole: bool,
    /// Checksum of the header of its first copy.
    pub origin: u32,
    /// Wall time.
    pub wall_ns: u64,
    pub change: Change,
}

#[derive(Clone)]
pub(crate) enum Change {
    Runs(Rc<[(u64, Addresses)]>),
    Record(Rc<Record>),
    /// Pages, checkpoint records and frames without runs: nothing to do.
    Nothing,
}

#[derive(Clone)]
pub(crate) enum Addresses {
    Data(Rc<[Address]>),
    /// Extents that are elsewhere, too.
    Copied(Rc<[Address]>),
    Clear(u64, Address),
}

impl Addresses {
    fn taken_over(&self) -> &[Address] {
        if let Addresses::Copied(extents) = self { extents } else { &[] }
    }
}

impl Replayed {
    /// Bytes of log that it takes.
    pub fn len(&self) -> u64 {
        let from = if self.before.group == self.at.group { self.before.end } else { HEADER_PAGE };
        u64::from(self.at.end.saturating_sub(from)).max(BLOCK)
    }

    /// As it counts until the next checkpoint.
    pub fn log_bytes(&self) -> u64 {
        if self.taken_over().next().is_some() { copied_log_bytes(self.len()) } else { self.len() }
    }

    /// Extents of other frames that it leads to.
    pub fn taken_over(&self) -> impl Iterator<Item = Address> {
        let runs: &[(u64, Addresses)] = if let Change::Runs(runs) = &self.change { runs } else { &[] };
        runs.iter().flat_map(|(_, addresses)| addresses.taken_over()).copied()
    }

    pub fn is_nothing(&self) -> bool {
        matches!(self.change, Change::Nothing)
    }

    pub fn changes_content(&self) -> bool {
        match &self.change {
            Change::Runs(_) => true,
            Change::Record(record) => record.changes_content(),
            Change::Nothing => false,
        }
    }

    /// Both are copies of one frame. (Of map pages and checkpoint records a later copy keeps the place in the log only.)
    pub fn repeats(&self, other: &Replayed) -> bool {
        self.sequence == other.sequence && self.origin == other.origin
    }
}

/// What a frame, found behind `before`, changes. `Corrupt`: a whole control record that this build cannot read.
pub(crate) fn take(walked: WalkedFrame, before: Position) -> Result<Replayed> {
    let whole = walked.is_passed_over() || walked.payload_is_whole();
    let frame = &walked.frame;
    let change = match frame.kind {
        FrameKind::Pages => Change::Nothing,
        FrameKind::Control => match frame.runs.first().map(|run| Record::decode(&walked.payload(run))) {
            Some(Ok(Record::Checkpoint(_))) => Change::Nothing,
            Some(Ok(Record::Copy(copy))) => copied(*copy),
            Some(Ok(record)) => Change::Record(record.into()),
            // Not whole: cut off or reported as damage; whole and unreadable: of a newer build.
            _ if !whole => Change::Nothing,
            _ => {
                return Err(Error::corrupt(format!(
                    "control frame {} has a form unknown to this build",
                    frame.sequence.0
                )));
            }
        },
        FrameKind::Data => data_of(frame),
    };
    Ok(Replayed {
        sequence: frame.sequence,
        kind: frame.kind,
        durable: frame.durable_through,
        before,
        offset: frame.offset,
        at: walked.position(),
        whole,
        origin: frame.origin(),
        wall_ns: frame.wall_ns,
        change,
    })
}

pub(crate) fn copied(copy: CopyRecord) -> Change {
    let addresses = |run| match run {
        CopiedRun::Clear(count, fill) => Addresses::Clear(count, fill),
        CopiedRun::Extents(extents) => Addresses::Copied(extents),
    };
    Change::Runs(copy.runs.into_iter().map(|(block, run)| (block, addresses(run))).collect())
}

fn data_of(frame: &Frame) -> Change {
    match frame.runs.iter().filter_map(|run| addresses_of(frame, run)).collect::<Rc<[_]>>() {
        runs if runs.is_empty() => Change::Nothing,
        runs => Change::Runs(runs),
    }
}

fn addresses_of(frame: &Frame, run: &Run) -> Option<(u64, Addresses)> {
    match run.kind {
        RunKind::Data => Some((run.block, Addresses::Data(run_addresses(frame, run).into()))),
        RunKind::ClearHole => Some((run.block, Addresses::Clear(run.count.into(), Address::NONE))),
        RunKind::ClearZeros => Some((run.block, Addresses::Clear(run.count.into(), Address::ZEROS))),
        RunKind::Page | RunKind::Control => None,
    }
}

impl Vdisk {
    /// Applies frames that are stored, in order.
    pub(crate) async fn replay(&self, frames: &[Replayed]) -> Result<()> {
        for batch in frames.chunks(FRAMES_AT_ONCE) {
            self.load_for(batch).await?;
            for frame in batch {
                self.replay_frame(frame).await?;
            }
            self.watch_map_memory();
        }
        Ok(())
    }

    /// Brings the map pages that the frames will change into memory, level by level, many reads at a time.
    async fn load_for(&self, frames: &[Replayed]) -> Result<()> {
        let loads_max = (self.context.settings.map_bytes_max / BYTES_A_LOAD).clamp(64, LOADS_AT_ONCE_MAX) as usize;
        let mut loaded = 0;
        loop {
            let mut needs: Vec<NeedPage> = Vec::new();
            let mut wanted = BTreeSet::new();
            for (index, frame) in frames.iter().enumerate().skip(loaded) {
                let Change::Runs(runs) = &frame.change else { continue };
                let misses = runs.iter().filter_map(|(block, addresses)| self.check(*block, addresses).err());
                needs.extend(misses.filter(|need| wanted.insert(need.address.raw())));
                if needs.is_empty() {
                    loaded = index + 1;
                }
                if needs.len() >= loads_max {
                    break;
                }
            }
            if needs.is_empty() {
                return Ok(());
            }
            needs.sort_unstable_by_key(|need| (need.address.group(), need.address.offset()));
            let together: Vec<&[NeedPage]> = needs.chunk_by(lies_near).flat_map(read_together).collect();
            for reads in together.chunks(READS_AT_ONCE) {
                all(reads.iter().map(|pages| self.load_together(pages)).collect()).await?;
            }
        }
    }

    /// `pages`: of one group, in order.
    async fn load_together(&self, pages: &[NeedPage]) -> Result<()> {
        let (Some(first), Some(last)) = (pages.first(), pages.last()) else { return Ok(()) };
        let start = first.address.offset();
        let len = last.address.offset() + last.address.len() - start;
        let read =
            if pages.len() > 1 { self.context.pool.read(first.address.group(), start, len).await.ok() } else { None };
        for need in pages {
            let at = (need.address.offset() - start) as usize;
            let bytes = read.as_ref().map(|read| read.slice(at..at + need.address.len() as usize));
            match bytes.filter(|bytes| base::crc::crc32c(bytes) == need.address.crc()) {
                Some(bytes) => self.attach_bytes(*need, &bytes)?,
                // By itself it may be readable, and if not, it says so.
                None => self.load(*need).await?,
            }
        }
        Ok(())
    }

    fn check(&self, block: u64, addresses: &Addresses) -> std::result::Result<(), NeedPage> {
        let state = self.state.borrow();
        match addresses {
            Addresses::Clear(count, _) => state.tree.check_clear(block, *count),
            Addresses::Data(new) | Addresses::Copied(new) => state.tree.check_run(block, new.len() as u64),
        }
    }

    /// Applies one frame again, as the log task did.
    async fn replay_frame(&self, frame: &Replayed) -> Result<()> {
        {
            let mut state = self.state.borrow_mut();
            state.accounts.appended(frame.at.group, frame.at.end, frame.sequence);
            state.passes(frame.wall_ns);
            if !frame.is_nothing() {
                state.log_bytes += frame.log_bytes();
            }
            if frame.changes_content() {
                state.written_since_point(frame.log_bytes());
            }
        }
        match &frame.change {
            Change::Nothing => {}
            Change::Record(record) => self.apply_record(record, frame.at, frame.offset),
            Change::Runs(runs) => {
                for (block, addresses) in runs.iter() {
                    while let Err(need) = self.replay_run(*block, addresses, frame.sequence) {
                        self.load(need).await?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn replay_run(
        &self,
        block: u64,
        addresses: &Addresses,
        at: Sequence,
    ) -> std::result::Result<(), NeedPage> {
        let mut state = self.state.borrow_mut();
        let State { tree, accounts, .. } = &mut *state;
        match addresses {
            Addresses::Clear(count, fill) => {
                tree.clear(block, *count, *fill, &mut |old: Address| accounts.data_dead(old.group(), old.len()))
            }
            Addresses::Data(new) => {
                tree.check_run(block, new.len() as u64)?;
                tree.set_run(block, new, &mut |old: Address| accounts.data_dead(old.group(), old.len()))?;
                if let Some(first) = new.first() {
                    accounts.data_live(first.group(), new.len() as u32 * BLOCK as u32);
                }
                Ok(())
            }
            Addresses::Copied(new) => {
                tree.check_run(block, new.len() as u64)?;
                // What is there already is not there twice.
                for (block, extent) in (block..).zip(new.iter()) {
                    let is_new = tree.lookup(block)? != *extent;
                    accounts.copied(extent.group(), if is_new { extent.len() } else { 0 }, at);
                }
                tree.set_run(block, new, &mut |old: Address| accounts.data_dead(old.group(), old.len()))
            }
        }
    }
}

/// Frames that are not provably stored, with their payload, as the log task wants them for a rewrite; up to the first that
/// has changed since it was first read: a sync that failed meanwhile can take what only a cache held.
pub(super) async fn to_rewrite(context: &Context, frames: &[Replayed]) -> Result<VecDeque<Unsynced>> {
    let mut unsynced = VecDeque::with_capacity(frames.len());
    // The bytes read last, with the group and the offset that they are from.
    let (mut window, mut from) = (Bytes::new(), (GroupId::NONE, 0));
    for (index, frame) in frames.iter().enumerate() {
        let (group, bytes) = (frame.at.group, frame.at.end - frame.offset);
        let mut pieces = Vec::new();
        if !frame.is_nothing() {
            if from.0 != group || frame.offset < from.1 || frame.at.end > from.1 + window.len() as u32 {
                // No more than is wanted: what is read stays in memory until it is stored.
                let is_near = |next: &&Replayed| next.offset.saturating_sub(frame.offset) < REREAD_BYTES;
                let near = frames[index..].iter().take_while(|next| next.at.group == group && is_near(next));
                let end = near.map(|next| next.at.end).max().unwrap_or(frame.at.end);
                let len = (end - frame.offset).clamp(bytes, bytes.max(REREAD_BYTES));
                window = match context.pool.read(group, frame.offset, len).await {
                    // A place nobody needs may be bad.
                    Err(_) if len > bytes => context.pool.read(group, frame.offset, bytes).await?,
                    read => read?,
                };
                from = (group, frame.offset);
            }
            let start = (frame.offset - from.1) as usize;
            let bytes = window.slice(start..start + bytes as usize);
            let header = crate::log::frame::decode(&bytes).ok();
            let walked = header.map(|header| WalkedFrame { frame: header, bytes });
            let Some(walked) = walked.filter(|walked| walked.position() == frame.at && walked.payload_is_whole())
            else {
                tracing::warn!(%group, frame = frame.sequence.0, "an unsynced frame has gone; the log ends before it");
                break;
            };
            pieces = walked.frame.runs.iter().filter_map(|run| piece_of(&walked, run)).collect();
        }
        unsynced.push_back(Unsynced {
            at: frame.at,
            offset: frame.offset,
            bytes: bytes.into(),
            origin: frame.origin,
            wall_ns: frame.wall_ns,
            durable_through: frame.durable,
            kind: frame.kind,
            pieces,
            pages: Vec::new(),
        });
    }
    Ok(unsynced)
}

fn lies_near(before: &NeedPage, next: &NeedPage) -> bool {
    let (before, next) = (before.address, next.address);
    before.group() == next.group() && next.offset().saturating_sub(before.offset() + before.len()) <= GAP_BYTES
}

/// Cuts pages that lie near each other into what is read at a time.
fn read_together(pages: &[NeedPage]) -> Vec<&[NeedPage]> {
    let (mut parts, mut from) = (Vec::new(), 0);
    for (at, page) in pages.iter().enumerate() {
        if page.address.offset() + page.address.len() - pages[from].address.offset() > READ_BYTES_MAX {
            parts.push(&pages[from..at]);
            from = at;
        }
    }
    parts.push(&pages[from..]);
    parts
}

/// All of them, side by side; the first error, when all have ended.
pub(crate) async fn all<F: Future<Output = Result<()>>>(futures: Vec<F>) -> Result<()> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    let mut result = Ok(());
    std::future::poll_fn(|context| {
        for slot in &mut futures {
            if let Some(future) = slot
                && let std::task::Poll::Ready(ended) = future.as_mut().poll(context)
            {
                *slot = None;
                if result.is_ok() {
                    result = ended;
                }
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    result
}
