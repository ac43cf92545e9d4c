//! An account for each group, in order of ids, of which a copy costs next to nothing.
//!
//! A vDisk of a terabyte has 16,000 groups, and every snapshot and checkpoint keeps the accounts of its moment. The entries
//! lie in short sorted runs that copies share; who changes one copies its run.

use crate::account::GroupAccount;
use base::GroupId;
use std::rc::Rc;

/// Entries of a run: 48 bytes each, so that a copy of a run is cheap, and few enough runs.
const RUN_MAX: usize = 128;

#[derive(Clone, Default)]
pub struct GroupMap {
    runs: Vec<Run>,
    len: usize,
}

/// Never empty.
#[derive(Clone)]
struct Run {
    first: GroupId,
    entries: Rc<Vec<(GroupId, GroupAccount)>>,
}

impl FromIterator<(GroupId, GroupAccount)> for GroupMap {
    /// Of an id that comes again the last account counts. Fast if they come in order of ids.
    fn from_iter<I: IntoIterator<Item = (GroupId, GroupAccount)>>(entries: I) -> GroupMap {
        let mut entries: Vec<(GroupId, GroupAccount)> = entries.into_iter().collect();
        entries.sort_by_key(|(id, _)| *id);
        entries.dedup_by(|later, earlier| {
            later.0 == earlier.0 && {
                *earlier = *later;
                true
            }
        });
        let run = |part: &[(GroupId, GroupAccount)]| Run { first: part[0].0, entries: Rc::new(part.to_vec()) };
        GroupMap { runs: entries.chunks(RUN_MAX).map(run).collect(), len: entries.len() }
    }
}

impl GroupMap {
    pub fn len(&self) -> usize {
        self.len
    }

    /// In order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupId, &GroupAccount)> {
        self.runs.iter().flat_map(|run| run.entries.iter().map(|(id, account)| (id, account)))
    }

    /// In order.
    pub fn keys(&self) -> impl Iterator<Item = &GroupId> {
        self.iter().map(|(id, _)| id)
    }

    pub fn get(&self, id: &GroupId) -> Option<&GroupAccount> {
        let run = &self.runs[self.run_of(*id)?];
        let at = run.find(*id).ok()?;
        Some(&run.entries[at].1)
    }

    /// As [`GroupMap::get`], for whoever asks in order of ids and of nearly all that there are: one pass serves them all.
    pub fn in_step<'a>(&'a self) -> impl FnMut(GroupId) -> Option<&'a GroupAccount> {
        let mut rest = self.iter().peekable();
        move |id| {
            while rest.next_if(|(of, _)| **of < id).is_some() {}
            rest.peek().filter(|(of, _)| **of == id).map(|(_, account)| *account)
        }
    }

    pub fn contains_key(&self, id: &GroupId) -> bool {
        self.get(id).is_some()
    }

    /// What was there before.
    pub fn insert(&mut self, id: GroupId, account: GroupAccount) -> Option<GroupAccount> {
        let (entry, was_there) = self.entry(id);
        let old = std::mem::replace(entry, account);
        was_there.then_some(old)
    }

    /// A new entry is an empty account.
    pub fn get_or_default(&mut self, id: GroupId) -> &mut GroupAccount {
        self.entry(id).0
    }

    pub fn remove(&mut self, id: &GroupId) -> Option<GroupAccount> {
        let index = self.run_of(*id)?;
        let run = &mut self.runs[index];
        let at = run.find(*id).ok()?;
        let (_, old) = Rc::make_mut(&mut run.entries).remove(at);
        match run.entries.first() {
            Some((first, _)) => run.first = *first,
            None => drop(self.runs.remove(index)),
        }
        self.len -= 1;
        Some(old)
    }

    /// The run that has the id if any does.
    fn run_of(&self, id: GroupId) -> Option<usize> {
        self.runs.partition_point(|run| run.first <= id).checked_sub(1)
    }

    /// The entry, and whether it was there.
    fn entry(&mut self, id: GroupId) -> (&mut GroupAccount, bool) {
        let index = self.run_of(id).unwrap_or(0);
        let (index, at) = match self.runs.get(index).map(|run| run.find(id)) {
            Some(Ok(at)) => return (&mut Rc::make_mut(&mut self.runs[index].entries)[at].1, true),
            Some(Err(at)) => self.with_room(id, index, at),
            None => {
                self.runs.push(Run { first: id, entries: Rc::default() });
                (0, 0)
            }
        };
        self.len += 1;
        let run = &mut self.runs[index];
        run.first = run.first.min(id);
        let entries = Rc::make_mut(&mut run.entries);
        entries.insert(at, (id, GroupAccount::default()));
        (&mut entries[at].1, false)
    }

    /// Splits the run at `index` if it is full; where the new entry goes. One behind all of a full run begins another, so that
    /// runs are full where ids grow.
    fn with_room(&mut self, id: GroupId, index: usize, at: usize) -> (usize, usize) {
        let run = &mut self.runs[index];
        if run.entries.len() < RUN_MAX {
            return (index, at);
        }
        let half = if at == RUN_MAX { RUN_MAX } else { RUN_MAX / 2 };
        let later = Rc::make_mut(&mut run.entries).split_off(half);
        let first = later.first().map_or(id, |(first, _)| *first);
        self.runs.insert(index + 1, Run { first, entries: Rc::new(later) });
        if at < half { (index, at) } else { (index + 1, at - half) }
    }
}

impl Run {
    fn find(&self, id: GroupId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&id, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn id(counter: u32) -> GroupId {
        GroupId::new(1, counter)
    }

    #[derive(Clone, Debug)]
    enum Change {
        Insert(u32, u32),
        Count(u32),
        Remove(u32),
        Copy,
    }

    fn change() -> impl Strategy<Value = Change> {
        let counter = 1..1_500_u32;
        prop_oneof![
            6 => (counter.clone(), any::<u32>()).prop_map(|(counter, len)| Change::Insert(counter, len)),
            1 => counter.clone().prop_map(Change::Count),
            2 => counter.prop_map(Change::Remove),
            1 => Just(Change::Copy),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_map_and_its_copies_are_what_an_ordered_map_is(changes in prop::collection::vec(change(), 3_000)) {
            let mut map = GroupMap::default();
            let mut model = BTreeMap::<GroupId, GroupAccount>::new();
            let mut copies = Vec::new();
            for (step, change) in changes.into_iter().enumerate() {
                match change {
                    Change::Insert(counter, len) => {
                        let account = GroupAccount { len, ..GroupAccount::default() };
                        prop_assert_eq!(map.insert(id(counter), account), model.insert(id(counter), account));
                    }
                    Change::Count(counter) => {
                        map.get_or_default(id(counter)).data += 1;
                        model.entry(id(counter)).or_default().data += 1;
                    }
                    Change::Remove(counter) => {
                        prop_assert_eq!(map.remove(&id(counter)), model.remove(&id(counter)));
                    }
                    Change::Copy if step % 16 == 0 => copies.push((map.clone(), model.clone())),
                    Change::Copy => {}
                }
                prop_assert_eq!(map.len(), model.len());
            }
            copies.push((map, model.clone()));
            let twice = model.iter().rev().map(|(id, _)| (*id, GroupAccount { len: 7, ..GroupAccount::default() }));
            copies.push((twice.chain(model.clone()).collect(), model));
            for (map, model) in copies {
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert!(map.runs.iter().all(|run| run.entries.len() <= RUN_MAX && run.first == run.entries[0].0));
                prop_assert!((0..1_501).all(|counter| map.get(&id(counter)) == model.get(&id(counter))));
                for step in [1, 7] {
                    let mut of = map.in_step();
                    prop_assert!((0..1_501).step_by(step).all(|counter| of(id(counter)) == model.get(&id(counter))));
                }
            }
        }
    }

    #[test]
    fn growing_ids_fill_their_runs_and_copies_share_them() {
        let mut map = GroupMap::default();
        (1..=10_000).for_each(|counter| *map.get_or_default(id(counter)) = GroupAccount::default());
        assert_eq!(map.runs.len(), 10_000_usize.div_ceil(RUN_MAX));
        let copy = map.clone();
        map.get_or_default(id(5_000)).data = 1;
        let shared = map.runs.iter().zip(&copy.runs).filter(|(a, b)| Rc::ptr_eq(&a.entries, &b.entries)).count();
        assert_eq!(shared, map.runs.len() - 1);
        assert_eq!(copy.get(&id(5_000)).map(|account| account.data), Some(0));
    }
}
