//! The embedded store: redb in one file, used by one thread that is not ours.
//!
//! [`RedbCore`] is synchronous and knows no threads. Whoever owns one gives [`RedbStore`] a [`Submit`] that runs jobs on
//! it, one after the other, in the order in which they came.

use crate::oneshot::{Receiver, oneshot};
use crate::{Error, Kind, Outcome, Result, Store, Transaction};
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use std::path::{Path, PathBuf};
use world::LocalFuture;

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// `format`: u32, little-endian.
const ABOUT: TableDefinition<&[u8], &[u8]> = TableDefinition::new("about");
const FORMAT_KEY: &[u8] = b"format";
const FORMAT: u32 = 1;
/// The records of a thousand vDisks are about 200 KiB.
const CACHE_BYTES: usize = 4 << 20;

/// The synchronous store.
pub struct RedbCore {
    /// `None` only between closing and reopening.
    database: Option<Database>,
    /// Where to open it again; a store on the caller's backend has none.
    path: Option<PathBuf>,
}

impl RedbCore {
    /// Opens the file, or makes it. `Locked`: another process has it; `Corrupt`: delete it and run `drystone recover`.
    pub fn open(path: &Path) -> Result<Self> {
        let context = |e: redb::Error| failed(&format!("cannot open {}", path.display()), e);
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        Self::begin(builder.create(path).map_err(|e| context(e.into()))?, Some(path.to_path_buf()))
    }

    /// The same on storage of the caller's.
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let opened = builder.create_with_backend(backend);
        Self::begin(opened.map_err(|e| failed("cannot open the metadata store", e.into()))?, None)
    }

    fn begin(database: Database, path: Option<PathBuf>) -> Result<Self> {
        let core = RedbCore { database: Some(database), path };
        match core.format().map_err(|e| failed("cannot read the metadata store", e))? {
            None => core.write_format().map_err(|e| failed("cannot begin the metadata store", e))?,
            Some(FORMAT) => {}
            Some(other) => {
                let text = format!("the metadata store has format version {other}; this build reads version {FORMAT}");
                return Err(Error::new(Kind::UnsupportedFormat, text));
            }
        }
        Ok(core)
    }

    fn database(&self) -> std::result::Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::PreviousIo)
    }

    /// After an I/O error (a full disk among them) redb refuses everything until the file is opened again.
    fn reopen(&mut self) -> Result<bool> {
        let Some(path) = self.path.clone() else { return Ok(false) };
        self.database = None;
        *self = RedbCore::open(&path)?;
        Ok(true)
    }

    fn format(&self) -> std::result::Result<Option<u32>, redb::Error> {
        let about = match self.database()?.begin_read()?.open_table(ABOUT) {
            Ok(about) => about,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let value = about.get(FORMAT_KEY)?;
        // A value of another length is a version that does not exist.
        Ok(value.map(|value| value.value().try_into().map_or(u32::MAX, u32::from_le_bytes)))
    }

    fn write_format(&self) -> std::result::Result<(), redb::Error> {
        let transaction = self.begin_write()?;
        transaction.open_table(ABOUT)?.insert(FORMAT_KEY, FORMAT.to_le_bytes().as_slice())?;
        transaction.open_table(RECORDS)?;
        transaction.commit()?;
        Ok(())
    }

    /// Commits are durable (`Durability::Immediate` is redb's default), and in two phases, with a sync each: after a failed
    /// sync of the first the file is opened again as it was before the commit that was refused, whatever the page cache
    /// says, and a start never takes an older commit because the last one has rotted. "Quick repair" has that with it, and
    /// spares a start after a crash the walk over the whole file.
    fn begin_write(&self) -> std::result::Result<redb::WriteTransaction, redb::Error> {
        let mut transaction = self.database()?.begin_write()?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>> {
        let read = || -> std::result::Result<_, redb::Error> {
            let table = self.database()?.begin_read()?.open_table(RECORDS)?;
            Ok(table.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
        };
        read().map_err(|e| failed("cannot read the metadata store", e))
    }

    pub fn scan(&mut self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let read = || -> std::result::Result<_, redb::Error> {
            let table = self.database()?.begin_read()?.open_table(RECORDS)?;
            let mut found = Vec::new();
            for entry in table.range::<&[u8]>(crate::store::scan_range(prefix, after))? {
                let (key, value) = entry?;
                if found.len() == limit || !key.value().starts_with(prefix) {
                    break;
                }
                found.push((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())));
            }
            Ok(found)
        };
        read().map_err(|e| failed("cannot read the metadata store", e))
    }

    pub fn commit(&mut self, transaction: &Transaction) -> Result<Outcome> {
        transaction.check()?;
        let context = "cannot write the metadata store";
        if self.database.is_none() {
            self.reopen()?;
        }
        match self.write(transaction) {
            Err(redb::Error::PreviousIo) if self.reopen()? => self.write(transaction).map_err(|e| failed(context, e)),
            result => result.map_err(|e| failed(context, e)),
        }
    }

    fn write(&mut self, wanted: &Transaction) -> std::result::Result<Outcome, redb::Error> {
        let transaction = self.begin_write()?;
        let outcome = {
            let mut table = transaction.open_table(RECORDS)?;
            let mut holds = true;
            for compare in &wanted.compares {
                let found = table.get(&compare.key[..])?;
                holds &= found.as_ref().map(|value| value.value()) == compare.expected.as_deref();
            }
            if holds {
                for key in &wanted.deletes {
                    table.remove(&key[..])?;
                }
                for (key, value) in &wanted.puts {
                    table.insert(&key[..], &value[..])?;
                }
                Outcome::Committed
            } else {
                Outcome::Conflict
            }
        };
        match outcome {
            Outcome::Committed => transaction.commit()?,
            Outcome::Conflict => transaction.abort()?,
        }
        Ok(outcome)
    }
}

fn failed(context: &str, source: redb::Error) -> Error {
    let kind = match &source {
        redb::Error::DatabaseAlreadyOpen => Kind::Locked,
        redb::Error::UpgradeRequired(_) => Kind::UnsupportedFormat,
        redb::Error::Corrupted(_) => Kind::Corrupt,
        redb::Error::Io(e) => match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::Full,
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => Kind::Corrupt,
            _ => Kind::Io,
        },
        _ => Kind::Io,
    };
    Error::new(kind, format!("{context}: {source}"))
}

/// Work for whoever owns the core.
pub type Job = Box<dyn FnOnce(&mut RedbCore) + Send>;

/// Runs jobs on a core, in order. A job that is dropped instead is seen by its caller as `Closed`.
pub trait Submit {
    fn submit(&self, job: Job);
}

/// The store as a worker sees it.
pub struct RedbStore {
    submit: Box<dyn Submit>,
}

impl RedbStore {
    pub fn new(submit: Box<dyn Submit>) -> Self {
        RedbStore { submit }
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut RedbCore) -> Result<T> + Send + 'static,
    ) -> LocalFuture<Result<T>> {
        let (sender, receiver): (_, Receiver<Result<T>>) = oneshot();
        self.submit.submit(Box::new(move |core| sender.send(job(core))));
        Box::pin(async move {
            receiver.await.unwrap_or_else(|| Err(Error::new(Kind::Closed, "the metadata store was shut down")))
        })
    }
}

impl Store for RedbStore {
    fn get(&self, key: &[u8]) -> LocalFuture<Result<Option<Bytes>>> {
        let key = key.to_vec();
        self.run(move |core| core.get(&key))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> LocalFuture<Result<Vec<(Bytes, Bytes)>>> {
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        self.run(move |core| core.scan(&prefix, after.as_deref(), limit))
    }

    fn commit(&self, transaction: Transaction) -> LocalFuture<Result<Outcome>> {
        self.run(move |core| core.commit(&transaction))
    }
}
