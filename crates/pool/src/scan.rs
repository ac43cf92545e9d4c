//! What a start finds on a disk: slabs, and in each slot a group, a FREE mark, nothing, or something unreadable.

use crate::config::{COUNTER_BITS, COUNTER_END};
use crate::header::{SlotPage, decode_slot_page};
use crate::pool::{Group, Place};
use crate::slab::{Slab, SlabHeader, SlabPage, VERSION, decode_slab_page, slots_start};
use crate::slots::{Blocks, Slots};
use crate::superblock::Superblock;
use crate::{Error, GroupHeader, HEADER_PAGE, Kind, Result, SlabId};
use base::{Epoch, GroupId};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use world::{Completion, Disk, File};

/// Header pages that are read at once: enough to keep a disk busy.
const READS_AT_ONCE: usize = 64;

pub(crate) struct FoundGroup {
    pub header: GroupHeader,
    pub group: Rc<Group>,
}

#[derive(Default)]
pub(crate) struct Scan {
    pub slabs: Vec<Rc<Slab>>,
    pub slab_next: Option<SlabId>,
    pub groups: Vec<FoundGroup>,
    pub quarantined: Vec<Place>,
    pub charged_bytes: u64,
    /// The run before ended with a sync of everything.
    clean: bool,
    /// Groups that FREE marks name.
    freed: Vec<GroupId>,
    /// Which groups were found, so that a second one of the same id is noticed.
    places: BTreeMap<GroupId, SlabId>,
}

/// The highest of everything that a superblock has to be ahead of.
#[derive(Debug, Default)]
pub(crate) struct Highest {
    pub epoch: Epoch,
    pub group_count: Option<u32>,
    pub vdisk_count: Option<u32>,
}

impl Scan {
    pub fn highest(&self, node: u16, shard: u16) -> Highest {
        let count = |id_node: u16, counter: u32| {
            (id_node == node && counter >> COUNTER_BITS == u32::from(shard)).then_some(counter & (COUNTER_END - 1))
        };
        let headers = || self.groups.iter().map(|found| &found.header);
        let groups = headers().map(|h| h.group).chain(self.freed.iter().copied());
        Highest {
            epoch: headers().map(|h| h.epoch).max().unwrap_or_default(),
            group_count: groups.filter_map(|id| count(id.node(), id.counter())).max(),
            vdisk_count: headers().filter_map(|h| count(h.vdisk.node(), h.vdisk.counter())).max(),
        }
    }

    fn quarantine(&mut self, slab: SlabId, slot: Option<u32>, reason: String, unread: bool) {
        tracing::error!(slab = slab.0, slot, reason, "quarantined");
        self.quarantined.push(Place { slab, slot, reason, unread });
    }
}

/// Reads the headers of all slabs and slots.
pub(crate) async fn scan(disk: &Rc<dyn Disk>, superblock: &Superblock, slots_max: u32, clean: bool) -> Result<Scan> {
    let mut scan = Scan { slab_next: Some(SlabId(0)), clean, ..Scan::default() };
    for id in crate::open::slab_names(disk).await? {
        scan.slab_next = id.next();
        let name = id.file_name();
        let file = disk.open(&name).await.map_err(|e| Error::from_disk(format!("cannot open {name}"), e))?;
        let expected = SlabHeader { slab: id, disk: superblock.identity.disk, group_size: superblock.group_size };
        let verdict = check_slab(&file, expected, clean).await?;
        if !clean && !matches!(verdict, Verdict::LeaveAlone(_)) {
            outwait(&file, superblock.group_size).await;
        }
        match verdict {
            Verdict::Use => {
                scan_slots(&mut scan, id, file, superblock.group_size, slots_max, false).await?;
            }
            Verdict::Retire(reason) => {
                scan.quarantine(id, None, reason, false);
                scan_slots(&mut scan, id, file, superblock.group_size, slots_max, true).await?;
            }
            Verdict::LeaveAlone(reason) => scan.quarantine(id, None, reason, false),
            Verdict::Empty(reason) => tracing::warn!(slab = id.0, reason, "not used"),
        }
    }
    Ok(scan)
}

/// A killed process leaves its lock before the device has finished its last direct writes, and they must not arrive after
/// what this start finds. Linux has file systems wait for them before space is given; this one asks for the page of the
/// header, which is there, so that nothing changes whatever the file holds. Best effort: where no space can be asked for it
/// is a matter of the milliseconds that a device takes.
async fn outwait(file: &Rc<dyn File>, group_size: u32) {
    if file.size_bytes() > u64::from(slots_start(group_size))
        && let Err(error) = file.allocate(0, HEADER_PAGE.into()).await
    {
        tracing::debug!(%error, "the writes of the process before cannot be waited for");
    }
}

enum Verdict {
    Use,
    /// Its groups are read, but it gets no new ones.
    Retire(String),
    /// Not a file of this disk.
    LeaveAlone(String),
    /// Nothing was ever put into it, and the disk does not let it be made whole: the next start tries again.
    Empty(String),
}

async fn check_slab(file: &Rc<dyn File>, expected: SlabHeader, clean: bool) -> Result<Verdict> {
    let name = expected.slab.file_name();
    let page = match file.read(0, HEADER_PAGE as usize).await {
        Ok(page) => decode_slab_page(&page),
        Err(error) => return Ok(Verdict::Retire(format!("the header of {name} cannot be read: {error}"))),
    };
    let is_whole = match page {
        SlabPage::Newer(version) => {
            return Err(Error::new(
                Kind::UnsupportedFormat,
                format!("{name} was written in format version {version}; this build reads version {VERSION}"),
            ));
        }
        SlabPage::Valid(header) if header != expected => {
            return Ok(Verdict::LeaveAlone(format!(
                "{name} says that it is {} of disk {} with groups of {} bytes",
                header.slab.file_name(),
                header.disk,
                header.group_size
            )));
        }
        SlabPage::Valid(_) => true,
        SlabPage::Blank | SlabPage::Damaged => false,
    };
    let is_empty = file.size_bytes() <= u64::from(HEADER_PAGE);
    if is_empty && !(is_whole && clean) {
        // The run before may have ended between the creation of the file and the sync of its header.
        let written = async {
            file.write(0, &[expected.encode()]).await?;
            file.sync().await
        };
        return Ok(match written.await {
            Ok(()) => Verdict::Use,
            Err(error) => Verdict::Empty(format!("the header of {name} cannot be written: {error}")),
        });
    }
    Ok(if is_whole { Verdict::Use } else { Verdict::Retire(format!("the header of {name} is damaged")) })
}

async fn scan_slots(
    scan: &mut Scan,
    id: SlabId,
    file: Rc<dyn File>,
    group_size: u32,
    slots_max: u32,
    retired: bool,
) -> Result<()> {
    let size = file.size_bytes().saturating_sub(slots_start(group_size).into());
    let count = u32::try_from(size.div_ceil(group_size.into())).map_err(|_| {
        Error::new(Kind::Corrupt, format!("{} is impossibly long: {} bytes", id.file_name(), file.size_bytes()))
    })?;
    let ranges = Ranges::of(&file).await;
    let slab = Slab::new(id, file, group_size, Slots::new(slots_max.max(count)), retired);
    scan.charged_bytes += u64::from(HEADER_PAGE);
    let all: Vec<u32> = (0..count).collect();
    for slots in all.chunks(READS_AT_ONCE) {
        let reads = slots.iter().map(|&slot| read_header(&slab, &ranges, slot)).collect();
        for (&slot, page) in slots.iter().zip(join(reads).await) {
            let (blocks, data_end) = ranges.within(slab.slot_offset(slot), group_size);
            scan.charged_bytes += u64::from(blocks.charged);
            let page = match page {
                Ok(page) => decode_slot_page(&page),
                Err(error) => {
                    slab.slots.borrow_mut().found_quarantined(slot);
                    scan.quarantine(id, Some(slot), format!("the header cannot be read: {error}"), true);
                    continue;
                }
            };
            let remarked = remark(&slab, slot, &page, scan.clean).await;
            if let Err(error) = remarked {
                slab.slots.borrow_mut().found_quarantined(slot);
                scan.quarantine(id, Some(slot), format!("its FREE mark cannot be written: {error}"), true);
                continue;
            }
            found_slot(scan, &slab, slot, page, blocks, data_end, group_size);
        }
    }
    scan.slabs.push(slab);
    Ok(())
}

/// A mark that can be read may be in a cache only, clean, since a sync of it failed: another sync would not store it, and
/// the group would come back with the next power loss. Written again, it is part of the next sync.
async fn remark(slab: &Slab, slot: u32, page: &SlotPage, clean: bool) -> world::Result<()> {
    match page {
        SlotPage::Free(group) if !clean => {
            slab.file.write(slab.slot_offset(slot), &[crate::header::encode_free(*group)]).await
        }
        _ => Ok(()),
    }
}

fn read_header(slab: &Slab, ranges: &Ranges, slot: u32) -> Completion<world::Result<bytes::Bytes>> {
    let at = slab.slot_offset(slot);
    if !ranges.touch(at, HEADER_PAGE) {
        return Completion::Ready(Ok(bytes::Bytes::from_static(&[0; HEADER_PAGE as usize])));
    }
    slab.file.read(at, HEADER_PAGE as usize)
}

fn found_slot(scan: &mut Scan, slab: &Rc<Slab>, slot: u32, page: SlotPage, blocks: Blocks, data_end: u32, size: u32) {
    let mut slots = slab.slots.borrow_mut();
    let reason = match page {
        SlotPage::Blank => return slots.found_free(slot, blocks, scan.clean),
        SlotPage::Free(group) => {
            scan.freed.push(group);
            return slots.found_free(slot, blocks, scan.clean);
        }
        SlotPage::Group(header) => match scan.places.insert(header.group, slab.id) {
            None => {
                slots.found_used(slot);
                let tail = data_end.max(HEADER_PAGE);
                let group = Group::new((header.group, header.vdisk), slab.clone(), slot, size, tail, blocks);
                group.started.set(true);
                group.sealed.set(true);
                scan.groups.push(FoundGroup { header, group: Rc::new(group) });
                return;
            }
            Some(other) => format!("a second group {}, the first is in {}", header.group, other.file_name()),
        },
        SlotPage::Damaged(reason) => reason,
    };
    slots.found_quarantined(slot);
    drop(slots);
    scan.quarantine(slab.id, Some(slot), reason, false);
}

/// Where a file may hold data, in order.
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    async fn of(file: &Rc<dyn File>) -> Ranges {
        // Who cannot tell where data is may have it anywhere.
        Ranges(file.data_ranges().await.unwrap_or_else(|_| vec![(0, file.size_bytes())]))
    }

    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        let first = self.0.partition_point(|range| range.1 <= start);
        let inside = self.0.get(first..).unwrap_or_default().iter().take_while(move |range| range.0 < end);
        inside.map(move |range| (range.0.max(start), range.1.min(end)))
    }

    fn touch(&self, at: u64, len: u32) -> bool {
        self.overlapping(at, at + u64::from(len)).next().is_some()
    }

    /// Blocks of a slot, and the end of the data in it.
    fn within(&self, start: u64, size: u32) -> (Blocks, u32) {
        let (mut charged, mut whole_to, mut data_end) = (0, start, start);
        for (from, to) in self.overlapping(start, start + u64::from(size)) {
            charged += to - from;
            data_end = to;
            if from <= whole_to {
                whole_to = to;
            }
        }
        let whole = (whole_to - start) as u32 / HEADER_PAGE * HEADER_PAGE;
        (Blocks { charged: charged as u32, allocated_to: whole, written_to: whole }, (data_end - start) as u32)
    }
}

/// All of them, side by side.
async fn join<T>(completions: Vec<Completion<T>>) -> Vec<T> {
    let mut waiting: Vec<(Completion<T>, Option<T>)> = completions.into_iter().map(|c| (c, None)).collect();
    poll_fn(|context| {
        for (completion, value) in waiting.iter_mut().filter(|(_, value)| value.is_none()) {
            if let Poll::Ready(ready) = Pin::new(completion).poll(context) {
                *value = Some(ready);
            }
        }
        if waiting.iter().all(|(_, value)| value.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, value)| value).collect()
}

/// The header of the first slab that has a readable one.
pub(crate) async fn any_slab_header(disk: &Rc<dyn Disk>) -> Result<SlabHeader> {
    for id in crate::open::slab_names(disk).await? {
        let Ok(file) = disk.open(&id.file_name()).await else { continue };
        let Ok(page) = file.read(0, HEADER_PAGE as usize).await else { continue };
        if let SlabPage::Valid(header) = decode_slab_page(&page) {
            return Ok(header);
        }
    }
    Err(Error::new(Kind::NotFound, "no slab file with a readable header: there is nothing to rebuild from"))
}
