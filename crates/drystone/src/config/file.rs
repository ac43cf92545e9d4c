//! The TOML file: the same settings under the same names, all optional; an unknown key is refused with its line.

use super::{Config, LogConfig, NbdTls, parse_address};
use crate::logging::LogFormat;
use anyhow::{Context, Result, anyhow};
use base::units::parse_size;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    data: Option<PathBuf>,
    workers: Option<u32>,
    memory: Option<Size>,
    demo: Option<bool>,
    api: Api,
    nbd: Nbd,
    iscsi: Iscsi,
    engine: Engine,
    log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Api {
    listen: Option<String>,
    allow_plaintext: Option<bool>,
    connections_max: Option<u32>,
    request_timeout_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Nbd {
    listen: Option<String>,
    socket: Option<PathBuf>,
    allow_plaintext: Option<bool>,
    connections_max: Option<u32>,
    tls: Option<Tls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Iscsi {
    /// Empty: no iSCSI.
    listen: Option<Vec<String>>,
    allow_open: Option<bool>,
    connections_max: Option<u32>,
    keepalive_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    #[serde(default)]
    require: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Engine {
    group_size: Option<Size>,
    checkpoint_interval: Option<Size>,
    checkpoint_interval_total: Option<Size>,
    cache: Option<Size>,
    unsynced_max: Option<Size>,
    unsynced_ms_max: Option<u64>,
    poll_us_max: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    level: Option<String>,
    format: Option<LogFormat>,
}

/// `"20GiB"` or a number of bytes.
#[derive(Debug, Clone, Copy)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as \"20GiB\" or a number of bytes")]
        enum Text {
            Bytes(u64),
            Words(String),
        }
        match Text::deserialize(deserializer)? {
            Text::Bytes(bytes) => Ok(Size(bytes)),
            Text::Words(words) => parse_size(&words).map(Size).map_err(serde::de::Error::custom),
        }
    }
}

impl File {
    /// Relative paths in the file count from the directory that the file is in.
    pub(super) fn read(path: &Path) -> Result<File> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        let mut file = File::parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        file.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(file)
    }

    /// The message of an error has the line and shows it.
    pub(super) fn parse(text: &str) -> std::result::Result<File, toml::de::Error> {
        toml::from_str(text)
    }

    fn resolve(&mut self, directory: &Path) {
        let tls = self.nbd.tls.iter_mut();
        let tls = tls.flat_map(|tls| [Some(&mut tls.cert), Some(&mut tls.key), tls.client_ca.as_mut()]);
        for path in [self.data.as_mut(), self.nbd.socket.as_mut()].into_iter().chain(tls).flatten() {
            *path = directory.join(&*path);
        }
    }

    pub(super) fn apply(self, config: &mut Config) -> Result<()> {
        set(&mut config.data, self.data);
        set(&mut config.workers, self.workers);
        set(&mut config.memory_bytes, self.memory.map(|size| size.0));
        set(&mut config.demo, self.demo);
        self.api.apply(config)?;
        self.nbd.apply(config)?;
        self.iscsi.apply(config)?;
        self.engine.apply(config);
        config.log = LogConfig { filter: self.log.level, format: self.log.format };
        Ok(())
    }
}

impl Api {
    fn apply(self, config: &mut Config) -> Result<()> {
        let api = &mut config.api;
        if let Some(listen) = self.listen {
            api.listen = parse_address(&listen)?;
        }
        set(&mut api.allow_plaintext, self.allow_plaintext);
        set(&mut api.connections_max, self.connections_max);
        set(&mut api.request_timeout, self.request_timeout_seconds.map(Duration::from_secs));
        Ok(())
    }
}

impl Nbd {
    fn apply(self, config: &mut Config) -> Result<()> {
        let nbd = &mut config.nbd;
        match self.listen.as_deref() {
            None => {}
            Some("off") => nbd.listen = None,
            Some(address) => nbd.listen = Some(parse_address(address)?),
        }
        if self.socket.is_some() {
            nbd.socket = self.socket;
        }
        set(&mut nbd.allow_plaintext, self.allow_plaintext);
        set(&mut nbd.connections_max, self.connections_max);
        if let Some(Tls { cert, key, client_ca, require }) = self.tls {
            nbd.tls = Some(NbdTls { cert, key, client_ca, require });
        }
        Ok(())
    }
}

impl Iscsi {
    fn apply(self, config: &mut Config) -> Result<()> {
        let iscsi = &mut config.iscsi;
        if let Some(listen) = self.listen {
            iscsi.listen = listen.iter().map(|address| parse_address(address)).collect::<Result<_>>()?;
        }
        set(&mut iscsi.allow_open, self.allow_open);
        set(&mut iscsi.connections_max, self.connections_max);
        set(&mut iscsi.keepalive, self.keepalive_seconds.map(Duration::from_secs));
        Ok(())
    }
}

impl Engine {
    fn apply(self, config: &mut Config) {
        let engine = &mut config.engine;
        set(&mut engine.group_bytes, self.group_size.map(|size| size.0));
        set(&mut engine.checkpoint_interval_bytes, self.checkpoint_interval.map(|size| size.0));
        set(&mut engine.checkpoint_interval_total_bytes, self.checkpoint_interval_total.map(|size| size.0));
        if let Some(cache) = self.cache {
            engine.cache_bytes = Some(cache.0);
        }
        set(&mut engine.unsynced_bytes_max, self.unsynced_max.map(|size| size.0));
        set(&mut engine.unsynced_age_max, self.unsynced_ms_max.map(Duration::from_millis));
        set(&mut engine.poll_max, self.poll_us_max.map(Duration::from_micros));
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
