//! What an operation does to the files once it takes effect: in whole, in part, or not at all.

use super::pages::{Content, PAGE, Stamp, bytes_of, garbage, pieces};
use super::{Fault, FileCell, InFlight, Store};
use bytes::Bytes;
use std::rc::Rc;
use world::{Error, Kind, Result};

pub(super) enum Effect {
    Create { name: String },
    Remove { name: String },
    Write { file: Rc<FileCell>, offset: u64, data: Bytes },
    Sync { file: Rc<FileCell>, stamp: Stamp },
    Allocate { file: Rc<FileCell>, offset: u64, len: u64 },
    Punch { file: Rc<FileCell>, offset: u64, len: u64 },
}

fn error(kind: Kind, name: &str, detail: &str) -> Error {
    Error { kind, context: format!("simulated disk, file {name}"), detail: detail.to_string() }
}

fn refused(name: &str) -> Error {
    error(Kind::Io, name, "EIO by the fault plan")
}

impl Store {
    pub(super) fn apply(&mut self, effect: &Effect, fault: Option<Fault>) -> Result<()> {
        let fails = fault == Some(Fault::Error);
        if fails {
            self.damage.errors += 1;
        }
        match effect {
            Effect::Create { name } | Effect::Remove { name } if fails => Err(refused(name)),
            Effect::Create { name } => self.create(name),
            Effect::Remove { name } => match self.files.remove(name) {
                Some(_) => Ok(()),
                None => Err(error(Kind::NotFound, name, "remove")),
            },
            Effect::Write { file, offset, data } => self.write(file, *offset, data, fault),
            Effect::Sync { file, stamp } if fails => {
                self.damage.failed_syncs += 1;
                let evict = self.options.evict_after_failed_sync;
                self.count_space(file, |store, file| {
                    file.pages.borrow_mut().fail_sync(*stamp, evict, &mut store.rng);
                });
                Err(refused(&file.name))
            }
            Effect::Sync { file, stamp } => {
                let lost = std::mem::take(&mut *file.lost.borrow_mut());
                self.count_space(file, |_, file| file.pages.borrow_mut().sync(*stamp, &lost));
                Ok(())
            }
            Effect::Allocate { file, .. } | Effect::Punch { file, .. } if fails => Err(refused(&file.name)),
            Effect::Allocate { file, offset, len } => self.allocate(file, *offset, *len),
            Effect::Punch { file, offset, len } => {
                self.punch(file, *offset, *len);
                Ok(())
            }
        }
    }

    /// An operation that the crash found under way.
    pub(super) fn finish_at_crash(&mut self, effect: Effect, in_flight: InFlight) {
        let whole = match in_flight {
            InFlight::Undone => return,
            InFlight::Done => true,
            InFlight::Chance => self.rng.below(3) == 0,
        };
        // Whatever an unfinished operation answers, nobody is left to hear it.
        let _unheard = match effect {
            effect if whole => self.apply(&effect, None),
            Effect::Write { file, offset, data } => {
                self.write_partly(&file, offset, &data, false);
                Ok(())
            }
            effect if self.rng.below(2) == 0 => self.apply(&effect, None),
            _ => Ok(()),
        };
    }

    fn create(&mut self, name: &str) -> Result<()> {
        if self.files.contains_key(name) {
            return Err(error(Kind::Exists, name, "create"));
        }
        let file = FileCell {
            name: Rc::from(name),
            pages: Default::default(),
            writing: Default::default(),
            lost: Default::default(),
            allocated_bytes: self.allocated_bytes.clone(),
        };
        self.files.insert(name.to_string(), Rc::new(file));
        Ok(())
    }

    /// Runs a change of many pages and books the difference in space.
    fn count_space(&mut self, file: &FileCell, change: impl FnOnce(&mut Store, &FileCell)) {
        let before = file.pages.borrow().allocated_pages();
        change(self, file);
        let after = file.pages.borrow().allocated_pages();
        self.allocated_bytes.set(self.allocated_bytes.get() + after * PAGE - before * PAGE);
    }

    /// The kernel drops its copy of clean pages.
    pub(super) fn evict(&mut self, file: &FileCell) {
        self.count_space(file, |_, file| file.pages.borrow_mut().evict());
    }

    /// Sets one page and books the difference; false if there is no room for it.
    fn set_page(&mut self, file: &FileCell, index: u64, content: Content, stamp: Stamp) -> bool {
        let mut pages = file.pages.borrow_mut();
        let used = self.allocated_bytes.get();
        match (pages.is_allocated(index), content.is_some()) {
            (false, true) if used + PAGE > self.options.capacity_bytes => return false,
            (false, true) => self.allocated_bytes.set(used + PAGE),
            (true, false) => self.allocated_bytes.set(used - PAGE),
            _ => {}
        }
        pages.set(index, content, stamp);
        file.lost.borrow_mut().remove(&index);
        true
    }

    fn write(&mut self, file: &FileCell, offset: u64, data: &Bytes, fault: Option<Fault>) -> Result<()> {
        let stamp = self.next_stamp();
        let end = offset + data.len() as u64;
        match fault {
            Some(Fault::Error) => {
                self.write_partly(file, offset, data, true);
                return Err(refused(&file.name));
            }
            Some(Fault::Misdirected) => {
                self.damage.corruptions += 1;
                let pages_count = file.pages.borrow().size().max(end).div_ceil(PAGE);
                let page = (offset / PAGE + 1 + self.rng.below(pages_count)) % (pages_count + 1);
                let elsewhere = page * PAGE + offset % PAGE;
                self.journal.event("disk misdirected", &file.name, [offset, elsewhere, data.len() as u64]);
                file.pages.borrow_mut().grow(end, stamp);
                return self.write_at(file, elsewhere, data, stamp);
            }
            _ => {}
        }
        self.write_at(file, offset, data, stamp)?;
        if fault == Some(Fault::Lost) {
            self.damage.corruptions += 1;
            self.journal.event("disk lost", &file.name, [offset, data.len() as u64, 0]);
            file.lost.borrow_mut().extend(offset / PAGE..end.div_ceil(PAGE));
        }
        Ok(())
    }

    fn write_at(&mut self, file: &FileCell, offset: u64, data: &Bytes, stamp: Stamp) -> Result<()> {
        let end = offset + data.len() as u64;
        for (index, from, to) in pieces(offset, end) {
            let mut page = bytes_of(&file.pages.borrow().content(index));
            let start = (index * PAGE + from as u64 - offset) as usize;
            page[from..to].copy_from_slice(&data[start..start + to - from]);
            if !self.set_page(file, index, Some(Rc::new(page)), stamp) {
                self.damage.refused += 1;
                return Err(error(Kind::Full, &file.name, "ENOSPC: no page left for a write"));
            }
            file.pages.borrow_mut().grow((index * PAGE + to as u64).min(end), stamp);
        }
        Ok(())
    }

    /// Each sector old or new, and with `dirty_hands` sometimes neither.
    fn write_partly(&mut self, file: &FileCell, offset: u64, data: &Bytes, dirty_hands: bool) {
        let stamp = self.next_stamp();
        // Often a clean cut somewhere, as a buffered write leaves it; otherwise any subset.
        let cut = (self.rng.below(2) == 0).then(|| self.rng.below(data.len() as u64 + 1));
        for (index, from, to) in pieces(offset, offset + data.len() as u64) {
            let mut page = bytes_of(&file.pages.borrow().content(index));
            let (mut at, mut changed) = (from, false);
            while at < to {
                let next = ((at / 512 + 1) * 512).min(to);
                let start = (index * PAGE + at as u64 - offset) as usize;
                let fate = match cut {
                    Some(cut) => u64::from(start as u64 >= cut),
                    None => self.rng.below(if dirty_hands { 5 } else { 2 }),
                };
                if fate == 0 || fate == 2 {
                    page[at..next].copy_from_slice(&data[start..start + next - at]);
                    changed = true;
                } else if fate == 4 {
                    page[at..next].copy_from_slice(&garbage(&mut self.rng)[..next - at]);
                    changed = true;
                }
                at = next;
            }
            if changed && self.set_page(file, index, Some(Rc::new(page)), stamp) {
                file.pages.borrow_mut().grow(index * PAGE + to as u64, stamp);
            }
        }
    }

    fn allocate(&mut self, file: &FileCell, offset: u64, len: u64) -> Result<()> {
        let stamp = self.next_stamp();
        for (index, _, _) in pieces(offset, offset + len) {
            let missing = !file.pages.borrow().is_allocated(index);
            if missing && !self.set_page(file, index, Some(Rc::new([0; PAGE as usize])), stamp) {
                self.damage.refused += 1;
                return Err(error(Kind::Full, &file.name, "ENOSPC: no page left to allocate"));
            }
        }
        Ok(())
    }

    fn punch(&mut self, file: &FileCell, offset: u64, len: u64) {
        let stamp = self.next_stamp();
        for (index, from, to) in pieces(offset, offset + len) {
            let content = file.pages.borrow().content(index);
            let Some(page) = content else { continue };
            let content = (to - from < PAGE as usize).then(|| {
                let mut page = *page;
                page[from..to].fill(0);
                Rc::new(page)
            });
            self.set_page(file, index, content, stamp);
        }
    }
}
