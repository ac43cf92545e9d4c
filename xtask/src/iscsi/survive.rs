//! Rules, reservations and data after kill -9, and after the loss of the metadata store.

use super::access::{SECRET, login};
use super::initiator::Initiator;
use crate::clients::{Bench, Check};
use crate::process::succeed;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

pub const CHECKS: &[(&str, Check)] = &[
    ("reservations over kill -9", reservations),
    ("reservations without the metadata store", reservations_recovered),
    ("rules over kill -9", rules),
    ("rules without the metadata store", rules_recovered),
    ("sanitize over kill -9", sanitize),
    ("a clean stop with sessions", clean_stop),
];

const OWNER: &str = "iqn.2026-11.com.example:owner";
const STRANGER: &str = "iqn.2026-11.com.example:stranger";
const KEY: u64 = 0x1122_3344_5566_7788;
const CONFLICT: u8 = 0x18;

fn kill(bench: &mut Bench) -> Result<()> {
    bench.server.kill9();
    bench.server.start().map(|_| ())
}

fn recover(bench: &mut Bench) -> Result<()> {
    bench.server.kill9();
    std::fs::remove_file(bench.server.data.join("meta.redb"))?;
    let mut recover = bench.server.cli(&["recover", "--data"]);
    recover.arg(&bench.server.data);
    succeed(recover)?;
    bench.server.start().map(|_| ())
}

fn ready(bench: &Bench, initiator: &str, vdisk: &str) -> Result<Initiator> {
    let mut session = login(bench, initiator, vdisk)?;
    session.ready()?;
    Ok(session)
}

fn reservations(bench: &mut Bench) -> Result<()> {
    reserved_over(bench, "reserved", kill)
}

fn reservations_recovered(bench: &mut Bench) -> Result<()> {
    reserved_over(bench, "reserved-too", recover)
}

fn reserved_over(bench: &mut Bench, vdisk: &str, come_back: fn(&mut Bench) -> Result<()>) -> Result<()> {
    bench.server.create(vdisk, "16MiB")?;
    let mut owner = ready(bench, OWNER, vdisk)?;
    owner.write(0, &[1; 512])?.good()?;
    owner.reserve_out(0, 0, 0, KEY)?.good().context("register")?;
    owner.reserve_out(1, 1, KEY, 0)?.good().context("reserve: write exclusive")?;
    for round in 0..2 {
        let mut stranger = ready(bench, STRANGER, vdisk)?;
        let refused = stranger.write(0, &[9; 512])?;
        ensure!(refused.status == CONFLICT, "round {round}: a stranger's write ended with {refused:?}");
        ensure!(stranger.read(0, 512)?.good()? == [1; 512], "round {round}");
        ensure!(stranger.keys()? == [KEY], "round {round}: the registration is gone");
        let mut owner = ready(bench, OWNER, vdisk)?;
        owner.write(512, &[2; 512])?.good().context("the owner's write")?;
        come_back(bench)?;
    }
    let mut owner = ready(bench, OWNER, vdisk)?;
    owner.reserve_out(2, 1, KEY, 0)?.good().context("release")?;
    owner.reserve_out(0, 0, KEY, 0)?.good().context("unregister")?;
    come_back(bench)?;
    let mut stranger = ready(bench, STRANGER, vdisk)?;
    ensure!(stranger.keys()?.is_empty(), "a registration came back");
    stranger.write(0, &[3; 512])?.good().map(|_| ()).context("after the release")
}

fn rules(bench: &mut Bench) -> Result<()> {
    ruled_over(bench, "ruled", "hosts", kill)
}

fn rules_recovered(bench: &mut Bench) -> Result<()> {
    ruled_over(bench, "ruled-too", "hosts-too", recover)
}

fn ruled_over(bench: &mut Bench, vdisk: &str, group: &str, come_back: fn(&mut Bench) -> Result<()>) -> Result<()> {
    let chap = format!("{vdisk}-chap");
    bench.server.create(vdisk, "16MiB")?;
    bench.server.create(&chap, "16MiB")?;
    bench.server.run(&["iscsi", "group", "create", group, "--initiator", STRANGER])?;
    bench.server.run(&["iscsi", "access", vdisk, "--group", group])?;
    bench.server.run(&["iscsi", "group", "set", group, "--initiator", OWNER])?;
    let file = bench.file("survive");
    std::fs::write(&file, SECRET)?;
    let file = file.to_string_lossy().into_owned();
    bench.server.run(&["iscsi", "access", &chap, "--chap", "guest", "--chap-secret-file", &file])?;
    let before = [bench.server.json(&["iscsi", "show"])?, bench.server.json(&["iscsi", "group", "list"])?];
    come_back(bench)?;
    let after = [bench.server.json(&["iscsi", "show"])?, bench.server.json(&["iscsi", "group", "list"])?];
    ensure!(before == after, "{before:?}\nbecame {after:?}");
    ready(bench, OWNER, vdisk).context("who may log in")?;
    ensure!(login(bench, STRANGER, vdisk).is_err(), "a stranger got in");
    ensure!(login(bench, OWNER, &chap).is_err(), "the secret is not asked for any more");
    let uri = format!("iscsi://guest%{SECRET}@{}/{}{chap}/0", bench.server.iscsi, super::initiator::TARGET);
    crate::process::output("qemu-io", &["-f", "raw", "-c", "read 0 4k", &uri]).map(|_| ())
}

fn sanitize(bench: &mut Bench) -> Result<()> {
    bench.server.create("sanitized", "256MiB")?;
    let mut session = ready(bench, OWNER, "sanitized")?;
    // OVERWRITE with IMMED, one pass: a second at the speed that it goes at.
    let list = [1, 0, 0, 1, 0x5a];
    session.command(&[0x48, 0x81, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], &list, 0)?.good()?;
    let refused = session.read(0, 512)?;
    ensure!(refused.sense == Some((2, 4, 0x1b)), "it was over before the kill: {refused:?}");
    drop(session);
    kill(bench)?;
    // Nobody logs in.
    let uri = bench.server.uri("sanitized");
    let read = ["-f", "raw", "-c", "read -P 0x5a 255M 1M", &uri];
    crate::process::wait_until("the end of the vDisk is overwritten", Duration::from_secs(30), || {
        Ok(crate::process::output("qemu-io", &read).is_ok_and(|said| !said.contains("verification failed")))
    })?;
    ready(bench, OWNER, "sanitized").map(|_| ())
}

fn clean_stop(bench: &mut Bench) -> Result<()> {
    bench.server.create("stopped", "16MiB")?;
    let mut session = ready(bench, OWNER, "stopped")?;
    session.write(4096, &[5; 4096])?.good()?;
    bench.server.stop()?;
    bench.server.start()?;
    let mut session = ready(bench, OWNER, "stopped")?;
    ensure!(session.read(4096, 4096)?.good()? == [5; 4096]);
    Ok(())
}
