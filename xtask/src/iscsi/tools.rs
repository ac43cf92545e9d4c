//! qemu-img, qemu-io and libiscsi's small programs over iscsi://.

use super::initiator::{Initiator, TARGET};
use crate::clients::{Bench, Check, sparse_file};
use crate::process::output;
use anyhow::{Result, ensure};

pub const CHECKS: &[(&str, Check)] = &[
    ("discovery", discovery),
    ("qemu-img", qemu_img),
    ("qemu-io", qemu_io),
    ("both protocols", both_protocols),
    ("compare and write", compare_and_write),
];

const MIB: u64 = 1 << 20;

pub fn uri(bench: &Bench, vdisk: &str) -> String {
    format!("iscsi://{}/{TARGET}{vdisk}/0", bench.server.iscsi)
}

fn discovery(bench: &mut Bench) -> Result<()> {
    bench.server.create("found", "64MiB")?;
    bench.server.create("found-too", "32MiB")?;
    let list = output("iscsi-ls", &["-s", &format!("iscsi://{}", bench.server.iscsi)])?;
    for part in [&format!("{TARGET}found "), &format!("{TARGET}found-too "), "Lun:0", &bench.server.iscsi] {
        ensure!(list.contains(part), "no {part:?} in\n{list}");
    }
    let inquiry = output("iscsi-inq", &[&uri(bench, "found")])?;
    ensure!(inquiry.contains("DRYSTONE") && inquiry.contains("DIRECT_ACCESS"), "{inquiry}");
    let capacity = output("iscsi-readcapacity16", &[&uri(bench, "found")])?;
    ensure!(capacity.contains(&format!("Total size:{}", 64 * MIB)), "{capacity}");
    Ok(())
}

fn qemu_img(bench: &mut Bench) -> Result<()> {
    let size = 96 * MIB;
    bench.server.create("image", &size.to_string())?;
    let (file, back) = (bench.file("image.raw"), bench.file("back.raw"));
    sparse_file(&file, size, 31)?;
    let (file, back, uri) =
        (file.to_string_lossy().into_owned(), back.to_string_lossy().into_owned(), uri(bench, "image"));
    output("qemu-img", &["convert", "-f", "raw", "-O", "raw", &file, &uri])?;
    let said = output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &file, &uri])?;
    ensure!(said.contains("identical"), "{said}");
    output("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, &back])?;
    let said = output("qemu-img", &["compare", &file, &back])?;
    ensure!(said.contains("identical"), "{said}");
    let info = output("qemu-img", &["info", "-f", "raw", &uri])?;
    ensure!(info.contains(&size.to_string()), "{info}");
    // Holes of the file took no space.
    let shown = bench.server.json(&["vdisk", "show", "image"])?;
    ensure!(shown["mapped_bytes"].as_u64().is_some_and(|bytes| bytes < size * 3 / 4), "{shown}");
    Ok(())
}

fn qemu_io(bench: &mut Bench) -> Result<()> {
    bench.server.create("io", "64MiB")?;
    let commands = [
        "write -P 0x11 0 1M",
        "write -P 0x22 512 512",
        "read -P 0x22 512 512",
        "read -P 0x11 1024 4096",
        "write -f -P 0x33 3M 64k",
        "read -P 0x33 3M 64k",
        "discard 0 1M",
        "read -P 0 0 1M",
        "write -P 0x44 8M 8M",
        "write -z -u 9M 1M",
        "read -P 0x44 8M 1M",
        "read -P 0 9M 1M",
        "read -P 0x44 10M 6M",
        "write -P 0x55 67108352 512",
        "read -P 0x55 67108352 512",
        "flush",
        "aio_write -P 0x66 20M 1M",
        "aio_write -P 0x77 24M 1M",
        "aio_flush",
        "read -P 0x66 20M 1M",
        "read -P 0x77 24M 1M",
    ];
    let uri = uri(bench, "io");
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let said = output("qemu-io", &arguments)?;
    ensure!(!said.contains("failed") && !said.contains("erification"), "{said}");
    let beyond = crate::process::command("qemu-io", &["-f", "raw", "-c", "write 64M 512", &uri]);
    crate::process::finish(beyond, std::time::Duration::from_secs(20))?;
    ensure!(bench.server.json(&["iscsi", "sessions"])?.as_array().is_some_and(Vec::is_empty), "a session stayed");
    Ok(())
}

/// What one wrote the other reads.
fn both_protocols(bench: &mut Bench) -> Result<()> {
    bench.server.create("both", "64MiB")?;
    let (iscsi, nbd) = (uri(bench, "both"), bench.server.uri("both"));
    output("qemu-io", &["-f", "raw", "-c", "write -P 0x81 1M 3M", &iscsi])?;
    output("qemu-io", &["-f", "raw", "-c", "read -P 0x81 1M 3M", "-c", "write -P 0x82 2M 1M", &nbd])?;
    let said = output("qemu-io", &["-f", "raw", "-c", "read -P 0x82 2M 1M", &iscsi])?;
    ensure!(!said.contains("erification"), "{said}");
    let said = output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &iscsi, &nbd])?;
    ensure!(said.contains("identical"), "{said}");
    Ok(())
}

fn compare_and_write(bench: &mut Bench) -> Result<()> {
    bench.server.create("locks", "16MiB")?;
    let mut initiator = Initiator::login(&bench.server.iscsi, "iqn.2026-11.com.example:one", 1, "locks")?;
    initiator.ready()?;
    initiator.compare_and_write(4096, &[0; 512], &[1; 512])?.good()?;
    let lost = initiator.compare_and_write(4096, &[0; 512], &[2; 512])?;
    ensure!(lost.status == 2 && lost.sense.is_some_and(|sense| sense.0 == 0xe), "not a miscompare: {lost:?}");
    ensure!(initiator.read(4096, 512)?.good()? == [1; 512]);
    // Many ask for one lock: one gets it.
    let address = bench.server.iscsi.clone();
    let askers = (1..=8u8).map(|who| {
        let address = address.clone();
        std::thread::spawn(move || {
            let mut asker = Initiator::login(&address, &format!("iqn.2026-11.com.example:{who}"), who, "locks")?;
            asker.ready()?;
            anyhow::Ok(asker.compare_and_write(0, &[0; 512], &[who; 512])?.status == 0)
        })
    });
    let askers: Vec<_> = askers.collect();
    let mut winners = 0;
    for asker in askers {
        winners += u32::from(asker.join().expect("no panic")?);
    }
    ensure!(winners == 1, "{winners} got the lock");
    Ok(())
}
