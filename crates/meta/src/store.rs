//! The trait: ordered keys, reads, and transactions with compare.

use crate::Result;
use bytes::Bytes;
use world::LocalFuture;

/// Commit only if `key` holds `expected` now (`None`: does not exist).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    pub expected: Option<Bytes>,
}

/// All or nothing. A key appears at most once among puts and deletes; deletes of what is not there are fine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub puts: Vec<(Bytes, Bytes)>,
    pub deletes: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    Committed,
    /// A compare did not hold; nothing was changed.
    Conflict,
}

/// A small, strongly consistent store. Operations take effect in the order of calls.
pub trait Store {
    fn get(&self, key: &[u8]) -> LocalFuture<Result<Option<Bytes>>>;
    /// Keys that begin with `prefix`, in order of bytes, behind `after` if given, at most `limit` of them.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> LocalFuture<Result<Vec<(Bytes, Bytes)>>>;
    /// When it completes with `Committed` the changes survive power loss.
    fn commit(&self, transaction: Transaction) -> LocalFuture<Result<Outcome>>;
}

impl Transaction {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn compare(mut self, key: impl Into<Bytes>, expected: Option<Bytes>) -> Self {
        self.compares.push(Compare { key: key.into(), expected });
        self
    }
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.puts.push((key.into(), value.into()));
        self
    }
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.deletes.push(key.into());
        self
    }
}
