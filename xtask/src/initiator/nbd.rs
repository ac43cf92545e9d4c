//! Linux's own NBD client, over two connections: a file system that is written, flushed, verified and trimmed.

use super::{M, Scene};
use crate::nbd::Address;
use crate::process::wait_until;
use anyhow::{Context, Result, bail, ensure};

const VDISK: &str = "kernel";

pub fn walk(scene: &mut Scene) -> Result<()> {
    scene.server.create(VDISK, "512MiB")?;
    let Address::Tcp(address) = &scene.server.nbd else { bail!("NBD listens on TCP") };
    let port = address.rsplit(':').next().context("an address has a port")?.to_string();
    scene.guest.run(&format!("nbd-client -N {VDISK} -C 2 10.0.2.2 {port} /dev/nbd0"))?;
    scene.guest.run(&format!("within 20 sectors_are nbd0 {}", 512 * M / 512))?;
    let shown = scene.server.json(&["vdisk", "show", VDISK])?;
    ensure!(shown["connections"].as_u64() == Some(2), "two connections were expected: {shown}");
    scene.guest.run("mkfs.ext4 -q -F /dev/nbd0 && mkdir -p /nbd && mount /dev/nbd0 /nbd")?;
    scene.guest.run(
        "fio --name=verify --directory=/nbd --size=24m --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=8 \
         --direct=1 --verify=crc32c --verify_fatal=1 --end_fsync=1 && rm /nbd/verify*",
    )?;
    let flushes = |scene: &Scene| operations(scene, "flush");
    let before = flushes(scene)?;
    scene.guest.run("head -c 100M /dev/urandom >/nbd/big && sync -f /nbd/big && sha256sum /nbd/big >/run/nbd-big")?;
    ensure!(flushes(scene)? > before, "a sync of the guest is no flush");
    let full = scene.mapped(VDISK)?;
    ensure!(full > 100 * M, "only {full} bytes are mapped");
    // From the disk again, through new connections.
    scene.guest.run("umount /nbd && nbd-client -d /dev/nbd0")?;
    wait_until("the end of the guest's connections", super::SOON, || {
        Ok(scene.server.json(&["vdisk", "show", VDISK])?["connections"].as_u64() == Some(0))
    })?;
    scene.guest.run(&format!(
        "nbd-client -N {VDISK} -C 2 10.0.2.2 {port} /dev/nbd0 && within 20 sectors_are nbd0 {} && mount /dev/nbd0 /nbd",
        512 * M / 512
    ))?;
    scene.guest.run("sha256sum --quiet -c /run/nbd-big")?;
    scene.guest.run("rm /nbd/big && sync -f /nbd && fstrim /nbd")?;
    let left = scene.mapped(VDISK)?;
    ensure!(left + 100 * M <= full, "{full} bytes were mapped, {left} are after fstrim");
    ensure!(operations(scene, "trim")? > 0.0, "space came free without a trim");
    scene.guest.run("umount /nbd && e2fsck -f -n /dev/nbd0 && nbd-client -d /dev/nbd0")?;
    scene.passed(4, format!("Linux's NBD client verified, fstrim freed {} MiB", (full - left) / M));
    Ok(())
}

fn operations(scene: &Scene, which: &str) -> Result<f64> {
    scene.server.metric(&format!("drystone_vdisk_operations_total{{vdisk=\"{VDISK}\",operation=\"{which}\"}}"))
}
