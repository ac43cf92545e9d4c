//! A controller under test: the release binary in a data directory of its own, and its command line.

use crate::http;
use crate::nbd::{Address, Client};
use crate::process::{Background, Finished, command, finish, repository, succeed, tail, target_dir, wait_until};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest start that any test accepts; the ones that measure the start have limits of their own.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest clean shutdown.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The release binary.
pub fn binary() -> PathBuf {
    std::env::var_os("DRYSTONE_BINARY").map_or_else(|| target_dir().join("release/drystone"), PathBuf::from)
}

/// Builds it unless another one was named in DRYSTONE_BINARY.
pub fn build() -> Result<()> {
    if std::env::var_os("DRYSTONE_BINARY").is_some() {
        return Ok(());
    }
    let mut cargo = command("cargo", &["build", "--release", "--locked", "-p", "drystone"]);
    cargo.current_dir(repository());
    let dir = target_dir().join("blackbox");
    std::fs::create_dir_all(&dir)?;
    crate::process::logged(cargo, &dir.join("build.log"), Duration::from_secs(1800)).map(|_| ())
}

/// A port that was free a moment ago, on the loopback interface.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What is under test. The peer is for trying the harness itself: what fails with nbdkit too is no bug of drystone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    Drystone,
    /// nbdkit's file plugin over a folder; every file is an export.
    Nbdkit,
}

/// What /healthz says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    Healthy,
    Starting,
    /// With its reasons, sentences for people.
    Degraded(Vec<String>),
}

pub struct Server {
    subject: Subject,
    pub data: PathBuf,
    pub api: String,
    pub nbd: Address,
    pub socket: Address,
    /// Where iSCSI listens; empty: it is switched off.
    pub iscsi: String,
    /// More arguments of `up`.
    pub options: Vec<String>,
    process: Option<Background>,
    log: PathBuf,
}

impl Server {
    /// In `dir`, not started. Ports stay the same over restarts, so that clients can find it again.
    pub fn new(dir: &Path) -> Result<Server> {
        Server::of(Subject::Drystone, dir)
    }

    pub fn of(subject: Subject, dir: &Path) -> Result<Server> {
        // A unix socket's path has room for 107 bytes; folders of build machines can be longer than that.
        let socket = std::env::temp_dir().join(format!("drystone-{}-{}.sock", std::process::id(), free_port()?));
        let nbd = Address::Tcp(format!("127.0.0.1:{}", free_port()?));
        Ok(Server {
            subject,
            data: dir.join("data"),
            api: format!("127.0.0.1:{}", free_port()?),
            socket: if subject == Subject::Drystone { Address::Unix(socket) } else { nbd.clone() },
            nbd,
            iscsi: format!("127.0.0.1:{}", free_port()?),
            options: Vec::new(),
            process: None,
            log: dir.join("drystone.log"),
        })
    }

    /// Keeps the log elsewhere than beside the data.
    pub fn log_to(&mut self, path: &Path) {
        self.log = path.to_path_buf();
    }

    /// `drystone up` with this server's addresses.
    pub fn up(&self) -> Command {
        if self.subject == Subject::Nbdkit {
            let Address::Tcp(address) = &self.nbd else { panic!("the peer listens on TCP") };
            let port = address.rsplit(':').next().expect("an address has a port");
            let mut up = command("nbdkit", &["--foreground", "--ipaddr", "127.0.0.1", "--port", port, "file"]);
            up.arg(format!("dir={}", self.data.display()));
            return up;
        }
        let mut up = command(&binary().to_string_lossy(), &["up", "--data"]);
        up.arg(&self.data).args(["--api", &self.api]);
        if let Address::Tcp(address) = &self.nbd {
            up.args(["--nbd", address]);
        }
        if let Address::Unix(path) = &self.socket {
            up.arg("--nbd-socket").arg(path);
        }
        if self.iscsi.is_empty() {
            up.arg("--no-iscsi");
        } else {
            up.args(["--iscsi", &self.iscsi]);
        }
        up.args(&self.options);
        up
    }

    /// Starts it; returns once /healthz says that all is well, with the time that took. A degraded start is an error.
    pub fn start(&mut self) -> Result<Duration> {
        let took = self.start_in_any_health()?;
        if self.subject == Subject::Drystone {
            let health = self.health()?;
            ensure!(
                health == Health::Healthy,
                "it should have started healthy, but is {health:?}:\n{}",
                tail(&self.log())
            );
        }
        Ok(took)
    }

    /// Starts it; returns once it serves, be it as promised or not: `health` is the caller's to judge.
    pub fn start_in_any_health(&mut self) -> Result<Duration> {
        ensure!(self.process.is_none(), "already started");
        if self.subject == Subject::Nbdkit {
            std::fs::create_dir_all(&self.data)?;
        }
        self.process = Some(Background::start(self.up(), &self.log)?);
        wait_until("drystone up", START_LIMIT, || {
            if let Some(status) = self.process().ended() {
                let log = self.log();
                self.process = None;
                bail!("drystone up ended by itself with {status}:\n{}", tail(&log));
            }
            Ok(match self.subject {
                Subject::Drystone => matches!(self.health(), Ok(Health::Healthy | Health::Degraded(_))),
                Subject::Nbdkit => crate::nbd::Stream::connect(&self.nbd).is_ok(),
            })
        })
        .with_context(|| format!("its log:\n{}", tail(&self.log())))
    }

    /// What /healthz says at this moment.
    pub fn health(&self) -> Result<Health> {
        let (status, body) = http::get(&self.api, "/healthz", None)?;
        let said: Value = serde_json::from_str(&body).with_context(|| format!("/healthz answered {status}: {body}"))?;
        let reasons = || {
            let reasons = said["reasons"].as_array().context("a problem of /healthz has reasons")?;
            anyhow::Ok(reasons.iter().filter_map(|reason| Some(reason.as_str()?.to_string())).collect::<Vec<_>>())
        };
        Ok(match (status, said["type"].as_str().unwrap_or("")) {
            (200, _) => Health::Healthy,
            (503, "urn:drystone:problem:starting") => Health::Starting,
            (503, "urn:drystone:problem:degraded") => Health::Degraded(reasons()?),
            _ => bail!("/healthz answered {status}: {body}"),
        })
    }

    /// How many lines of the log are warnings or errors.
    pub fn complaints(&self) -> usize {
        let bad = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
        self.log().lines().filter(bad).count()
    }

    pub fn subject(&self) -> Subject {
        self.subject
    }

    pub fn process(&mut self) -> &mut Background {
        self.process.as_mut().expect("started before")
    }

    pub fn pid(&mut self) -> u32 {
        self.process().pid()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_up(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// SIGTERM; a clean shutdown ends with status 0.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.take().context("not started")?.terminate(STOP_LIMIT)?;
        ensure!(
            status.success() || self.subject == Subject::Nbdkit,
            "clean shutdown ended with {status}:\n{}",
            tail(&self.log())
        );
        Ok(())
    }

    /// The command line with this server's address and token.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut cli = command(&binary().to_string_lossy(), arguments);
        cli.env("DRYSTONE_SERVER", format!("http://{}", self.api));
        if let Ok(token) = self.token() {
            cli.env("DRYSTONE_TOKEN", token);
        }
        cli
    }

    pub fn token(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.data.join("token")).context("the data directory holds no token")?;
        Ok(text.trim().to_string())
    }

    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        succeed(self.cli(arguments))
    }

    /// Runs and returns whatever came out.
    pub fn attempt(&self, arguments: &[&str]) -> Result<Finished> {
        finish(self.cli(arguments), Duration::from_secs(120))
    }

    pub fn refuses(&self, arguments: &[&str], expect: &[&str]) -> Result<()> {
        crate::process::refused(self.cli(arguments), expect)
    }

    pub fn create(&self, name: &str, size: &str) -> Result<()> {
        if self.subject == Subject::Nbdkit {
            let size = size.parse().context("a peer's size is a number of bytes")?;
            let file = std::fs::File::create(self.data.join(name))?;
            file.set_len(size)?;
            return Ok(file.sync_all()?);
        }
        self.run(&["vdisk", "create", name, "--size", size]).map(|_| ())
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        let text = self.run(&arguments)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Name and size of every vDisk, in order of names.
    pub fn list(&self) -> Result<Vec<(String, u64)>> {
        if self.subject == Subject::Nbdkit {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&self.data)? {
                let entry = entry?;
                found.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()));
            }
            found.sort();
            return Ok(found);
        }
        let list = self.json(&["vdisk", "list"])?;
        let entries = list.as_array().or_else(|| list.get("vdisks")?.as_array()).context("a list of vDisks")?;
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.get("name").and_then(Value::as_str).context("an entry has a name")?;
            let size = entry.get("size_bytes").and_then(Value::as_u64).context("an entry has a size")?;
            found.push((name.to_string(), size));
        }
        found.sort();
        Ok(found)
    }

    /// What the files of the data directory take on disk.
    pub fn allocated_bytes(&self) -> Result<u64> {
        allocated(&self.data)
    }

    pub fn metrics(&self) -> Result<String> {
        let (status, page) = http::get(&self.api, "/metrics", self.token().ok().as_deref())?;
        ensure!(status == 200, "/metrics answered {status}: {page}");
        Ok(page)
    }

    /// Sum of all samples whose name (with labels) starts with `prefix`.
    pub fn metric(&self, prefix: &str) -> Result<f64> {
        let found = http::samples(&self.metrics()?, prefix);
        ensure!(!found.is_empty(), "/metrics has no {prefix}");
        Ok(found.iter().map(|(_, value)| value).sum())
    }

    pub fn connect(&self, export: &str) -> Result<Client> {
        Client::connect(&self.nbd, export)
    }

    pub fn uri(&self, export: &str) -> String {
        self.nbd.uri(export)
    }
}

fn allocated(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { allocated(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if let Address::Unix(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}
