//! QEMU's programs as child processes: `qemu-img` for a question, `qemu-nbd` as long as an image is open.

use super::format::Format;
use super::nbd::Client;
use anyhow::{Context, Result, anyhow, bail};
use std::fs::DirBuilder;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Opening an image reads some of its tables.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Writing the last tables and syncing the file.
const STOP_LIMIT: Duration = Duration::from_secs(300);
/// As many as transfers have in flight.
const CONNECTIONS: usize = 4;

/// Runs `qemu-img` to its end.
pub fn img(arguments: &[&str], path: &Path) -> Result<Output> {
    let mut command = Command::new("qemu-img");
    command.args(arguments).arg(path).stdin(Stdio::null());
    command.output().map_err(|error| missing("qemu-img", error))
}

/// What it printed, or what it complained of.
pub fn img_says(arguments: &[&str], path: &Path) -> Result<String> {
    let output = img(arguments, path)?;
    if !output.status.success() {
        bail!("{}", complaint(&output.stderr));
    }
    String::from_utf8(output.stdout).context("qemu-img prints something that is no text")
}

/// An empty image.
pub fn create(path: &Path, format: Format, size_bytes: u64) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", format.name()]).arg(path).arg(size_bytes.to_string()).stdin(Stdio::null());
    let output = command.output().map_err(|error| missing("qemu-img", error))?;
    if !output.status.success() {
        bail!("{}", complaint(&output.stderr));
    }
    Ok(())
}

pub fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    if text.is_empty() { "QEMU does not say why".to_string() } else { text.to_string() }
}

fn missing(program: &str, error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        return anyhow!(
            "{program} is not installed, and images that are not raw need it; on Debian and Ubuntu: apt install qemu-utils"
        );
    }
    anyhow!("cannot run {program}: {error}")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// An image that `qemu-nbd` serves to this process alone. It ends with the last connection, so it does not outlive us.
pub struct Served {
    pub size_bytes: u64,
    idle: Mutex<Vec<Client>>,
    /// `None` once it has ended.
    child: Option<Child>,
    /// Where its socket is; nobody else can enter.
    folder: PathBuf,
}

impl Served {
    pub fn start(path: &Path, format: Format, access: Access) -> Result<Served> {
        let folder = private_folder()?;
        let socket = folder.join("nbd");
        let mut command = Command::new("qemu-nbd");
        command.arg(format!("--format={}", format.name())).arg(format!("--shared={CONNECTIONS}"));
        if access == Access::Read {
            command.arg("--read-only");
        }
        command.arg("--socket").arg(&socket).arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| missing("qemu-nbd", error));
        let child = child.inspect_err(|_| drop(std::fs::remove_dir_all(&folder)))?;
        let mut served = Served { size_bytes: 0, idle: Mutex::default(), child: Some(child), folder };
        let first = served.first_connection(&socket)?;
        served.size_bytes = first.size_bytes;
        let mut idle = vec![first];
        for _ in 1..CONNECTIONS {
            idle.push(Client::negotiate(Client::connect(&socket)?)?);
        }
        served.idle = Mutex::new(idle);
        Ok(served)
    }

    fn first_connection(&mut self, socket: &Path) -> Result<Client> {
        let begun = Instant::now();
        loop {
            match Client::connect(socket) {
                Ok(stream) => return Client::negotiate(stream),
                Err(error) if begun.elapsed() > START_LIMIT => return Err(error).context("qemu-nbd does not answer"),
                Err(_) => {}
            }
            let child = self.child.as_mut().context("it has not ended")?;
            if let Some(status) = child.try_wait()? {
                let mut said = Vec::new();
                if let Some(mut stderr) = child.stderr.take() {
                    stderr.read_to_end(&mut said)?;
                }
                bail!("qemu-nbd ended ({status}): {}", complaint(&said));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs `work` on a connection of its own, of which there are as many as transfers have threads.
    pub fn with<T>(&self, work: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        let idle = || self.idle.lock().map_err(|_| anyhow!("a worker panicked"));
        let mut client = idle()?.pop().context("every connection to qemu-nbd is in use")?;
        let result = work(&mut client)?;
        idle()?.push(client);
        Ok(result)
    }

    /// Everything that was written is in the image, and the image is closed.
    pub fn finish(mut self) -> Result<()> {
        self.with(Client::flush)?;
        let clients = std::mem::take(&mut *self.idle.lock().map_err(|_| anyhow!("a worker panicked"))?);
        clients.into_iter().try_for_each(Client::disconnect)?;
        let mut child = self.child.take().context("it ends once")?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > STOP_LIMIT {
                self.child = Some(child);
                bail!("qemu-nbd does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut said = Vec::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_end(&mut said)?;
        }
        if !status.success() {
            bail!("qemu-nbd ended with {status}: {}", complaint(&said));
        }
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn private_folder() -> Result<PathBuf> {
    let number = crate::cli::temporary::random()?;
    let folder = std::env::temp_dir().join(format!("drystone-image-{number:08x}"));
    let made = DirBuilder::new().mode(0o700).create(&folder);
    made.with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}
