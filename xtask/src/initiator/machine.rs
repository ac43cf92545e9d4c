//! A guest whose root is an iSCSI vDisk, and which does what it is asked on its second serial port.

use crate::guest_image::GuestImage;
use crate::process::{Background, command, tail, wait_until};
use crate::server::free_port;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Under emulation on a busy machine a boot takes 10 to 30 s.
const BOOT_LIMIT: Duration = Duration::from_secs(150);
/// For one answer; making file systems and waiting for a restart lie in it.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

pub struct Machine {
    process: Background,
    console: PathBuf,
    agent: BufReader<TcpStream>,
}

impl Machine {
    /// Boots from that `iscsi://`; returns once the guest listens.
    pub fn start(dir: &Path, image: &GuestImage, root: &str) -> Result<Machine> {
        let console = dir.join("console.log");
        let port = free_port()?;
        let mut qemu = command("qemu-system-x86_64", &["-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults"]);
        qemu.args(["-display", "none", "-serial", &format!("file:{}", console.display())])
            .args(["-serial", &format!("tcp:127.0.0.1:{port},server=on,wait=off")])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check net.ifnames=0 initiator=yes"])
            .args(["-drive", &format!("file={root},format=raw,if=virtio")])
            .args(["-nic", "user,model=virtio-net-pci,restrict=off"]);
        let mut process = Background::start(qemu, &dir.join("qemu.log"))?;
        let mut stream = None;
        wait_until("QEMU", BOOT_LIMIT, || {
            if let Some(status) = process.ended() {
                bail!("QEMU ended with {status}: {}", process.log());
            }
            stream = TcpStream::connect(("127.0.0.1", port)).ok();
            Ok(stream.is_some())
        })?;
        let stream = stream.expect("set when the wait succeeds");
        stream.set_read_timeout(Some(BOOT_LIMIT))?;
        stream.set_nodelay(true)?;
        let mut machine = Machine { process, console, agent: BufReader::new(stream) };
        while machine.line()? != "#READY" {}
        machine.agent.get_ref().set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(machine)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        match self.agent.read_until(b'\n', &mut line) {
            Ok(1..) => Ok(String::from_utf8_lossy(&line).trim_end().to_string()),
            Ok(0) => bail!("QEMU ended: {}\n{}", self.process.log(), tail(&self.text())),
            Err(error) => bail!("the guest does not answer ({error}); console:\n{}", tail(&self.text())),
        }
    }

    /// Runs it in the guest's shell: its status and its output.
    pub fn attempt(&mut self, line: &str) -> Result<(u8, String)> {
        ensure!(!line.contains('\n'), "one line at a time");
        self.agent.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut said = String::new();
        loop {
            let next = self.line().with_context(|| format!("guest: {line}\n{said}"))?;
            if let Some(status) = next.strip_prefix("#END ") {
                return Ok((status.parse()?, said));
            }
            said.push_str(&next);
            said.push('\n');
        }
    }

    /// The same for what must succeed; its output without the last end of line.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let (status, said) = self.attempt(line)?;
        ensure!(status == 0, "guest: {line}\n  status {status}\n{said}console:\n{}", tail(&self.text()));
        Ok(said.trim_end().to_string())
    }

    /// The same for what must fail.
    pub fn refuses(&mut self, line: &str, expect: &str) -> Result<()> {
        let (status, said) = self.attempt(line)?;
        ensure!(status != 0, "guest: {line}\n  succeeded, but should have been refused\n{said}");
        ensure!(said.contains(expect), "guest: {line}\n  refused without saying {expect:?}:\n{said}");
        Ok(())
    }

    pub fn powers_off(&mut self) -> Result<()> {
        self.agent.get_mut().write_all(b"sync; echo o >/proc/sysrq-trigger\n")?;
        let status = self.process.wait(ANSWER_LIMIT)?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }
}
