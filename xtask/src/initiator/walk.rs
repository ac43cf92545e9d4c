//! sg_persist through reservations, with two initiators that are two interfaces of the guest.

use super::{GUEST, SECOND, Scene};
use anyhow::{Result, ensure};

const KEY_A: &str = "0xa1";
const KEY_B: &str = "0xb2";

/// What each disk of the two initiators is called in the guest.
struct Pair {
    a: String,
    b: String,
}

fn pair(scene: &mut Scene) -> Result<Pair> {
    let one = scene.one.clone();
    let a = scene.guest.run(&format!("disk shared {one} {GUEST}"))?;
    let b = scene.guest.run(&format!("disk shared {one} {SECOND}"))?;
    ensure!(a != b, "both initiators have the disk {a}");
    Ok(Pair { a: format!("/dev/{a}"), b: format!("/dev/{b}") })
}

/// PERSISTENT RESERVE OUT: the disk and what to do.
fn change(scene: &mut Scene, disk: &str, action: &str) -> Result<()> {
    scene.guest.run(&format!("sg_persist --out {action} {disk}")).map(|_| ())
}

/// PERSISTENT RESERVE IN says all of this.
fn shows(scene: &mut Scene, disk: &str, what: &str, expect: &[&str], not: &[&str]) -> Result<()> {
    let said = scene.guest.run(&format!("sg_persist --in {what} {disk}"))?;
    for word in expect {
        ensure!(said.contains(word), "{what} does not say {word:?}:\n{said}");
    }
    for word in not {
        ensure!(!said.contains(word), "{what} says {word:?}:\n{said}");
    }
    Ok(())
}

fn writes(scene: &mut Scene, disk: &str) -> Result<bool> {
    // Once more: unit attentions of what the other did come first.
    let line = format!(
        "sg_turs {disk} >/dev/null 2>&1; sg_turs {disk} >/dev/null 2>&1; \
         sg_dd if=/dev/zero of={disk} bs=512 count=8 blk_sgio=1 2>&1"
    );
    let (status, said) = scene.guest.attempt(&line)?;
    ensure!(status == 0 || said.to_lowercase().contains("reservation conflict"), "{line}: {said}");
    Ok(status == 0)
}

/// Register, reserve, read keys, conflict, preempt, release, clear.
pub fn reservations(scene: &mut Scene) -> Result<()> {
    let one = scene.one.clone();
    scene.guest.run(&format!(
        "iscsiadm -m iface -I second -o new && iscsiadm -m iface -I second -o update -n iface.initiatorname -v {SECOND} && \
         login shared {one} second && within 30 disk shared {one} {SECOND}"
    ))?;
    let Pair { a, b } = pair(scene)?;
    change(scene, &a, &format!("--register --param-sark={KEY_A}"))?;
    change(scene, &b, &format!("--register --param-sark={KEY_B}"))?;
    shows(scene, &a, "--read-keys", &[KEY_A, KEY_B, "2 registered"], &[])?;
    // Write exclusive.
    change(scene, &a, &format!("--reserve --param-rk={KEY_A} --prout-type=1"))?;
    shows(scene, &b, "--read-reservation", &[KEY_A, "Write Exclusive"], &[])?;
    shows(scene, &b, "--read-full-status", &[GUEST, SECOND], &[])?;
    ensure!(writes(scene, &a)?, "the holder may not write");
    ensure!(!writes(scene, &b)?, "another one than the holder may write");
    let (status, said) =
        scene.guest.attempt(&format!("sg_persist --out --reserve --param-rk={KEY_B} --prout-type=1 {b}"))?;
    ensure!(status == 24, "a second reservation was answered with {status}: {said}");
    change(scene, &b, &format!("--preempt --param-rk={KEY_B} --param-sark={KEY_A} --prout-type=1"))?;
    shows(scene, &b, "--read-keys", &[KEY_B, "1 registered"], &[KEY_A])?;
    ensure!(writes(scene, &b)? && !writes(scene, &a)?, "preempting did not turn the reservation");
    change(scene, &b, &format!("--release --param-rk={KEY_B} --prout-type=1"))?;
    ensure!(writes(scene, &a)?, "released, and yet kept");
    change(scene, &b, &format!("--clear --param-rk={KEY_B}"))?;
    shows(scene, &a, "--read-keys", &["NO registered"], &[KEY_B])?;
    scene.passed(10, "sg_persist with two initiators");
    Ok(())
}

/// A registration and a reservation that outlive the controller.
pub fn register_for_good(scene: &mut Scene) -> Result<()> {
    let Pair { a, .. } = pair(scene)?;
    change(scene, &a, &format!("--register --param-sark={KEY_A} --param-aptpl"))?;
    change(scene, &a, &format!("--reserve --param-rk={KEY_A} --prout-type=3"))
}

pub fn still_registered(scene: &mut Scene) -> Result<()> {
    let Pair { a, b } = pair(scene)?;
    for disk in [&a, &b] {
        scene.guest.run(&format!("sg_turs {disk} >/dev/null 2>&1; sg_turs {disk} >/dev/null 2>&1; true"))?;
    }
    shows(scene, &b, "--read-keys", &[KEY_A, "1 registered"], &[])?;
    shows(scene, &b, "--read-reservation", &[KEY_A, "Exclusive Access"], &[])?;
    ensure!(writes(scene, &a)? && !writes(scene, &b)?, "the reservation is not kept");
    scene.passed(1, "a registration with APTPL outlived them");
    Ok(())
}
