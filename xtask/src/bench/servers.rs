//! The servers that are compared, each with the same data behind it.

use super::Settings;
use super::machine;
use super::tgt::{Tgt, Unit};
use crate::iscsi::initiator::TARGET;
use crate::nbd::{Address, Client};
use crate::process::{Background, bound, command, output, wait_until};
use crate::random::Random;
use crate::server::Server;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
    Drystone,
    QemuRaw,
    QemuQcow2,
    /// Past the page cache, on a file of its own.
    QemuDirect,
    Nbdkit,
    /// tgt with asynchronous I/O past the page cache.
    TgtAio,
    /// QEMU's NBD server on qcow2 with snapshots in the image.
    Qcow2Internal,
    /// The same with each snapshot a file behind the next.
    Qcow2External,
    /// tgt with threads that read and write through the page cache: its default.
    TgtRdwr,
}

impl Name {
    pub const NBD: &[Name] = &[Name::Drystone, Name::QemuRaw, Name::QemuQcow2, Name::Nbdkit];
    pub const SNAPSHOTS: &[Name] = &[Name::Drystone, Name::Qcow2Internal, Name::Qcow2External];
    pub const ISCSI: &[Name] = &[Name::Drystone, Name::TgtAio, Name::TgtRdwr];

    pub fn text(self) -> &'static str {
        match self {
            Name::Drystone => "drystone",
            Name::QemuRaw => "qemu-nbd raw",
            Name::QemuQcow2 => "qemu-nbd qcow2",
            Name::QemuDirect => "qemu-nbd raw, cache=none",
            Name::Nbdkit => "nbdkit file",
            Name::Qcow2Internal => "qcow2, internal snapshots",
            Name::Qcow2External => "qcow2, external snapshots",
            Name::TgtAio => "tgt aio",
            Name::TgtRdwr => "tgt rdwr",
        }
    }
}

pub const EXPORT: &str = "bench";
/// Size of the vDisks and files beside the first.
pub const SMALL_BYTES: u64 = 1 << 30;
const CHUNK: usize = 1 << 20;
/// vDisks that may have to be made until two are on the same shard: 40 times heads with a fair coin of as many sides as
/// there are shards.
const TRIES: usize = 40;

/// Server processes by name, started and filled when first asked for.
pub struct Servers {
    dir: PathBuf,
    size_bytes: u64,
    memory: String,
    with_drystone: bool,
    drystone: Option<Server>,
    /// A vDisk on the same shard.
    small: Option<[String; 2]>,
    peers: Vec<Peer>,
    tgts: Vec<(Name, Tgt)>,
}

pub struct Peer {
    name: Name,
    process: Background,
    socket: PathBuf,
}

impl Servers {
    pub fn new(settings: &Settings) -> Result<Servers> {
        Ok(Servers {
            dir: settings.dir.clone(),
            size_bytes: settings.size_bytes,
            memory: settings.memory.clone(),
            with_drystone: settings.with_drystone,
            drystone: None,
            small: None,
            peers: Vec::new(),
            tgts: Vec::new(),
        })
    }

    /// Those of `names` that take part.
    pub fn chosen(&self, names: &[Name]) -> Vec<Name> {
        names.iter().copied().filter(|name| *name != Name::Drystone || self.with_drystone).collect()
    }

    pub fn address(&mut self, name: Name) -> Result<Address> {
        if name == Name::Drystone {
            return Ok(self.drystone()?.socket.clone());
        }
        Ok(Address::Unix(self.peer(name)?.socket.clone()))
    }

    pub fn pid(&mut self, name: Name) -> Result<u32> {
        match name {
            Name::Drystone => Ok(self.drystone()?.pid()),
            Name::TgtAio | Name::TgtRdwr => Ok(self.tgt(name)?.process.pid()),
            name => Ok(self.peer(name)?.process.pid()),
        }
    }

    pub fn cpu_time(&mut self, name: Name) -> Result<Duration> {
        machine::cpu_time(self.pid(name)?)
    }

    pub fn drystone(&mut self) -> Result<&mut Server> {
        if self.drystone.is_none() {
            let mut server = Server::new(&self.dir)?;
            server.options = vec!["--memory".into(), self.memory.clone()];
            server.start()?;
            server.create(EXPORT, &self.size_bytes.to_string())?;
            fill_export(&server.socket, EXPORT)?;
            self.drystone = Some(server);
        }
        Ok(self.drystone.as_mut().expect("set above"))
    }

    /// What to read and write over iSCSI; indexes 1 and 2: units of [`SMALL_BYTES`] on the shard of the first.
    pub fn unit(&mut self, name: Name, index: usize) -> Result<Unit> {
        if name != Name::Drystone {
            return Ok(self.tgt(name)?.unit(index));
        }
        let vdisk = if index == 0 { EXPORT.to_string() } else { self.small()?[index - 1].clone() };
        let portal = self.drystone()?.iscsi.clone();
        Ok(Unit { portal, target: format!("{TARGET}{vdisk}"), lun: 0 })
    }

    fn small(&mut self) -> Result<&[String; 2]> {
        if self.small.is_none() {
            self.small = Some([self.small_beside(1)?, self.small_beside(2)?]);
        }
        Ok(self.small.as_ref().expect("set above"))
    }

    fn small_beside(&mut self, number: usize) -> Result<String> {
        let server = self.drystone()?;
        let shard = |server: &Server, name: &str| -> Result<Value> {
            Ok(server.json(&["vdisk", "show", name])?["shard"].clone())
        };
        let wanted = shard(server, EXPORT)?;
        ensure!(wanted.is_number(), "a vDisk shows no shard");
        for index in 0..TRIES {
            let name = format!("small{number}-{index}");
            server.create(&name, &SMALL_BYTES.to_string())?;
            if shard(server, &name)? == wanted {
                fill_export(&server.socket, &name)?;
                return Ok(name);
            }
        }
        bail!("none of {TRIES} vDisks came to shard {wanted}")
    }

    /// Reads everything, so that it is in whatever cache there is: twice, since a full cache that is safe from scans takes only
    /// what comes again.
    pub fn warm(&mut self, name: Name, export: &str) -> Result<()> {
        let uri = self.address(name)?.uri(export);
        for _ in 0..2 {
            output("nbdcopy", &["--", &uri, "null:"])?;
        }
        Ok(())
    }

    /// The same of the small vDisks: what was written large is not in the cache by that.
    pub fn warm_small(&mut self) -> Result<()> {
        self.small()?.clone().iter().try_for_each(|name| self.warm(Name::Drystone, name))
    }

    fn tgt(&mut self, name: Name) -> Result<&Tgt> {
        if let Some(index) = self.tgts.iter().position(|(of, _)| *of == name) {
            return Ok(&self.tgts[index].1);
        }
        let small = |this: &Self, index: u32| this.raw(&format!("small{index}.raw"), SMALL_BYTES);
        let files = [self.raw("peer.raw", self.size_bytes)?, small(self, 1)?, small(self, 2)?];
        let kind = if name == Name::TgtAio { "aio" } else { "rdwr" };
        let tgt = Tgt::start(kind, &files, &self.dir.join(format!("tgt-{kind}.log")))?;
        self.tgts.push((name, tgt));
        Ok(&self.tgts.last().expect("pushed above").1)
    }

    /// A file of random bytes, made when first asked for.
    fn raw(&self, name: &str, size_bytes: u64) -> Result<PathBuf> {
        let raw = self.dir.join(name);
        if !raw.exists() {
            fill_file(&raw, size_bytes)?;
        }
        Ok(raw)
    }

    /// Reads the peers' file once, so that it is in the page cache.
    pub fn read_raw(&self) -> Result<()> {
        let raw = self.raw("peer.raw", self.size_bytes)?;
        std::io::copy(&mut File::open(raw)?, &mut std::io::sink())?;
        Ok(())
    }

    fn peer(&mut self, name: Name) -> Result<&Peer> {
        if let Some(index) = self.peers.iter().position(|peer| peer.name == name) {
            return Ok(&self.peers[index]);
        }
        let raw = self.raw("peer.raw", self.size_bytes)?;
        let socket = socket_path(name.text());
        let log = self.dir.join(format!("{}.log", name.text().replace(' ', "-")));
        let start = match name {
            Name::QemuRaw => qemu_nbd("writeback", "raw", &raw, &socket),
            Name::QemuDirect => qemu_nbd("none", "raw", &self.raw("direct.raw", self.size_bytes)?, &socket),
            Name::QemuQcow2 => {
                let image = self.dir.join("peer.qcow2");
                output(
                    "qemu-img",
                    &["convert", "-U", "-f", "raw", "-O", "qcow2", &raw.to_string_lossy(), &image.to_string_lossy()],
                )?;
                qemu_nbd("writeback", "qcow2", &image, &socket)
            }
            Name::Nbdkit => {
                let mut nbdkit = command("nbdkit", &["--foreground", "--unix"]);
                nbdkit.arg(&socket).arg("file").arg(&raw);
                nbdkit
            }
            Name::Drystone | Name::TgtAio | Name::TgtRdwr | Name::Qcow2Internal | Name::Qcow2External => {
                unreachable!("it is no peer of these rows")
            }
        };
        let process = start_peer(start, &socket, &log)?;
        self.peers.push(Peer { name, process, socket });
        Ok(self.peers.last().expect("pushed above"))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for peer in &mut self.peers {
            peer.process.kill9();
            let _ = std::fs::remove_file(&peer.socket);
        }
    }
}

pub fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("bench-{}-{}.sock", std::process::id(), name.replace(' ', "-")))
}

/// With io_uring; `writeback` is the fastest `cache` that Debian's qemu-nbd offers on a file.
pub fn qemu_nbd(cache: &str, format: &str, image: &Path, socket: &Path) -> std::process::Command {
    let mut qemu = command("qemu-nbd", &["--persistent", "--aio=io_uring", "--shared=16", "--cache", cache]);
    qemu.args(["--format", format, "--export-name", EXPORT, "--socket"]).arg(socket).arg(image);
    qemu
}

pub fn start_peer(command: std::process::Command, socket: &Path, log: &Path) -> Result<Background> {
    let _ = std::fs::remove_file(socket);
    let mut process = Background::start(bound(&command), log)?;
    let address = Address::Unix(socket.to_path_buf());
    wait_until("a peer", Duration::from_secs(20), || {
        if let Some(status) = process.ended() {
            anyhow::bail!("ended with {status}: {}", process.log());
        }
        Ok(Client::connect(&address, EXPORT).is_ok())
    })?;
    Ok(process)
}

/// Random bytes from start to end, then a sync.
pub fn fill_file(path: &Path, size_bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut chunk = vec![0; CHUNK];
    let mut random = Random::new(1);
    random.fill(&mut chunk);
    for index in 0..size_bytes / CHUNK as u64 {
        vary(&mut chunk, index);
        file.write_all(&chunk)?;
    }
    Ok(file.sync_all()?)
}

/// The same through NBD.
pub fn fill_export(address: &Address, export: &str) -> Result<()> {
    let mut client = Client::connect(address, export)?;
    let mut chunk = vec![0; CHUNK];
    Random::new(1).fill(&mut chunk);
    for index in 0..client.size_bytes / CHUNK as u64 {
        vary(&mut chunk, index);
        client.write(index * CHUNK as u64, &chunk).context("filling")?;
    }
    client.flush()?;
    client.disconnect()
}

/// No two blocks are alike.
fn vary(chunk: &mut [u8], index: u64) {
    for (block, bytes) in chunk.chunks_exact_mut(4096).enumerate() {
        bytes[..8].copy_from_slice(&(index << 8 | block as u64).to_le_bytes());
    }
}
