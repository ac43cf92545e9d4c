//! The command line and the API as a user meets them: create, resize, rename, read-only, delete, import, export, stop.

use super::tools::sparse_file;
use super::{Bench, Check};
use crate::http;
use crate::nbd::{self, Client};
use crate::process::{command, output, wait_until};
use crate::server::binary;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

pub const CHECKS: &[(&str, Check)] = &[
    ("create, list, show", create_list_show),
    ("resize", resize),
    ("rename", rename),
    ("read-only", read_only),
    ("delete", delete),
    ("import and export", import_export),
    ("clean stop", clean_stop),
    ("kill -9, then a clean stop", kill_then_clean_stop),
    ("API", api),
    ("completions and help", completions),
    ("config file", config_file),
    ("demo", demo),
];

const MIB: u64 = 1 << 20;

fn show(bench: &Bench, name: &str, key: &str) -> Result<Value> {
    let shown = bench.server.json(&["vdisk", "show", name])?;
    shown.get(key).cloned().with_context(|| format!("show has no {key}: {shown}"))
}

fn create_list_show(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    server.run(&["vdisk", "create", "a", "--size", "20GiB"])?;
    server.run(&["vdisk", "create", "b", "--size", "64TiB", "--sector", "4096"])?;
    ensure!(show(bench, "a", "size_bytes")? == 20u64 << 30);
    ensure!(show(bench, "b", "sector_bytes")? == 4096);
    let list = server.list()?;
    ensure!(list.contains(&("a".into(), 20 << 30)) && list.contains(&("b".into(), 64 << 40)), "{list:?}");
    let table = server.run(&["vdisk", "list"])?;
    ensure!(table.contains("20 GiB") && table.contains("64 TiB"), "{table}");
    let status = server.json(&["status"])?;
    ensure!(status["health"]["kind"] == "healthy", "{status}");
    ensure!(server.run(&["status"])?.to_lowercase().contains("healthy"));
    // The far end of the largest vDisk.
    let mut client = server.connect("b")?;
    ensure!(client.size_bytes == 64 << 40);
    let mut bytes = [1u8; 4096];
    client.write((64 << 40) - 4096, &[9; 4096])?;
    client.read((64 << 40) - 4096, &mut bytes)?;
    ensure!(bytes == [9; 4096], "the last block");
    client.trim(0, 1 << 31)?;
    client.disconnect()
}

fn resize(bench: &mut Bench) -> Result<()> {
    bench.server.create("grow", "16MiB")?;
    let mut old = bench.server.connect("grow")?;
    old.write(0, &[1; 4096])?;
    bench.server.run(&["vdisk", "resize", "grow", "--size", "32MiB"])?;
    ensure!(bench.server.connect("grow")?.size_bytes == 32 * MIB, "a new client sees the old size");
    let size = output("nbdinfo", &["--size", &bench.server.uri("grow")])?;
    ensure!(size.trim() == (32 * MIB).to_string(), "nbdinfo: {size}");
    let mut bytes = [0; 4096];
    old.read(0, &mut bytes)?;
    ensure!(bytes == [1; 4096], "the connected client was disturbed");
    let mut new = bench.server.connect("grow")?;
    new.write(32 * MIB - 4096, &[2; 4096])?;
    new.read(32 * MIB - 4096, &mut bytes)?;
    ensure!(bytes == [2; 4096]);
    bench.server.refuses(&["vdisk", "resize", "grow", "--size", "8MiB"], &["shrink"])
}

fn rename(bench: &mut Bench) -> Result<()> {
    bench.server.create("before", "16MiB")?;
    bench.server.create("taken", "16MiB")?;
    let mut client = bench.server.connect("before")?;
    bench.server.refuses(&["vdisk", "rename", "before", "taken"], &["exists"])?;
    bench.server.run(&["vdisk", "rename", "before", "after"])?;
    client.write(0, &[5; 512])?;
    ensure!(bench.server.connect("before").is_err(), "the old name is still served");
    let mut bytes = [0; 512];
    bench.server.connect("after")?.read(0, &mut bytes)?;
    ensure!(bytes == [5; 512]);
    bench.server.refuses(&["vdisk", "show", "before"], &["no vDisk"])
}

fn read_only(bench: &mut Bench) -> Result<()> {
    bench.server.create("ro", "16MiB")?;
    let mut client = bench.server.connect("ro")?;
    client.write(0, &[5; 512])?;
    bench.server.run(&["vdisk", "set", "ro", "--read-only", "on"])?;
    client.send(nbd::WRITE, 0, 4, 0, 512, &[6; 512])?;
    let answer = client.answer()?;
    ensure!(answer.error == 1, "a write to a read-only vDisk: {answer:?}, expected EPERM");
    let mut bytes = [0; 512];
    client.read(0, &mut bytes)?;
    ensure!(bytes == [5; 512]);
    ensure!(bench.server.connect("ro")?.flags & 2 != 0, "a new client is not told that it is read-only");
    bench.server.run(&["vdisk", "set", "ro", "--read-only", "off"])?;
    bench.server.connect("ro")?.write(0, &[7; 512])
}

fn delete(bench: &mut Bench) -> Result<()> {
    bench.server.create("gone", "16MiB")?;
    let mut client = bench.server.connect("gone")?;
    client.write(0, &[1; 4096])?;
    bench.server.refuses(&["vdisk", "delete", "gone"], &["connected", "--force"])?;
    client.write(4096, &[1; 4096])?;
    bench.server.run(&["vdisk", "delete", "gone", "--force"])?;
    ensure!(client.write(0, &[2; 4096]).is_err(), "a deleted vDisk takes writes");
    ensure!(bench.server.connect("gone").is_err(), "a deleted vDisk is served");
    bench.server.refuses(&["vdisk", "delete", "gone"], &["no vDisk"])?;
    // The name is free again and the new vDisk is empty.
    bench.server.create("gone", "16MiB")?;
    let mut bytes = [9; 4096];
    bench.server.connect("gone")?.read(0, &mut bytes)?;
    ensure!(bytes == [0; 4096], "a new vDisk shows the bytes of the one deleted before");
    bench.server.run(&["vdisk", "delete", "gone"]).map(|_| ())
}

fn import_export(bench: &mut Bench) -> Result<()> {
    let (source, back) = (bench.file("import.raw"), bench.file("export.raw"));
    sparse_file(&source, 512 * MIB, 4)?;
    let data = source.metadata()?.blocks() * 512;
    let (source_text, back_text) = (source.to_string_lossy().into_owned(), back.to_string_lossy().into_owned());
    let said = bench.server.attempt(&["vdisk", "import", "sparse", &source_text])?;
    ensure!(said.status.success(), "{}{}", said.stdout, said.stderr);
    ensure!(!format!("{}{}", said.stdout, said.stderr).contains('\r'), "a progress bar where there is no terminal");
    let mapped = show(bench, "sparse", "mapped_bytes")?.as_u64().context("mapped_bytes")?;
    ensure!(mapped <= data + MIB, "the import mapped {mapped} bytes of a file with {data}");
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &source_text, &bench.server.uri("sparse")])?;
    bench.server.run(&["vdisk", "export", "sparse", &back_text])?;
    output("cmp", &[&source_text, &back_text])?;
    let exported = back.metadata()?.blocks() * 512;
    ensure!(exported <= data + 2 * MIB, "the export takes {exported} bytes, the source {data}");
    bench.server.refuses(&["vdisk", "import", "nothing", "/no/such/file"], &["/no/such/file"])?;
    // Once more over what is there: nothing of it may shine through.
    let mut client = bench.server.connect("sparse")?;
    client.write(100 * MIB, &vec![0xee; 32 << 20])?;
    client.disconnect()?;
    bench.server.run(&["vdisk", "set", "sparse", "--read-only", "on"])?;
    bench.server.refuses(&["vdisk", "import", "sparse", &source_text], &["is read-only; make it writable first"])?;
    bench.server.run(&["vdisk", "set", "sparse", "--read-only", "off"])?;
    bench.server.run(&["vdisk", "import", "sparse", &source_text])?;
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &source_text, &bench.server.uri("sparse")])?;
    bench.server.refuses(&["vdisk", "export", "no-such-vdisk", &back_text], &["no vDisk"])
}

fn replayed(bench: &Bench) -> Result<f64> {
    bench.server.metric("drystone_replay_bytes_total")
}

fn clean_stop(bench: &mut Bench) -> Result<()> {
    bench.server.create("stop", "64MiB")?;
    let mut client = bench.server.connect("stop")?;
    for index in 0..64 {
        client.write(index * MIB, &vec![index as u8 + 1; 65536])?;
    }
    bench.server.stop()?;
    ensure!(client.flush().is_err(), "a connection outlived the controller");
    bench.server.start()?;
    ensure!(replayed(bench)? == 0.0, "a start after a clean stop replayed {} bytes", replayed(bench)?);
    let mut client = bench.server.connect("stop")?;
    let mut bytes = vec![0; 65536];
    for index in 0..64 {
        client.read(index * MIB, &mut bytes)?;
        ensure!(bytes.iter().all(|byte| *byte == index as u8 + 1), "MiB {index} after a clean stop");
    }
    Ok(())
}

fn kill_then_clean_stop(bench: &mut Bench) -> Result<()> {
    bench.server.create("killed", "64MiB")?;
    let mut client = bench.server.connect("killed")?;
    for index in 0..64 {
        client.write(index * MIB, &vec![0x5a; 65536])?;
    }
    bench.server.kill9();
    bench.server.start()?;
    ensure!(replayed(bench)? > 0.0, "nothing was replayed after kill -9, or it is not counted");
    bench.server.stop()?;
    bench.server.start()?;
    ensure!(replayed(bench)? == 0.0, "a start after a clean stop replayed {} bytes", replayed(bench)?);
    let mut bytes = vec![0; 65536];
    bench.server.connect("killed")?.read(63 * MIB, &mut bytes)?;
    ensure!(bytes.iter().all(|byte| *byte == 0x5a));
    Ok(())
}

fn api(bench: &mut Bench) -> Result<()> {
    let server = &bench.server;
    let token = server.token()?;
    let get = |path: &str, token: Option<&str>| http::get(&server.api, path, token);
    ensure!(get("/healthz", None)?.0 == 200);
    for path in ["/api/v1/vdisks", "/api/v1/status", "/metrics"] {
        ensure!(get(path, Some(&token))?.0 == 200, "{path} with the token");
        for wrong in [None, Some("wrong"), Some("")] {
            let (status, body) = get(path, wrong)?;
            ensure!(status == 401, "{path} with the token {wrong:?}: {status} {body}");
            let problem: Value = serde_json::from_str(&body).with_context(|| format!("a problem document: {body}"))?;
            ensure!(problem["status"] == 401 && problem["title"].is_string(), "{problem}");
        }
    }
    let (status, body) = get("/api/v1/vdisks/no-such-vdisk", Some(&token))?;
    let problem: Value = serde_json::from_str(&body)?;
    ensure!(status == 404 && problem["detail"].as_str().is_some_and(|text| text.contains("no-such-vdisk")), "{body}");
    ensure!(get("/no/such/path", Some(&token))?.0 == 404);
    let document: Value = serde_json::from_str(&get("/api/v1/openapi.json", None)?.1)?;
    ensure!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{document}");
    let mode = server.data.join("token").metadata()?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the token's file has mode {mode:o}");
    let mut cli = server.cli(&["vdisk", "list"]);
    cli.env("DRYSTONE_TOKEN", "wrong");
    crate::process::refused(cli, &["token"])?;
    server.create("measured", "16MiB")?;
    let mut client = server.connect("measured")?;
    client.write(0, &[1; 4096])?;
    client.flush()?;
    let page = server.metrics()?;
    for name in ["drystone_vdisk_operations_total", "drystone_written_bytes_total", "drystone_log_bytes"] {
        ensure!(page.contains(name), "/metrics has no {name}");
    }
    let writes = http::samples(&page, "drystone_vdisk_operations_total{")
        .into_iter()
        .find(|(name, _)| name.contains("\"measured\"") && name.contains("\"write\""));
    ensure!(writes.as_ref().is_some_and(|(_, value)| *value == 1.0), "writes counted: {writes:?}");
    Ok(())
}

fn completions(_: &mut Bench) -> Result<()> {
    let program = binary();
    let program = program.to_string_lossy();
    for shell in ["bash", "zsh", "fish"] {
        let script = output(&program, &["completions", shell])?;
        ensure!(script.contains("vdisk"), "completions for {shell}");
    }
    let help = output(&program, &["--help"])?;
    for word in ["up", "vdisk", "status", "recover"] {
        ensure!(help.contains(word), "--help does not mention {word}:\n{help}");
    }
    ensure!(output(&program, &["up", "--help"])?.contains("--nbd-socket"));
    ensure!(output(&program, &["vdisk", "create", "--help"])?.contains("20GiB"));
    Ok(())
}

fn config_file(bench: &mut Bench) -> Result<()> {
    let (file, data) = (bench.file("drystone.toml"), bench.file("data-of-config"));
    let (wrong, right) = (crate::server::free_port()?, crate::server::free_port()?);
    let api = crate::server::free_port()?;
    std::fs::write(
        &file,
        format!(
            "data = \"data-of-config\"\nmemory = \"128MiB\"\n[api]\nlisten = \"127.0.0.1:{api}\"\n[nbd]\nlisten = \"127.0.0.1:{wrong}\"\n"
        ),
    )?;
    let mut up =
        command(&binary().to_string_lossy(), &["up", "--no-iscsi", "--nbd", &format!("127.0.0.1:{right}"), "--config"]);
    up.arg(&file);
    let mut process = crate::process::Background::start(up, &bench.file("config.log"))?;
    let ready = wait_until("up --config", Duration::from_secs(20), || {
        if let Some(status) = process.ended() {
            bail!("ended with {status}: {}", process.log());
        }
        Ok(http::get(&format!("127.0.0.1:{api}"), "/healthz", None).is_ok())
    });
    ready?;
    ensure!(data.join("token").exists(), "the data directory of the file was not used");
    let address = nbd::Address::Tcp(format!("127.0.0.1:{right}"));
    ensure!(nbd::Stream::connect(&address).is_ok(), "the flag did not win over the file");
    ensure!(process.terminate(Duration::from_secs(20))?.success());
    std::fs::write(&file, "memry = \"128MiB\"\n")?;
    let mut up = command(&binary().to_string_lossy(), &["up", "--config"]);
    up.arg(&file);
    crate::process::refused(up, &["memry"])
}

fn demo(bench: &mut Bench) -> Result<()> {
    bench.server.stop()?;
    bench.server.options.push("--demo".into());
    bench.server.start()?;
    bench.server.options.pop();
    // The API answers before the vDisk is made; what it prints comes after.
    wait_until("the first words of `up --demo`", Duration::from_secs(10), || {
        Ok(bench.server.log().rsplit("INFO").next().is_some_and(|text| text.contains("/demo")))
    })?;
    ensure!(show(bench, "demo", "size_bytes")? == 20u64 << 30);
    let log = bench.server.log();
    let Some(address) = (match &bench.server.nbd {
        nbd::Address::Tcp(address) => Some(address),
        nbd::Address::Unix(_) => None,
    }) else {
        bail!("the controller listens on TCP")
    };
    ensure!(log.contains(address.as_str()), "it does not print where it listens:\n{log}");
    ensure!(log.contains("nbd://"), "it prints no command to copy:\n{log}");
    Client::connect(&bench.server.nbd, "demo")?.write(0, &[1; 512])
}
