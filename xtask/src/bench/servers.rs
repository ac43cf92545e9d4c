//! The servers that are compared, each with the same data behind it.

use super::Settings;
use super::machine;
use crate::nbd::{Address, Client};
use crate::process::{Background, command, output, wait_until};
use crate::random::Random;
use crate::server::Server;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
    Drystone,
    QemuRaw,
    QemuQcow2,
    Nbdkit,
}

impl Name {
    pub const ALL: [Name; 4] = [Name::Drystone, Name::QemuRaw, Name::QemuQcow2, Name::Nbdkit];

    pub fn text(self) -> &'static str {
        match self {
            Name::Drystone => "drystone",
            Name::QemuRaw => "qemu-nbd raw",
            Name::QemuQcow2 => "qemu-nbd qcow2",
            Name::Nbdkit => "nbdkit file",
        }
    }
}

pub const EXPORT: &str = "bench";
const CHUNK: usize = 1 << 20;

/// Server processes by name, started and filled when first asked for.
pub struct Servers {
    dir: PathBuf,
    size_bytes: u64,
    memory: String,
    with_drystone: bool,
    drystone: Option<Server>,
    peers: Vec<Peer>,
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
            peers: Vec::new(),
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

    fn peer(&mut self, name: Name) -> Result<&Peer> {
        if let Some(index) = self.peers.iter().position(|peer| peer.name == name) {
            return Ok(&self.peers[index]);
        }
        let raw = self.dir.join("peer.raw");
        if !raw.exists() {
            fill_file(&raw, self.size_bytes)?;
        }
        let socket = socket_path(name.text());
        let log = self.dir.join(format!("{}.log", name.text().replace(' ', "-")));
        let start = match name {
            Name::QemuRaw => qemu_nbd("raw", &raw, &socket),
            Name::QemuQcow2 => {
                let image = self.dir.join("peer.qcow2");
                output(
                    "qemu-img",
                    &["convert", "-U", "-f", "raw", "-O", "qcow2", &raw.to_string_lossy(), &image.to_string_lossy()],
                )?;
                qemu_nbd("qcow2", &image, &socket)
            }
            Name::Nbdkit => {
                let mut nbdkit = command("nbdkit", &["--foreground", "--unix"]);
                nbdkit.arg(&socket).arg("file").arg(&raw);
                nbdkit
            }
            Name::Drystone => unreachable!("not a peer"),
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

/// Writeback and io_uring: the fastest that Debian's qemu-nbd offers on a file.
pub fn qemu_nbd(format: &str, image: &Path, socket: &Path) -> std::process::Command {
    let mut qemu = command("qemu-nbd", &["--persistent", "--cache=writeback", "--aio=io_uring", "--shared=16"]);
    qemu.args(["--format", format, "--export-name", EXPORT, "--socket"]).arg(socket).arg(image);
    qemu
}

pub fn start_peer(command: std::process::Command, socket: &Path, log: &Path) -> Result<Background> {
    let _ = std::fs::remove_file(socket);
    let mut process = Background::start(command, log)?;
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
