//! A store in memory for simulation: deterministic, as slow as told, and a crash loses what was not committed.

use crate::{Outcome, Result, Store, Transaction};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use world::{Clock, Instant, LocalFuture};

type Map = BTreeMap<Bytes, Bytes>;

/// Handles of one store share its content. Commits become durable one after the other, each `commit_ns` after the one
/// before it or after its call, whichever is later; a read is answered when what was called before it is durable.
#[derive(Clone)]
pub struct MemStore {
    clock: Rc<dyn Clock>,
    state: Rc<State>,
}

struct State {
    commit_ns: u64,
    /// With all commits that were called.
    visible: RefCell<Map>,
    durable: RefCell<Map>,
    /// Changes on their way, and when they arrive.
    pending: RefCell<VecDeque<(Instant, Transaction)>>,
    last_due: Cell<Instant>,
}

impl MemStore {
    pub fn new(clock: Rc<dyn Clock>, commit_ns: u64) -> Self {
        Self::restore(clock, commit_ns, Map::new())
    }

    /// A store that holds what [`MemStore::snapshot`] gave.
    pub fn restore(clock: Rc<dyn Clock>, commit_ns: u64, content: BTreeMap<Bytes, Bytes>) -> Self {
        let state = State {
            commit_ns,
            visible: RefCell::new(content.clone()),
            durable: RefCell::new(content),
            pending: RefCell::default(),
            last_due: Cell::default(),
        };
        MemStore { clock, state: Rc::new(state) }
    }

    /// What would survive a crash now.
    pub fn snapshot(&self) -> BTreeMap<Bytes, Bytes> {
        self.settle();
        self.state.durable.borrow().clone()
    }

    /// Forgets every commit that is not durable. Futures of before still end, but their word counts for nothing.
    pub fn crash(&self) {
        self.settle();
        self.state.pending.borrow_mut().clear();
        self.state.visible.replace(self.state.durable.borrow().clone());
        self.state.last_due.set(self.clock.now());
    }

    fn settle(&self) {
        let now = self.clock.now();
        let mut pending = self.state.pending.borrow_mut();
        while let Some((_, transaction)) = pending.pop_front_if(|(due, _)| *due <= now) {
            apply(&mut self.state.durable.borrow_mut(), &transaction);
        }
    }

    /// Completes when everything that was called so far is durable.
    fn until_durable(&self) -> LocalFuture<()> {
        let (wait_ns, store) = (self.state.last_due.get().since_ns(self.clock.now()), self.clone());
        if wait_ns == 0 {
            return Box::pin(async {});
        }
        let sleep = self.clock.sleep(wait_ns);
        Box::pin(async move {
            sleep.await;
            store.settle();
        })
    }
}

fn apply(map: &mut Map, transaction: &Transaction) {
    for key in &transaction.deletes {
        map.remove(key);
    }
    map.extend(transaction.puts.iter().cloned());
}

impl Store for MemStore {
    fn get(&self, key: &[u8]) -> LocalFuture<Result<Option<Bytes>>> {
        let value = self.state.visible.borrow().get(key).cloned();
        let durable = self.until_durable();
        Box::pin(async move {
            durable.await;
            Ok(value)
        })
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> LocalFuture<Result<Vec<(Bytes, Bytes)>>> {
        let map = self.state.visible.borrow();
        let range = map.range::<[u8], _>(crate::store::scan_range(prefix, after));
        let inside = range.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        let found = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
        let durable = self.until_durable();
        Box::pin(async move {
            durable.await;
            Ok(found)
        })
    }

    fn commit(&self, transaction: Transaction) -> LocalFuture<Result<Outcome>> {
        if let Err(e) = transaction.check() {
            return Box::pin(async { Err(e) });
        }
        self.settle();
        let holds = {
            let visible = self.state.visible.borrow();
            transaction.compares.iter().all(|compare| visible.get(&compare.key) == compare.expected.as_ref())
        };
        let outcome = if holds { Outcome::Committed } else { Outcome::Conflict };
        if holds {
            apply(&mut self.state.visible.borrow_mut(), &transaction);
            let begun = self.state.last_due.get().max(self.clock.now());
            let due = Instant(begun.0 + self.state.commit_ns);
            self.state.last_due.set(due);
            self.state.pending.borrow_mut().push_back((due, transaction));
            self.settle();
        }
        let durable = self.until_durable();
        Box::pin(async move {
            durable.await;
            Ok(outcome)
        })
    }
}
