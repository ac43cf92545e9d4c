//! Settings of a controller: defaults, then the TOML file, then flags; parsed once, checked once, plain data afterwards.

mod file;
mod flags;

pub use flags::{OnOff, UpFlags};

use crate::logging::LogFormat;
use anyhow::{Context, Result, bail};
use base::units::{GIB, KIB, MIB, format_size};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

pub const API_DEFAULT: &str = "127.0.0.1:7480";
pub const NBD_DEFAULT: &str = "127.0.0.1:10809";
pub const ISCSI_DEFAULT: &str = "127.0.0.1:3260";
pub const DATA_DEFAULT: &str = "./drystone-data";

/// Below this, the buffers of a few connections and the dirty map pages of one busy vDisk no longer fit beside each other.
const MEMORY_BYTES_MIN: u64 = 64 * MIB;
/// Each is told to every initiator that discovers.
const ISCSI_PORTALS_MAX: usize = 32;
/// More threads than any machine here was measured with; a guard against typing errors.
const WORKERS_MAX: u32 = 256;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub data: PathBuf,
    /// Worker threads; every vDisk lives on one of them.
    pub workers: u32,
    /// Budget for map pages, cache and buffers, bytes.
    pub memory_bytes: u64,
    /// Create a 20 GiB vDisk "demo" if it is missing.
    pub demo: bool,
    pub api: ApiConfig,
    pub nbd: NbdConfig,
    pub iscsi: IscsiConfig,
    pub engine: EngineConfig,
    pub log: LogConfig,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ApiConfig {
    pub listen: SocketAddr,
    /// Serve the token-protected API in plaintext beyond this machine.
    pub allow_plaintext: bool,
    pub connections_max: u32,
    /// From the first byte of a request to the last byte of its body, and again for the answer.
    pub request_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct NbdConfig {
    /// `None`: no TCP.
    pub listen: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
    /// Serve NBD without TLS beyond this machine.
    pub allow_plaintext: bool,
    pub tls: Option<NbdTls>,
    pub connections_max: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct IscsiConfig {
    /// Each address is a portal, and a portal group; empty: no iSCSI.
    pub listen: Vec<SocketAddr>,
    /// Serve targets that ask for no CHAP and name no initiators beyond this machine.
    pub allow_open: bool,
    pub connections_max: u32,
    /// An initiator that said nothing for so long is asked whether it is there.
    pub keepalive: Duration,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq)]
pub struct NbdTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate signed by this.
    pub client_ca: Option<PathBuf>,
    /// Refuse clients that do not ask for TLS (on TCP; the unix socket stays plaintext).
    pub require: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Size of new extent groups: 4 to 256 MiB.
    pub group_bytes: u64,
    /// Log of one vDisk after which it is checkpointed: bounds its replay.
    pub checkpoint_interval_bytes: u64,
    /// The same in sum over all vDisks: bounds the replay of a whole start.
    pub checkpoint_interval_total_bytes: u64,
    /// Part of `memory_bytes` for cached data and map pages; `None`: what the buffers leave.
    pub cache_bytes: Option<u64>,
    /// Frames not yet synced are kept in memory up to this much...
    pub unsynced_bytes_max: u64,
    /// ...and this long, then they are synced unasked.
    pub unsynced_age_max: Duration,
    /// How long a worker looks for work before it sleeps, if its last sleeps were shorter.
    pub poll_max: Duration,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogConfig {
    /// A level or directives; `None`: info.
    pub filter: Option<String>,
    pub format: Option<LogFormat>,
}

impl Config {
    /// What a start without file and flags uses.
    pub fn defaults() -> Config {
        Config {
            data: PathBuf::from(DATA_DEFAULT),
            workers: std::thread::available_parallelism().map_or(1, |n| n.get() as u32).min(WORKERS_MAX),
            memory_bytes: memory_bytes_default(),
            demo: false,
            api: ApiConfig {
                listen: API_DEFAULT.parse().expect("a literal address"),
                allow_plaintext: false,
                connections_max: 256,
                request_timeout: Duration::from_secs(60),
            },
            nbd: NbdConfig {
                listen: Some(NBD_DEFAULT.parse().expect("a literal address")),
                socket: None,
                allow_plaintext: false,
                tls: None,
                connections_max: 1024,
            },
            iscsi: IscsiConfig {
                listen: vec![ISCSI_DEFAULT.parse().expect("a literal address")],
                allow_open: false,
                connections_max: 1024,
                keepalive: Duration::from_secs(30),
            },
            engine: EngineConfig {
                group_bytes: 64 * MIB,
                checkpoint_interval_bytes: GIB,
                checkpoint_interval_total_bytes: 4 * GIB,
                cache_bytes: None,
                unsynced_bytes_max: 64 * MIB,
                unsynced_age_max: Duration::from_millis(100),
                poll_max: Duration::from_micros(250),
            },
            log: LogConfig::default(),
        }
    }

    /// Defaults, the file that the flags name (if any), the flags; checked.
    pub fn load(flags: &UpFlags) -> Result<Config> {
        let mut config = Config::defaults();
        if let Some(path) = &flags.config {
            file::File::read(path)?.apply(&mut config)?;
        }
        flags.apply(&mut config)?;
        config.check()?;
        Ok(config)
    }

    /// What cannot work, or is not safe unless it is asked for by name.
    fn check(&self) -> Result<()> {
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            bail!("workers = {} is out of range; use 1 to {WORKERS_MAX}", self.workers);
        }
        if self.memory_bytes < MEMORY_BYTES_MIN {
            bail!(
                "a memory budget of {} is too small; use at least {}",
                format_size(self.memory_bytes),
                format_size(MEMORY_BYTES_MIN)
            );
        }
        self.engine.check(self.memory_bytes)?;
        self.api.check()?;
        self.nbd.check()?;
        self.iscsi.check()?;
        if self.nbd.listen.is_none() && self.nbd.socket.is_none() && self.iscsi.listen.is_empty() {
            bail!(
                "nothing would serve vDisks: NBD is switched off on TCP and has no socket, and iSCSI is switched off; set \
                 nbd.listen, nbd.socket or iscsi.listen (--nbd, --nbd-socket, --iscsi)"
            );
        }
        Ok(())
    }
}

impl ApiConfig {
    fn check(&self) -> Result<()> {
        if !self.listen.ip().is_loopback() && !self.allow_plaintext {
            bail!(
                "the API would send its token in plaintext over the network on {}; listen on 127.0.0.1 and reach it \
                 through `ssh -L`, or accept that with --api-allow-plaintext (api.allow_plaintext = true)",
                self.listen
            );
        }
        check_range("api.connections_max", self.connections_max.into(), 1, 65_536)?;
        check_range("api.request_timeout_seconds", self.request_timeout.as_secs(), 1, 3_600)
    }
}

impl NbdConfig {
    fn check(&self) -> Result<()> {
        check_range("nbd.connections_max", self.connections_max.into(), 1, 1_048_576)?;
        let tls_required = self.tls.as_ref().is_some_and(|tls| tls.require);
        if let Some(listen) = self.listen
            && !listen.ip().is_loopback()
            && !tls_required
            && !self.allow_plaintext
        {
            bail!(
                "NBD without TLS would be open to everybody who reaches {listen}; require TLS (--nbd-tls-cert, \
                 --nbd-tls-key, --nbd-tls-require), or accept that with --nbd-allow-plaintext (nbd.allow_plaintext = true)"
            );
        }
        Ok(())
    }
}

impl IscsiConfig {
    fn check(&self) -> Result<()> {
        if self.listen.len() > ISCSI_PORTALS_MAX {
            bail!("iscsi.listen has {} addresses; use at most {ISCSI_PORTALS_MAX}", self.listen.len());
        }
        let twice = |(at, address): &(usize, &SocketAddr)| address.port() != 0 && self.listen[..*at].contains(address);
        if let Some((_, address)) = self.listen.iter().enumerate().find(twice) {
            bail!("iscsi.listen names {address} twice");
        }
        check_range("iscsi.connections_max", self.connections_max.into(), 1, 65_535)?;
        check_range("iscsi.keepalive_seconds", self.keepalive.as_secs(), 1, 3_600)
    }
}

impl EngineConfig {
    fn check(&self, memory_bytes: u64) -> Result<()> {
        check_bytes("engine.group_size", self.group_bytes, 4 * MIB, 256 * MIB)?;
        if !self.group_bytes.is_multiple_of(MIB) {
            bail!("engine.group_size must be a multiple of 1 MiB; {} bytes is not", self.group_bytes);
        }
        check_bytes("engine.checkpoint_interval", self.checkpoint_interval_bytes, 16 * MIB, 64 * GIB)?;
        check_bytes(
            "engine.checkpoint_interval_total",
            self.checkpoint_interval_total_bytes,
            self.checkpoint_interval_bytes,
            1024 * GIB,
        )?;
        check_bytes("engine.unsynced_max", self.unsynced_bytes_max, 64 * KIB, memory_bytes)?;
        check_range("engine.unsynced_ms_max", self.unsynced_age_max.as_millis() as u64, 1, 60_000)?;
        check_range("engine.poll_us_max", self.poll_max.as_micros() as u64, 0, 1000)?;
        match self.cache_bytes {
            Some(cache) => check_bytes("engine.cache", cache, 0, memory_bytes),
            None => Ok(()),
        }
    }
}

fn check_bytes(what: &str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    bail!("{what} = {} is out of range; use {} to {}", format_size(value), format_size(least), format_size(most))
}

fn check_range(what: &str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    bail!("{what} = {value} is out of range; use {least} to {most}")
}

/// `HOST:PORT`; a name that resolves to several addresses gives the first.
fn parse_address(text: &str) -> Result<SocketAddr> {
    let example = || format!("{text:?} is not an address to listen on; write HOST:PORT, for example 127.0.0.1:7480");
    text.to_socket_addrs().with_context(example)?.next().with_context(example)
}

/// A quarter of the machine's memory, but neither less than a controller can work with nor more than one that nobody
/// tuned should take.
fn memory_bytes_default() -> u64 {
    let info = rustix::system::sysinfo();
    let total = info.totalram as u64 * u64::from(info.mem_unit);
    (total / 4).clamp(128 * MIB, 4 * GIB) / MIB * MIB
}

#[cfg(test)]
mod tests;
