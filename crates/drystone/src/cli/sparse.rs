//! Where data is: holes of files, and zeros inside what is read.

use anyhow::{Context, Result};
use base::units::{BLOCK, round_down, round_up};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;

/// Zeros are looked for in these units; the vDisk's own block, so that nothing partial is written.
const UNIT: usize = BLOCK as usize;
/// A run of zeros shorter than this is written like data: an interruption costs a request of its own, some 50 µs, as much
/// as these bytes do.
const ZEROS_MIN: usize = 64 << 10;

/// Runs of `file` that are no holes, in order and apart, as far as its file system knows; the whole file if it does not.
/// Widened to whole blocks, the end of the file apart.
pub fn data_runs(file: &File, len: u64) -> Result<Vec<Range<u64>>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            // The file system, or a block device, does not say.
            Err(Errno::INVAL) if at == 0 => return Ok(std::iter::once(0..len).collect()),
            Err(error) => return Err(error).context("cannot look for data in the file"),
        };
        let end = seek(file, SeekFrom::Hole(start)).context("cannot look for holes in the file")?;
        at = end.max(at + 1);
        let (start, end) = (round_down(start, BLOCK), round_up(end, BLOCK).min(len));
        match runs.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ if start < end => runs.push(start..end),
            // The file grew while it was looked at.
            _ => break,
        }
    }
    Ok(runs)
}

/// Runs of `data` worth writing: everything but long runs of zeros. Starts and ends are multiples of 4096, the end of
/// `data` apart.
pub fn non_zero_runs(data: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, unit) in data.chunks(UNIT).enumerate() {
        if is_zero(unit) {
            continue;
        }
        let start = index * UNIT;
        match runs.last_mut() {
            Some(last) if start - last.end < ZEROS_MIN => last.end = start + unit.len(),
            _ => runs.push(start..start + unit.len()),
        }
    }
    runs
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
