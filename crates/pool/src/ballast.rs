//! The reserve: a file that is allocated in advance, and given up piece by piece when nothing else makes room.

use crate::{Error, Kind, Result};
use base::units::{BLOCK, KIB, MIB, round_down, round_up};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use world::{Disk, File};

pub(crate) const NAME: &str = "ballast";
/// One bite is a sixteenth of the reserve, within these: large enough that a checkpoint seldom needs two, small enough
/// that there are many.
const STEP_BYTES: std::ops::RangeInclusive<u64> = 64 * KIB..=4 * MIB;

/// As many zeros as one write ever carries.
static ZEROS: [u8; MIB as usize] = [0; MIB as usize];

/// `len` zeros as parts of a gather write.
pub(crate) fn push_zeros(parts: &mut Vec<Bytes>, len: u64) {
    let mut rest = len as usize;
    while rest > 0 {
        let part = rest.min(ZEROS.len());
        parts.push(Bytes::from_static(&ZEROS[..part]));
        rest -= part;
    }
}

/// Makes the range writable without `Full`; where the file system knows no such call, by writing zeros, so the caller
/// must not need what is there. True: zeros were written.
pub(crate) async fn allocate(file: &Rc<dyn File>, start: u64, end: u64) -> world::Result<bool> {
    match file.allocate(start, end - start).await {
        Err(e) if e.kind == world::Kind::Unsupported => {}
        other => return other.map(|()| false),
    }
    let mut at = start;
    while at < end {
        let len = (end - at).min(MIB);
        let mut parts = Vec::new();
        push_zeros(&mut parts, len);
        file.write(at, &parts).await?;
        at += len;
    }
    Ok(true)
}

pub(crate) struct Ballast {
    disk: Rc<dyn Disk>,
    file: RefCell<Option<Rc<dyn File>>>,
    target_bytes: u64,
    held_bytes: Cell<u64>,
}

impl Ballast {
    /// Holds nothing yet, whatever the file of an earlier start holds: [`Ballast::grow`] finds out.
    pub fn new(disk: Rc<dyn Disk>, target_bytes: u64) -> Self {
        Ballast { disk, file: RefCell::default(), target_bytes, held_bytes: Cell::new(0) }
    }

    pub fn target_bytes(&self) -> u64 {
        self.target_bytes
    }
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.get()
    }
    pub fn is_whole(&self) -> bool {
        self.held_bytes.get() == self.target_bytes
    }

    async fn file(&self) -> Result<Rc<dyn File>> {
        if let Some(file) = &*self.file.borrow() {
            return Ok(file.clone());
        }
        let opened = match self.disk.open(NAME).await {
            Err(e) if e.kind == world::Kind::NotFound => self.disk.create(NAME).await,
            other => other,
        };
        let file = opened.map_err(|e| Error::from_disk("cannot open the ballast", e))?;
        self.file.replace(Some(file.clone()));
        Ok(file)
    }

    /// Grows towards the target, and no further than `bytes_max`. `Ok` says nothing of how far it came.
    pub async fn grow(&self, bytes_max: u64) -> Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        let goal = round_down(self.target_bytes.min(bytes_max), BLOCK);
        let file = self.file().await?;
        if self.target_bytes < file.size_bytes() {
            // The setting is smaller than it was.
            let surplus = file.punch(self.target_bytes, file.size_bytes() - self.target_bytes).await;
            surplus.map_err(|e| Error::from_disk("cannot shrink the ballast", e)).or_else(ignore_io)?;
        }
        let mut step = goal;
        while self.held_bytes.get() < goal {
            let held = self.held_bytes.get();
            let end = goal.min(held + step);
            match allocate(&file, held, end).await {
                Ok(_) => self.held_bytes.set(end),
                Err(e) if e.kind == world::Kind::Full && end - held > BLOCK => step = round_up((end - held) / 2, BLOCK),
                Err(e) if e.kind == world::Kind::Full => return Ok(()),
                Err(e) => return Err(Error::from_disk("cannot allocate the ballast", e)),
            }
        }
        Ok(())
    }

    /// Gives up at least one step, from the end. False: there is nothing left.
    pub async fn shrink(&self) -> Result<bool> {
        let held = self.held_bytes.get();
        if held == 0 {
            return Ok(false);
        }
        let file = self.file().await?;
        let step = (self.target_bytes / 16).clamp(*STEP_BYTES.start(), *STEP_BYTES.end());
        let rest = held.saturating_sub(round_up(step, BLOCK));
        match file.punch(rest, held - rest).await {
            Ok(()) => self.held_bytes.set(rest),
            Err(e) if e.kind == world::Kind::Unsupported => {
                self.file.replace(None);
                self.held_bytes.set(0);
                self.disk.remove(NAME).await.map_err(|e| Error::from_disk("cannot remove the ballast", e))?;
            }
            Err(e) => return Err(Error::from_disk("cannot shrink the ballast", e)),
        }
        // Some file systems hand freed blocks out only when the change is on the medium. Nobody relies on the content.
        if let Err(error) = file.sync().await {
            tracing::warn!(%error, "the ballast's smaller size may not be durable");
        }
        Ok(true)
    }
}

/// A ballast that is larger than asked for does no harm.
fn ignore_io(error: Error) -> Result<()> {
    if error.kind == Kind::Io { Ok(()) } else { Err(error) }
}
