//! The flags of `drystone up`; each wins over the same setting in the file.

use super::{Config, NbdTls, parse_address};
use anyhow::{Result, bail};
use base::units::parse_size;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug, Clone, Default)]
pub struct UpFlags {
    /// From the global flag `--data`, which says the same to `up` and to the client.
    #[arg(skip)]
    pub data: Option<PathBuf>,
    /// TOML file with these settings and more; flags win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the REST API listens [default: 127.0.0.1:7480]
    #[arg(long, value_name = "HOST:PORT")]
    pub api: Option<String>,
    /// Serve the API in plaintext beyond this machine: its token can be read on the way
    #[arg(long)]
    pub api_allow_plaintext: bool,
    /// Where NBD listens, or "off" [default: 127.0.0.1:10809]
    #[arg(long, value_name = "HOST:PORT")]
    pub nbd: Option<String>,
    /// Serve NBD on a unix socket too
    #[arg(long, value_name = "PATH")]
    pub nbd_socket: Option<PathBuf>,
    /// Certificate chain (PEM) for NBD over TLS
    #[arg(long, value_name = "FILE", requires = "nbd_tls_key")]
    pub nbd_tls_cert: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    #[arg(long, value_name = "FILE", requires = "nbd_tls_cert")]
    pub nbd_tls_key: Option<PathBuf>,
    /// Accept only clients with a certificate signed by this CA (PEM)
    #[arg(long, value_name = "FILE")]
    pub nbd_tls_client_ca: Option<PathBuf>,
    /// Refuse NBD clients on TCP that do not ask for TLS
    #[arg(long)]
    pub nbd_tls_require: bool,
    /// Serve NBD without TLS beyond this machine
    #[arg(long)]
    pub nbd_allow_plaintext: bool,
    /// Where iSCSI listens; may be given several times, each is a portal [default: 127.0.0.1:3260]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "no_iscsi")]
    pub iscsi: Vec<String>,
    /// Do not serve iSCSI
    #[arg(long)]
    pub no_iscsi: bool,
    /// Serve vDisks with neither a secret nor a list of initiators beyond this machine
    #[arg(long)]
    pub iscsi_allow_open: bool,
    /// Memory budget for map, cache and buffers [default: a quarter of the machine, at most 4GiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// Create a 20 GiB vDisk "demo" if it is missing
    #[arg(long)]
    pub demo: bool,
}

/// A switch on the command line.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOff {
    On,
    Off,
}

impl UpFlags {
    pub(super) fn apply(&self, config: &mut Config) -> Result<()> {
        if let Some(data) = &self.data {
            config.data = data.clone();
        }
        if let Some(memory) = &self.memory {
            config.memory_bytes = parse_size(memory)?;
        }
        if let Some(workers) = self.workers {
            config.workers = workers;
        }
        config.demo |= self.demo;
        if let Some(api) = &self.api {
            config.api.listen = parse_address(api)?;
        }
        config.api.allow_plaintext |= self.api_allow_plaintext;
        if self.no_iscsi {
            config.iscsi.listen.clear();
        } else if !self.iscsi.is_empty() {
            config.iscsi.listen = self.iscsi.iter().map(|address| parse_address(address)).collect::<Result<_>>()?;
        }
        config.iscsi.allow_open |= self.iscsi_allow_open;
        self.apply_nbd(config)
    }

    fn apply_nbd(&self, config: &mut Config) -> Result<()> {
        match self.nbd.as_deref() {
            None => {}
            Some("off") => config.nbd.listen = None,
            Some(address) => config.nbd.listen = Some(parse_address(address)?),
        }
        if let Some(socket) = &self.nbd_socket {
            config.nbd.socket = Some(socket.clone());
        }
        config.nbd.allow_plaintext |= self.nbd_allow_plaintext;
        if let (Some(cert), Some(key)) = (&self.nbd_tls_cert, &self.nbd_tls_key) {
            let (cert, key) = (cert.clone(), key.clone());
            let tls = config.nbd.tls.take();
            let (client_ca, require) = tls.map_or((None, false), |tls| (tls.client_ca, tls.require));
            config.nbd.tls = Some(NbdTls { cert, key, client_ca, require });
        }
        match &mut config.nbd.tls {
            Some(tls) => {
                tls.require |= self.nbd_tls_require;
                if let Some(client_ca) = &self.nbd_tls_client_ca {
                    tls.client_ca = Some(client_ca.clone());
                }
            }
            None if self.nbd_tls_require || self.nbd_tls_client_ca.is_some() => {
                bail!("--nbd-tls-require and --nbd-tls-client-ca need a certificate: --nbd-tls-cert and --nbd-tls-key")
            }
            None => {}
        }
        Ok(())
    }
}
