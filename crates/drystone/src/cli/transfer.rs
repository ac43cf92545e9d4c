//! Copies many chunks with a few requests in flight; the first failure stops the rest.

use super::progress::Progress;
use anyhow::{Result, anyhow};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

/// Long enough that the overhead of a request vanishes, short enough for a progress bar that moves.
pub const CHUNK_BYTES: u64 = 4 << 20;
/// Keeps reading, sending and the engine busy at the same time; more did not help on two cores.
const IN_FLIGHT: usize = 4;

/// Calls `copy(offset, buffer)` for every chunk of `runs`, from several threads; `buffer` is as long as the chunk.
/// `copy` may be called in any order, and after another call failed is called no more.
pub fn run(runs: &[Range<u64>], progress: &Progress, copy: impl Fn(u64, &mut [u8]) -> Result<()> + Sync) -> Result<()> {
    let chunks = Mutex::new(chunks(runs));
    let failed = AtomicBool::new(false);
    let next = || chunks.lock().expect("nobody panics with it").next();
    let worker = || {
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        while !failed.load(Ordering::Relaxed) {
            let Some(chunk) = next() else { break };
            let len = chunk.end - chunk.start;
            if let Err(error) = copy(chunk.start, &mut buffer[..len as usize]) {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
            progress.add(len);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(worker)).collect();
        let ends =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked"))));
        // All are joined before the first failure is returned.
        ends.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Calls `fetch` for every piece, from several threads and a few pieces ahead, and `take` with each result in order. The
/// first failure of either ends it.
pub fn in_order<P: Sync, T: Send>(
    pieces: &[P],
    fetch: impl Fn(&P) -> Result<T> + Sync,
    mut take: impl FnMut(&P, T) -> Result<()>,
) -> Result<()> {
    let fetch = &fetch;
    std::thread::scope(|scope| {
        // Dropped before the threads are joined: a thread whose result nobody takes ends.
        let results: Vec<Receiver<Result<T>>> = (0..IN_FLIGHT)
            .map(|first| {
                let (sender, results) = sync_channel(1);
                scope.spawn(move || {
                    for piece in pieces.iter().skip(first).step_by(IN_FLIGHT) {
                        let fetched = fetch(piece);
                        let failed = fetched.is_err();
                        if sender.send(fetched).is_err() || failed {
                            break;
                        }
                    }
                });
                results
            })
            .collect();
        for (piece, results) in pieces.iter().zip(results.iter().cycle()) {
            let fetched = results.recv().map_err(|_| anyhow!("a worker panicked"))?;
            take(piece, fetched?)?;
        }
        Ok(())
    })
}

/// Calls `send` for what `next` brings until it brings no more, from several threads and in any order. `next` is called by
/// one thread at a time. The first failure of either ends it.
pub fn spread<T: Send>(
    next: impl FnMut() -> Result<Option<T>> + Send,
    send: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let next = Mutex::new(next);
    let failed = AtomicBool::new(false);
    let worker = || {
        let worked = || {
            while !failed.load(Ordering::Relaxed) {
                let item = (next.lock().map_err(|_| anyhow!("a worker panicked"))?)()?;
                let Some(item) = item else { break };
                send(item)?;
            }
            Ok(())
        };
        worked().inspect_err(|_| failed.store(true, Ordering::Relaxed))
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(worker)).collect();
        let ends =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked"))));
        ends.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Cut at multiples of [`CHUNK_BYTES`].
pub fn chunks(runs: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> + Send + '_ {
    runs.iter().flat_map(|run| {
        let mut at = run.start;
        std::iter::from_fn(move || {
            let end = ((at / CHUNK_BYTES + 1) * CHUNK_BYTES).min(run.end);
            let chunk = at..end;
            at = end;
            (!chunk.is_empty()).then_some(chunk)
        })
    })
}

#[cfg(test)]
mod tests;
