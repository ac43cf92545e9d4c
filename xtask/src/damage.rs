//! Damaged data directories: flipped bits, truncation, a superblock that is corrupt or newer. What is damaged fails
//! with a medium error, everything else is served, and nothing wrong is ever returned as data.

use crate::content::{Found, SECTOR, Value, compose, examine};
use crate::iscsi::initiator::Initiator;
use crate::nbd::{self, Client};
use crate::process::{output, refused, scratch, succeed, tail};
use crate::random::Random;
use crate::server::{Health, Server};
use crate::steps::Done;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Blocks of 4 KiB that are written to each vDisk, 64 KiB apart.
const BLOCKS: u64 = 128;
const SIZE_BYTES: u64 = 16 << 20;
const NAMES: [&str; 2] = ["first", "second"];
/// Random flips, each on a fresh copy of the directory.
const FLIPS: u64 = 12;
/// Looks of a monitor at a damaged controller.
const POLLS: u64 = 50;

/// All of it; one sentence on what was done.
pub fn run() -> Result<Done> {
    let dir = scratch("damage")?;
    let mut server = Server::new(&dir)?;
    fill(&mut server)?;
    let intact = dir.join("intact");
    output("cp", &["-a", "--sparse=always", &text(&server.data), &text(&intact)])?;
    let mut case = Case { server, intact };
    let (mut checks, mut wrong) = (0, Vec::new());
    let cases: [(&str, Check); 7] = [
        ("a flipped bit in data", Case::flipped_data),
        ("a newer format", Case::newer_format),
        ("corrupt superblocks", Case::corrupt_superblocks),
        ("one shard's corrupt superblock", Case::corrupt_superblock),
        ("one corrupt copy of the superblock", Case::one_corrupt_copy),
        ("a truncated slab", Case::truncated),
        ("random flips", Case::random_flips),
    ];
    for (name, check) in cases {
        case.reset()?;
        match check(&mut case).with_context(|| name.to_string()) {
            Ok(()) => checks += 1,
            Err(error) => wrong.push(format!("{error:#}")),
        }
        case.server.kill9();
    }
    ensure!(wrong.is_empty(), "{checks} passed, {} failed:\n- {}", wrong.len(), wrong.join("\n- "));
    Ok(Done::new(checks, format!("{checks} kinds of damage, {FLIPS} random flips")))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn sector_of(block: u64) -> u64 {
    block * (64 << 10) / SECTOR as u64
}

/// What block `block` of vDisk `disk` holds.
fn content(disk: usize, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    compose(&mut bytes, disk as u64 + 1, sector_of(block), block + 1);
    bytes
}

fn fill(server: &mut Server) -> Result<()> {
    server.start()?;
    for (disk, name) in NAMES.iter().enumerate() {
        server.create(name, &SIZE_BYTES.to_string())?;
        let mut client = server.connect(name)?;
        for block in 0..BLOCKS {
            client.write(sector_of(block) * SECTOR as u64, &content(disk, block))?;
        }
        client.flush()?;
        client.disconnect()?;
    }
    server.stop()
}

type Check = fn(&mut Case) -> Result<()>;

struct Case {
    server: Server,
    intact: PathBuf,
}

/// What reading everything gave.
#[derive(Default, Debug, PartialEq, Eq)]
struct Seen {
    right: u64,
    medium_errors: u64,
    /// vDisks that are said to be damaged.
    damaged: u64,
}

impl Case {
    fn reset(&mut self) -> Result<()> {
        let _ = fs::remove_dir_all(&self.server.data);
        output("cp", &["-a", "--sparse=always", &text(&self.intact), &text(&self.server.data)])?;
        Ok(())
    }

    /// Reads every block; anything but its content or EIO is an error. A vDisk whose log is broken is served read-only
    /// and said to be damaged; of such a one only that much is asked.
    fn read_all(&self) -> Result<Seen> {
        let mut seen = Seen::default();
        for (disk, name) in NAMES.iter().enumerate() {
            // After a clean stop a vDisk is opened when it is first asked for, and only then known to be damaged.
            let client = self.server.connect(name);
            if self.is_damaged(name)? {
                seen.damaged += 1;
                self.must_be_read_only(name)?;
                self.must_be_reported(name)?;
                continue;
            }
            let mut client = client?;
            for block in 0..BLOCKS {
                match read_block(&mut client, sector_of(block))? {
                    None => seen.medium_errors += 1,
                    Some(bytes) if bytes == content(disk, block) => seen.right += 1,
                    Some(bytes) => {
                        let found = examine(&bytes[..SECTOR], disk as u64 + 1, sector_of(block));
                        let kind = if found == Found::Value(Value::Zero) { "zeros" } else { "wrong bytes" };
                        bail!("{name}: block {block} was read as {kind} instead of its content or an error");
                    }
                }
            }
        }
        Ok(seen)
    }

    fn is_damaged(&self, name: &str) -> Result<bool> {
        let shown = self.server.json(&["vdisk", "show", name])?;
        Ok(shown["state"]["kind"] == "damaged")
    }

    /// A monitor, a person at `status` and the reader of the log all learn which vDisk it is and what it has.
    fn must_be_reported(&self, name: &str) -> Result<()> {
        let shown = self.server.json(&["vdisk", "show", name])?;
        let why = shown["state"]["reason"].as_str().filter(|why| !why.is_empty()).context("damage has a reason")?;
        let Health::Degraded(reasons) = self.server.health()? else { bail!("{name} is damaged, /healthz is green") };
        let named: Vec<_> = reasons.iter().filter(|reason| reason.contains(name)).collect();
        ensure!(named.len() == 1 && named[0].contains(why), "{name} is damaged ({why}), /healthz says {reasons:?}");
        let status = self.server.run(&["status"])?;
        ensure!(status.contains(why) && !status.contains("healthy"), "{name} is damaged, status says:\n{status}");
        ensure!(self.server.log().contains(why), "the log does not say {why:?}:\n{}", self.server.log());
        Ok(())
    }

    fn must_be_read_only(&self, name: &str) -> Result<()> {
        let Ok(mut client) = self.server.connect(name) else { return Ok(()) };
        client.send(nbd::WRITE, 0, 1, 0, 512, &[0; 512])?;
        let error = client.answer()?.error;
        ensure!(error == 1 || error == 5, "{name} is damaged, and a write to it was answered with {error}");
        Ok(())
    }

    fn flipped_data(&mut self) -> Result<()> {
        let victim = 37;
        let (slab, offset) = self.find(&content(0, victim))?;
        flip(&slab, offset + 1000, 3)?;
        self.server.start()?;
        let seen = self.read_all()?;
        ensure!(seen == Seen { right: 2 * BLOCKS - 1, medium_errors: 1, damaged: 0 }, "{seen:?}");
        ensure!(self.server.metric("drystone_checksum_errors_total")? >= 1.0, "the bad checksum is not counted");
        self.must_be_a_medium_error(victim)?;
        ensure!(self.server.log().contains("checksum"), "the log does not name it:\n{}", self.server.log());
        // A new write heals the block.
        let mut client = self.server.connect(NAMES[0])?;
        client.write(sector_of(victim) * SECTOR as u64, &content(0, victim))?;
        client.disconnect()?;
        let seen = self.read_all()?;
        ensure!(seen.right == 2 * BLOCKS, "after overwriting the damaged block: {seen:?}");
        self.server.stop()
    }

    /// An initiator is told the LBA, wherever its read began, and gets the blocks beside it.
    fn must_be_a_medium_error(&self, victim: u64) -> Result<()> {
        const UNRECOVERED_READ: Option<(u8, u8, u8)> = Some((0x03, 0x11, 0));
        let mut session = Initiator::login(&self.server.iscsi, "iqn.2026-11.com.example:reader", 1, NAMES[0])?;
        session.ready()?;
        let at = |block: u64| sector_of(block) * SECTOR as u64;
        for (from, to) in [(victim, victim + 1), (victim - 1, victim + 1), (victim - 1, victim + 2)] {
            let ended = session.read(at(from), (at(to) - at(from)) as usize)?;
            ensure!(ended.status == 2 && ended.sense == UNRECOVERED_READ, "blocks {from} to {to}: {ended:?}");
            let (lba, block) = (ended.information.map(u64::from), sector_of(victim)..sector_of(victim) + 8);
            ensure!(lba.is_some_and(|lba| block.contains(&lba)), "{lba:?} is named, {block:?} is damaged");
        }
        for block in [victim - 1, victim + 1] {
            ensure!(session.read(at(block), 4096)?.good()? == content(0, block), "block {block} beside it");
        }
        Ok(())
    }

    fn newer_format(&mut self) -> Result<()> {
        for path in self.files("superblock")? {
            for copy in [0, 4096] {
                rewrite_page(&path, copy, |page| page[8..12].copy_from_slice(&3u32.to_le_bytes()))?;
            }
        }
        let before = self.digest()?;
        refused(self.server.up(), &["format version 3"])?;
        ensure!(self.digest()? == before, "a refused directory was changed");
        Ok(())
    }

    fn corrupt_superblocks(&mut self) -> Result<()> {
        let superblocks = self.files("superblock")?;
        self.must_come_back_without(&superblocks)
    }

    /// The one on which the first vDisk lies; the second lies elsewhere.
    fn corrupt_superblock(&mut self) -> Result<()> {
        let shard = |case: &Case, disk: usize| -> Result<PathBuf> {
            let (slab, _) = case.find(&content(disk, 0))?;
            Ok(slab.parent().context("a slab lies in a shard's folder")?.to_path_buf())
        };
        let (first, second) = (shard(self, 0)?, shard(self, 1)?);
        ensure!(first != second, "both vDisks lie in {}", first.display());
        self.must_come_back_without(&[first.join("superblock")])
    }

    /// The refusal says whose superblock it is and what to do, touches nothing, and what it says helps: every vDisk is there again.
    fn must_come_back_without(&mut self, superblocks: &[PathBuf]) -> Result<()> {
        for path in superblocks {
            flip(path, 100, 0)?;
            flip(path, 4096 + 100, 0)?;
        }
        let before = self.content_digest()?;
        let shard = superblocks.first().and_then(|path| path.parent()?.file_name()?.to_str()?.strip_prefix("shard-"));
        let number: u16 = shard.context("it lies in a shard's folder")?.parse()?;
        refused(self.server.up(), &[&format!("shard {number}"), "superblock", "drystone recover"])?;
        ensure!(self.content_digest()? == before, "a refused directory was changed");
        let mut recover = self.server.cli(&["recover", "--data"]);
        recover.arg(&self.server.data);
        let said = succeed(recover)?;
        ensure!(NAMES.iter().all(|name| said.contains(name)), "recover does not say what it found:\n{said}");
        self.server.start()?;
        let seen = self.read_all()?;
        ensure!(seen == Seen { right: 2 * BLOCKS, medium_errors: 0, damaged: 0 }, "after the recovery: {seen:?}");
        self.server.stop()
    }

    fn one_corrupt_copy(&mut self) -> Result<()> {
        for path in self.files("superblock")? {
            // The older copy, whichever that is: the newer one says what was promised last.
            let serial = |copy: u64| -> Result<u64> {
                let mut bytes = [0; 8];
                File::open(&path)?.read_exact_at(&mut bytes, copy + 24)?;
                Ok(u64::from_le_bytes(bytes))
            };
            let older = if serial(0)? < serial(4096)? { 0 } else { 4096 };
            flip(&path, older + 100, 0)?;
        }
        self.server.start()?;
        ensure!(self.read_all()?.right == 2 * BLOCKS);
        self.server.stop()
    }

    fn truncated(&mut self) -> Result<()> {
        let (slab, offset) = self.find(&content(1, BLOCKS / 2))?;
        File::options().write(true).open(&slab)?.set_len(offset)?;
        self.server.start_in_any_health()?;
        let seen = self.read_all()?;
        ensure!(seen.right + seen.medium_errors >= BLOCKS, "the vDisk before the cut is damaged too: {seen:?}");
        ensure!(seen.medium_errors > 0 || seen.damaged > 0, "half the data is gone and nobody said so: {seen:?}");
        let health = self.server.health()?;
        ensure!(matches!(health, Health::Degraded(_)), "half the data is gone, /healthz says {health:?}");
        self.must_not_flood_the_log()
    }

    /// A state is logged when it begins, not each time that a monitor asks for it.
    fn must_not_flood_the_log(&self) -> Result<()> {
        let before = self.server.complaints();
        ensure!(before > 0, "the log has no warning");
        for _ in 0..POLLS {
            self.server.health()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        let more = self.server.complaints() - before;
        ensure!(more < 5, "{more} more warnings after {POLLS} looks at /healthz:\n{}", tail(&self.server.log()));
        Ok(())
    }

    fn random_flips(&mut self) -> Result<()> {
        let seed = Random::seed_from_clock();
        let mut random = Random::new(seed);
        for round in 0..FLIPS {
            self.reset()?;
            let slabs = self.files("slab-")?;
            let slab = &slabs[random.below(slabs.len() as u64) as usize];
            let Some(offset) = some_written_byte(slab, &mut random)? else { continue };
            let bit = random.below(8) as u8;
            flip(slab, offset, bit)?;
            let what = format!("seed {seed}, round {round}: bit {bit} of byte {offset} of {}", slab.display());
            self.server.start_in_any_health().with_context(|| what.clone())?;
            self.read_all().with_context(|| what.clone())?;
            self.server.stop().with_context(|| what)?;
        }
        Ok(())
    }

    /// All files of the data directory whose name starts with `prefix`.
    fn files(&self, prefix: &str) -> Result<Vec<PathBuf>> {
        let (mut open, mut found) = (vec![self.server.data.clone()], Vec::new());
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
                    found.push(path);
                }
            }
        }
        found.sort();
        ensure!(!found.is_empty(), "no file {prefix}* in {}", self.server.data.display());
        Ok(found)
    }

    /// In which slab, and where, these bytes lie.
    fn find(&self, bytes: &[u8]) -> Result<(PathBuf, u64)> {
        for path in self.files("slab-")? {
            let mut found = None;
            each_written_chunk(&path, |offset, chunk| {
                if found.is_none()
                    && let Some(at) = chunk.windows(64).position(|window| window == &bytes[..64])
                {
                    found = Some(offset + at as u64);
                }
            })?;
            if let Some(offset) = found {
                return Ok((path, offset));
            }
        }
        bail!("the content of a written block is in no slab")
    }

    /// Of all that vDisks have written.
    fn content_digest(&self) -> Result<Vec<(PathBuf, u32)>> {
        let of = |path: PathBuf| {
            let mut crc = 0;
            each_written_chunk(&path, |_, chunk| crc = base::crc::crc32c_append(crc, chunk))?;
            Ok((path, crc))
        };
        self.files("slab-")?.into_iter().map(of).collect()
    }

    fn digest(&self) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        for path in self.files("superblock")? {
            File::open(path)?.read_to_end(&mut whole)?;
        }
        Ok(whole)
    }
}

/// `None`: a medium error.
fn read_block(client: &mut Client, sector: u64) -> Result<Option<Vec<u8>>> {
    client.send(nbd::READ, 0, sector, sector * SECTOR as u64, 4096, &[])?;
    let answer = client.answer()?;
    match answer.error {
        0 => {
            let mut bytes = vec![0; 4096];
            client.stream.read_exact(&mut bytes)?;
            Ok(Some(bytes))
        }
        5 => Ok(None),
        error => bail!("a damaged block was answered with error {error}, expected EIO"),
    }
}

fn flip(path: &Path, offset: u64, bit: u8) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, offset)?;
    Ok(file.sync_all()?)
}

/// Changes a page of 4 KiB that ends with its crc32c.
fn rewrite_page(path: &Path, offset: u64, change: impl Fn(&mut [u8])) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, offset)?;
    change(&mut page);
    let crc = base::crc::crc32c(&page[..4092]);
    page[4092..].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&page, offset)?;
    Ok(file.sync_all()?)
}

/// Slabs are sparse and big: holes are skipped, and so are chunks of zeros.
fn each_written_chunk(path: &Path, mut visit: impl FnMut(u64, &[u8])) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let file = File::open(path)?;
    let (size, mut chunk, mut offset) = (file.metadata()?.len(), vec![0; CHUNK + 64], 0u64);
    while offset < size {
        offset = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => data / CHUNK as u64 * CHUNK as u64,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let mut filled = 0;
        while filled < chunk.len() {
            match file.read_at(&mut chunk[filled..], offset + filled as u64)? {
                0 => break,
                more => filled += more,
            }
        }
        if chunk[..filled].iter().any(|byte| *byte != 0) {
            visit(offset, &chunk[..filled]);
        }
        offset += CHUNK as u64;
    }
    Ok(())
}

fn some_written_byte(path: &Path, random: &mut Random) -> Result<Option<u64>> {
    let mut sectors = Vec::new();
    each_written_chunk(path, |offset, chunk| {
        for (index, sector) in chunk.chunks(SECTOR).enumerate() {
            if sector.iter().any(|byte| *byte != 0) {
                sectors.push(offset + (index * SECTOR) as u64);
            }
        }
    })?;
    if sectors.is_empty() {
        return Ok(None);
    }
    let sector = sectors[random.below(sectors.len() as u64) as usize];
    Ok(Some(sector + random.below(SECTOR as u64)))
}
