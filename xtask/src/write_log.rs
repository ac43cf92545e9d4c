//! The log that QEMU's blklogwrites driver records, and disk images as a power cut would have left them.
//!
//! Bytes (Linux, Documentation/admin-guide/device-mapper/log-writes.rst, all little-endian, units of the log's sector):
//! sector 0: magic u64, version u64 = 1, entries u64, sector size u32. Each entry takes one sector: sector u64,
//! number of sectors u64, flags u64, length of extra data u64; the written bytes follow (none for a discard).

use crate::random::Random;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One request that reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where on the disk, bytes.
    pub offset: u64,
    pub len: u64,
    pub flush: bool,
    pub fua: bool,
    pub discard: bool,
    /// Where its bytes lie in the log file.
    pub data_at: u64,
    /// Length of the log file up to and including this entry.
    pub end: u64,
}

pub struct WriteLog {
    file: File,
    pub entries: Vec<Entry>,
}

impl WriteLog {
    pub fn open(path: &Path) -> Result<WriteLog> {
        let mut file = File::open(path)?;
        let mut head = [0u8; 28];
        file.read_exact(&mut head).context("superblock of the write log")?;
        let word = |bytes: &[u8], from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().expect("8 bytes"));
        ensure!(word(&head, 0) == MAGIC && word(&head, 8) == 1, "not a write log: {head:02x?}");
        let count = word(&head, 16);
        let sector = u64::from(u32::from_le_bytes(head[24..28].try_into().expect("4 bytes")));
        ensure!(sector == 512, "sectors of {sector} bytes");
        let (mut at, mut entries) = (sector, Vec::with_capacity(count as usize));
        for _ in 0..count {
            let mut bytes = [0u8; 32];
            file.read_exact_at(&mut bytes, at).context("the write log ends early")?;
            let (flags, len) = (word(&bytes, 16), word(&bytes, 8) * sector);
            if flags & !(FLUSH | FUA | DISCARD) != 0 {
                bail!("write log entry at {at} has flags {flags:#x}");
            }
            let discard = flags & DISCARD != 0;
            let data_at = at + sector;
            at = data_at + if discard { 0 } else { len };
            let (flush, fua) = (flags & FLUSH != 0, flags & FUA != 0);
            entries.push(Entry { offset: word(&bytes, 0) * sector, len, flush, fua, discard, data_at, end: at });
        }
        Ok(WriteLog { file, entries })
    }

    /// Index of the first entry behind what the log held when it was `len` bytes long.
    pub fn entries_within(&self, len: u64) -> usize {
        self.entries.partition_point(|entry| entry.end <= len)
    }

    fn apply(&self, entry: &Entry, image: &File, keep: impl Fn(u64) -> bool) -> Result<()> {
        if entry.discard {
            if keep(0) && entry.len > 0 {
                fallocate(image, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, entry.offset, entry.len)?;
            }
            return Ok(());
        }
        let mut bytes = vec![0u8; entry.len as usize];
        self.file.read_exact_at(&mut bytes, entry.data_at)?;
        for (index, sector) in bytes.chunks(512).enumerate() {
            if keep(index as u64) {
                image.write_all_at(sector, entry.offset + index as u64 * 512)?;
            }
        }
        Ok(())
    }

    /// Applies the entries `from..to` whole.
    pub fn replay(&self, image: &File, from: usize, to: usize) -> Result<()> {
        for entry in &self.entries[from..to] {
            self.apply(entry, image, |_| true)?;
        }
        Ok(())
    }

    /// The last flush among the first `cut` entries: all before it is certain to be on the disk.
    pub fn certain(&self, cut: usize) -> usize {
        self.entries[..cut].iter().rposition(|entry| entry.flush).map_or(0, |index| index + 1)
    }

    /// Behind `certain` the disk's cache decides: each entry up to `cut` arrives whole, torn at 512 bytes, or not at
    /// all; those with FUA arrive.
    pub fn replay_uncertain(&self, image: &File, certain: usize, cut: usize, random: &mut Random) -> Result<u64> {
        let mut dropped = 0;
        for entry in &self.entries[certain..cut] {
            match random.below(4) {
                _ if entry.fua => self.apply(entry, image, |_| true)?,
                0 | 1 => self.apply(entry, image, |_| true)?,
                2 => {
                    let mask = random.next();
                    self.apply(entry, image, |index| mask >> (index % 64) & 1 == 1)?;
                    dropped += 1;
                }
                _ => dropped += 1,
            }
        }
        Ok(dropped)
    }
}
