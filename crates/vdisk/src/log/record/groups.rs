//! Lists of groups in records: a long form, which every build reads, and a short one for long lists.
//!
//! The short form is the number of groups (4 bytes) and then each, in order of ids: a byte of flags, and what they do not say as
//! numbers of [`varint`], in this order. Before the first group all is 0.
//!
//! | bit | set | not set |
//! |---|---|---|
//! | 0 | the id is that of the group before and one more | distance of the ids, less 2 |
//! | 1 | length as before | difference, its sign in the lowest bit |
//! | 2 | last sequence as before | likewise |
//! | 3 | data bytes as before | amount |
//! | 4 | page bytes as before | amount |
//! | 5 | punched bytes as before | amount |
//! | 6 | extents of it were taken over by copies | they were not |
//! | 7 | refused | |
//!
//! An amount is the number of blocks of 4 KiB, twice and one more, or, if it is no multiple of that, of bytes, twice. In the list
//! of an image lengths, last sequences and punched bytes are 0. A list has one short form only.

use super::{GroupEntry, LIST_MAX, RecordError, take_list, take_root};
use crate::image::{Image, Needed};
use base::units::BLOCK;
use base::{GroupId, Reader, Sequence, Writer, varint};

/// Shorter lists have the long form, which builds from before the short one can read: a vDisk of less than 2 GiB, with a record
/// of 1 KiB, would gain nothing.
const SHORT_FROM: usize = 32;

const COPIED: u8 = 1 << 6;
const REFUSED: u8 = 1 << 7;

/// What the flags of one group leave to be said.
type Numbers = [Option<u64>; 6];

const BEFORE_ALL: GroupEntry = GroupEntry {
    group: GroupId::NONE,
    len: 0,
    last_sequence: Sequence(0),
    data: 0,
    pages: 0,
    punched: 0,
    is_copied: false,
};

/// A list of these groups is written in the short form. (One that is not in order is of an old build, or of a test.)
pub(super) fn are_short(mut ids: impl ExactSizeIterator<Item = GroupId>) -> bool {
    let mut before = GroupId::NONE;
    (SHORT_FROM..=LIST_MAX as usize).contains(&ids.len()) && ids.all(|id| std::mem::replace(&mut before, id) < id)
}

/// Of groups that [`are_short`].
pub(super) fn put_short(w: &mut Writer, groups: impl ExactSizeIterator<Item = GroupEntry>) {
    w.u32_le(groups.len() as u32);
    let mut before = BEFORE_ALL;
    for entry in groups {
        let flags_at = w.bytes.len();
        let mut flags = if entry.is_copied { COPIED } else { 0 };
        w.u8(0);
        for (bit, number) in numbers(&entry, &before).into_iter().enumerate() {
            match number {
                Some(number) => drop(w.varint(number)),
                None => flags |= 1 << bit,
            }
        }
        w.bytes[flags_at] = flags;
        before = entry;
    }
}

pub(super) fn take_short(r: &mut Reader) -> Result<Vec<GroupEntry>, RecordError> {
    take_short_as(r, Some)
}

/// As whoever wants them has them; `None`: they have something that these have not.
fn take_short_as<T>(r: &mut Reader, of: impl Fn(GroupEntry) -> Option<T>) -> Result<Vec<T>, RecordError> {
    let count = r.u32_le()? as usize;
    // A group takes a byte at least. What says that there are more than could follow gets no memory for them.
    if !(SHORT_FROM..=LIST_MAX as usize).contains(&count) || count > r.rest().len() {
        return Err(RecordError::Field);
    }
    let mut list = Vec::with_capacity(count);
    let mut before = BEFORE_ALL;
    for _ in 0..count {
        before = take_entry(r, &before)?;
        list.push(of(before).ok_or(RecordError::Field)?);
    }
    Ok(list)
}

fn take_entry(r: &mut Reader, before: &GroupEntry) -> Result<GroupEntry, RecordError> {
    let flags = r.u8()?;
    let mut read: Numbers = [None; 6];
    for (bit, number) in read.iter_mut().enumerate() {
        if flags & (1 << bit) == 0 {
            *number = Some(r.varint().ok_or(RecordError::Field)?);
        }
    }
    let entry = entry_of(read, before, flags & COPIED != 0).ok_or(RecordError::Field)?;
    // What is said that need not be, or otherwise than it would be written, is another form of the same list.
    let is_as_written = numbers(&entry, before) == read;
    if is_as_written && flags & REFUSED == 0 { Ok(entry) } else { Err(RecordError::Field) }
}

fn numbers(entry: &GroupEntry, before: &GroupEntry) -> Numbers {
    let distance = entry.group.raw().checked_sub(before.group.raw()).expect("they are in order");
    let difference =
        |now: u64, then: u64| (now != then).then(|| varint::of_signed(now.wrapping_sub(then).cast_signed()));
    let amount = |now: u32, then: u32| (now != then).then(|| of_amount(now));
    [
        (distance != 1).then(|| distance - 2),
        difference(entry.len.into(), before.len.into()),
        difference(entry.last_sequence.0, before.last_sequence.0),
        amount(entry.data, before.data),
        amount(entry.pages, before.pages),
        amount(entry.punched, before.punched),
    ]
}

fn entry_of(read: Numbers, before: &GroupEntry, is_copied: bool) -> Option<GroupEntry> {
    let [id, len, last_sequence, data, pages, punched] = read;
    let distance = id.map_or(Some(1), |less| less.checked_add(2))?;
    let sum = |then: u64, difference: Option<u64>| then.wrapping_add_signed(varint::to_signed(difference.unwrap_or(0)));
    let amount = |then: u32, amount: Option<u64>| amount.map_or(Some(then), to_amount);
    Some(GroupEntry {
        group: GroupId::from_raw(before.group.raw().checked_add(distance)?)?,
        len: sum(before.len.into(), len).try_into().ok()?,
        last_sequence: Sequence(sum(before.last_sequence.0, last_sequence)),
        data: amount(before.data, data)?,
        pages: amount(before.pages, pages)?,
        punched: amount(before.punched, punched)?,
        is_copied,
    })
}

fn of_amount(bytes: u32) -> u64 {
    let bytes = u64::from(bytes);
    if bytes % BLOCK == 0 { 2 * (bytes / BLOCK) + 1 } else { 2 * bytes }
}

fn to_amount(number: u64) -> Option<u32> {
    let unit = if number % 2 == 1 { BLOCK } else { 1 };
    (number / 2).checked_mul(unit)?.try_into().ok()
}

/// Without the marks of copies.
pub(super) fn put_long(w: &mut Writer, groups: &[GroupEntry]) {
    w.u32_le(groups.len() as u32);
    for g in groups {
        w.u64_le(g.group.raw())
            .u32_le(g.len)
            .u64_le(g.last_sequence.0)
            .u32_le(g.data)
            .u32_le(g.pages)
            .u32_le(g.punched);
    }
}

pub(super) fn take_long(r: &mut Reader) -> Result<Vec<GroupEntry>, RecordError> {
    let count = r.u32_le()?;
    let mut groups = Vec::new();
    for _ in 0..count {
        groups.push(GroupEntry {
            group: take_group(r)?,
            len: r.u32_le()?,
            last_sequence: Sequence(r.u64_le()?),
            data: r.u32_le()?,
            pages: r.u32_le()?,
            punched: r.u32_le()?,
            is_copied: false,
        });
    }
    Ok(groups)
}

fn take_group(r: &mut Reader) -> Result<GroupId, RecordError> {
    GroupId::from_raw(r.u64_le()?).ok_or(RecordError::Field)
}

/// A count (4 bytes) and ids in their order; of none nothing.
pub(super) fn put_copied(w: &mut Writer, groups: impl Iterator<Item = GroupId> + Clone) {
    let count = groups.clone().count();
    if count > 0 {
        w.u32_le(count as u32);
        groups.for_each(|group| {
            w.u64_le(group.raw());
        });
    }
}

/// At least one.
pub(super) fn take_copied(r: &mut Reader) -> Result<Vec<GroupId>, RecordError> {
    let groups = take_list(r, take_group)?;
    let in_order = groups.windows(2).all(|two| two[0] < two[1]);
    if in_order && !groups.is_empty() { Ok(groups) } else { Err(RecordError::Field) }
}

impl Image {
    /// Its list is written in the short form.
    pub(super) fn is_short(&self) -> bool {
        are_short(self.groups.iter().map(|needed| needed.group))
    }
}

pub(super) fn put_image(w: &mut Writer, image: &Image) {
    w.u128_le(image.root.raw()).u8(image.height);
    if image.is_short() {
        let entry = |needed: &Needed| {
            let Needed { group, data, pages, is_copied } = *needed;
            GroupEntry { group, data, pages, is_copied, ..BEFORE_ALL }
        };
        return put_short(w, image.groups.iter().map(entry));
    }
    w.u32_le(image.groups.len() as u32);
    for needed in image.groups.iter() {
        w.u64_le(needed.group.raw()).u32_le(needed.data).u32_le(needed.pages);
    }
    put_copied(w, image.groups.iter().filter(|needed| needed.is_copied).map(|needed| needed.group));
}

pub(super) fn take_short_image(r: &mut Reader) -> Result<Image, RecordError> {
    let (root, height) = take_root(r)?;
    let needed = |entry: GroupEntry| {
        let GroupEntry { group, len, last_sequence, data, pages, punched, is_copied } = entry;
        let is_of_image = (len, last_sequence, punched) == (0, Sequence(0), 0);
        is_of_image.then_some(Needed { group, data, pages, is_copied })
    };
    Ok(Image { root, height, groups: take_short_as(r, needed)?.into() })
}

/// Without the marks of copies.
pub(super) fn take_image(r: &mut Reader) -> Result<Image, RecordError> {
    let (root, height) = take_root(r)?;
    let groups = take_list(r, |r| {
        Ok(Needed { group: take_group(r)?, data: r.u32_le()?, pages: r.u32_le()?, is_copied: false })
    })?;
    let in_order = groups.windows(2).all(|two| two[0].group < two[1].group);
    if in_order { Ok(Image { root, height, groups: groups.into() }) } else { Err(RecordError::Field) }
}

pub(super) fn take_copies_of(r: &mut Reader, image: &mut Image) -> Result<(), RecordError> {
    let mut groups = image.groups.to_vec();
    for group in take_copied(r)? {
        let found = groups.binary_search_by_key(&group, |needed| needed.group);
        groups[found.map_err(|_| RecordError::Field)?].is_copied = true;
    }
    image.groups = groups.into();
    Ok(())
}

#[cfg(test)]
mod tests;
