//! Measures how flushed 4 KiB appends fare in different layouts on a file system; docs/decisions/0001 is built on it.
//!
//! Every append is 160 bytes of header and 4 KiB of payload, padded to whole blocks unless the case says otherwise, and
//! counts when a data sync that began after it has ended. Pre-written files are cold when a run begins. Each writer is a
//! thread. The cases run in turn, several rounds, so that what else the machine does meets all of them; rates and
//! latencies are medians over the rounds. A run that shared the processors with other programs is thrown away and
//! repeated. The bytes and flushes at the device are the lowest of the rounds: others can only add to these counters.

mod quiet;

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, FallocateFlags, OFlags};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const HEADER_BYTES: usize = 160;
/// What an append takes: header and payload up to the next block.
const STRIDE: u64 = 2 * BLOCK as u64;
/// A writer's room with one and with many writers; a run ends early when one of them is full.
const REGION_BYTES_ALONE: u64 = 256 << 20;
const REGION_BYTES: u64 = 32 << 20;

#[derive(clap::Args)]
pub struct Options {
    /// On the file system to measure; takes up to 7 GiB for the time of the run.
    directory: PathBuf,
    /// Length of one measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many write at once, one measurement each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64])]
    writers: Vec<usize>,
    /// Repeat what was measured while other programs used more than this share of the processors.
    #[arg(long, default_value_t = 10.0)]
    busy_percent_max: f64,
    /// Minutes to wait for quiet in all; what is left after that is measured as it comes.
    #[arg(long, default_value_t = 20)]
    patience: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Space {
    /// Each append makes the file longer.
    Growing,
    /// fallocate: the space is there, the file system knows it as unwritten.
    Fallocated,
    /// All of it was written and synced before.
    Written,
}

#[derive(Clone, Copy, PartialEq)]
enum Sync {
    /// Each writer calls fdatasync for itself.
    Own,
    /// At most one runs per file and one is pending; it serves all that wait.
    Coalesced,
}

#[derive(Clone, Copy, PartialEq)]
enum Payload {
    Append,
    /// Without the padding: the kernel has to read the block that is written in part.
    AppendUnpadded,
    AppendDirect,
    /// 4 KiB at a random block, without a header.
    Overwrite,
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// 0: one for each writer.
    files: usize,
    space: Space,
    sync: Sync,
    payload: Payload,
}

const CASES: [Case; 11] = [
    case("file per group, growing", 0, Space::Growing, Sync::Own, Payload::Append),
    case("file per group, fallocated", 0, Space::Fallocated, Sync::Own, Payload::Append),
    case("file per group, recycled", 0, Space::Written, Sync::Own, Payload::Append),
    case("one slab, growing, coalesced sync", 1, Space::Growing, Sync::Coalesced, Payload::Append),
    case("one slab, fallocated, coalesced sync", 1, Space::Fallocated, Sync::Coalesced, Payload::Append),
    case("one slab, pre-written, a sync each", 1, Space::Written, Sync::Own, Payload::Append),
    case("one slab, pre-written, coalesced sync", 1, Space::Written, Sync::Coalesced, Payload::Append),
    case("the same, appends not padded", 1, Space::Written, Sync::Coalesced, Payload::AppendUnpadded),
    case("two slabs, pre-written, coalesced sync", 2, Space::Written, Sync::Coalesced, Payload::Append),
    case("one slab, pre-written, O_DIRECT, coalesced", 1, Space::Written, Sync::Coalesced, Payload::AppendDirect),
    case("overwrite in a prefilled file each", 0, Space::Written, Sync::Own, Payload::Overwrite),
];

const fn case(name: &'static str, files: usize, space: Space, sync: Sync, payload: Payload) -> Case {
    Case { name, files, space, sync, payload }
}

/// What one run showed.
#[derive(Clone, Copy)]
struct Sample {
    appends_per_second: f64,
    p50: Duration,
    p99: Duration,
    device_bytes_per_payload_byte: f64,
    device_flushes_per_write: f64,
}

pub fn run(options: &Options) -> Result<()> {
    let place = options.directory.join(format!("layout-{}", std::process::id()));
    fs::create_dir(&place).with_context(|| format!("cannot create {}", place.display()))?;
    let result = measure_all(options, &place);
    fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    result
}

fn measure_all(options: &Options, place: &Path) -> Result<()> {
    let patient_until = Instant::now() + Duration::from_secs(options.patience * 60);
    let quiet = quiet::Quiet { busy_percent_max: options.busy_percent_max, patient_until };
    for &writers in &options.writers {
        if writers == 0 {
            bail!("--writers wants numbers above 0");
        }
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); CASES.len()];
        for round in 0..options.rounds {
            for (case, samples) in CASES.iter().zip(&mut samples) {
                let duration = Duration::from_secs(options.seconds);
                let sample = quiet.insist(|| measure(*case, writers, place, duration))?;
                eprintln!("{writers} writers, round {round}, {}: {:.0}/s", case.name, sample.appends_per_second);
                samples.push(sample);
            }
        }
        print_table(writers, &samples);
        for entry in fs::read_dir(place)? {
            fs::remove_file(entry?.path())?;
        }
        settle(place)?;
    }
    Ok(())
}

fn print_table(writers: usize, samples: &[Vec<Sample>]) {
    println!(
        "\n| {writers} writing | flushed writes/s | p50 µs | p99 µs | device bytes per payload byte | device flushes per write |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for (case, samples) in CASES.iter().zip(samples) {
        let rate = median(samples.iter().map(|sample| sample.appends_per_second));
        let p50 = median(samples.iter().map(|sample| sample.p50.as_secs_f64() * 1e6));
        let p99 = median(samples.iter().map(|sample| sample.p99.as_secs_f64() * 1e6));
        let bytes = samples.iter().map(|sample| sample.device_bytes_per_payload_byte).fold(f64::INFINITY, f64::min);
        let flushes = samples.iter().map(|sample| sample.device_flushes_per_write).fold(f64::INFINITY, f64::min);
        println!("| {} | {rate:.0} | {p50:.0} | {p99:.0} | {bytes:.2} | {flushes:.2} |", case.name);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure(case: Case, writers: usize, place: &Path, duration: Duration) -> Result<Sample> {
    let region_bytes = if writers == 1 { REGION_BYTES_ALONE } else { REGION_BYTES };
    let files = prepare(case, writers, region_bytes, place)?;
    settle(place)?;
    let before = DeviceCounts::now(place)?;
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|index| {
                let target = &files[index % files.len()];
                let region = (index / files.len()) as u64 * region_bytes;
                let writer = Writer { case, target, region, region_bytes, seed: index as u64 + 1 };
                let stop = &stop;
                scope.spawn(move || writer.write(stop, started + duration))
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().expect("a writer does not panic"));
        results.collect::<Result<Vec<_>>>().map(|latencies| latencies.concat())
    })?;
    let elapsed = started.elapsed();
    let after = DeviceCounts::now(place)?;
    drop(files);
    if case.space != Space::Written {
        for entry in fs::read_dir(place)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with("-fresh") {
                fs::remove_file(path)?;
            }
        }
    }
    latencies.sort();
    let count = latencies.len();
    // A machine that is busy enough starts no writer within the time: then a write takes at least that.
    let at = |share: f64| latencies.get((count as f64 * share) as usize).copied().unwrap_or(elapsed);
    Ok(Sample {
        appends_per_second: count as f64 / elapsed.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
        device_bytes_per_payload_byte: (after.bytes_written - before.bytes_written) as f64
            / (count.max(1) * BLOCK) as f64,
        device_flushes_per_write: (after.flushes - before.flushes) as f64 / count.max(1) as f64,
    })
}

/// Lets earlier work of this program reach the device, so that it is not counted later.
fn settle(place: &Path) -> Result<()> {
    rustix::fs::syncfs(File::open(place)?)?;
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// The files of a case. Pre-written ones are kept for the next round, which recycles them.
fn prepare(case: Case, writers: usize, region_bytes: u64, place: &Path) -> Result<Vec<Target>> {
    let count = if case.files == 0 { writers } else { case.files.min(writers) };
    let file_bytes = writers.div_ceil(count) as u64 * region_bytes;
    let suffix = if case.space == Space::Written { "written" } else { "fresh" };
    let open = |index| {
        let path = place.join(format!("{}-{index}-{suffix}", case.files));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match case.space {
            Space::Growing => {}
            Space::Fallocated => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, file_bytes)?,
            Space::Written => fill(&file, file_bytes)?,
        }
        file.sync_all()?;
        let file = match case.payload {
            Payload::AppendDirect => {
                let direct = OFlags::DIRECT.bits() as i32;
                OpenOptions::new().write(true).custom_flags(direct).open(&path)?
            }
            Payload::Append | Payload::AppendUnpadded | Payload::Overwrite => {
                rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
                file
            }
        };
        Ok(Target { file, end: AtomicU64::new(0), syncs: Mutex::default(), ended: Condvar::new() })
    };
    (0..count).map(open).collect()
}

fn fill(mut file: &File, file_bytes: u64) -> Result<()> {
    if file.metadata()?.len() == file_bytes {
        return Ok(());
    }
    let part = vec![0xa5; 1 << 20];
    for _ in 0..file_bytes >> 20 {
        file.write_all(&part)?;
    }
    Ok(())
}

/// A file, with what its writers share.
struct Target {
    file: File,
    /// Where the next append goes if the file grows.
    end: AtomicU64,
    syncs: Mutex<Syncs>,
    ended: Condvar,
}

#[derive(Default)]
struct Syncs {
    begun: u64,
    done: u64,
}

impl Target {
    fn sync(&self, sync: Sync) -> Result<()> {
        if sync == Sync::Own {
            return Ok(rustix::fs::fdatasync(&self.file)?);
        }
        let mut syncs = self.syncs.lock().expect("no writer panics");
        // One that runs already may have missed our bytes.
        let wanted = syncs.begun + 1;
        while syncs.done < wanted {
            if syncs.begun > syncs.done {
                syncs = self.ended.wait(syncs).expect("no writer panics");
                continue;
            }
            syncs.begun += 1;
            drop(syncs);
            rustix::fs::fdatasync(&self.file)?;
            syncs = self.syncs.lock().expect("no writer panics");
            syncs.done = syncs.begun;
            self.ended.notify_all();
        }
        Ok(())
    }
}

struct Writer<'a> {
    case: Case,
    target: &'a Target,
    /// Where the writer's part of the file begins.
    region: u64,
    region_bytes: u64,
    seed: u64,
}

impl Writer<'_> {
    /// Until `end`, or until any writer's region is full. Returns what each write took.
    fn write(&self, stop: &AtomicBool, end: Instant) -> Result<Vec<Duration>> {
        let mut random = self.seed;
        let memory = vec![0x5a; 4 * BLOCK];
        // A direct write wants memory that starts at a block.
        let aligned = &memory[memory.as_ptr().align_offset(BLOCK)..];
        let mut latencies = Vec::new();
        let mut appended = 0;
        while !stop.load(Ordering::Relaxed) {
            let before = Instant::now();
            if before >= end {
                stop.store(true, Ordering::Relaxed);
                break;
            }
            let offset = match self.case.space {
                Space::Growing => self.target.end.fetch_add(STRIDE, Ordering::Relaxed),
                Space::Fallocated | Space::Written => self.region + appended,
            };
            let (offset, len) = match self.case.payload {
                Payload::AppendUnpadded => (offset, HEADER_BYTES + BLOCK),
                Payload::Append | Payload::AppendDirect => (offset, STRIDE as usize),
                Payload::Overwrite => (self.region + random_block(&mut random, self.region_bytes), BLOCK),
            };
            self.target.file.write_all_at(&aligned[..len], offset)?;
            self.target.sync(self.case.sync)?;
            latencies.push(before.elapsed());
            appended += STRIDE;
            if appended >= self.region_bytes && self.case.payload != Payload::Overwrite {
                stop.store(true, Ordering::Relaxed);
            }
        }
        Ok(latencies)
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): any spread-out numbers do.
fn random_block(state: &mut u64, region_bytes: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % (region_bytes / BLOCK as u64) * BLOCK as u64
}

/// Since boot, by everybody, at the device that carries a directory (kernel: Documentation/block/stat).
struct DeviceCounts {
    bytes_written: u64,
    flushes: u64,
}

impl DeviceCounts {
    fn now(place: &Path) -> Result<DeviceCounts> {
        let device = fs::metadata(place)?.dev();
        let path = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
        let text =
            fs::read_to_string(&path).with_context(|| format!("{path}: the directory must lie on a block device"))?;
        let fields: Vec<u64> = text.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
        let field = |index: usize| fields.get(index).copied().with_context(|| format!("{path} has no field {index}"));
        Ok(DeviceCounts { bytes_written: field(6)? * 512, flushes: field(15)? })
    }
}
