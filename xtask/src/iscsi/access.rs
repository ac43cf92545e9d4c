//! Who gets in, what the command line says, and what connected initiators hear of changes.

use super::initiator::{Initiator, TARGET};
use crate::clients::{Bench, Check};
use crate::process::{command, finish, output, refused, wait_until};
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::{Duration, Instant};

pub const CHECKS: &[(&str, Check)] = &[
    ("unknown target", unknown_target),
    ("CHAP", chap),
    ("lists and groups", lists),
    ("secrets stay inside", secrets_stay_inside),
    ("sessions", sessions),
    ("resize and read-only", changes),
    ("delete", delete),
    ("a port that is taken", port_taken),
    ("switched off", switched_off),
];

const HOST: &str = "iqn.2026-11.com.example:host";
const OTHER: &str = "iqn.2026-11.com.example:other";
pub const SECRET: &str = "correct-horse-battery";
const WRONG: &str = "wrong-horse-battery-";
const MUTUAL: &str = "target-horse-battery";

pub fn login(bench: &Bench, initiator: &str, vdisk: &str) -> Result<Initiator> {
    Initiator::login(&bench.server.iscsi, initiator, 1, vdisk)
}

fn refused_with(login: Result<Initiator>, status: &str) -> Result<()> {
    match login {
        Ok(_) => anyhow::bail!("a login was accepted that should have been refused with {status}"),
        Err(error) => ensure!(error.to_string().contains(status), "refused with {error:#} instead of {status}"),
    }
    Ok(())
}

fn unknown_target(bench: &mut Bench) -> Result<()> {
    refused_with(login(bench, HOST, "nobody"), "0x0203")?;
    refused_with(login(bench, HOST, ""), "0x0203")?;
    bench.server.create("upper", "16MiB")?;
    login(bench, HOST, "UPPER").map(|_| ()).context("names of targets do not depend on case")
}

fn with_secret(bench: &Bench, vdisk: &str, secret: &str) -> String {
    format!("iscsi://guest%{secret}@{}/{TARGET}{vdisk}/0", bench.server.iscsi)
}

fn chap(bench: &mut Bench) -> Result<()> {
    bench.server.create("chap", "16MiB")?;
    let (one, two) = (bench.file("secret"), bench.file("mutual"));
    std::fs::write(&one, format!("{SECRET}\n"))?;
    std::fs::write(&two, MUTUAL)?;
    let (one, two) = (one.to_string_lossy().into_owned(), two.to_string_lossy().into_owned());
    bench.server.run(&["iscsi", "access", "chap", "--chap", "guest", "--chap-secret-file", &one])?;
    refused_with(login(bench, HOST, "chap"), "0x0201")?;
    let read = ["-f", "raw", "-c", "read 0 4k"];
    output("qemu-io", &[&read[..], &[&with_secret(bench, "chap", SECRET)]].concat())?;
    let before = Instant::now();
    refused(command("qemu-io", &[&read[..], &[&with_secret(bench, "chap", WRONG)]].concat()), &["(513)"])?;
    ensure!(before.elapsed() > Duration::from_millis(300), "a wrong secret costs nothing");
    // One line, with the address and without the secret.
    let log = bench.server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("wrong CHAP")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("peer=127.0.0.1:") && !log.contains(WRONG), "{lines:?}");
    // The target proves who it is.
    bench.server.run(&["iscsi", "access", "chap", "--mutual", "target", "--mutual-secret-file", &two])?;
    let mutual = |secret: &str| {
        let uri = with_secret(bench, "chap", SECRET);
        format!("{uri}?target_user=target&target_password={secret}")
    };
    output("iscsi-inq", &[&mutual(MUTUAL)])?;
    let wrong = command("iscsi-inq", &[&mutual(WRONG)]);
    ensure!(!finish(wrong, Duration::from_secs(20))?.status.success(), "a target with another secret was believed");
    for (line, why) in [
        (&["--mutual", "target", "--mutual-secret-file", &one][..], "must differ"),
        (&["--chap", "guest", "--chap-secret-file", "/dev/null"], "empty"),
        (&["--chap", SECRET], "12 to 255"),
    ] {
        refused(with_input(bench, &[&["iscsi", "access", "chap"], line].concat(), "short\n")?, &[why])?;
    }
    Ok(())
}

fn lists(bench: &mut Bench) -> Result<()> {
    bench.server.create("listed", "16MiB")?;
    let run = |line: &[&str]| bench.server.run(&[&["iscsi"], line].concat());
    run(&["access", "listed", "--initiator", HOST])?;
    login(bench, HOST, "listed")?;
    login(bench, &HOST.to_uppercase().replace("IQN", "iqn"), "listed")?;
    refused_with(login(bench, OTHER, "listed"), "0x0202")?;
    let seen = |name: &str| output("iscsi-ls", &["-i", name, &format!("iscsi://{}", bench.server.iscsi)]);
    ensure!(
        seen(HOST)?.contains(":listed ") && !seen(OTHER)?.contains(":listed "),
        "discovery shows too much or little"
    );
    run(&["group", "create", "cluster", "--initiator", HOST])?;
    run(&["access", "listed", "--group", "cluster"])?;
    login(bench, HOST, "listed")?;
    run(&["group", "set", "cluster", "--initiator", OTHER])?;
    refused_with(login(bench, HOST, "listed"), "0x0202")?;
    login(bench, OTHER, "listed")?;
    bench.server.refuses(&["iscsi", "group", "delete", "cluster"], &["listed"])?;
    let shown = bench.server.json(&["iscsi", "show", "listed"])?;
    ensure!(shown["groups"][0] == "cluster" && shown["target_name"] == format!("{TARGET}listed"), "{shown}");
    bench.server.refuses(&["iscsi", "access", "listed", "--initiator", "host"], &["iqn."])?;
    bench.server.refuses(&["iscsi", "access", "listed", "--group", "nobody"], &["no initiator group"])
}

/// The command line with `text` as its standard input.
fn with_input(bench: &Bench, line: &[&str], text: &str) -> Result<Command> {
    let file = bench.file("stdin");
    std::fs::write(&file, text)?;
    let cli = bench.server.cli(line);
    let mut shell = command("sh", &["-c", "file=$1; shift; exec \"$@\" < \"$file\"", "sh"]);
    shell.arg(&file).arg(cli.get_program()).args(cli.get_args());
    shell.envs(cli.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ok(shell)
}

fn secrets_stay_inside(bench: &mut Bench) -> Result<()> {
    bench.server.create("secret", "16MiB")?;
    let line = ["iscsi", "access", "secret", "--chap", "guest"];
    let mut said = crate::process::succeed(with_input(bench, &line, &format!("{SECRET}\n"))?)?;
    for line in [&["iscsi", "show"][..], &["iscsi", "show", "secret"], &["status"], &["vdisk", "show", "secret"]] {
        said += &bench.server.run(line)?;
        said += &bench.server.json(line)?.to_string();
    }
    said += &bench.server.metrics()?;
    said += &bench.server.log();
    ensure!(!said.contains(SECRET) && said.contains("guest"), "a secret is shown:\n{said}");
    Ok(())
}

fn sessions(bench: &mut Bench) -> Result<()> {
    bench.server.create("seen", "16MiB")?;
    let mut session = login(bench, HOST, "seen")?;
    session.ready()?;
    session.write(0, &[1; 4096])?.good()?;
    let list = bench.server.json(&["iscsi", "sessions"])?;
    let shown = &list.as_array().context("a list")?[0];
    ensure!(shown["vdisk"] == "seen" && shown["initiator"] == HOST && shown["written_bytes"] == 4096, "{list}");
    ensure!(shown["isid"] == "800000000001" && shown["header_digest"] == false, "{list}");
    ensure!(shown["portal"] == bench.server.iscsi.as_str(), "{list}");
    let table = bench.server.run(&["iscsi", "sessions"])?;
    ensure!(table.contains(HOST), "{table}");
    ensure!(bench.server.json(&["status"])?["connections"] == 1);
    ensure!(bench.server.json(&["vdisk", "show", "seen"])?["connections"] == 1);
    ensure!(bench.server.metric("drystone_vdisk_iscsi_sessions{vdisk=\"seen\"}")? == 1.0);
    let portals = bench.server.json(&["iscsi", "portals"])?;
    ensure!(portals[0]["address"] == bench.server.iscsi.as_str() && portals[0]["serves_open"] == true, "{portals}");
    let id = shown["id"].to_string();
    bench.server.run(&["iscsi", "drop", &id])?;
    wait_until("the session to end", Duration::from_secs(10), || {
        Ok(bench.server.json(&["iscsi", "sessions"])?.as_array().is_some_and(Vec::is_empty))
    })?;
    bench.server.refuses(&["iscsi", "drop", &id], &["no iSCSI session"])?;
    login(bench, HOST, "seen").map(|_| ()).context("it may log in again")
}

fn changes(bench: &mut Bench) -> Result<()> {
    bench.server.create("changes", "16MiB")?;
    let mut session = login(bench, HOST, "changes")?;
    session.ready()?;
    bench.server.run(&["vdisk", "resize", "changes", "--size", "32MiB"])?;
    let told = session.command(&[0; 6], &[], 0)?;
    ensure!(told.sense == Some((6, 0x2a, 0x09)), "not told of the new size: {told:?}");
    session.write((32 << 20) - 512, &[7; 512])?.good()?;
    bench.server.run(&["vdisk", "set", "changes", "--read-only", "on"])?;
    session.ready()?;
    let kept = session.write(0, &[1; 512])?;
    ensure!(kept.sense.is_some_and(|sense| (sense.0, sense.1) == (7, 0x27)), "not write protected: {kept:?}");
    session.read(0, 512)?.good()?;
    bench.server.run(&["vdisk", "set", "changes", "--read-only", "off"])?;
    session.ready()?;
    session.write(0, &[1; 512])?.good().map(|_| ())
}

fn delete(bench: &mut Bench) -> Result<()> {
    bench.server.create("doomed", "16MiB")?;
    let mut session = login(bench, HOST, "doomed")?;
    session.ready()?;
    bench.server.refuses(&["vdisk", "delete", "doomed"], &["connected"])?;
    session.write(0, &[1; 512])?.good()?;
    bench.server.run(&["vdisk", "delete", "doomed", "--force"])?;
    ensure!(session.write(0, &[1; 512]).is_err(), "the session goes on without its vDisk");
    refused_with(login(bench, HOST, "doomed"), "0x0203")
}

fn port_taken(bench: &mut Bench) -> Result<()> {
    let mut second = Server::new(&bench.dir)?;
    second.data = bench.file("second");
    second.iscsi = bench.server.iscsi.clone();
    refused(second.up(), &[&bench.server.iscsi, "--iscsi", "--no-iscsi"])
}

fn switched_off(bench: &mut Bench) -> Result<()> {
    let mut second = Server::new(&bench.file("off"))?;
    std::fs::create_dir_all(bench.file("off"))?;
    second.iscsi = String::new();
    second.start()?;
    second.create("alone", "16MiB")?;
    ensure!(second.run(&["iscsi", "portals"])?.contains("switched off"));
    ensure!(second.json(&["iscsi", "show", "alone"])?["portals"].as_array().is_some_and(Vec::is_empty));
    second.stop()
}
