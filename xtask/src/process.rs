//! Running other programs: to the end with their output kept, or in the background until dropped.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How many lines of a failed program's output are shown; the rest is in its log file.
const TAIL_LINES: usize = 80;

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// What [`scratch`] gave out since [`clear_scratch`].
static SCRATCH: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A fresh folder for one test's files. On the disk that holds the target folder, since tests want a real file system.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let dir = target_dir().join("blackbox").join(name);
    SCRATCH.lock().expect("nobody panics with it").push(dir.clone());
    remove(&dir)?;
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Removes what tests that went well wrote: together it is more than many a disk has.
pub fn clear_scratch() -> Result<()> {
    for dir in std::mem::take(&mut *SCRATCH.lock().expect("nobody panics with it")) {
        remove(&dir)?;
    }
    Ok(())
}

/// Leaves what a test that failed wrote, to look at.
pub fn keep_scratch() {
    SCRATCH.lock().expect("nobody panics with it").clear();
}

fn remove(dir: &Path) -> Result<()> {
    unmount_below(dir);
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    Ok(())
}

/// Bytes that are free where tests write.
pub fn free_bytes() -> Result<u64> {
    let stat = rustix::fs::statvfs(target_dir())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What an earlier run that was interrupted left mounted.
pub fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| Path::new(point).starts_with(dir));
    for point in points {
        let _ = finish(command("umount", &["--lazy", point]), Duration::from_secs(20));
    }
}

pub fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    // What `cargo run` says of this program. Some build scripts are run anew when it changes, and all that depends on them is built
    // once more.
    let of_cargo = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(of_cargo)).for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// The same program, which the kernel kills when the thread that starts it has ended: a daemon that is no child of a terminal
/// would outlive a run that is killed.
pub fn bound(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    bound
}

pub fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs to the end, at most `limit`; the exit status is the caller's to judge.
pub fn finish(mut command: Command, limit: Duration) -> Result<Finished> {
    let text = describe(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start: {text}"))?;
    let stdout = drain(child.stdout.take().expect("piped above"));
    let stderr = drain(child.stderr.take().expect("piped above"));
    let status = wait(&mut child, limit);
    if status.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    let status = status.with_context(|| format!("{text}\n{stdout}{stderr}"))?;
    Ok(Finished { status, stdout, stderr })
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn collect(thread: std::thread::JoinHandle<String>) -> String {
    thread.join().expect("the reader does not panic")
}

/// Waits with a limit; the standard library has none.
fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            bail!("not finished after {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(if start.elapsed().as_millis() < 200 { 2 } else { 20 }));
    }
}

/// Runs a program that must succeed; its standard output.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    succeed(command(program, arguments))
}

pub fn succeed(command: Command) -> Result<String> {
    let text = describe(&command);
    let finished = finish(command, Duration::from_secs(600))?;
    if !finished.status.success() {
        bail!("{text}\n  {}\n{}{}", finished.status, finished.stdout, finished.stderr);
    }
    Ok(finished.stdout)
}

/// Runs a program that must refuse with words that contain each of `expect`.
pub fn refused(command: Command, expect: &[&str]) -> Result<()> {
    let text = describe(&command);
    let finished = finish(command, Duration::from_secs(60))?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    if finished.status.success() {
        bail!("{text}: succeeded, but should have been refused\n{said}");
    }
    for word in expect {
        if !said.to_lowercase().contains(&word.to_lowercase()) {
            bail!("{text}: refused without saying {word:?}:\n{said}");
        }
    }
    Ok(())
}

/// Runs with all output in a log file; on failure the error holds the end of it.
pub fn logged(mut command: Command, log: &Path, limit: Duration) -> Result<String> {
    let text = describe(&command);
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start: {text}"))?;
    let status = wait(&mut child, limit);
    if status.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let said = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    match status {
        Ok(status) if status.success() => Ok(said),
        Ok(status) => bail!("{text}\n  {status}, log {}\n{}", log.display(), tail(&said)),
        Err(error) => bail!("{text}\n  {error}, log {}\n{}", log.display(), tail(&said)),
    }
}

pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A program in the background; killed when dropped.
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts it with its output appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Background> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start: {}", describe(&command)))?;
        Ok(Background { child, log: log.to_path_buf() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// `Some` once it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("SIGTERM")?;
        wait(&mut self.child, limit).with_context(|| format!("after SIGTERM; its log:\n{}", tail(&self.log())))
    }

    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait(&mut self.child, limit).with_context(|| format!("its log:\n{}", tail(&self.log())))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Asks `ready` every 5 ms until it says yes.
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    while !ready()? {
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_does_not_outlive_who_started_it() {
        let dir = std::env::temp_dir().join(format!("bound-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let log = dir.join("log");
        let started = std::thread::spawn(move || {
            let mut process = Background::start(bound(&command("sleep", &["60"])), &log).expect("it starts");
            wait_until("it is what was asked for", Duration::from_secs(20), || {
                Ok(fs::read_to_string(format!("/proc/{}/comm", process.pid()))? == "sleep\n")
            })
            .expect("it runs");
            assert!(process.ended().is_none());
            process
        });
        let mut orphan = started.join().expect("no panic");
        orphan.wait(Duration::from_secs(20)).expect("it was killed");
        fs::remove_dir_all(&dir).expect("it is there");
    }
}
