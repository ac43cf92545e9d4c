//! What every store honours.

use super::*;
use crate::{Error, Kind, MemStore, Outcome, RedbCore, RedbStore, Store, Transaction, VALUE_BYTES_MAX};
use bytes::Bytes;
use std::collections::BTreeMap;

fn stores() -> Vec<(&'static str, Box<dyn Store>)> {
    let core = RedbCore::with_backend(redb::backends::InMemoryBackend::new()).expect("memory");
    vec![
        ("redb", Box::new(RedbStore::new(Box::new(AtOnce(RefCell::new(core)))))),
        ("memory, slow", Box::new(MemStore::new(Rc::new(TestClock::default()), 50))),
        ("memory, at once", Box::new(MemStore::new(Rc::new(TestClock::default()), 0))),
    ]
}

fn b(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn commit(store: &dyn Store, transaction: Transaction) -> Outcome {
    run(store.commit(transaction)).expect("the store works")
}

fn keys(store: &dyn Store, prefix: &'static str, after: Option<&'static str>, limit: usize) -> Vec<Bytes> {
    let found = run(store.scan(prefix.as_bytes(), after.map(str::as_bytes), limit)).expect("the store works");
    found.into_iter().map(|(key, _)| key).collect()
}

#[test]
fn puts_are_read_and_deletes_are_gone() {
    for (name, store) in stores() {
        assert_eq!(run(store.get(b"a")).expect(name), None);
        assert_eq!(commit(&*store, Transaction::new().put(b("a"), b("1")).put(b("b"), b(""))), Outcome::Committed);
        assert_eq!(run(store.get(b"a")).expect(name), Some(b("1")));
        assert_eq!(run(store.get(b"b")).expect(name), Some(b("")), "{name}: an empty value is a value");
        let change = Transaction::new().delete(b("a")).delete(b("never there")).put(b("b"), b("2"));
        assert_eq!(commit(&*store, change), Outcome::Committed);
        assert_eq!(run(store.get(b"a")).expect(name), None);
        assert_eq!(run(store.get(b"b")).expect(name), Some(b("2")));
        assert_eq!(commit(&*store, Transaction::new()), Outcome::Committed, "{name}: nothing to do");
    }
}

#[test]
fn scans_are_ordered_and_paged() {
    for (name, store) in stores() {
        let mut all = Transaction::new();
        for key in ["v/2", "v/1", "v", "v/10", "u/9", "w", "v0"] {
            all = all.put(b(key), b("x"));
        }
        assert_eq!(commit(&*store, all), Outcome::Committed);
        assert_eq!(keys(&*store, "v/", None, 9), [b("v/1"), b("v/10"), b("v/2")], "{name}");
        assert_eq!(keys(&*store, "v/", None, 2), [b("v/1"), b("v/10")], "{name}");
        assert_eq!(keys(&*store, "v/", Some("v/10"), 9), [b("v/2")], "{name}");
        assert_eq!(keys(&*store, "v/", Some("v/11"), 9), [b("v/2")], "{name}: behind what is not there");
        assert_eq!(keys(&*store, "v/", Some("a"), 1), [b("v/1")], "{name}: behind what lies before");
        assert_eq!(keys(&*store, "v/", Some("v/2"), 9), Vec::<Bytes>::new(), "{name}");
        assert_eq!(keys(&*store, "v/", Some("z"), 9), Vec::<Bytes>::new(), "{name}");
        assert_eq!(keys(&*store, "", None, 99).len(), 7, "{name}");
        assert_eq!(keys(&*store, "v/", None, 0).len(), 0, "{name}");
    }
}

#[test]
fn a_compare_that_does_not_hold_changes_nothing() {
    for (name, store) in stores() {
        let create = |value| Transaction::new().compare(b("k"), None).put(b("k"), b(value)).put(b("other"), b(value));
        assert_eq!(commit(&*store, create("1")), Outcome::Committed);
        assert_eq!(commit(&*store, create("2")), Outcome::Conflict);
        assert_eq!(run(store.get(b"other")).expect(name), Some(b("1")), "{name}");
        let swap = |from, to| Transaction::new().compare(b("k"), Some(b(from))).put(b("k"), b(to)).delete(b("other"));
        assert_eq!(commit(&*store, swap("9", "3")), Outcome::Conflict);
        assert_eq!(commit(&*store, swap("1", "3")), Outcome::Committed);
        assert_eq!(run(store.get(b"k")).expect(name), Some(b("3")), "{name}");
        assert_eq!(run(store.get(b"other")).expect(name), None, "{name}");
        let two = Transaction::new().compare(b("k"), Some(b("3"))).compare(b("gone"), Some(b(""))).delete(b("k"));
        assert_eq!(commit(&*store, two), Outcome::Conflict, "{name}: every compare counts");
    }
}

/// The second of two commits that were both called sees the first, although nobody has waited for that yet.
#[test]
fn operations_take_effect_in_the_order_of_calls() {
    for (name, store) in stores() {
        let first = store.commit(Transaction::new().put(b("k"), b("1")));
        let read = store.get(b"k");
        let second = store.commit(Transaction::new().compare(b("k"), Some(b("1"))).put(b("k"), b("2")));
        let scan = store.scan(b"k", None, 9);
        assert_eq!(run(scan).expect(name), [(b("k"), b("2"))], "{name}");
        assert_eq!(run(second).expect(name), Outcome::Committed, "{name}");
        assert_eq!(run(read).expect(name), Some(b("1")), "{name}");
        assert_eq!(run(first).expect(name), Outcome::Committed, "{name}");
    }
}

#[test]
fn transactions_that_break_a_rule_are_refused() {
    for (name, store) in stores() {
        for (what, bad) in [
            ("an empty key", Transaction::new().put(b(""), b("1"))),
            ("an empty key to compare", Transaction::new().compare(b(""), None)),
            ("a long key", Transaction::new().delete(vec![b'k'; 1025])),
            ("a long value", Transaction::new().put(b("k"), vec![0; VALUE_BYTES_MAX + 1])),
            ("put twice", Transaction::new().put(b("k"), b("1")).put(b("k"), b("2"))),
            ("put and deleted", Transaction::new().put(b("k"), b("1")).delete(b("k"))),
        ] {
            let error: Error = run(store.commit(bad)).expect_err(what);
            assert_eq!(error.kind, Kind::Invalid, "{name}: {what}");
        }
        assert_eq!(run(store.get(b"k")).expect(name), None);
        assert_eq!(commit(&*store, Transaction::new().put(b("k"), vec![7; VALUE_BYTES_MAX])), Outcome::Committed);
    }
}

/// Random operations on tiny key sets, against a map.
#[test]
fn stores_behave_like_a_map() {
    for seed in 1..=20_u64 {
        for (name, store) in stores() {
            let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut next = |end: u64| {
                x ^= x >> 12;
                x ^= x << 25;
                x ^= x >> 27;
                (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
            };
            for step in 0..60 {
                let key = |n: u64| Bytes::from(format!("k{n}"));
                let (to_put, to_delete, to_compare) = (key(next(6)), key(6 + next(2)), key(next(8)));
                let expected = if next(3) > 0 { model.get(&to_compare).cloned() } else { None };
                let holds = model.get(&to_compare) == expected.as_ref();
                let value = Bytes::from(format!("{step}"));
                let transaction = Transaction::new()
                    .compare(to_compare, expected)
                    .put(to_put.clone(), value.clone())
                    .delete(to_delete.clone());
                let outcome = run(store.commit(transaction)).expect("the store works");
                assert_eq!(outcome == Outcome::Committed, holds, "{name}, seed {seed}, step {step}");
                if holds {
                    model.insert(to_put, value);
                    model.remove(&to_delete);
                }
                let found = run(store.scan(b"k", None, 99)).expect("the store works");
                assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>(), "{name}, seed {seed}, step {step}");
            }
        }
    }
}
