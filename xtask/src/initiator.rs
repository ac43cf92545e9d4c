//! Linux's own initiator: a Debian guest that booted from an iSCSI vDisk logs in to others with mutual CHAP and both
//! digests, makes file systems, trims them, uses two paths of which one is lost, reserves, and goes on after kill -9.
//! Linux's NBD client is in the same guest.

mod machine;
mod nbd;
mod proxy;
mod walk;

use crate::guest_image::prepare;
use crate::process::{output, scratch, wait_until};
use crate::server::{Server, free_port};
use crate::steps::Done;
use anyhow::{Context, Result, ensure};
use machine::Machine;
use proxy::Proxy;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const M: u64 = 1 << 20;
const SECRET: &str = "correct-horse-battery";
const MUTUAL: &str = "target-horse-battery";
const WRONG: &str = "wrong-horse-battery";
pub const GUEST: &str = "iqn.2026-11.com.example:guest";
pub const SECOND: &str = "iqn.2026-11.com.example:second";
/// For the guest to do something under load, and for the controller to hear of it.
const SOON: Duration = Duration::from_secs(60);

/// The controller, two ways to it, and the guest.
pub struct Scene {
    server: Server,
    guest: Machine,
    proxy: Proxy,
    /// As the guest names the portals; the second leads through the proxy.
    one: String,
    two: String,
    said: Vec<String>,
    checks: u64,
}

impl Scene {
    fn passed(&mut self, checks: u64, said: impl Into<String>) {
        self.checks += checks;
        self.said.push(said.into());
    }

    /// The sessions of a vDisk.
    fn sessions(&self, vdisk: &str) -> Result<Vec<Value>> {
        let list = self.server.json(&["iscsi", "sessions"])?;
        let list = list.as_array().context("a list of sessions")?;
        Ok(list.iter().filter(|session| session["vdisk"] == vdisk).cloned().collect())
    }

    fn mapped(&self, vdisk: &str) -> Result<u64> {
        self.server.json(&["vdisk", "show", vdisk])?["mapped_bytes"].as_u64().context("bytes that are mapped")
    }
}

pub fn run_alone() -> Result<()> {
    crate::server::build()?;
    let done = run()?;
    println!("{} checks: {}", done.checks, done.said);
    Ok(())
}

pub fn run() -> Result<Done> {
    let mut scene = set_up(&scratch("initiator")?)?;
    log_in(&mut scene)?;
    file_systems(&mut scene)?;
    grow(&mut scene)?;
    two_paths(&mut scene)?;
    walk::reservations(&mut scene)?;
    nbd::walk(&mut scene)?;
    kill_under_load(&mut scene)?;
    scene.guest.run("iscsiadm -m node --logoutall=all >/dev/null")?;
    scene.guest.powers_off()?;
    scene.server.stop()?;
    Ok(Done::new(scene.checks, scene.said.join("; ")))
}

fn set_up(dir: &Path) -> Result<Scene> {
    let image = prepare()?;
    let mut server = Server::new(dir)?;
    let (second, cuttable) = (free_port()?, free_port()?);
    server.options = vec!["--iscsi".to_string(), format!("127.0.0.1:{second}")];
    server.start()?;
    server.run(&["vdisk", "import", "guest", &image.root.to_string_lossy()])?;
    let root = format!("iscsi://{}/iqn.2026-11.io.drystone:guest/0", server.iscsi);
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image.root.to_string_lossy(), &root])?;
    let (secret, mutual) = (dir.join("secret"), dir.join("mutual"));
    std::fs::write(&secret, SECRET)?;
    std::fs::write(&mutual, MUTUAL)?;
    for name in ["ext4", "xfs", "multi", "shared"] {
        server.create(name, "512MiB")?;
        let mut access = vec!["iscsi", "access", name, "--initiator", GUEST];
        if name == "shared" {
            access.extend(["--initiator", SECOND]);
        }
        let (secret, mutual) = (secret.to_string_lossy(), mutual.to_string_lossy());
        access.extend(["--chap", "guest", "--chap-secret-file", &secret]);
        access.extend(["--mutual", "target", "--mutual-secret-file", &mutual]);
        server.run(&access)?;
    }
    let proxy = Proxy::start(format!("127.0.0.1:{cuttable}"), format!("127.0.0.1:{second}"))?;
    let guest = Machine::start(dir, &image, &root)?;
    let port = server.iscsi.rsplit(':').next().context("an address has a port")?;
    // The guest finds this machine's loopback interface there.
    let (one, two) = (format!("10.0.2.2:{port}"), format!("10.0.2.2:{cuttable}"));
    let mut scene = Scene { server, guest, proxy, one, two, said: Vec::new(), checks: 0 };
    let root = scene.sessions("guest")?;
    ensure!(root.len() == 1 && root[0]["read_bytes"].as_u64() > Some(M), "the guest's root is elsewhere: {root:?}");
    scene.passed(1, "booted from an iSCSI vDisk");
    Ok(scene)
}

/// Mutual CHAP and both digests, on four vDisks; wrong secrets on either side first.
fn log_in(scene: &mut Scene) -> Result<()> {
    let settings = [
        "node.startup = manual",
        "node.session.auth.authmethod = CHAP",
        "node.session.auth.username = guest",
        &format!("node.session.auth.password = {SECRET}"),
        "node.session.auth.username_in = target",
        &format!("node.session.auth.password_in = {MUTUAL}"),
        "node.conn[0].iscsi.HeaderDigest = CRC32C",
        "node.conn[0].iscsi.DataDigest = CRC32C",
        "node.session.initial_login_retry_max = 2",
        "node.conn[0].timeo.noop_out_interval = 5",
        "node.conn[0].timeo.noop_out_timeout = 10",
    ];
    let (guest, one, two) = (&mut scene.guest, &scene.one, &scene.two);
    guest.run(&format!("printf '%s\\n' '{}' >/etc/iscsi/iscsid.conf", settings.join("' '")))?;
    guest.run(&format!("echo InitiatorName={GUEST} >/etc/iscsi/initiatorname.iscsi; iscsid"))?;
    let found = guest.run(&format!("iscsiadm -m discovery -t sendtargets -p {one} && iscsiadm -m node -o delete"))?;
    for name in ["ext4", "xfs", "multi", "shared"] {
        ensure!(found.contains(&format!("iqn.2026-11.io.drystone:{name}")), "discovery finds only:\n{found}");
    }
    let record = format!("iscsiadm -m node -T $iqn:ext4 -p {one}");
    guest.run(&format!("{record} -o new"))?;
    // The target refuses; then the initiator, which does not believe the target.
    for (setting, right, why) in
        [("password", SECRET, "authorization failure"), ("password_in", MUTUAL, "non-retryable iSCSI login failure")]
    {
        guest.run(&format!("setting ext4 {one} node.session.auth.{setting} {WRONG}"))?;
        guest.refuses(&format!("{record} --login"), why)?;
        guest.run(&format!("setting ext4 {one} node.session.auth.{setting} {right}"))?;
    }
    for (vdisk, portal) in [("ext4", one), ("xfs", one), ("multi", one), ("multi", two), ("shared", one)] {
        guest.run(&format!("login {vdisk} {portal}"))?;
        guest.run(&format!("within 30 disk {vdisk} {portal}"))?;
    }
    let mut sessions = Vec::new();
    for (vdisk, number) in [("ext4", 1), ("xfs", 1), ("multi", 2), ("shared", 1)] {
        let found = scene.sessions(vdisk)?;
        ensure!(found.len() == number, "{number} sessions of {vdisk} were expected: {found:?}");
        sessions.extend(found);
    }
    for session in &sessions {
        ensure!(session["header_digest"] == true && session["data_digest"] == true, "no digests: {session}");
        ensure!(session["initiator"] == GUEST, "another initiator: {session}");
    }
    scene.passed(8, format!("{} sessions with mutual CHAP and both digests", sessions.len()));
    Ok(())
}

/// ext4 and xfs: fio with verification, and what is deleted and trimmed is free again.
fn file_systems(scene: &mut Scene) -> Result<()> {
    for vdisk in ["ext4", "xfs"] {
        let quiet = if vdisk == "ext4" { "-q -F" } else { "-q -f" };
        let place = format!("/dev/$(disk {vdisk} {})", scene.one);
        scene.guest.run(&format!("mkfs.{vdisk} {quiet} {place} && mkdir -p /{vdisk} && mount {place} /{vdisk}"))?;
        scene.guest.run(&format!(
            "fio --name=verify --directory=/{vdisk} --size=24m --rw=randwrite --bsrange=4k-64k --ioengine=libaio \
             --iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1 --end_fsync=1 && rm /{vdisk}/verify*"
        ))?;
        scene.guest.run(&format!("head -c 100M /dev/urandom >/{vdisk}/big && sync -f /{vdisk}/big"))?;
        let before = scene.mapped(vdisk)?;
        ensure!(before > 100 * M, "{vdisk}: only {before} bytes are mapped");
        scene.guest.run(&format!("rm /{vdisk}/big && sync -f /{vdisk} && fstrim /{vdisk}"))?;
        let after = scene.mapped(vdisk)?;
        ensure!(after + 100 * M <= before, "{vdisk}: {before} bytes were mapped, {after} are after fstrim");
        let freed = (before - after) / M;
        scene.passed(2, format!("{vdisk} verified, fstrim freed {freed} MiB"));
    }
    Ok(())
}

/// The guest takes a new size after a rescan, and the mounted file system grows into it.
fn grow(scene: &mut Scene) -> Result<()> {
    let disk = scene.guest.run(&format!("disk ext4 {}", scene.one))?;
    scene.guest.run(&format!("sectors_are {disk} {}", 512 * M / 512))?;
    scene.server.run(&["vdisk", "resize", "ext4", "--size", "768MiB"])?;
    scene.guest.run("iscsiadm -m session --rescan >/dev/null")?;
    scene.guest.run(&format!("within 30 sectors_are {disk} {}", 768 * M / 512))?;
    scene.guest.run(&format!("resize2fs /dev/{disk} && [ $(df --output=size -m /ext4 | tail -1) -gt 650 ]"))?;
    scene.passed(1, "grew to 768 MiB");
    Ok(())
}

/// dm-multipath over two portals; one of them is lost under load and comes back.
fn two_paths(scene: &mut Scene) -> Result<()> {
    let (one, two) = (scene.one.clone(), scene.two.clone());
    let guest = &mut scene.guest;
    let identity = |guest: &mut Machine, portal: &str| {
        guest.run(&format!("udevadm info --query=property --property=ID_SERIAL --value /dev/$(disk multi {portal})"))
    };
    let wwid = identity(guest, &one)?;
    ensure!(!wwid.is_empty() && wwid == identity(guest, &two)?, "two paths, two identities");
    guest.run(&format!(
        "printf '%s\\n' 'defaults {{' 'polling_interval 1' 'max_polling_interval 1' 'find_multipaths no' \
         'path_grouping_policy multibus' 'no_path_retry queue' 'fast_io_fail_tmo 3' '}}' \
         'blacklist {{' 'wwid \".*\"' '}}' 'blacklist_exceptions {{' 'wwid \"{wwid}\"' '}}' >/etc/multipath.conf; \
         multipathd && within 40 paths_are 2 && within 20 [ -b /dev/mapper/{wwid} ]"
    ))?;
    guest.run(&format!(
        "fio --name=paths --filename=/dev/mapper/{wwid} --size=64m --rw=randwrite --bs=16k --ioengine=libaio --iodepth=8 \
         --direct=1 --verify=crc32c --verify_fatal=1 --time_based --runtime=45 --rate_iops=300 >/run/paths.log 2>&1 & \
         echo $! >/run/paths.pid; sleep 3; kill -0 $(cat /run/paths.pid)"
    ))?;
    ensure!(scene.proxy.cut() > 0, "the second path has no connection");
    scene.guest.run("within 40 paths_are 1")?;
    let written = |scene: &Scene| -> Result<u64> {
        let sessions = scene.sessions("multi")?;
        let direct = sessions.iter().find(|session| session["portal"] == scene.server.iscsi.as_str());
        direct.context("the first path is gone too")?["written_bytes"].as_u64().context("bytes written")
    };
    let before = written(scene)?;
    let mut moved = 0;
    wait_until("writes over the path that is left", SOON, || {
        moved = written(scene)? - before;
        Ok(moved > M)
    })?;
    scene.proxy.mend()?;
    scene.guest.run("within 60 paths_are 2")?;
    scene.guest.run(
        "within 80 eval '! kill -0 $(cat /run/paths.pid) 2>/dev/null'; \
         grep -q 'err= 0' /run/paths.log && grep -q 'READ: ' /run/paths.log || { cat /run/paths.log; false; }",
    )?;
    scene.guest.run("within 20 multipath -F && multipathd shutdown")?;
    scene.passed(3, "one path of two lost under load and back, all verified");
    Ok(())
}

/// Both file systems are written to while the controller is killed and started, twice.
fn kill_under_load(scene: &mut Scene) -> Result<()> {
    walk::register_for_good(scene)?;
    scene.guest.run("rm -f /run/stop; for d in /ext4 /xfs; do writer $d >/dev/null 2>&1 & done")?;
    let counts = "cat /run/synced-ext4 | wc -l; cat /run/synced-xfs | wc -l";
    let count = |scene: &mut Scene| -> Result<Vec<u64>> {
        let said = scene.guest.run(counts)?;
        Ok(said.lines().filter_map(|line| line.trim().parse().ok()).collect())
    };
    let more = |scene: &mut Scene, from: &[u64]| {
        wait_until("files that are synced", SOON, || {
            std::thread::sleep(Duration::from_millis(300));
            Ok(count(scene)?.iter().zip(from).all(|(now, before)| *now >= before + 5))
        })
    };
    let mut synced = vec![0, 0];
    for _ in 0..2 {
        more(scene, &synced)?;
        scene.server.kill9();
        std::thread::sleep(Duration::from_millis(1500));
        scene.server.start()?;
        synced = count(scene)?;
    }
    more(scene, &synced)?;
    scene.guest.run(
        "touch /run/stop; within 60 grep -q stopped /run/failed-ext4 && within 60 grep -q stopped /run/failed-xfs",
    )?;
    scene.guest.run("! grep -v stopped /run/failed-ext4 /run/failed-xfs")?;
    scene.guest.run("echo 3 >/proc/sys/vm/drop_caches")?;
    for vdisk in ["ext4", "xfs"] {
        scene.guest.run(&format!("cd /{vdisk} && sha256sum --quiet -c /run/synced-{vdisk}"))?;
    }
    let files: u64 = count(scene)?.iter().sum();
    scene.guest.run("umount /ext4 /xfs")?;
    scene.guest.run(&format!("e2fsck -f -n /dev/$(disk ext4 {})", scene.one))?;
    scene.guest.run(&format!("xfs_repair -n /dev/$(disk xfs {})", scene.one))?;
    walk::still_registered(scene)?;
    for vdisk in ["ext4", "xfs"] {
        let sessions = scene.sessions(vdisk)?;
        ensure!(sessions.len() == 1 && sessions[0]["data_digest"] == true, "after the restart: {sessions:?}");
    }
    scene.passed(5, format!("{files} synced files intact after 2 kills of the controller, both file systems clean"));
    Ok(())
}
