//! The store of the simulation: delays and crashes.

use super::*;
use crate::{MemStore, Outcome, Store, Transaction};
use bytes::Bytes;

fn put(key: &'static str) -> Transaction {
    Transaction::new().put(Bytes::from_static(key.as_bytes()), Bytes::from_static(b"1"))
}

#[test]
fn a_crash_loses_what_was_not_durable_and_nothing_else() {
    let time = Rc::new(Cell::new(0));
    let store = MemStore::new(Rc::new(TestClock(time.clone())), 100);
    assert_eq!(run(store.commit(put("a"))).expect("works"), Outcome::Committed);
    assert_eq!(time.get(), 100);
    let (second, third) = (store.commit(put("b")), store.commit(put("c")));
    time.set(250);
    store.crash();
    assert_eq!(store.snapshot().keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(run(store.get(b"c")).expect("works"), None);
    drop((second, third));
    assert_eq!(run(store.commit(put("d"))).expect("works"), Outcome::Committed);
    assert_eq!(time.get(), 350, "a crash also ends the queue");
    let copy = MemStore::restore(Rc::new(TestClock(time)), 1, store.snapshot());
    assert_eq!(run(copy.scan(b"", None, 9)).expect("works").len(), 3);
}

#[test]
fn nobody_reads_what_a_crash_could_still_take() {
    let time = Rc::new(Cell::new(0));
    let store = MemStore::new(Rc::new(TestClock(time.clone())), 100);
    let commit = store.commit(put("a"));
    let read = store.get(b"a");
    assert_eq!(run(read).expect("works"), Some(Bytes::from_static(b"1")));
    assert_eq!(time.get(), 100, "the answer waits for the commit");
    assert_eq!(run(commit).expect("works"), Outcome::Committed);
    assert_eq!(time.get(), 100);
}
