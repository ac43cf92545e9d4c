//! A PostgreSQL server ("cluster") on the mounts of two vDisks: `data/cluster`, with its write-ahead log in `wal/log`.

use crate::process::{Background, command, describe, finish, succeed, tail, wait_until};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// It refuses to run as root.
const USER: &str = "postgres";
const DATABASE: &str = "postgres";
/// A recovery replays what little log a small database has.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Small, so that checkpoints, recycled log files and evictions of dirty pages happen in the seconds between two snapshots.
const SETTINGS: &str = "listen_addresses = ''
shared_buffers = 32MB
max_wal_size = 64MB
min_wal_size = 32MB
checkpoint_timeout = 30s
autovacuum_naptime = 5s
logging_collector = off
";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Source,
    /// Of a snapshot that was taken while another server ran on its source.
    Clone,
}

pub struct Cluster {
    data: PathBuf,
    /// Of its unix socket.
    socket: PathBuf,
    programs: PathBuf,
    log: PathBuf,
    process: Option<Background>,
}

impl Cluster {
    pub fn create(folder: &Path, log: &Path) -> Result<Cluster> {
        let cluster = Cluster::existing(folder, log)?;
        for mount in ["data", "wal"] {
            output_of("chown", &[USER, &folder.join(mount).to_string_lossy()])?;
        }
        let (data, wal) = (cluster.data.to_string_lossy(), folder.join("wal/log"));
        let options = ["-D", &data, "-X", &wal.to_string_lossy(), "--data-checksums", "--auth=trust", "--locale=C"];
        succeed(cluster.as_user("initdb", &options))?;
        // What initdb makes is absolute, and a clone would write into the log of its source.
        fs::remove_file(cluster.data.join("pg_wal"))?;
        symlink("../../wal/log", cluster.data.join("pg_wal"))?;
        fs::write(cluster.data.join("postgresql.conf"), SETTINGS)?;
        Ok(cluster)
    }

    pub fn existing(folder: &Path, log: &Path) -> Result<Cluster> {
        let socket = folder.join("socket");
        fs::create_dir_all(&socket)?;
        output_of("chown", &[USER, &socket.to_string_lossy()])?;
        let _ = fs::remove_file(log);
        Ok(Cluster {
            data: folder.join("data/cluster"),
            socket,
            programs: programs()?,
            log: log.to_path_buf(),
            process: None,
        })
    }

    /// Returns when it takes connections, recovered if need be.
    pub fn start(&mut self, mode: Mode) -> Result<()> {
        if mode == Mode::Clone {
            // The clone would be on another machine, where there is no such process.
            fs::remove_file(self.data.join("postmaster.pid")).context("its source did not run")?;
        }
        let postgres =
            self.as_user("postgres", &["-D", &self.data.to_string_lossy(), "-k", &self.socket.to_string_lossy()]);
        self.process = Some(Background::start(postgres, &self.log)?);
        wait_until("PostgreSQL", START_LIMIT, || {
            if let Some(status) = self.process.as_mut().expect("set above").ended() {
                bail!("it ended with {status}:\n{}", tail(&self.log()));
            }
            let ready = self.client("pg_isready", &["-q"]);
            Ok(finish(ready, START_LIMIT)?.status.success())
        })
        .map(drop)
        .with_context(|| tail(&self.log()))
    }

    /// With a checkpoint, and every client gone.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.take().context("not started")?.terminate(STOP_LIMIT)?;
        ensure!(status.success(), "PostgreSQL ended with {status}:\n{}", tail(&self.log()));
        Ok(())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Unaligned rows without a header, fields separated by `|`.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut psql = self.psql();
        psql.args(["-c", statements]);
        succeed(psql).with_context(|| tail(&self.log()))
    }

    pub fn psql(&self) -> Command {
        self.client("psql", &["-qAtX", "-v", "ON_ERROR_STOP=1"])
    }

    /// One of PostgreSQL's programs on this database, to its end.
    pub fn program(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let client = self.client(name, arguments);
        let text = describe(&client);
        let finished = finish(client, Duration::from_secs(300))?;
        ensure!(finished.status.success(), "{text}\n  {}\n{}{}", finished.status, finished.stdout, finished.stderr);
        Ok(())
    }

    pub fn background(&self, name: &str, arguments: &[&str], log: &Path) -> Result<Background> {
        Background::start(self.client(name, arguments), log)
    }

    fn client(&self, name: &str, arguments: &[&str]) -> Command {
        let mut client = self.as_user(name, arguments);
        client.env("PGHOST", &self.socket).env("PGUSER", USER).env("PGDATABASE", DATABASE);
        client
    }

    fn as_user(&self, name: &str, arguments: &[&str]) -> Command {
        let mut program =
            command("setpriv", &["--reuid", USER, "--regid", USER, "--clear-groups", "--pdeathsig", "KILL", "--"]);
        program.arg(self.programs.join(name)).args(arguments).current_dir("/");
        program
    }
}

fn output_of(program: &str, arguments: &[&str]) -> Result<()> {
    crate::process::output(program, arguments).map(drop)
}

/// Debian keeps them by major version, outside of the path.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("Debian's package postgresql is missing")?;
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/postgres").exists().then(|| (version, path.join("bin")))
        })
        .collect();
    found.sort();
    Ok(found.pop().context("no server in /usr/lib/postgresql")?.1)
}
