//! The task set of a logical unit (SAM-5 chapters 8 and 9): which commands are under way, which may run now, which are aborted.
//!
//! A task enters when its command arrives and leaves when it has ended: its handler returned, or was dropped, and no request
//! of it is under way in the device any more. TST is 000b: one task set for all I_T nexuses.

#[cfg(test)]
mod tests;

use crate::Attribute;
use crate::path::PathId;
use std::collections::BTreeMap;

/// Commands of one nexus under way at once with one logical unit. Twice what initiators queue at most (Linux: 128).
pub(crate) const TASKS_PER_NEXUS_MAX: usize = 256;
/// All nexuses of a logical unit together; each task costs about 200 bytes, its data apart.
pub(crate) const TASKS_MAX: usize = 4096;

/// Names a task as long as it is in the set; never names another one afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskKey {
    index: usize,
    sequence: u64,
}

/// How an aborted task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    Silent,
    /// TAS is one, and another nexus' command or function aborted it: status TASK ABORTED.
    Tell,
}

#[derive(Debug)]
struct Slot {
    /// 0: free. Else the order of arrival.
    sequence: u64,
    path: PathId,
    tag: u64,
    attribute: Attribute,
    /// `run` was called.
    running: bool,
    aborted: Option<Abort>,
    /// Under way in the device.
    requests: u32,
    /// Its handler is gone; only `requests` keep it here.
    left: bool,
    /// What is under way is so at another logical unit: a copy.
    elsewhere: bool,
}

/// What decides whether an abort concerns a task.
pub(crate) struct Described {
    pub path: PathId,
    pub key: TaskKey,
}

#[derive(Debug, Default)]
pub(crate) struct TaskSet {
    slots: Vec<Slot>,
    free: Vec<usize>,
    last_sequence: u64,
    count: usize,
    /// Tasks with an attribute other than SIMPLE: without them nobody waits for anybody.
    ordering: usize,
    /// Tasks that were aborted and have not ended.
    aborted: usize,
    /// Tasks of each nexus that is attached or still has some.
    counts: BTreeMap<PathId, usize>,
}

impl TaskKey {
    /// Names no task.
    pub(crate) const NONE: TaskKey = TaskKey { index: usize::MAX, sequence: 0 };
}

impl TaskSet {
    /// `None`: TASK SET FULL.
    pub(crate) fn enter(&mut self, path: PathId, tag: u64, attribute: Attribute) -> Option<TaskKey> {
        let of_path = self.counts.entry(path).or_default();
        if self.count >= TASKS_MAX || *of_path >= TASKS_PER_NEXUS_MAX {
            return None;
        }
        *of_path += 1;
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        let slot = Slot {
            sequence,
            path,
            tag,
            attribute,
            running: false,
            aborted: None,
            requests: 0,
            left: false,
            elsewhere: false,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.count += 1;
        self.ordering += usize::from(attribute != Attribute::Simple);
        Some(TaskKey { index, sequence })
    }

    fn slot(&self, key: TaskKey) -> Option<&Slot> {
        self.slots.get(key.index).filter(|slot| slot.sequence == key.sequence)
    }
    fn slot_mut(&mut self, key: TaskKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.index).filter(|slot| slot.sequence == key.sequence)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
    pub(crate) fn contains(&self, key: TaskKey) -> bool {
        self.slot(key).is_some()
    }
    pub(crate) fn aborted(&self, key: TaskKey) -> Option<Abort> {
        self.slot(key).and_then(|slot| slot.aborted)
    }
    pub(crate) fn runs(&mut self, key: TaskKey) {
        if let Some(slot) = self.slot_mut(key) {
            slot.running = true;
        }
    }
    pub(crate) fn request_began(&mut self, key: TaskKey) {
        if let Some(slot) = self.slot_mut(key) {
            slot.requests += 1;
        }
    }
    /// What it has under way from here on is so at another logical unit, or here again.
    pub(crate) fn is_elsewhere(&mut self, key: TaskKey, elsewhere: bool) {
        if let Some(slot) = self.slot_mut(key) {
            slot.elsewhere = elsewhere;
        }
    }
    /// Says whether the task is gone by it.
    pub(crate) fn request_ended(&mut self, key: TaskKey) -> bool {
        let Some(slot) = self.slot_mut(key) else { return false };
        slot.requests -= 1;
        let gone = slot.left && slot.requests == 0;
        if gone {
            self.remove(key);
        }
        gone
    }
    /// The handler returned or was dropped.
    pub(crate) fn leave(&mut self, key: TaskKey) {
        let Some(slot) = self.slot_mut(key) else { return };
        slot.left = true;
        if slot.requests == 0 {
            self.remove(key);
        }
    }
    fn remove(&mut self, key: TaskKey) {
        let slot = &mut self.slots[key.index];
        slot.sequence = 0;
        self.aborted -= usize::from(slot.aborted.is_some());
        self.ordering -= usize::from(slot.attribute != Attribute::Simple);
        self.count -= 1;
        self.free.push(key.index);
        let of_path = self.counts.get_mut(&slot.path).expect("a task in the set is counted");
        *of_path -= 1;
    }
    /// Forgets nexuses that are gone; not yet those of which tasks still run.
    pub(crate) fn forget_all_but(&mut self, attached: impl Fn(PathId) -> bool) {
        self.counts.retain(|path, count| *count > 0 || attached(*path));
    }
    /// Whether anything of a nexus is in the set, be it aborted.
    pub(crate) fn has_any(&self, path: PathId) -> bool {
        self.counts.get(&path).is_some_and(|count| *count > 0)
    }

    /// SAM-5 8.5: HEAD OF QUEUE at once; ORDERED after everything older; SIMPLE after older ones that are not SIMPLE. An aborted task
    /// holds nobody up unless it runs.
    ///
    /// What was aborted with its nexus and runs all the same holds up everything younger: its initiator has given it up, may be
    /// back already, and must not see it take effect after something that it has read or written since.
    pub(crate) fn may_run(&self, key: TaskKey) -> bool {
        if self.ordering == 0 && self.aborted == 0 {
            return true;
        }
        let Some(own) = self.slot(key) else { return true };
        let waits_for = |other: &Slot| match own.attribute {
            Attribute::HeadOfQueue => false,
            Attribute::Ordered => other.sequence < own.sequence || other.attribute == Attribute::HeadOfQueue,
            Attribute::Simple | Attribute::Aca => {
                (other.sequence < own.sequence && other.attribute == Attribute::Ordered)
                    || other.attribute == Attribute::HeadOfQueue
            }
        };
        !self.is_behind_given_up(own) && {
            let mut others = self.slots.iter().filter(|slot| slot.sequence != 0 && slot.sequence != own.sequence);
            !others.any(|other| waits_for(other) && (other.aborted.is_none() || other.running))
        }
    }

    /// The same for a request of a copy that another logical unit carries out: attributes order the commands of initiators, of
    /// which it is none. Two copies with ORDERED that go to and fro would wait for each other for ever.
    pub(crate) fn may_visit(&self, key: TaskKey) -> bool {
        self.aborted == 0 || self.slot(key).is_none_or(|own| !self.is_behind_given_up(own))
    }

    /// A copy that was given up ends with what it has under way; while that is elsewhere it changes nothing here, and waits
    /// perhaps for one that waits here.
    fn is_behind_given_up(&self, own: &Slot) -> bool {
        self.slots.iter().any(|other| {
            let runs = (other.running || other.requests > 0) && !other.elsewhere;
            other.sequence != 0 && other.sequence < own.sequence && other.aborted.is_some() && runs
        })
    }

    /// Aborts what `how` says, and names those that have not ended by it: they run. The second list are those that still gather data.
    pub(crate) fn abort(&mut self, how: impl Fn(&Described) -> Option<Abort>) -> Aborted {
        let mut aborted = Aborted::default();
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.sequence != 0) {
            let key = TaskKey { index, sequence: slot.sequence };
            let Some(how) = how(&Described { path: slot.path, key }) else { continue };
            // A second abort changes nothing: the first one said how it ends.
            let first = slot.aborted.is_none();
            slot.aborted = slot.aborted.or(Some(how));
            self.aborted += usize::from(first);
            if slot.running || slot.requests > 0 {
                aborted.running.push(key);
            } else if first {
                aborted.gathering.push((slot.path, slot.tag));
            }
            if first && !aborted.paths.contains(&slot.path) {
                aborted.paths.push(slot.path);
            }
        }
        aborted
    }

    /// Those that run, and are not `but`.
    pub(crate) fn running_but(&self, but: TaskKey) -> Vec<TaskKey> {
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| slot.sequence != 0);
        let running = slots.filter(|(_, slot)| slot.running || slot.requests > 0);
        running.map(|(index, slot)| TaskKey { index, sequence: slot.sequence }).filter(|key| *key != but).collect()
    }

    /// The task of a nexus with this tag, even one that was aborted and has not ended yet.
    pub(crate) fn find_any(&self, path: PathId, tag: u64) -> Option<TaskKey> {
        let here = |slot: &Slot| slot.sequence != 0 && slot.path == path && slot.tag == tag;
        let index = self.slots.iter().position(here)?;
        Some(TaskKey { index, sequence: self.slots[index].sequence })
    }
    /// The task of a nexus with this tag, unless it was aborted.
    pub(crate) fn find(&self, path: PathId, tag: u64) -> Option<TaskKey> {
        let here = |slot: &Slot| slot.sequence != 0 && slot.path == path && slot.tag == tag && !slot.left;
        let index = self.slots.iter().position(|slot| here(slot) && slot.aborted.is_none())?;
        Some(TaskKey { index, sequence: self.slots[index].sequence })
    }
    pub(crate) fn any_of(&self, path: PathId) -> bool {
        self.slots.iter().any(|slot| slot.sequence != 0 && slot.path == path && slot.aborted.is_none())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Aborted {
    /// Still to be waited for.
    pub running: Vec<TaskKey>,
    /// Of which nexus, with which tag: they never ran.
    pub gathering: Vec<(PathId, u64)>,
    /// Nexuses that lost a task.
    pub paths: Vec<PathId>,
}
