//! nbdinfo, nbdcopy, qemu-img, qemu-io, libnbd and fio, as people use them.

use super::{Bench, Check};
use crate::process::{command, output, succeed};
use crate::random::Random;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const CHECKS: &[(&str, Check)] = &[
    ("nbdinfo", nbdinfo),
    ("nbdinfo map", nbdinfo_map),
    ("nbdcopy", nbdcopy),
    ("qemu-img raw", qemu_img_raw),
    ("qemu-img qcow2", qemu_img_qcow2),
    ("qemu-io", qemu_io),
    ("libnbd illegal requests", illegal),
    ("fio verify", fio_verify),
];

const MIB: u64 = 1 << 20;

/// A raw file with data at some places and holes elsewhere, and an odd pattern at both ends.
pub fn sparse_file(path: &Path, size: u64, seed: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(size)?;
    let mut random = Random::new(seed);
    let mut bytes = vec![0u8; MIB as usize];
    for _ in 0..(size / MIB / 8).max(2) {
        random.fill(&mut bytes);
        let len = (random.between(1, 2048) * 512) as usize;
        let offset = random.below((size - MIB) / 512) * 512;
        file.write_all_at(&bytes[..len], offset)?;
    }
    file.write_all_at(&bytes[..512], 0)?;
    file.write_all_at(&bytes[..512], size - 512)?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn nbdinfo(bench: &mut Bench) -> Result<()> {
    bench.server.create("info", &(64 * MIB).to_string())?;
    for uri in [bench.server.uri("info"), bench.server.socket.uri("info")] {
        let info: Value = serde_json::from_str(&output("nbdinfo", &["--json", &uri])?)?;
        let export = &info["exports"][0];
        ensure!(info["protocol"] == "newstyle-fixed" && info["structured"] == true, "{info}");
        ensure!(export["export-size"] == 64 * MIB, "{info}");
        for key in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_df", "can_cache"] {
            ensure!(export[key] == true, "{key}: {info}");
        }
        for key in ["is_read_only", "is_rotational"] {
            ensure!(export[key] == false, "{key}: {info}");
        }
        let contexts = export["contexts"].as_array().context("contexts")?;
        ensure!(contexts.iter().any(|context| context == "base:allocation"), "{info}");
        if bench.server.subject() == crate::server::Subject::Drystone {
            ensure!(export["block_size_minimum"] == 512, "{info}");
            ensure!(export["block_size_preferred"].as_u64().is_some_and(|size| size >= 4096), "{info}");
            ensure!(export["block_size_maximum"] == 32 * MIB, "{info}");
            ensure!(export["can_fast_zero"] == true, "{info}");
        }
    }
    let list = output("nbdinfo", &["--list", &bench.server.uri("")])?;
    ensure!(list.contains("export=\"info\""), "{list}");
    Ok(())
}

fn nbdinfo_map(bench: &mut Bench) -> Result<()> {
    bench.server.create("map", &(64 * MIB).to_string())?;
    let mut client = bench.server.connect("map")?;
    client.write(4 * MIB, &vec![7; MIB as usize])?;
    client.write(16 * MIB, &vec![7; 2 * MIB as usize])?;
    client.trim(17 * MIB, MIB as u32)?;
    client.flush()?;
    client.disconnect()?;
    let map: Value = serde_json::from_str(&output("nbdinfo", &["--map", "--json", &bench.server.uri("map")])?)?;
    let found: Vec<(u64, u64, u64)> = map
        .as_array()
        .context("a map is an array")?
        .iter()
        .map(|entry| {
            let number = |key: &str| entry[key].as_u64().unwrap_or(u64::MAX);
            (number("offset") / MIB, number("length") / MIB, number("type"))
        })
        .collect();
    // 3: hole and zero, 0: data.
    ensure!(found == [(0, 4, 3), (4, 1, 0), (5, 11, 3), (16, 1, 0), (17, 47, 3)], "{map}");
    Ok(())
}

fn nbdcopy(bench: &mut Bench) -> Result<()> {
    let (source, back) = (bench.file("copy.raw"), bench.file("copy-back.raw"));
    sparse_file(&source, 96 * MIB, 1)?;
    bench.server.create("copy", &(96 * MIB).to_string())?;
    bench.server.create("copy2", &(96 * MIB).to_string())?;
    output("nbdcopy", &["--flush", &text(&source), &bench.server.uri("copy")])?;
    output("nbdcopy", &[&bench.server.uri("copy"), &bench.server.socket.uri("copy2")])?;
    output("nbdcopy", &[&bench.server.uri("copy2"), &text(&back)])?;
    output("cmp", &[&text(&source), &text(&back)])?;
    Ok(())
}

fn qemu_img_raw(bench: &mut Bench) -> Result<()> {
    let source = bench.file("raw.raw");
    sparse_file(&source, 96 * MIB, 2)?;
    bench.server.create("raw", &(96 * MIB).to_string())?;
    let uri = bench.server.uri("raw");
    output("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &text(&source), &uri])?;
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &text(&source), &uri])?;
    // The comparison can fail.
    File::options().write(true).open(&source)?.write_all_at(b"another", 50 * MIB)?;
    crate::process::refused(
        command("qemu-img", &["compare", "-f", "raw", "-F", "raw", &text(&source), &uri]),
        &["mismatch"],
    )
}

fn qemu_img_qcow2(bench: &mut Bench) -> Result<()> {
    let (raw, qcow2) = (bench.file("q.raw"), bench.file("q.qcow2"));
    sparse_file(&raw, 64 * MIB, 3)?;
    output("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", &text(&raw), &text(&qcow2)])?;
    bench.server.create("from-qcow2", &(64 * MIB).to_string())?;
    let uri = bench.server.uri("from-qcow2");
    output("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &text(&qcow2), &uri])?;
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &text(&raw), &uri])?;
    // A qcow2 that lives on a vDisk.
    bench.server.create("qcow2", &(128 * MIB).to_string())?;
    let uri = bench.server.uri("qcow2");
    output("qemu-img", &["create", "-q", "-f", "qcow2", &uri, "64M"])?;
    output("qemu-img", &["convert", "-n", "-f", "raw", "-O", "qcow2", &text(&raw), &uri])?;
    output("qemu-img", &["check", "-f", "qcow2", &uri])?;
    output("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &text(&raw), &uri])?;
    Ok(())
}

fn qemu_io(bench: &mut Bench) -> Result<()> {
    bench.server.create("io", &(64 * MIB).to_string())?;
    let script = [
        "write -P 0xab 0 1M",
        "write -P 0xcd 512k 64k",
        "write -P 0x11 1536 512",
        "write -P 0x22 10M 3584",
        "write -P 0x33 20M 32M",
        "write -z 64k 64k",
        "write -z -u 128k 64k",
        "discard 256k 64k",
        "write -f -P 0x44 60M 4k",
        "aio_write -P 0x55 30M 64k",
        "aio_write -P 0x66 31M 64k",
        "aio_flush",
        "flush",
        "read -P 0xab 0 1536",
        "read -P 0x11 1536 512",
        "read -P 0xab 2k 62k",
        "read -P 0 64k 128k",
        "read -P 0 256k 64k",
        "read -P 0xcd 512k 64k",
        "read -P 0xab 576k 448k",
        "read -P 0 1M 1M",
        "read -P 0x22 10M 3584",
        "read -P 0 10489344 512",
        "read -P 0x55 30M 64k",
        "read -P 0x66 31M 64k",
        "read -P 0x33 32M 20M",
        "read -P 0x44 60M 4k",
    ];
    let uri = bench.server.uri("io");
    let run = |script: &[&str]| {
        let mut io = command("qemu-io", &["-f", "raw"]);
        for line in script {
            io.args(["-c", line]);
        }
        io.arg(&uri);
        succeed(io)
    };
    let said = run(&script)?;
    ensure!(!said.contains("failed"), "{said}");
    // A wrong pattern is noticed.
    let said = run(&["read -P 0x45 60M 4k"]).unwrap_or_else(|error| error.to_string());
    ensure!(said.contains("failed"), "a wrong pattern went unnoticed: {said}");
    Ok(())
}

fn illegal(bench: &mut Bench) -> Result<()> {
    if bench.server.subject() == crate::server::Subject::Nbdkit {
        // nbdkit takes unaligned requests.
        return Ok(());
    }
    let size = 64 * MIB;
    bench.server.create("illegal", &size.to_string())?;
    let script = crate::process::repository().join("tests/clients/illegal.py");
    // Debian's own Python: it has python3-libnbd.
    let said = output("/usr/bin/python3", &[&text(&script), &bench.server.uri("illegal"), &size.to_string()])?;
    let checks: u64 = said.trim().parse().with_context(|| said.clone())?;
    ensure!(checks > 20, "only {checks} checks");
    Ok(())
}

fn fio_verify(bench: &mut Bench) -> Result<()> {
    bench.server.create("fio", &(256 * MIB).to_string())?;
    let uri = bench.server.uri("fio");
    output(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={uri}"),
            "--rw=randrw",
            "--rwmixread=30",
            "--bsrange=512-64k",
            "--blockalign=512",
            "--size=48m",
            "--offset_increment=64m",
            "--numjobs=4",
            "--iodepth=16",
            "--fsync=64",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--verify_backlog=256",
            "--verify_state_save=0",
            "--group_reporting",
            &format!("--directory={}", bench.dir.display()),
        ],
    )?;
    Ok(())
}
