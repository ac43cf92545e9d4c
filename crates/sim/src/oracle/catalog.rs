//! Which vDisks there may be, with which names, sizes and flags: the last acknowledged state of each, or what a verb
//! under way or cut off would make of it.

use crate::engine::VdiskInfo;
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub name: String,
    pub size_bytes: u64,
    pub read_only: bool,
    pub notes: BTreeMap<u8, Bytes>,
}

/// `None`: there is no such vDisk.
pub type State = Option<Attributes>;

#[derive(Debug)]
pub struct Entry {
    /// As the node names it; unknown while its creation is under way or was cut off.
    pub id: Option<u64>,
    /// The first is the last acknowledged one; the others may have come about.
    states: Vec<State>,
    /// What it was before; damage to the end of a log may bring that back.
    past: Vec<State>,
}

impl Default for Entry {
    /// A vDisk that does not exist yet.
    fn default() -> Self {
        Entry { id: None, states: vec![None], past: Vec::new() }
    }
}

impl Entry {
    /// The last acknowledged state.
    pub fn current(&self) -> Option<&Attributes> {
        self.states[0].as_ref()
    }

    /// Whether nothing is under way or in doubt.
    pub fn is_settled(&self) -> bool {
        self.states.len() == 1
    }

    pub fn may_have_name(&self, name: &str) -> bool {
        self.states.iter().flatten().any(|state| state.name == name)
    }

    pub fn may_be_read_only(&self) -> bool {
        self.states.iter().flatten().any(|state| state.read_only)
    }

    /// A verb begins. Verbs on one vDisk go one at a time; only I/O runs beside them.
    pub fn begin(&mut self, state: State) {
        self.states.push(state);
    }

    /// The verb was acknowledged.
    pub fn succeed(&mut self) {
        let state = self.states.pop().expect("a verb was begun");
        self.past.append(&mut self.states);
        self.states = vec![state];
    }

    /// The verb was refused in a way that says that it had no effect.
    pub fn refuse(&mut self) {
        self.states.pop();
    }

    fn settle(&mut self, found: Option<&VdiskInfo>, is_damaged: bool) -> Result<(), String> {
        let state = found.map(|info| Attributes {
            name: info.name.clone(),
            size_bytes: info.size_bytes,
            read_only: info.read_only,
            notes: info.notes.clone(),
        });
        let legal = self.states.contains(&state) || is_damaged && self.was(state.as_ref());
        if !legal {
            return Err(format!("vDisk {:?} is {state:?}, legal would be {:?}", self.id, self.states));
        }
        if let Some(info) = found {
            self.id = Some(info.id);
        }
        self.past.append(&mut self.states);
        self.states = vec![state];
        Ok(())
    }

    /// Each attribute for itself is or was so: of a log that lost its end the index may know more.
    fn was(&self, state: Option<&Attributes>) -> bool {
        let known = || self.states.iter().chain(&self.past);
        let Some(state) = state else { return known().any(Option::is_none) };
        let any = |matches: &dyn Fn(&Attributes) -> bool| known().flatten().any(matches);
        let note = |kind: u8| any(&|a| a.notes.get(&kind) == state.notes.get(&kind));
        any(&|a| a.name == state.name)
            && any(&|a| a.size_bytes == state.size_bytes)
            && any(&|a| a.read_only == state.read_only)
            && state.notes.keys().all(|kind| note(*kind))
            && known().flatten().flat_map(|a| a.notes.keys()).all(|kind| note(*kind))
    }

    fn may_be(&self, info: &VdiskInfo) -> bool {
        match self.id {
            Some(id) => id == info.id,
            None => self.states.iter().flatten().any(|state| state.name == info.name),
        }
    }
}

/// Compares a list that was taken while no verb was under way; afterwards no entry is in doubt.
/// On a disk that `is_damaged` the last verbs may be lost.
pub fn check_list(entries: &mut [Entry], list: &[VdiskInfo], is_damaged: bool) -> Result<(), String> {
    for info in list {
        let owners = entries.iter().filter(|entry| entry.may_be(info)).count();
        if owners != 1 {
            return Err(format!("{owners} entries of the oracle answer for the listed vDisk {info:?}"));
        }
    }
    for entry in entries {
        let found: Vec<&VdiskInfo> = list.iter().filter(|info| entry.may_be(info)).collect();
        match found[..] {
            [] => entry.settle(None, is_damaged)?,
            [info] => entry.settle(Some(info), is_damaged)?,
            _ => return Err(format!("one vDisk is listed twice: {found:?}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(name: &str, size_bytes: u64) -> Attributes {
        Attributes { name: name.into(), size_bytes, read_only: false, notes: BTreeMap::new() }
    }
    fn info(id: u64, name: &str, size_bytes: u64) -> VdiskInfo {
        VdiskInfo { id, name: name.into(), size_bytes, read_only: false, notes: BTreeMap::new(), damaged: false }
    }
    fn created(id: u64, name: &str) -> Entry {
        let mut entry = Entry::default();
        entry.begin(Some(attributes(name, 4096)));
        entry.succeed();
        entry.id = Some(id);
        entry
    }

    #[test]
    fn acknowledged_states_must_be_there_and_begun_ones_may() {
        let check = |prepare: fn(&mut Entry), list: &[VdiskInfo]| {
            let mut entries = vec![created(7, "a"), created(8, "z")];
            prepare(&mut entries[0]);
            let mut list = list.to_vec();
            list.push(info(8, "z", 4096));
            check_list(&mut entries, &list, false).is_ok()
        };
        let nothing: fn(&mut Entry) = |_| {};
        let rename: fn(&mut Entry) = |entry| entry.begin(Some(attributes("b", 4096)));
        let delete: fn(&mut Entry) = |entry| entry.begin(None);
        assert!(check(nothing, &[info(7, "a", 4096)]));
        assert!(!check(nothing, &[]));
        assert!(!check(nothing, &[info(7, "a", 8192)]));
        assert!(!check(nothing, &[info(7, "a", 4096), info(9, "c", 4096)]));
        assert!(!check(nothing, &[info(7, "a", 4096), info(7, "a", 4096)]));
        assert!(check(rename, &[info(7, "a", 4096)]) && check(rename, &[info(7, "b", 4096)]));
        assert!(!check(rename, &[info(7, "c", 4096)]));
        assert!(check(delete, &[]) && check(delete, &[info(7, "a", 4096)]));
    }

    #[test]
    fn a_creation_that_was_cut_off_may_have_happened() {
        let begun = || {
            let mut entry = Entry::default();
            entry.begin(Some(attributes("a", 4096)));
            [entry]
        };
        assert!(check_list(&mut begun(), &[], false).is_ok());
        let mut entries = begun();
        check_list(&mut entries, &[info(5, "a", 4096)], false).expect("the name is the one that was asked for");
        assert_eq!(entries[0].id, Some(5));
        assert!(check_list(&mut begun(), &[info(5, "a", 512)], false).is_err());
    }
}
