//! Backups on the real binary: chains made under load, damage of each kind, and what a `kill -9` in the middle leaves.

use super::kills::{Making, kill_while_making};
use super::{Bench, Check};
use crate::nbd::Client;
use crate::process::{Background, output, wait_until};
use crate::random::Random;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const CHECKS: &[(&str, Check)] = &[
    ("a backup chain made under load", chain),
    ("damaged backup files", damaged),
    ("kill -9 while a backup is restored", killed_while_restoring),
    ("kill -9 while a VM is restored", killed_while_restoring_a_vm),
];

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

fn text(path: &Path) -> &str {
    path.to_str().expect("the scratch folder has a plain name")
}

/// Writes, zeros and trims of random ranges, some unaligned.
fn change(client: &mut Client, random: &mut Random) -> Result<()> {
    let len = random.between(1, 64) * 512;
    let offset = random.below((SIZE - len) / 512) * 512;
    if random.chance(20) {
        return client.trim(offset, len as u32);
    }
    let mut bytes = vec![0; len as usize];
    random.fill(&mut bytes);
    client.write(offset, &bytes)
}

fn names(server: &Server) -> Result<Vec<String>> {
    Ok(server.list()?.into_iter().map(|(name, _)| name).collect())
}

/// `vdisk backup` of a chain of snapshots, each while a client writes on; the files in their order.
fn make_chain(bench: &Bench, vdisk: &str, links: usize, writes: u32) -> Result<Vec<PathBuf>> {
    let server = &bench.server;
    server.create(vdisk, &SIZE.to_string())?;
    let mut client = server.connect(vdisk)?;
    let mut random = Random::new(13);
    (0..writes).try_for_each(|_| change(&mut client, &mut random))?;
    let mut files = Vec::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                change(&mut client, &mut random)?;
                count += 1;
                // Less than the whole vDisk between two snapshots.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(count)
        });
        let made = (0..links).try_for_each(|link| {
            server.run(&["vdisk", "snapshot", vdisk, &format!("s{link}")])?;
            let file = bench.file(&format!("{vdisk}-{link}.dbk"));
            let (source, since) = (format!("{vdisk}@s{link}"), format!("s{}", link.saturating_sub(1)));
            let mut line = vec!["vdisk", "backup", &source, text(&file)];
            if link > 0 {
                line.extend(["--since", since.as_str()]);
            }
            server.run(&line)?;
            files.push(file.clone());
            Ok(())
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let count = writer.join().expect("no panic")?;
        ensure!(count > 20, "the client wrote only {count} times meanwhile");
        made
    })?;
    client.disconnect()?;
    Ok(files)
}

fn restore<'a>(files: &'a [PathBuf], name: &'a str) -> Vec<&'a str> {
    ["vdisk", "restore"].into_iter().chain(files.iter().map(|file| text(file))).chain([name]).collect()
}

fn compare(server: &Server, one: &str, two: &str) -> Result<()> {
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &server.uri(one), &server.uri(two)]).map(drop)
}

fn chain(bench: &mut Bench) -> Result<()> {
    let files = make_chain(bench, "chain", 5, 2000)?;
    let server = &bench.server;
    let bytes = |file: &PathBuf| Ok::<_, anyhow::Error>(fs::metadata(file)?.len());
    ensure!(bytes(&files[1])? < bytes(&files[0])?, "an incremental file is larger than the full one");
    // Every beginning of the chain is a state that was there.
    for links in 1..=files.len() {
        let name = format!("back{links}");
        server.run(&restore(&files[..links], &name))?;
        compare(server, &format!("chain@s{}", links - 1), &name)?;
    }
    ensure!(compare(server, "chain@s0", "back5").is_err(), "the comparison cannot fail");
    // A restored vDisk is the same in a full backup of its own.
    server.run(&["vdisk", "snapshot", "back5", "x"])?;
    let again = bench.file("again.dbk");
    server.run(&["vdisk", "backup", "back5@x", text(&again)])?;
    server.run(&["vdisk", "restore", text(&again), "twice"])?;
    compare(server, "chain@s4", "twice")?;
    // Through a pipe.
    let mut piped = server.cli(&["vdisk", "backup", "chain@s4", "--since", "s3", "-"]);
    let output = piped.output().context("drystone vdisk backup")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let piped = bench.file("piped.dbk");
    fs::write(&piped, output.stdout)?;
    server.run(&restore(&[&files[..4], &[piped]].concat(), "of-pipe"))?;
    compare(server, "chain@s4", "of-pipe")
}

/// Nothing is there afterwards that was not there before.
fn refused(server: &Server, files: &[PathBuf], expect: &[&str]) -> Result<()> {
    let before = names(server)?;
    server.refuses(&restore(files, "never"), expect)?;
    let after = names(server)?;
    ensure!(before == after, "a refused restore made {after:?} of {before:?}");
    Ok(())
}

fn damaged(bench: &mut Bench) -> Result<()> {
    let files = make_chain(bench, "rot", 3, 100)?;
    let server = &bench.server;
    let sound = fs::read(&files[1])?;
    let mut random = Random::new(5);
    let damaged = bench.file("damaged.dbk");
    let with = |place: usize, file: &Path| {
        let mut files = files.clone();
        files[place] = file.to_path_buf();
        files
    };
    for round in 0..40 {
        let mut bytes = sound.clone();
        // The first bytes and the last ones, then anywhere.
        let at = match round {
            0..8 => round * 8,
            8..12 => bytes.len() - 1 - (round - 8) * 16,
            _ => random.below(bytes.len() as u64) as usize,
        };
        bytes[at] ^= 1 << random.below(8);
        fs::write(&damaged, &bytes)?;
        refused(server, &with(1, &damaged), &["damaged.dbk is refused"]).with_context(|| format!("byte {at}"))?;
    }
    for _ in 0..20 {
        let len = random.below(sound.len() as u64) as usize;
        fs::write(&damaged, &sound[..len])?;
        refused(server, &with(1, &damaged), &["damaged.dbk is refused"]).with_context(|| format!("cut to {len}"))?;
    }
    fs::write(&damaged, [&sound[..], &[0; 1]].concat())?;
    refused(server, &with(1, &damaged), &["something follows its end"])?;
    let pick = |order: &[usize]| order.iter().map(|at| files[*at].clone()).collect::<Vec<_>>();
    refused(server, &pick(&[0, 2, 1]), &["a file is missing, or they are in another order"])?;
    refused(server, &pick(&[1, 0, 2]), &["holds only what changed since"])?;
    refused(server, &pick(&[0, 2]), &["a file is missing"])?;
    refused(server, &pick(&[1, 2]), &["a full backup"])?;
    refused(server, &pick(&[0, 1, 1]), &["a file is missing"])?;
    refused(server, &with(2, &bench.file("nowhere.dbk")), &["cannot open"])?;
    refused(server, &with(0, Path::new("/etc/passwd")), &["no backup file"])?;
    let others = make_chain(bench, "other", 2, 100)?;
    refused(server, &with(1, &others[1]), &["of vDisk \"other\""])?;
    server.refuses(&["vdisk", "restore", text(&files[0]), "rot"], &["exists already"])?;
    // What was refused for its damage is restored without it.
    server.run(&restore(&files, "sound"))?;
    compare(server, "rot@s2", "sound")
}

/// What is left under other names than those that were there.
fn unfinished(server: &Server) -> Result<Vec<String>> {
    Ok(names(server)?.into_iter().filter(|name| name.contains(".unfinished-")).collect())
}

fn killed_while_restoring(bench: &mut Bench) -> Result<()> {
    // Large enough that a restore is met in the middle.
    let bytes = bench.file("bytes");
    let mut random = Random::new(9);
    let mut data = vec![0; (192 * MIB) as usize];
    random.fill(&mut data);
    fs::write(&bytes, &data)?;
    bench.server.run(&["vdisk", "import", "big", text(&bytes)])?;
    bench.server.run(&["vdisk", "snapshot", "big", "one"])?;
    let file = bench.file("big.dbk");
    bench.server.run(&["vdisk", "backup", "big@one", text(&file)])?;
    for victim in ["the command", "the controller"] {
        let line = ["vdisk", "restore", text(&file), "back"];
        let mut running = Background::start(bench.server.cli(&line), &bench.file("restore.log"))?;
        let begun = || Ok(!unfinished(&bench.server)?.is_empty());
        wait_until("the restore to begin", Duration::from_secs(60), begun)?;
        std::thread::sleep(Duration::from_millis(50));
        ensure!(running.ended().is_none(), "the restore was over before it was killed");
        if victim == "the command" {
            running.kill9();
        } else {
            bench.server.kill9();
            ensure!(!running.wait(Duration::from_secs(60))?.success(), "a restore without a controller succeeded");
            bench.server.start()?;
        }
        let server = &bench.server;
        server.refuses(&["vdisk", "show", "back"], &["no vDisk"]).context(victim)?;
        for left in unfinished(server)? {
            server.run(&["vdisk", "delete", &left, "--force"])?;
        }
    }
    let begun = Instant::now();
    bench.server.run(&["vdisk", "restore", text(&file), "back"])?;
    println!("  {} MiB restored in {} ms", data.len() as u64 / MIB, begun.elapsed().as_millis());
    compare(&bench.server, "big@one", "back")?;
    // A backup that was killed leaves no file under the name.
    let cut = bench.file("cut.dbk");
    let mut running =
        Background::start(bench.server.cli(&["vdisk", "backup", "big@one", text(&cut)]), &bench.file("backup.log"))?;
    std::thread::sleep(Duration::from_millis(30));
    running.kill9();
    if cut.exists() {
        bench.server.run(&["vdisk", "verify-backup", text(&cut)]).context("half a file has the name")?;
    }
    Ok(())
}

fn killed_while_restoring_a_vm(bench: &mut Bench) -> Result<()> {
    bench.server.run(&["vm", "create", "vm", "--vdisk", "root=8MiB", "--vdisk", "data=8MiB"])?;
    let mut random = Random::new(10);
    for vdisk in ["vm-root", "vm-data"] {
        let mut client = bench.server.connect(vdisk)?;
        let mut bytes = vec![0; MIB as usize];
        random.fill(&mut bytes);
        client.write(MIB, &bytes)?;
        client.disconnect()?;
    }
    bench.server.run(&["vm", "snapshot", "vm", "one"])?;
    let folder = bench.file("vm");
    bench.server.run(&["vm", "backup", "vm@one", text(&folder)])?;
    let line = |name: &str| ["vm", "restore", text(&folder), name].map(String::from).to_vec();
    let tidy = |server: &Server, is_there: bool| -> Result<()> {
        let left = unfinished(server)?;
        ensure!(!is_there || left.is_empty(), "the VM is there, and so are {left:?}");
        left.iter().try_for_each(|left| server.run(&["vdisk", "delete", left, "--force"]).map(drop))
    };
    let compare =
        |server: &Server, vm: &str, label: &str| compare(server, &format!("vm-{label}@one"), &format!("{vm}-{label}"));
    kill_while_making(bench, &Making { seed: 10, prefix: "b", line: &line, tidy: &tidy, compare: &compare })
}
