//! VMs and snapshots as targets, for other people's initiators.

use super::initiator::{Initiator, TARGET};
use crate::clients::{Bench, Check};
use crate::process::{Background, command, finish, output, wait_until};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

pub const CHECKS: &[(&str, Check)] = &[
    ("a VM is a target", vm_target),
    ("a VM is a target: vDisks come and go", attach_and_detach),
    ("a VM is a target: reservations on both paths", reservations),
    ("a VM is a target: rules of its vDisks", rules),
    ("a VM is a target: templates and snapshots are read-only", read_only),
    ("a VM is a target: snapshots while somebody writes", snapshots_under_writes),
];

const MIB: u64 = 1 << 20;
const OTHER: &str = "iqn.2026-11.com.example:other";

fn uri(bench: &Bench, target: &str, lun: u32) -> String {
    format!("iscsi://{}/{TARGET}{target}/{lun}", bench.server.iscsi)
}

fn io(uri: &str, action: &str) -> Result<String> {
    let said = output("qemu-io", &["-f", "raw", "-c", action, uri])?;
    ensure!(!said.contains("failed"), "{action} on {uri}: {said}");
    Ok(said)
}

/// Whatever the tool says: it does not say that it worked.
fn fails(program: &str, arguments: &[&str]) -> Result<()> {
    let ended = finish(command(program, arguments), Duration::from_secs(30))?;
    ensure!(
        !ended.status.success() || ended.stdout.contains("failed"),
        "{program} {arguments:?} worked: {}",
        ended.stdout
    );
    Ok(())
}

/// What is refused while somebody is connected, and nobody is for long.
fn when_unconnected(bench: &Bench, arguments: &[&str]) -> Result<()> {
    wait_until("nobody is connected", Duration::from_secs(10), || Ok(bench.server.run(arguments).is_ok())).map(drop)
}

/// The logical unit numbers that discovery and REPORT LUNS tell of a target.
fn luns(bench: &Bench, target: &str) -> Result<Vec<u32>> {
    let list = output("iscsi-ls", &["-s", &format!("iscsi://{}", bench.server.iscsi)])?;
    let of_target = list.lines().skip_while(|line| !line.contains(&format!("{TARGET}{target} "))).skip(1);
    let numbers = of_target.take_while(|line| !line.starts_with("Target:"));
    let lun = |line: &str| line.trim().strip_prefix("Lun:")?.split_whitespace().next()?.parse().ok();
    Ok(numbers.filter_map(lun).collect())
}

fn vm_target(bench: &mut Bench) -> Result<()> {
    bench.server.run(&[
        "vm",
        "create",
        "web",
        "--vdisk",
        "root=64MiB",
        "--vdisk",
        "data=96MiB",
        "--vdisk",
        "log=32MiB",
    ])?;
    let shown = bench.server.json(&["vm", "show", "web"])?;
    ensure!(shown["target_name"] == format!("{TARGET}vm:web") && shown["target_closed"].is_null(), "{shown}");
    ensure!(luns(bench, "vm:web")? == [0, 1, 2]);
    for (lun, mib) in [(0, 64), (1, 96), (2, 32)] {
        let capacity = output("iscsi-readcapacity16", &[&uri(bench, "vm:web", lun)])?;
        ensure!(capacity.contains(&format!("Total size:{}", mib * MIB)), "{capacity}");
    }
    // A host that comes by both ways knows that it is one disk.
    let mut known = BTreeSet::new();
    for (lun, vdisk) in [(0, "web-root"), (1, "web-data"), (2, "web-log")] {
        let through_vm = output("iscsi-inq", &["-e", "1", "-c", "131", &uri(bench, "vm:web", lun)])?;
        ensure!(through_vm.contains(&format!("{TARGET}vm:web,t,0x0001")), "{through_vm}");
        let own = output("iscsi-inq", &["-e", "1", "-c", "131", &uri(bench, vdisk, 0)])?;
        let identity = of_logical_unit(&through_vm);
        ensure!(!identity.is_empty() && identity == of_logical_unit(&own), "{through_vm}\nand\n{own}");
        let serial = |uri: &str| output("iscsi-inq", &["-e", "1", "-c", "128", uri]);
        let serials = [serial(&uri(bench, "vm:web", lun))?, serial(&uri(bench, vdisk, 0))?];
        ensure!(serials[0] == serials[1], "{serials:?}");
        known.insert(identity);
    }
    ensure!(known.len() == 3, "two disks have one identity: {known:?}");
    // Over all workers that there are, in large pieces and small.
    for lun in 0..3 {
        io(&uri(bench, "vm:web", lun), &format!("write -P {} 0 8M", lun + 1))?;
        io(&uri(bench, "vm:web", lun), &format!("write -P {} 4k 512", lun + 11))?;
    }
    for (lun, vdisk) in [(0, "web-root"), (1, "web-data"), (2, "web-log")] {
        io(&uri(bench, vdisk, 0), &format!("read -P {} 8k 1M", lun + 1))?;
        io(&uri(bench, vdisk, 0), &format!("read -P {} 4k 512", lun + 11))?;
        let compared = output(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", &uri(bench, "vm:web", lun), &bench.server.uri(vdisk)],
        )?;
        ensure!(compared.contains("identical"), "{compared}");
    }
    bench.server.kill9();
    bench.server.start()?;
    ensure!(luns(bench, "vm:web")? == [0, 1, 2]);
    io(&uri(bench, "vm:web", 1), "read -P 2 8k 1M")?;
    bench.server.run(&["vm", "rename", "web", "www"])?;
    ensure!(luns(bench, "vm:www")? == [0, 1, 2]);
    fails("iscsi-inq", &[&uri(bench, "vm:web", 0)])
}

/// The designators of page 83h that name the logical unit itself, and neither a port nor the target.
fn of_logical_unit(page: &str) -> Vec<String> {
    let mut ours = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if line.contains("Association:") {
            ours = line.contains("LOGICAL");
        } else if ours && line.contains("Designator:") {
            found.push(line.trim().to_string());
        }
    }
    found
}

fn lun_of(shown: &Value, label: &str) -> Option<u64> {
    shown["vdisks"].as_array()?.iter().find(|one| one["label"] == label)?["lun"].as_u64()
}

fn attach_and_detach(bench: &mut Bench) -> Result<()> {
    bench.server.run(&["vm", "create", "app", "--vdisk", "root=64MiB", "--vdisk", "data=64MiB"])?;
    bench.server.create("more", "32MiB")?;
    bench.server.run(&["vm", "detach", "app", "data"])?;
    ensure!(luns(bench, "vm:app")? == [0]);
    fails("iscsi-inq", &[&uri(bench, "vm:app", 1)])?;
    // A number that another disk had a moment ago would be written to by who has not noticed.
    let shown = bench.server.json(&["vm", "attach", "app", "more"])?;
    ensure!(lun_of(&shown, "more") == Some(2), "{shown}");
    ensure!(luns(bench, "vm:app")? == [0, 2]);
    io(&uri(bench, "vm:app", 2), "write -P 7 0 64k")?;
    // While somebody is logged in.
    let mut initiator = Initiator::login(&bench.server.iscsi, OTHER, 1, "vm:app")?;
    while initiator.command(&[0; 6], &[], 0)?.status != 0 {}
    bench.server.run(&["vm", "attach", "app", "app-data"])?;
    let told = (0..50).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        initiator.command(&[0; 6], &[], 0).ok().and_then(|ended| ended.sense)
    });
    ensure!(told == Some((6, 0x3f, 0x0e)), "told {told:?} instead of REPORTED LUNS DATA HAS CHANGED");
    ensure!(luns(bench, "vm:app")? == [0, 2, 3]);
    let shown = bench.server.json(&["iscsi", "sessions"])?;
    ensure!(shown[0]["vdisk"] == "vm:app", "{shown}");
    bench.server.run(&["vm", "delete", "app", "--keep-vdisks"])?;
    ensure!(luns(bench, "vm:app")?.is_empty());
    fails("iscsi-inq", &[&uri(bench, "vm:app", 0)])
}

fn reservations(bench: &mut Bench) -> Result<()> {
    bench.server.run(&["vm", "create", "pr", "--vdisk", "a=32MiB", "--vdisk", "b=32MiB"])?;
    let mut holder = Initiator::login(&bench.server.iscsi, OTHER, 1, "pr-b")?;
    while holder.command(&[0; 6], &[], 0)?.status != 0 {}
    let mut list = [0; 24];
    list[15] = 9;
    holder.command(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0)?.good()?;
    list = [0; 24];
    list[7] = 9;
    // Exclusive access.
    holder.command(&[0x5f, 1, 3, 0, 0, 0, 0, 0, 24, 0], &list, 0)?.good()?;
    fails("qemu-io", &["-f", "raw", "-c", "write 0 4k", &uri(bench, "vm:pr", 1)])?;
    io(&uri(bench, "vm:pr", 0), "write -P 1 0 4k")?;
    holder.command(&[0x5f, 3, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0)?.good()?;
    io(&uri(bench, "vm:pr", 1), "write -P 1 0 4k").map(drop)
}

fn rules(bench: &mut Bench) -> Result<()> {
    bench.server.run(&["vm", "create", "guarded", "--vdisk", "a=32MiB", "--vdisk", "b=32MiB"])?;
    bench.server.run(&["iscsi", "access", "guarded-a", "--initiator", OTHER])?;
    ensure!(luns(bench, "vm:guarded")? == [1], "a vDisk is shown to who may not log in to it");
    fails("iscsi-inq", &[&uri(bench, "vm:guarded", 0)])?;
    io(&uri(bench, "vm:guarded", 1), "write -P 1 0 4k")?;
    bench.server.run(&["iscsi", "access", "guarded-b", "--initiator", OTHER])?;
    ensure!(luns(bench, "vm:guarded")?.is_empty());
    fails("iscsi-inq", &[&uri(bench, "vm:guarded", 1)])?;
    let mut files = Vec::new();
    for (vdisk, secret) in [("guarded-a", "correct-horse-battery"), ("guarded-b", "another-horse-battery")] {
        let file = bench.file(vdisk);
        std::fs::write(&file, secret)?;
        let file = file.to_string_lossy().into_owned();
        bench.server.run(&[
            "iscsi",
            "access",
            vdisk,
            "--any-initiator",
            "--chap",
            "guest",
            "--chap-secret-file",
            &file,
        ])?;
        files.push(file);
    }
    let closed = bench.server.json(&["vm", "show", "guarded"])?;
    ensure!(closed["target_closed"] == "its vDisks ask for different secrets", "{closed}");
    let with_secret =
        |lun: u32| format!("iscsi://guest%correct-horse-battery@{}/{TARGET}vm:guarded/{lun}", bench.server.iscsi);
    fails("iscsi-inq", &[&with_secret(0)])?;
    bench.server.run(&["iscsi", "access", "guarded-b", "--chap", "guest", "--chap-secret-file", &files[0]])?;
    fails("iscsi-inq", &[&uri(bench, "vm:guarded", 0)])?;
    (0..2).try_for_each(|lun| output("iscsi-inq", &[&with_secret(lun)]).map(drop))?;
    // Discovery with a secret is not what the others want.
    bench.server.run(&["vm", "delete", "guarded", "--force"]).map(drop)
}

fn read_only(bench: &mut Bench) -> Result<()> {
    bench.server.run(&["vm", "create", "tpl", "--vdisk", "root=32MiB", "--vdisk", "data=32MiB"])?;
    io(&uri(bench, "vm:tpl", 1), "write -P 1 0 64k")?;
    bench.server.run(&["vm", "snapshot", "tpl", "one"])?;
    io(&uri(bench, "vm:tpl", 1), "write -P 2 0 64k")?;
    let snapshot = "snapshot:tpl-data:one";
    let shown = bench.server.json(&["vdisk", "snapshots", "tpl-data"])?;
    ensure!(shown[0]["target_name"] == format!("{TARGET}{snapshot}"), "{shown}");
    let snapshot = uri(bench, snapshot, 0);
    let reads = |uri: &str, byte: u8| {
        let said = output("qemu-io", &["-r", "-f", "raw", "-c", &format!("read -P {byte} 0 64k"), uri])?;
        ensure!(!said.contains("failed"), "{said}");
        Ok(())
    };
    reads(&snapshot, 1)?;
    fails("qemu-io", &["-f", "raw", "-c", "write 0 4k", &snapshot])?;
    let mut initiator = Initiator::login(&bench.server.iscsi, OTHER, 1, "snapshot:tpl-data:one")?;
    while initiator.command(&[0; 6], &[], 0)?.status != 0 {}
    let refused = initiator.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[9; 512], 0)?;
    ensure!(refused.sense == Some((7, 0x27, 0)), "a write to a snapshot ended with {refused:?}");
    bench.server.refuses(&["vm", "snapshot-delete", "tpl", "one"], &["1 client reads", "--force"])?;
    drop(initiator);
    let list = output("iscsi-ls", &["-s", &format!("iscsi://{}", bench.server.iscsi)])?;
    ensure!(!list.contains("snapshot:"), "discovery tells of snapshots:\n{list}");
    bench.server.run(&["iscsi", "access", "tpl-data", "--initiator", OTHER])?;
    fails("iscsi-inq", &[&snapshot])?;
    bench.server.run(&["iscsi", "access", "tpl-data", "--any-initiator"])?;
    when_unconnected(bench, &["vm", "template", "tpl", "on"])?;
    reads(&uri(bench, "vm:tpl", 1), 2)?;
    fails("qemu-io", &["-f", "raw", "-c", "write 0 4k", &uri(bench, "vm:tpl", 1)])?;
    when_unconnected(bench, &["vm", "template", "tpl", "off"])?;
    when_unconnected(bench, &["vm", "rollback", "tpl", "one"])?;
    reads(&uri(bench, "vm:tpl", 1), 1)?;
    when_unconnected(bench, &["vm", "snapshot-delete", "tpl", "one"])?;
    fails("iscsi-inq", &[&snapshot])
}

/// Writes that are sent one after the other: of two of them no snapshot has the later alone.
fn snapshots_under_writes(bench: &mut Bench) -> Result<()> {
    bench.server.run(&["vm", "create", "busy", "--vdisk", "a=32MiB", "--vdisk", "b=32MiB"])?;
    let written = uri(bench, "vm:busy", 1);
    io(&written, "write -P 1 0 32M")?;
    // Flushes make it slow enough to be in the midst of it.
    let count = format!("{}", 32 * MIB / 4096);
    let what = ["-w", "-d", "1", "-s", "4096", "--pattern", "5", "--flush-interval", "1", "-c", &count];
    let write = [&["bench", "-f", "raw"], &what[..], &[&written]].concat();
    let mut writer = Background::start(command("qemu-img", &write), &bench.file("writer.log"))?;
    let begun =
        || Ok(bench.server.metric("drystone_vdisk_operations_total{vdisk=\"busy-b\",operation=\"write\"}")? > 300.0);
    wait_until("the writer writes", Duration::from_secs(20), begun)?;
    for name in ["one", "two", "three"] {
        bench.server.run(&["vm", "snapshot", "busy", name])?;
    }
    ensure!(writer.ended().is_none(), "the writer ended before the last snapshot:\n{}", writer.log());
    writer.kill9();
    let mut before = 0;
    for name in ["one", "two", "three"] {
        let (source, copy) = (uri(bench, &format!("snapshot:busy-b:{name}"), 0), bench.file(name));
        let copy = copy.to_string_lossy().into_owned();
        output("qemu-img", &["convert", "-f", "raw", "-O", "raw", &source, &copy])?;
        let bytes = std::fs::read(&copy)?;
        ensure!(bytes.len() as u64 == 32 * MIB);
        let blocks: Vec<Option<u8>> = bytes.chunks(4096).map(all_of).collect();
        let written = blocks.iter().take_while(|block| **block == Some(5)).count();
        ensure!(blocks[written..].iter().all(|block| *block == Some(1)), "{name} has what was written later alone");
        ensure!(written >= before, "{name} has {written} blocks, and the one before it {before}");
        before = written;
    }
    ensure!(before > 0, "nothing of what was written is in the last snapshot");
    bench.server.run(&["vm", "delete", "busy", "--snapshots", "--force"]).map(drop)
}

/// The byte that all of them are.
fn all_of(bytes: &[u8]) -> Option<u8> {
    let first = *bytes.first()?;
    bytes.iter().all(|byte| *byte == first).then_some(first)
}
