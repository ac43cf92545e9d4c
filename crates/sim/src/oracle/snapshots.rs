//! Which snapshots a vDisk may have: those that were acknowledged, those whose creation or deletion is in doubt, and no
//! others.

use super::history::Time;
use crate::engine::SnapshotInfo;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Its creation is under way, or was cut off: it is there or not.
    Begun,
    There,
    /// Its deletion is under way, or was cut off.
    Ending,
    Gone,
}

#[derive(Clone, Debug)]
pub struct Entry {
    /// As the node names it; unknown while its creation is in doubt.
    pub id: Option<u64>,
    pub name: String,
    pub presence: Presence,
    pub begun: Time,
    /// When its creation was acknowledged.
    pub acknowledged: Option<Time>,
}

impl Entry {
    pub fn begin(now: Time, name: String) -> Entry {
        Entry { id: None, name, presence: Presence::Begun, begun: now, acknowledged: None }
    }

    pub fn created(&mut self, now: Time, id: u64) {
        (self.id, self.acknowledged, self.presence) = (Some(id), Some(now), Presence::There);
    }

    fn may_be(&self, info: &SnapshotInfo) -> bool {
        match self.id {
            Some(id) => id == info.id,
            None => self.presence == Presence::Begun && self.name == info.name,
        }
    }

    fn settle(&mut self, found: Option<&SnapshotInfo>, is_damaged: bool) -> Result<(), String> {
        let is_legal = match self.presence {
            Presence::Begun | Presence::Ending => true,
            Presence::There => found.is_some() || is_damaged,
            Presence::Gone => found.is_none() || is_damaged,
        };
        if !is_legal {
            return Err(format!("snapshot {self:?} was found as {found:?}"));
        }
        if let Some(info) = found
            && info.name != self.name
        {
            return Err(format!("snapshot {self:?} is listed as {info:?}"));
        }
        self.presence = if found.is_some() { Presence::There } else { Presence::Gone };
        self.id = found.map(|info| info.id).or(self.id);
        Ok(())
    }
}

/// Compares the list of one vDisk, taken while nothing was under way; afterwards no entry is in doubt. On a disk that
/// `is_damaged` the last creations and deletions may be lost.
pub fn check_list(entries: &mut [&mut Entry], list: &[SnapshotInfo], is_damaged: bool) -> Result<(), String> {
    for info in list {
        let owners = entries.iter().filter(|entry| entry.may_be(info)).count();
        if owners != 1 {
            return Err(format!("{owners} entries of the oracle answer for the listed snapshot {info:?}"));
        }
    }
    for entry in entries.iter_mut() {
        let found: Vec<&SnapshotInfo> = list.iter().filter(|info| entry.may_be(info)).collect();
        match found[..] {
            [] => entry.settle(None, is_damaged)?,
            [info] => entry.settle(Some(info), is_damaged)?,
            _ => return Err(format!("one snapshot is listed twice: {found:?}")),
        }
    }
    check_order(entries, list)
}

/// In order of age, as far as one was acknowledged before the next was asked for.
fn check_order(entries: &[&mut Entry], list: &[SnapshotInfo]) -> Result<(), String> {
    let of = |info: &SnapshotInfo| entries.iter().find(|entry| entry.id == Some(info.id));
    let ordered: Vec<_> = list.iter().filter_map(of).collect();
    for (index, entry) in ordered.iter().enumerate() {
        let is_older = |later: &&&&mut Entry| later.acknowledged.is_some_and(|time| time < entry.begun);
        if let Some(older) = ordered[index + 1..].iter().find(is_older) {
            return Err(format!("{older:?} is listed behind {entry:?}, which is younger"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: u64, name: &str) -> SnapshotInfo {
        SnapshotInfo { id, name: name.into(), size_bytes: 4096 }
    }
    fn entry(now: Time, name: &str, id: Option<u64>) -> Entry {
        let mut entry = Entry::begin(now, name.into());
        if let Some(id) = id {
            entry.created(now + 1, id);
        }
        entry
    }
    fn check(mut entries: Vec<Entry>, list: &[SnapshotInfo], is_damaged: bool) -> bool {
        let mut entries: Vec<&mut Entry> = entries.iter_mut().collect();
        check_list(&mut entries, list, is_damaged).is_ok()
    }

    #[test]
    fn acknowledged_ones_are_there_deleted_ones_are_not_and_doubtful_ones_may_be() {
        let all = || vec![entry(1, "a", Some(7)), entry(3, "b", None)];
        assert!(check(all(), &[info(7, "a")], false) && check(all(), &[info(7, "a"), info(9, "b")], false));
        assert!(!check(all(), &[info(9, "b")], false), "an acknowledged one is lost");
        assert!(check(all(), &[info(9, "b")], true));
        assert!(!check(all(), &[info(7, "c")], false) && !check(all(), &[info(7, "a"), info(8, "c")], false));
        let deleted = |presence| vec![Entry { presence, ..entry(1, "a", Some(7)) }];
        assert!(check(deleted(Presence::Gone), &[], false) && !check(deleted(Presence::Gone), &[info(7, "a")], false));
        for list in [&[][..], &[info(7, "a")]] {
            assert!(check(deleted(Presence::Ending), list, false));
        }
    }

    #[test]
    fn they_are_listed_in_order_of_their_age() {
        let all = || vec![entry(1, "a", Some(7)), entry(3, "b", Some(6))];
        assert!(check(all(), &[info(7, "a"), info(6, "b")], false));
        assert!(!check(all(), &[info(6, "b"), info(7, "a")], false));
    }

    #[test]
    fn a_name_that_is_used_again_is_of_another_one() {
        let gone = Entry { presence: Presence::Gone, ..entry(1, "a", Some(7)) };
        let mut entries = [gone, entry(3, "a", None)];
        let mut all: Vec<&mut Entry> = entries.iter_mut().collect();
        check_list(&mut all, &[info(8, "a")], false).expect("it is the second one");
        assert_eq!((entries[0].presence, entries[1].id), (Presence::Gone, Some(8)));
    }
}
