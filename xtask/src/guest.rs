//! A real guest on a vDisk: QEMU boots Debian over NBD, the guest writes and syncs files, the controller is killed with
//! -9 and started again in the middle, the guest reboots, loses power together with the controller, and finds every
//! synced file intact.

use crate::guest_image::{GuestImage, prepare};
use crate::nbd::Address;
use crate::process::{Background, command, output, scratch, tail, wait_until};
use crate::server::{Server, Subject};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Under emulation on a busy machine a boot takes 4 to 15 s.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// For the next line of the guest; a restart of the controller lies in it.
const LINE_LIMIT: Duration = Duration::from_secs(90);
const FILES: usize = 40;
const EXPORT: &str = "guest";

pub fn run_alone(peer: bool) -> Result<()> {
    if !peer {
        crate::server::build()?;
    }
    println!("{}", run(if peer { Subject::Nbdkit } else { Subject::Drystone })?);
    Ok(())
}

/// One sentence on what was done.
pub fn run(subject: Subject) -> Result<String> {
    let image = prepare()?;
    let dir = scratch("guest")?;
    let mut server = Server::of(subject, &dir)?;
    server.start()?;
    import(&server, &image)?;
    let mut synced = BTreeMap::new();

    // First life: two kills while it writes, one while it reboots.
    let mut guest = Guest::start(&dir, &image, &server.nbd, EXPORT, &format!("files={FILES} then=reboot"))?;
    guest.boots(1, &mut synced)?;
    for _ in 0..2 {
        guest.writes(FILES / 4, &mut synced)?;
        server.kill9();
        std::thread::sleep(Duration::from_millis(1500));
        server.start()?;
    }
    guest.until("END reboot", &mut synced)?;
    server.kill9();
    server.start()?;
    guest.boots(2, &mut synced)?;
    guest.until("END check", &mut synced)?;
    guest.powers_off()?;
    ensure!(synced.len() == FILES, "the guest synced {} files of {FILES}", synced.len());

    // Second life: guest and controller die at once; third life looks.
    let mut guest = Guest::start(&dir, &image, &server.nbd, EXPORT, &format!("files={} then=wait", FILES / 2))?;
    guest.boots(3, &mut synced)?;
    guest.until("END wait", &mut synced)?;
    std::thread::sleep(Duration::from_millis(700));
    server.kill9();
    guest.process.kill9();
    server.start()?;
    let mut guest = Guest::start(&dir, &image, &server.nbd, EXPORT, "then=check")?;
    guest.boots(4, &mut synced)?;
    guest.until("END check", &mut synced)?;
    guest.powers_off()?;
    server.stop()?;
    Ok(format!("{} synced files intact after 4 kills of the controller and 3 restarts of the guest", synced.len()))
}

fn import(server: &Server, image: &GuestImage) -> Result<()> {
    if server.subject() == Subject::Nbdkit {
        return Ok(fs::copy(&image.root, server.data.join(EXPORT)).map(|_| ())?);
    }
    server.run(&["vdisk", "import", EXPORT, &image.root.to_string_lossy()])?;
    // The import is checked by somebody else.
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image.root.to_string_lossy(), &server.uri(EXPORT)])?;
    Ok(())
}

/// QEMU with the guest's kernel on an export, and what its console says.
pub struct Guest {
    process: Background,
    console: PathBuf,
    /// Bytes of the console that have been read.
    seen: usize,
}

impl Guest {
    pub fn start(dir: &Path, image: &GuestImage, server: &Address, export: &str, words: &str) -> Result<Guest> {
        let Address::Tcp(address) = server else { bail!("the guest comes over TCP") };
        let (host, port) = address.rsplit_once(':').expect("an address has a port");
        let console = dir.join(format!("console-{export}.log"));
        let _ = fs::remove_file(&console);
        // A small translation cache: after a reset of the guest every store to a page that held translated code takes the
        // emulator's slow path, and with the default cache unpacking the kernel again can take minutes.
        let accel = "tcg,tb-size=64";
        let mut qemu = command("qemu-system-x86_64", &["-accel", accel, "-cpu", "max", "-m", "256", "-nodefaults"]);
        qemu.args(["-display", "none", "-serial", &format!("file:{}", console.display())])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initramfs)
            // A starved host makes an emulated timer late, and the kernel's check of it panics.
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 no_timer_check {words}")])
            .arg("-blockdev")
            .arg(format!(
                "driver=nbd,node-name=disk,export={export},server.type=inet,server.host={host},server.port={port},reconnect-delay=60"
            ))
            .args(["-device", "virtio-blk-pci,drive=disk"]);
        Ok(Guest { process: Background::start(qemu, &dir.join(format!("qemu-{export}.log")))?, console, seen: 0 })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// The next whole line of the console that the script wrote.
    fn line(&mut self, limit: Duration) -> Result<String> {
        loop {
            let mut found = None;
            wait_until("the guest's next line", limit, || {
                let text = self.text();
                let Some(rest) = text.get(self.seen..) else { return Ok(false) };
                if let Some((line, _)) = rest.split_once('\n') {
                    found = Some(line.to_string());
                    return Ok(true);
                }
                if let Some(status) = self.process.ended() {
                    bail!("QEMU ended with {status}: {}", self.process.log());
                }
                Ok(false)
            })
            .with_context(|| format!("console:\n{}", tail(&self.text())))?;
            let line = found.expect("set when the wait succeeds");
            self.seen += line.len() + 1;
            let words = ["BOOT ", "HAVE ", "CHECKED", "SYNCED ", "FAILED ", "END "];
            // The first line may follow escape sequences of the firmware.
            if let Some(at) = words.iter().filter_map(|word| line.find(word)).min() {
                return Ok(line[at..].trim().to_string());
            }
        }
    }

    /// Waits for that boot, and until the guest has compared what it finds with all that was synced.
    pub fn boots(&mut self, number: u32, synced: &mut BTreeMap<String, String>) -> Result<()> {
        let line = self.line(BOOT_LIMIT)?;
        ensure!(line == format!("BOOT {number}"), "expected boot {number}, got {line:?}:\n{}", tail(&self.text()));
        self.until("CHECKED", synced)
    }

    fn writes(&mut self, files: usize, synced: &mut BTreeMap<String, String>) -> Result<()> {
        let target = synced.len() + files;
        while synced.len() < target {
            let line = self.line(LINE_LIMIT)?;
            take(&line, synced, &mut BTreeMap::new())?;
        }
        Ok(())
    }

    /// Reads up to `end`, noting what is synced; whenever a check ends, everything synced must have been found.
    pub fn until(&mut self, end: &str, synced: &mut BTreeMap<String, String>) -> Result<()> {
        let mut found = BTreeMap::new();
        loop {
            let line = self.line(LINE_LIMIT)?;
            take(&line, synced, &mut found)?;
            if line == "CHECKED" {
                for (name, sum) in synced.iter() {
                    match found.get(name) {
                        Some(there) if there == sum => {}
                        Some(_) => bail!("synced file {name} has another content"),
                        None => bail!("synced file {name} is missing"),
                    }
                }
                found.clear();
            }
            if line == end {
                return Ok(());
            }
            ensure!(!line.starts_with("END"), "expected {end:?}, got {line:?}");
        }
    }

    pub fn powers_off(&mut self) -> Result<()> {
        let status = self.process.wait(LINE_LIMIT)?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }
}

fn take(line: &str, synced: &mut BTreeMap<String, String>, found: &mut BTreeMap<String, String>) -> Result<()> {
    let mut words = line.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("SYNCED"), Some(name), Some(sum)) => {
            synced.insert(name.to_string(), sum.to_string());
        }
        (Some("HAVE"), Some(name), Some(sum)) => {
            found.insert(name.to_string(), sum.to_string());
        }
        (Some("FAILED"), Some(name), _) => bail!("the guest could not write {name}"),
        _ => {}
    }
    Ok(())
}
