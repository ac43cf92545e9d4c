//! The log between two positions that are known to be synced and of one log: the groups on the way back from the later one,
//! each up to where the next one continues it. What a failed sync or a crash has left beside that way is not met: there is no
//! fork on the way back.

use crate::log::frame::FrameKind;
use crate::log::{GroupWalk, Position, Step};
use crate::recovery::replay::{Replayed, take};
use crate::vdisk::Vdisk;
use crate::{Error, Result};
use base::{GroupId, Sequence};
use pool::{GroupHeader, HEADER_PAGE, SlotPage, decode_slot_page};
use std::collections::VecDeque;

/// Read ahead in each group.
const WINDOWS_AHEAD: usize = 4;

/// A part of the way: what of a group belongs to it.
struct Leg {
    /// What the first frame continues.
    at: Position,
    group: GroupId,
    start: u32,
    end: u32,
}

/// Reads forward.
pub(super) struct Walk<'a> {
    vdisk: &'a Vdisk,
    legs: VecDeque<Leg>,
    group: Option<(GroupWalk, u32)>,
    at: Position,
}

impl<'a> Walk<'a> {
    /// `to` is `from` or behind it.
    pub async fn between(vdisk: &'a Vdisk, from: Position, to: Position) -> Result<Walk<'a>> {
        let mut legs = VecDeque::new();
        let (mut group, mut end) = (to.group, to.end);
        if from.sequence > to.sequence {
            return Err(broken(from.sequence, "it ends before it begins"));
        }
        if from == to {
            return Ok(Walk { vdisk, legs, group: None, at: from });
        }
        loop {
            if group == from.group {
                if end < from.end {
                    return Err(broken(from.sequence, "another log goes on there"));
                }
                legs.push_front(Leg { at: from, group, start: from.end, end });
                break;
            }
            let header = header_of(vdisk, group).await?;
            let sequence = Sequence(header.first_sequence.0.saturating_sub(1));
            let Some(before) = header.predecessor.filter(|_| sequence >= from.sequence) else {
                return Err(broken(from.sequence, "what came later does not lead back to it"));
            };
            let at = Position { group: before.group, end: before.sealed_len, chain: before.chain, sequence };
            legs.push_front(Leg { at, group, start: HEADER_PAGE, end });
            if at == from {
                break;
            }
            (group, end) = (before.group, before.sealed_len);
        }
        Ok(Walk { vdisk, legs, group: None, at: from })
    }

    /// `None`: that was the last. Whatever cannot be read is an error: the history has no gaps.
    pub async fn next(&mut self) -> Result<Option<Replayed>> {
        loop {
            let Some((walk, end)) = &mut self.group else {
                let Some(leg) = self.legs.pop_front() else { return Ok(None) };
                if leg.at != self.at {
                    return Err(broken(self.at.sequence, "two groups do not meet"));
                }
                let pool = self.vdisk.context.pool.clone();
                let walk = GroupWalk::new(pool, self.vdisk.id, leg.group, leg.at, leg.start, leg.end);
                let walk = walk.reading_ahead(WINDOWS_AHEAD).headers_through(Sequence(u64::MAX));
                self.group = Some((walk, leg.end));
                continue;
            };
            if walk.at.end == *end {
                self.group = None;
                continue;
            }
            let Step::Frame(walked) = walk.next().await? else {
                return Err(broken(self.at.sequence, "the next frame cannot be read"));
            };
            if walked.frame.kind == FrameKind::Control && !walked.payload_is_whole() {
                return Err(broken(self.at.sequence, "the next frame fails its checksum"));
            }
            let frame = take(*walked, self.at)?;
            self.at = frame.at;
            return Ok(Some(frame));
        }
    }
}

async fn header_of(vdisk: &Vdisk, group: GroupId) -> Result<GroupHeader> {
    let page = vdisk.context.pool.read(group, 0, HEADER_PAGE).await?;
    match decode_slot_page(&page) {
        SlotPage::Group(header) if header.group == group && header.vdisk == vdisk.id => Ok(header),
        _ => Err(Error::corrupt(format!("the header of group {group} cannot be read"))),
    }
}

fn broken(behind: Sequence, why: &str) -> Error {
    Error::corrupt(format!("the history is damaged behind frame {}: {why}", behind.0))
}
