//! The store in a file.

use super::*;
use crate::{Job, Kind, Outcome, RedbCore, RedbStore, Store, Submit, Transaction};
use bytes::Bytes;
use redb::StorageBackend;
use std::collections::VecDeque;

fn kind<T>(result: crate::Result<T>) -> Kind {
    result.err().expect("an error").kind
}

#[test]
fn what_was_committed_is_there_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meta.redb");
    let mut core = RedbCore::open(&path).expect("a new file");
    let put = Transaction::new().put(Bytes::from_static(b"k"), Bytes::from_static(b"1"));
    assert_eq!(core.commit(&put).expect("room"), Outcome::Committed);
    assert_eq!(kind(RedbCore::open(&path)), Kind::Locked);
    drop(core);
    let mut core = RedbCore::open(&path).expect("the same file");
    assert_eq!(core.get(b"k").expect("stored"), Some(Bytes::from_static(b"1")));
}

#[test]
fn a_file_of_a_newer_build_or_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meta.redb");
    let newer = redb::Database::create(&path).expect("a new file");
    let transaction = newer.begin_write().expect("a writer");
    let about: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("about");
    let two = 2_u32.to_le_bytes();
    transaction.open_table(about).expect("a table").insert(b"format".as_slice(), two.as_slice()).expect("room");
    transaction.commit().expect("room");
    drop(newer);
    let error = RedbCore::open(&path).err().expect("an error");
    assert_eq!(error.kind, Kind::UnsupportedFormat);
    assert!(error.to_string().contains("version 2; this build reads version 1"), "{error}");

    let garbage = redb::backends::InMemoryBackend::new();
    garbage.set_len(100_000).and_then(|()| garbage.write(0, &[b'x'; 100_000])).expect("memory");
    assert_eq!(kind(RedbCore::with_backend(garbage)), Kind::Corrupt);
}

/// Keeps jobs until it is told to run or to drop them.
#[derive(Clone, Default)]
struct Later(Rc<RefCell<VecDeque<Job>>>);

impl Submit for Later {
    fn submit(&self, job: Job) {
        self.0.borrow_mut().push_back(job);
    }
}

#[test]
fn answers_come_when_the_owner_of_the_core_gets_to_them_or_goes_away() {
    let mut core = RedbCore::with_backend(redb::backends::InMemoryBackend::new()).expect("memory");
    let later = Later::default();
    let store = RedbStore::new(Box::new(later.clone()));
    let mut answer = store.get(b"k");
    let mut context = Context::from_waker(Waker::noop());
    assert!(answer.as_mut().poll(&mut context).is_pending());
    let job = later.0.borrow_mut().pop_front().expect("the job was submitted");
    job(&mut core);
    assert_eq!(run(answer).expect("answered"), None);

    let answer = store.scan(b"", None, 1);
    later.0.borrow_mut().clear();
    assert_eq!(kind(run(answer)), Kind::Closed);
}
