//! The trait: ordered keys, reads, and transactions with compare.

use crate::{Error, Kind, Result};
use bytes::Bytes;
use std::ops::Bound;
use world::LocalFuture;

/// Longest key and longest value, bytes. Records are small; what is larger than this belongs into a log.
pub const KEY_BYTES_MAX: usize = 1 << 10;
pub const VALUE_BYTES_MAX: usize = 64 << 10;

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

    /// The rules that every store enforces: `Invalid` if a key is empty or too long, a value is too long, or a key is
    /// changed twice.
    pub fn check(&self) -> Result<()> {
        let changed: Vec<&Bytes> = self.puts.iter().map(|(key, _)| key).chain(&self.deletes).collect();
        let all = changed.iter().copied().chain(self.compares.iter().map(|compare| &compare.key));
        let invalid = |text: String| Err(Error::new(Kind::Invalid, text));
        if let Some(key) = all.into_iter().find(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return invalid(format!("a key of {} bytes: 1 to {KEY_BYTES_MAX} are allowed", key.len()));
        }
        if let Some((key, value)) = self.puts.iter().find(|(_, value)| value.len() > VALUE_BYTES_MAX) {
            return invalid(format!("{key:?} has {} bytes: {VALUE_BYTES_MAX} are allowed", value.len()));
        }
        let mut sorted = changed;
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => invalid(format!("{:?} is changed twice in one transaction", pair[0])),
            None => Ok(()),
        }
    }
}

/// Where a scan begins: at the prefix, or behind `after` if that comes later.
pub(crate) fn scan_range<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    (start, Bound::Unbounded)
}
