//! Images of other programs, in and out: what QEMU's tools make is imported, what is exported they can read.

use super::kills::{Making, kill_while_making};
use super::{Bench, Check};
use crate::process::{Background, output, wait_until};
use crate::random::Random;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const CHECKS: &[(&str, Check)] = &[
    ("images of each format", formats),
    ("images that are refused", refusals),
    ("kill -9 while an image is imported", killed_while_importing),
    ("images of a VM", of_a_vm),
    ("kill -9 while a VM is imported", killed_while_importing_a_vm),
];

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().expect("the scratch folder has a plain name")
}

fn names(server: &Server) -> Result<Vec<String>> {
    Ok(server.list()?.into_iter().map(|(name, _)| name).collect())
}

fn compare(server: &Server, vdisk: &str, format: &str, file: &Path) -> Result<()> {
    output("qemu-img", &["compare", "-f", "raw", "-F", format, &server.uri(vdisk), text(file)]).map(drop)
}

/// `raw` in another format.
fn converted(bench: &Bench, raw: &Path, format: &str, options: &[&str]) -> Result<PathBuf> {
    let file = bench.file(&format!("in{}.{format}", options.join("").replace(['-', '=', ','], "")));
    output("qemu-img", &[&["convert", "-f", "raw", "-O", format], options, &[text(raw), text(&file)]].concat())?;
    Ok(file)
}

fn formats(bench: &mut Bench) -> Result<()> {
    let raw = bench.file("in.raw");
    super::sparse_file(&raw, 96 * MIB, 21)?;
    let mut images = vec![("raw", raw.clone())];
    for (format, options) in [
        ("qcow2", &[][..]),
        ("qcow2", &["-c"]),
        ("vmdk", &[]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vmdk", &["-o", "subformat=twoGbMaxExtentFlat"]),
        ("vhdx", &[]),
    ] {
        images.push((format, converted(bench, &raw, format, options)?));
    }
    let server = &bench.server;
    for (number, (format, image)) in images.iter().enumerate() {
        let name = format!("in{number}");
        let said = server.json(&["vdisk", "import", &name, text(image)]).with_context(|| format!("{image:?}"))?;
        ensure!(said["format"] == *format, "{said}");
        compare(server, &name, "raw", &raw).with_context(|| format!("{image:?}"))?;
        let mapped = server.json(&["vdisk", "show", &name])?["mapped_bytes"].as_u64().unwrap_or(u64::MAX);
        ensure!(mapped < 48 * MIB, "{image:?} takes {mapped} bytes");
    }
    server.run(&["vdisk", "snapshot", "in0", "one"])?;
    server.connect("in0")?.write(0, &[0xee; 4096])?;
    for format in ["raw", "qcow2", "vmdk", "vhdx"] {
        let file = bench.file(&format!("out.{format}"));
        server.run(&["vdisk", "export", "in0@one", text(&file)])?;
        let same = ["compare", "-f", "raw", "-F", format, text(&raw), text(&file)];
        output("qemu-img", &same).with_context(|| format!("exported as {format}"))?;
        if format != "raw" {
            output("qemu-img", &["check", "-q", "-f", format, text(&file)])?;
        }
        let taken = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&file)?) * 512;
        ensure!(taken < 80 * MIB, "{format} takes {taken} bytes");
    }
    let left: Vec<_> = fs::read_dir(&bench.dir)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!left.iter().any(|name| name.to_string_lossy().contains(".partial-")), "{left:?}");
    Ok(())
}

fn refusals(bench: &mut Bench) -> Result<()> {
    let raw = bench.file("good.raw");
    super::sparse_file(&raw, 64 * MIB, 22)?;
    let mut images = Vec::new();
    for format in ["qcow2", "vmdk", "vhdx"] {
        images.push((format, converted(bench, &raw, format, &[])?));
    }
    let server = &bench.server;
    let before = names(server)?;
    let refused = |line: &[&str], expect: &str| -> Result<()> {
        server.refuses(&[&["vdisk", "import", "never"], line].concat(), &[expect])?;
        ensure!(names(server)? == before, "{line:?} was refused, and made {:?}", names(server)?);
        Ok(())
    };
    for (format, image) in &images {
        let sound = fs::read(image)?;
        let cut = bench.file(&format!("cut.{format}"));
        for percent in [10, 50, 90] {
            fs::write(&cut, &sound[..sound.len() * percent / 100])?;
            refused(&[text(&cut)], &format!("cannot be imported as a {format} image"))
                .with_context(|| format!("{format} cut to {percent} %"))?;
        }
        // As what it is not.
        fs::write(&cut, [7; 70_000])?;
        refused(&[text(&cut)], "cannot be imported as")?;
        let renamed = bench.file("renamed.img");
        fs::write(&renamed, &sound)?;
        refused(&[text(&renamed)], &format!("--format {format}"))?;
    }
    let on_top = bench.file("top.qcow2");
    let backing = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", text(&raw), text(&on_top)];
    output("qemu-img", &backing)?;
    refused(&[text(&on_top)], "--allow-backing")?;
    let elsewhere = bench.file("elsewhere.qcow2");
    let data_file = format!("data_file={},data_file_raw=on", text(&bench.file("secret")));
    output("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &data_file, text(&elsewhere), "1M"])?;
    refused(&[text(&elsewhere)], "--allow-backing")?;
    let descriptor = bench.file("flat.vmdk");
    fs::write(
        &descriptor,
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW 8 FLAT \"/etc/passwd\" 0\nddb.adapterType = \"ide\"\n",
    )?;
    refused(&[text(&descriptor)], "another folder")?;
    let flat = converted(bench, &raw, "vmdk", &["-o", "subformat=monolithicFlat"])?;
    let part = PathBuf::from(text(&flat).replace(".vmdk", "-flat.vmdk"));
    fs::File::options().write(true).open(&part)?.set_len(60 * MIB)?;
    refused(&[text(&flat)], "it is cut off")?;
    refused(&[text(&bench.file("nowhere.qcow2"))], "cannot open")?;
    let mut without = server.cli(&["vdisk", "import", "never", text(&images[0].1)]);
    without.env("PATH", "/nowhere");
    crate::process::refused(without, &["qemu-img is not installed", "apt install qemu-utils"])?;
    server.run(&["vdisk", "import", "top", text(&on_top), "--allow-backing"])?;
    compare(server, "top", "raw", &raw)
}

fn importing(server: &Server) -> Result<Vec<String>> {
    Ok(names(server)?.into_iter().filter(|name| name.contains(".importing-")).collect())
}

fn killed_while_importing(bench: &mut Bench) -> Result<()> {
    let raw = bench.file("long.raw");
    let mut random = Random::new(23);
    let mut data = vec![0; 384 << 20];
    random.fill(&mut data);
    fs::write(&raw, &data)?;
    let image = converted(bench, &raw, "qcow2", &[])?;
    let line = ["vdisk", "import", "long", text(&image)];
    let mut reached = 0;
    for victim in ["the command", "the controller"] {
        let mut running = Background::start(bench.server.cli(&line), &bench.file("import.log"))?;
        let far = || {
            let Some(name) = importing(&bench.server)?.pop() else { return Ok(false) };
            let mapped = bench.server.json(&["vdisk", "show", &name])?["mapped_bytes"].as_u64().unwrap_or(0);
            Ok(mapped > reached + 70 * MIB)
        };
        wait_until("the import to be in the middle", Duration::from_secs(60), far)?;
        ensure!(running.ended().is_none(), "the import was over before it was killed");
        if victim == "the command" {
            running.kill9();
        } else {
            bench.server.kill9();
            ensure!(!running.wait(Duration::from_secs(60))?.success(), "an import without a controller succeeded");
            bench.server.start()?;
        }
        bench.server.refuses(&["vdisk", "show", "long"], &["no vDisk"]).context(victim)?;
        let left = importing(&bench.server)?.pop().context("nothing is left to go on with")?;
        reached = bench.server.json(&["vdisk", "show", &left])?["mapped_bytes"].as_u64().context("bytes")?;
    }
    let done = bench.server.json(&line)?;
    let resumed = done["resumed_at"].as_u64().context("it began anew")?;
    ensure!(resumed >= 64 * MIB, "it went on at {resumed}");
    println!("  went on at {} MiB", resumed / MIB);
    compare(&bench.server, "long", "raw", &raw)?;
    ensure!(importing(&bench.server)?.is_empty(), "something is left");
    Ok(())
}

fn of_a_vm(bench: &mut Bench) -> Result<()> {
    let raws = [bench.file("root.raw"), bench.file("data.raw")];
    super::sparse_file(&raws[0], 48 * MIB, 31)?;
    super::sparse_file(&raws[1], 32 * MIB, 32)?;
    let images = [converted(bench, &raws[0], "qcow2", &[])?, converted(bench, &raws[1], "vmdk", &[])?];
    let disks = [format!("root={}", text(&images[0])), format!("data={}", text(&images[1]))];
    let import = ["vm", "import", "imp", "--disk", &disks[0], "--disk", &disks[1]];
    let server = &bench.server;
    let before = names(server)?;
    let nowhere = format!("data={}", text(&bench.file("nowhere")));
    server.refuses(&["vm", "import", "imp", "--disk", &disks[0], "--disk", &nowhere], &["cannot open"])?;
    server.refuses(&["vm", "import", "imp", "--disk", &disks[0], "--disk", &disks[0]], &["is given twice"])?;
    ensure!(names(server)? == before, "what was refused made {:?}", names(server)?);
    server.run(&import)?;
    server.refuses(&import, &["VM \"imp\" exists already"])?;
    let vm = server.json(&["vm", "show", "imp"])?;
    let of =
        |field: &str| vm["vdisks"].as_array().into_iter().flatten().map(|one| one[field].clone()).collect::<Vec<_>>();
    ensure!(of("label") == ["root", "data"] && of("vdisk") == ["imp-root", "imp-data"], "{vm}");
    for (vdisk, raw) in [("imp-root", &raws[0]), ("imp-data", &raws[1])] {
        compare(server, vdisk, "raw", raw)?;
    }
    server.run(&["vm", "snapshot", "imp", "one"])?;
    let mut client = server.connect("imp-data")?;
    client.write(0, &[0xee; 4096])?;
    client.disconnect()?;
    for format in ["raw", "qcow2", "vmdk", "vhdx"] {
        let folder = bench.file(&format!("out-{format}"));
        let format_is = ["--format", format];
        server.run(&[&["vm", "export", "imp@one", text(&folder)], &format_is[..]].concat())?;
        server
            .refuses(&[&["vm", "export", "imp@one", text(&folder)], &format_is[..]].concat(), &["is there already"])?;
        for (label, raw) in [("root", &raws[0]), ("data", &raws[1])] {
            let file = folder.join(format!("{label}.{format}"));
            output("qemu-img", &["compare", "-f", "raw", "-F", format, text(raw), text(&file)])
                .with_context(|| format!("{label} exported as {format}"))?;
        }
    }
    let now = bench.file("out-now");
    server.run(&["vm", "export", "imp", text(&now), "--format", "raw"])?;
    compare(server, "imp-data", "raw", &now.join("data.raw"))?;
    let now = now.join("data.raw");
    let differ = ["compare", "-f", "raw", "-F", "raw", text(&raws[1]), text(&now)];
    crate::process::refused(crate::process::command("qemu-img", &differ), &["Content mismatch"])
}

fn killed_while_importing_a_vm(bench: &mut Bench) -> Result<()> {
    let raw = bench.file("small.raw");
    super::sparse_file(&raw, 8 * MIB, 33)?;
    let [root, data] = ["root", "data"].map(|label| format!("{label}={}", text(&raw)));
    let line = |name: &str| ["vm", "import", name, "--disk", &root, "--disk", &data].map(String::from).to_vec();
    // The same command goes on with what is left.
    let tidy = |server: &Server, is_there: bool| -> Result<()> {
        let left = importing(server)?;
        ensure!(!is_there || left.is_empty(), "the VM is there, and so are {left:?}");
        Ok(())
    };
    let compare = |server: &Server, vm: &str, label: &str| compare(server, &format!("{vm}-{label}"), "raw", &raw);
    kill_while_making(bench, &Making { seed: 34, prefix: "k", line: &line, tidy: &tidy, compare: &compare })
}
