//! Five hundred clones of a Debian image in one call, some of them booted side by side: each guest finds the image as it
//! was, keeps files of its own and powers off; the source and all other clones stay what they were.
//!
//! The host judges: it mounts what a guest left and compares each file with what the guest said that it synced.

use crate::fuse::FuseFile;
use crate::guest::Guest;
use crate::guest_image::{GuestImage, prepare};
use crate::powerloss::Mount;
use crate::process::{output, scratch};
use crate::server::Server;
use crate::steps::Done;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

const SOURCE: &str = "debian";
const CLONES: usize = 500;
/// What a call for them may take, its process included: the two seconds, and as much again for a busy machine.
const CLONES_SECONDS_MAX: f64 = 4.0;
/// Guests at a time; each keeps a core busy while it boots.
const AT_ONCE: usize = 2;
const FILES: usize = 4;
/// Of the clones that nobody booted, compared whole with the image, unless all are.
const COMPARED: usize = 12;

#[derive(clap::Args, Clone)]
pub struct Options {
    /// Clones that are booted.
    #[arg(long, default_value_t = 3)]
    pub boots: usize,
    /// Compares every clone that was not booted with the image, not some of them.
    #[arg(long)]
    pub compare_all: bool,
}

pub fn run_alone(options: &Options) -> Result<()> {
    crate::server::build()?;
    println!("{}", run(options)?.said);
    Ok(())
}

/// Names and checksums of the files that a guest synced.
type Synced = BTreeMap<String, String>;

pub fn run(options: &Options) -> Result<Done> {
    ensure!(rustix::process::geteuid().is_root(), "loop devices and mounts need root");
    ensure!((1..=CLONES / 2).contains(&options.boots), "boot 1 to {} of {CLONES} clones", CLONES / 2);
    let image = prepare()?;
    let dir = scratch("desks")?;
    let mut server = Server::new(&dir)?;
    server.start()?;
    server.run(&["vdisk", "import", SOURCE, &image.root.to_string_lossy()])?;
    let begun = Instant::now();
    server.run(&["vdisk", "clone", SOURCE, "desk-{001..500}"])?;
    let cloned_s = begun.elapsed().as_secs_f64();
    ensure!(cloned_s <= CLONES_SECONDS_MAX, "{CLONES} clones took {cloned_s:.1} s");
    ensure!(server.list()?.len() == CLONES + 1, "{} vDisks after {CLONES} clones", server.list()?.len());

    // From all over the range.
    let booted: Vec<String> = (0..options.boots).map(|index| desk(1 + index * CLONES / options.boots)).collect();
    let begun = Instant::now();
    let mut synced = Vec::new();
    for some in booted.chunks(AT_ONCE) {
        synced.extend(boot(&server, &image, &dir, some)?);
    }
    let boots_s = begun.elapsed().as_secs_f64();
    let sums: BTreeSet<&String> = synced.iter().flat_map(Synced::values).collect();
    ensure!(sums.len() == FILES * booted.len(), "guests wrote the same files");
    // As after a reboot of the host: what is compared comes from the disk.
    server.kill9();
    server.start()?;
    for (desk, synced) in booted.iter().zip(&synced) {
        holds(&server, &dir, desk, synced).with_context(|| desk.clone())?;
    }
    let idle: Vec<String> = (1..=CLONES).map(desk).filter(|desk| !booted.contains(desk)).collect();
    let step = if options.compare_all { 1 } else { idle.len() / COMPARED };
    let compared: Vec<&String> = idle.iter().step_by(step).collect();
    for name in compared.iter().map(|name| name.as_str()).chain([SOURCE]) {
        is_the_image(&server, &image, name)?;
    }
    // The comparison is one that finds differences.
    let error = is_the_image(&server, &image, &booted[0]).err().context("a guest wrote, and nothing is different")?;
    ensure!(format!("{error:#}").contains("mismatch"), "{error:#}");
    server.stop()?;
    std::fs::remove_dir_all(&dir)?;
    let said = format!(
        "{CLONES} clones in {cloned_s:.2} s, {} of them booted in {boots_s:.0} s, each with its own {FILES} files; the source and {} \
         others unchanged",
        booted.len(),
        compared.len()
    );
    Ok(Done::new(booted.len() as u64, said))
}

fn desk(number: usize) -> String {
    format!("desk-{number:03}")
}

/// Boots these side by side, to the end; what each of them synced.
fn boot(server: &Server, image: &GuestImage, dir: &Path, desks: &[String]) -> Result<Vec<Synced>> {
    let words = format!("files={FILES} then=check");
    let start = |desk: &String| Guest::start(dir, image, &server.nbd, desk, &words);
    let guests = desks.iter().map(start).collect::<Result<Vec<Guest>>>()?;
    let run = |mut guest: Guest| {
        let mut synced = Synced::new();
        // Its first boot: whoever boots a clone that another one wrote to finds a second.
        guest.boots(1, &mut synced)?;
        guest.until("END check", &mut synced)?;
        guest.powers_off()?;
        ensure!(synced.len() == FILES, "it synced {} files of {FILES}", synced.len());
        Ok(synced)
    };
    desks.iter().zip(guests).map(|(desk, guest)| run(guest).with_context(|| desk.clone())).collect()
}

/// The files of this guest and of no other, as they were synced.
fn holds(server: &Server, dir: &Path, desk: &str, synced: &Synced) -> Result<()> {
    let file = FuseFile::show(&server.socket.uri(desk), &dir.join(format!("{desk}.nbd")))?;
    let mount = Mount::new(&file.path, &dir.join(desk))?;
    let files = mount.path.join("files");
    let mut found = Synced::new();
    for entry in std::fs::read_dir(&files)? {
        let path = entry?.path();
        let sum = output("sha256sum", &["--", &path.to_string_lossy()])?;
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        found.insert(name, sum.split(' ').next().unwrap_or("").to_string());
    }
    ensure!(&found == synced, "files that were synced: {synced:?}, that are there: {found:?}");
    mount.unmount()?;
    file.hide()
}

fn is_the_image(server: &Server, image: &GuestImage, vdisk: &str) -> Result<()> {
    let arguments = ["compare", "-f", "raw", "-F", "raw", &image.root.to_string_lossy(), &server.uri(vdisk)];
    output("qemu-img", &arguments).map(drop).with_context(|| format!("{vdisk} has changed"))
}
