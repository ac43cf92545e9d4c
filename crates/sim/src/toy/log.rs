//! The toy's log file: append, sync, and the recovery that copies what is valid into the next file.

use super::record::{Header, PAGE, Place, Record, Verb, decode, encode};
use super::{Bug, State};
use block::{Error, Kind, Result};
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use world::{Disk, File};

pub struct Log {
    bug: Bug,
    file: Rc<dyn File>,
    tail: Cell<u64>,
    sequence: Cell<u64>,
    durable_through: Cell<u64>,
    chain: Cell<u32>,
    /// Set by a failed sync: nothing is promised any more until a restart.
    poisoned: Cell<bool>,
}

/// A valid record as recovery found it.
struct Found {
    header: Header,
    record: Record,
    header_crc: u32,
    payload_is_good: bool,
    at: u64,
}

fn to_block(error: world::Error) -> Error {
    let kind = if error.kind == world::Kind::Full { Kind::Full } else { Kind::Io };
    Error::new(kind, error.to_string())
}

fn file_name(number: u64) -> String {
    format!("log-{number:08}")
}

impl Log {
    pub async fn append(&self, record: &Record) -> Result<Place> {
        self.append_with_crc(record, base::crc::crc32c(&record.payload)).await
    }

    /// Copying damaged bytes keeps the checksum that they fail.
    async fn append_with_crc(&self, record: &Record, crc: u32) -> Result<Place> {
        if self.poisoned.get() {
            return Err(Error::new(Kind::Io, "a sync has failed; nothing is promised until a restart"));
        }
        let sequence = self.sequence.get() + 1;
        let chain = if self.bug == Bug::Resurrects { 0 } else { self.chain.get() };
        let (header, header_crc) = encode(record, crc, sequence, self.durable_through.get(), chain);
        let at = self.tail.get();
        // On an error the tail stays: the next record overwrites what the failed one left.
        self.file.write(at, &[header, record.payload.clone()]).await.map_err(to_block)?;
        self.tail.set(at + PAGE + base::units::round_up(record.payload.len() as u64, PAGE));
        self.sequence.set(sequence);
        self.chain.set(header_crc);
        Ok(Place { offset: at + PAGE, len: record.payload.len(), crc, index: 0 })
    }

    pub async fn sync(&self) -> Result<()> {
        if self.bug == Bug::ForgetsSync {
            return Ok(());
        }
        if self.poisoned.get() {
            return Err(Error::new(Kind::Io, "an earlier sync has failed"));
        }
        let sequence = self.sequence.get();
        let mut result = self.file.sync().await;
        if result.is_err() && self.bug == Bug::RetriesSync {
            result = self.file.sync().await;
        }
        // One that went on beside a failed one may succeed only because there was nothing dirty left.
        match result {
            Ok(()) if self.poisoned.get() => Err(Error::new(Kind::Io, "a sync has failed meanwhile")),
            Ok(()) => {
                self.durable_through.set(self.durable_through.get().max(sequence));
                Ok(())
            }
            Err(_) if self.bug == Bug::HidesFailedSync => Ok(()),
            Err(error) => {
                self.poisoned.set(true);
                Err(to_block(error))
            }
        }
    }

    pub async fn read(&self, place: &Place) -> Result<Bytes> {
        let payload = self.file.read(place.offset, place.len).await.map_err(to_block)?;
        if self.bug != Bug::TrustsReads && base::crc::crc32c(&payload) != place.crc {
            return Err(Error::new(Kind::Corrupt, format!("payload at {} fails its checksum", place.offset)));
        }
        Ok(payload)
    }

    pub async fn recover(bug: Bug, disk: Rc<dyn Disk>, state: &mut State) -> Result<Log> {
        let names: Vec<String> = disk.list().await.map_err(to_block)?.into_iter().map(|entry| entry.name).collect();
        let mut current = None;
        for name in names.iter().rev() {
            let file = disk.open(name).await.map_err(to_block)?;
            // The first page is written last: a file without it was never finished.
            let is_done = file.read(0, 4).await.map_err(to_block)?[..] == *b"done";
            if current.is_none() && (is_done || names.len() == 1) {
                current = Some((name.clone(), file));
            }
        }
        let number = names.last().and_then(|name| name.strip_prefix("log-")?.parse().ok()).unwrap_or(0) + 1;
        let found = match &current {
            Some((_, file)) => scan(bug, file, state).await?,
            None => Vec::new(),
        };
        if (bug == Bug::Resurrects || state.damaged)
            && let Some((_, file)) = current
        {
            return Log::go_on(bug, file, found, state);
        }
        let file = disk.create(&file_name(number)).await.map_err(to_block)?;
        let log = Log::copy(bug, file, current.as_ref().map(|(_, file)| file), found, state).await?;
        for name in names {
            disk.remove(&name).await.map_err(to_block)?;
        }
        Ok(log)
    }

    async fn copy(
        bug: Bug,
        file: Rc<dyn File>,
        old: Option<&Rc<dyn File>>,
        found: Vec<Found>,
        state: &mut State,
    ) -> Result<Log> {
        let log = Log::at(bug, file, PAGE);
        for Found { mut record, header, at, .. } in found {
            if let Some(old) = old {
                record.payload = old.read(at + PAGE, header.payload_len).await.map_err(to_block)?;
            }
            let place = log.append_with_crc(&record, header.payload_crc).await?;
            state.apply(&record, &place);
        }
        log.file.sync().await.map_err(to_block)?;
        log.durable_through.set(log.sequence.get());
        log.file.write(0, &[Bytes::from_static(b"done")]).await.map_err(to_block)?;
        log.file.sync().await.map_err(to_block)?;
        Ok(log)
    }

    fn go_on(bug: Bug, file: Rc<dyn File>, found: Vec<Found>, state: &mut State) -> Result<Log> {
        let log = Log::at(bug, file, PAGE);
        for Found { record, header, at, header_crc, .. } in found {
            let (len, crc) = (header.payload_len, header.payload_crc);
            let record = Record { payload: vec![0; len].into(), ..record };
            state.apply(&record, &Place { offset: at + PAGE, len, crc, index: 0 });
            log.tail.set(at + header.stored_bytes());
            log.sequence.set(header.sequence);
            log.chain.set(header_crc);
        }
        Ok(log)
    }

    fn at(bug: Bug, file: Rc<dyn File>, tail: u64) -> Log {
        Log {
            bug,
            file,
            tail: Cell::new(tail),
            sequence: Cell::new(0),
            durable_through: Cell::new(0),
            chain: Cell::new(0),
            poisoned: Cell::new(false),
        }
    }
}

/// The valid records from the front. Damage below what is known to have been synced is marked, not taken for a tail.
async fn scan(bug: Bug, file: &Rc<dyn File>, state: &mut State) -> Result<Vec<Found>> {
    let (mut found, mut at, mut chain, mut durable) = (Vec::<Found>::new(), PAGE, 0, 0);
    let size = file.size_bytes();
    while at < size {
        let page = file.read(at, PAGE as usize).await.map_err(to_block)?;
        let expected = found.last().map_or(1, |last| last.header.sequence + 1);
        let in_chain = |header: &Header| {
            header.sequence == expected && (header.chain == chain || bug == Bug::Resurrects) || bug == Bug::SkipsHoles
        };
        let Some((header, record, header_crc)) = decode(&page).filter(|(header, _, _)| in_chain(header)) else {
            if bug == Bug::SkipsHoles {
                at += PAGE;
                continue;
            }
            state.damaged |= bug != Bug::Resurrects && durable_behind(file, at, found.len() as u64).await?;
            break;
        };
        let payload = file.read(at + PAGE, header.payload_len).await.map_err(to_block)?;
        let payload_is_good = base::crc::crc32c(&payload) == header.payload_crc || bug == Bug::TrustsPayload;
        durable = durable.max(header.durable_through);
        let next = at + header.stored_bytes();
        if bug != Bug::SkipsHoles || payload_is_good {
            found.push(Found { header, record, header_crc, payload_is_good, at });
        }
        (at, chain) = (next, header_crc);
    }
    let torn = |found: &Found| !found.payload_is_good && found.header.sequence > durable;
    let end = found.iter().position(torn).unwrap_or(found.len());
    found.truncate(end);
    if bug == Bug::ForgetsTrims {
        found.retain(|found| !matches!(found.record.verb, Verb::Zero { .. }));
    }
    if bug == Bug::TrustsPayload {
        for found in &mut found {
            let payload = file.read(found.at + PAGE, found.header.payload_len).await.map_err(to_block)?;
            found.header.payload_crc = base::crc::crc32c(&payload);
        }
    }
    Ok(found)
}

/// Whether some record behind a break proves that the broken one had been synced.
async fn durable_behind(file: &Rc<dyn File>, from: u64, valid: u64) -> Result<bool> {
    let mut at = from;
    while at < file.size_bytes() {
        let page = file.read(at, PAGE as usize).await.map_err(to_block)?;
        if decode(&page).is_some_and(|(header, _, _)| header.durable_through > valid) {
            return Ok(true);
        }
        at += PAGE;
    }
    Ok(false)
}
