//! The Debian packages that the black-box tests need, and those that the benchmark needs besides.

use crate::process::{command, finish, logged, output, target_dir};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::process::Command;
use std::time::Duration;

pub const NEEDED: [&str; 17] = [
    "qemu-utils",
    "qemu-system-x86",
    "qemu-block-extra",
    "libiscsi-bin",
    "fio",
    "libnbd-bin",
    "python3-libnbd",
    "nbdkit",
    "debootstrap",
    "e2fsprogs",
    "busybox-static",
    "kmod",
    "openssl",
    "mount",
    "util-linux",
    "xz-utils",
    "postgresql",
];

/// What only the benchmark needs: the peers that it compares with, beside those above. tgt brings a service along that need
/// not run.
pub const PEERS: [&str; 1] = ["tgt"];

/// The guest's kernel; the package is unpacked for its files, never installed.
pub const KERNEL: &str = "linux-image-cloud-amd64";

/// What the guest's root holds beside the smallest Debian.
pub const GUEST: [&str; 11] = [
    "open-iscsi",
    "nbd-client",
    "multipath-tools",
    "sg3-utils",
    "xfsprogs",
    "e2fsprogs",
    "fio",
    "udev",
    "kmod",
    "iproute2",
    "util-linux",
];

const LIMIT: Duration = Duration::from_secs(900);

pub fn missing() -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for name in NEEDED {
        let query = finish(command("dpkg-query", &["-W", "-f=${Status}", name]), Duration::from_secs(20))?;
        if !query.stdout.contains("ok installed") {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// Installs what is missing; without root it says what to run.
pub fn install() -> Result<()> {
    let missing = missing().context("the tests need Debian or a system with its packages")?;
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "these packages are missing, and only root can install them:\n  sudo apt-get install {}",
            missing.join(" ")
        );
    }
    logged(apt(&["update"]), &log()?, LIMIT)?;
    let install = ["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    // All of them: named alone, one of QEMU's packages may be had only by removing another that is there in a newer version.
    if logged(apt(&[&install[..], &NEEDED].concat()), &log()?, LIMIT).is_ok() {
        return is_whole();
    }
    // Then that one goes back to the version of this machine's own release, which it does only if it is asked for by name.
    let release = codename()?;
    let own = |name: &&str| if name.starts_with("qemu-") { format!("{name}/{release}") } else { name.to_string() };
    let mut of_release = apt(&install);
    of_release.arg("--allow-downgrades").args(NEEDED.iter().map(own));
    if logged(of_release, &log()?, LIMIT).is_ok() {
        return is_whole();
    }
    // All QEMU packages must have one version. Where qemu-utils came from backports, the rest has to come from there
    // too, even if backports is not among the machine's sources.
    install_from_backports(&missing).context("apt-get install failed, also with backports")
}

pub fn install_peers() -> Result<()> {
    logged(apt(&["update"]), &log()?, LIMIT)?;
    let install = ["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    logged(apt(&[&install[..], &PEERS].concat()), &log()?, LIMIT).map(|_| ())
}

/// What an installation left out, or took away, is not to be found out by a test.
fn is_whole() -> Result<()> {
    let missing = missing()?;
    ensure!(missing.is_empty(), "still missing after apt-get install: {}", missing.join(" "));
    Ok(())
}

fn log() -> Result<std::path::PathBuf> {
    let dir = target_dir().join("blackbox");
    fs::create_dir_all(&dir)?;
    Ok(dir.join("apt.log"))
}

pub fn apt(arguments: &[&str]) -> Command {
    let mut command = command("apt-get", arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// `bookworm`, `trixie`, … of this machine.
pub fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let line = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(line.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').to_string())
}

fn install_from_backports(missing: &[&str]) -> Result<()> {
    let codename = codename()?;
    let dir = target_dir().join("blackbox/apt");
    fs::create_dir_all(dir.join("lists/partial"))?;
    let sources = dir.join("sources.list");
    let line = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian";
    fs::write(&sources, format!("{line} {codename} main\n{line} {codename}-backports main\n"))?;
    let options = [
        format!("-oDir::Etc::SourceList={}", sources.display()),
        "-oDir::Etc::SourceParts=-".to_string(),
        format!("-oDir::State::Lists={}", dir.join("lists").display()),
    ];
    let with = |arguments: &[&str]| {
        let mut command = apt(&[]);
        command.args(&options).args(arguments);
        command
    };
    logged(with(&["update"]), &log()?, LIMIT)?;
    let installed = output("dpkg-query", &["-W", "-f=${Version}", "qemu-utils"])?;
    let mut arguments: Vec<String> =
        ["install", "-y", "-qq", "--no-install-recommends"].iter().map(|word| word.to_string()).collect();
    for name in missing {
        if *name == "qemu-system-x86" {
            for part in ["qemu-system-x86", "qemu-system-common", "qemu-system-data"] {
                arguments.push(format!("{part}={installed}"));
            }
            arguments.push(format!("seabios/{codename}-backports"));
        } else if *name == "qemu-block-extra" {
            arguments.push(format!("{name}={installed}"));
        } else {
            arguments.push(name.to_string());
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    logged(with(&arguments), &log()?, LIMIT)?;
    is_whole()
}
