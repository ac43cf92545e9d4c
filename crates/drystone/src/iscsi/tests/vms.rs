//! A VM as a target: its vDisks are logical units of several workers, and the same ones that their own targets have.

use super::initiator::{Initiator, Pdu};
use super::rig::{Running, Setup};
use control::IscsiAccess;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// "disk" on the session's worker, "other" on another one.
const BOTH: &[(&str, u64)] = &[("disk", 0), ("other", 3)];
const OTHER: u8 = 3;

fn start() -> Running {
    let server = Running::start(Setup::default());
    server.names.set_luns(BOTH);
    server
}

fn vm(server: &Running, lun: u8) -> Initiator {
    let mut initiator = Initiator::connect(server.portals[0]).logged_in("vm:both", &[]).ready();
    initiator.lun = lun;
    if lun == 0 { initiator } else { initiator.ready() }
}

fn luns(initiator: &mut Initiator) -> Vec<u8> {
    let (status, _, data) = initiator.ask(0xc1, 256, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(status, 0);
    data[8..].chunks(8).map(|lun| lun[1]).collect()
}

/// The next unit attention, or nothing.
fn attention(initiator: &mut Initiator) -> Option<(u8, u8)> {
    let pdu = initiator.command(0x81, 0, &[0; 6]);
    initiator.send(pdu);
    let (status, sense, _) = initiator.end_of(initiator.task);
    (status == 2).then(|| (sense[14], sense[15]))
}

#[test]
fn vdisks_of_several_workers_are_one_target() {
    let server = start();
    let mut initiator = vm(&server, OTHER);
    assert_eq!(luns(&mut initiator), [0, OTHER]);
    // More than a burst, so that most of it is asked for.
    let data: Vec<u8> = (0..1u32 << 20).map(|at| (at / 512 * 7 + at % 251) as u8).collect();
    for lun in [OTHER, 0] {
        initiator.lun = lun;
        initiator.write(8, &data, 4096, 8192);
        assert!(initiator.read(8, data.len() as u32) == data);
        initiator.write(8, &[lun + 1; 512], 512, 512);
    }
    let mut own = Initiator::connect(server.portals[1]).logged_in("other", &[]).ready();
    assert_eq!(own.read(8, 512), [OTHER + 1; 512]);
    assert_eq!(Initiator::disk(server.portals[1]).ready().read(8, 512), [1; 512]);
    // What is offered beyond what the CDB says is left over.
    initiator.lun = OTHER;
    let pdu = initiator.command(0xa1, 2048, &[0x2a, 0, 0, 0, 0, 8, 0, 0, 1, 0]).data(&[5; 2048]);
    initiator.send(pdu);
    let answer = initiator.receive();
    assert_eq!((answer.opcode(), answer.basic[1], answer.basic[3], answer.get(44)), (0x21, 0x82, 0, 1536));
    assert_eq!(own.read(8, 512), [5; 512]);
    // Nothing is where there is nothing.
    initiator.lun = 7;
    let (status, sense, _) = initiator.ask(0x81, 0, &[0; 6]);
    assert_eq!((status, sense[4], sense[14]), (2, 5, 0x25));
    assert_eq!(luns(&mut initiator), [0, OTHER]);
    initiator.log_out();
    assert!(initiator.until_closed().is_empty());
}

#[test]
fn a_reservation_counts_on_both_paths() {
    let server = start();
    let mut through_vm = vm(&server, OTHER);
    let mut own = Initiator::connect(server.portals[0]).logged_in("other", &[]).ready();
    let mut reserve = |action: u8, kind: u8, old: u8, new: u8| {
        let mut list = [0; 24];
        (list[7], list[15]) = (old, new);
        let pdu = through_vm.command(0xa1, 24, &[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]).data(&list);
        through_vm.send(pdu);
        assert_eq!(through_vm.end_of(through_vm.task).0, 0);
    };
    reserve(0, 0, 0, 9);
    reserve(1, 1, 9, 0);
    // The same initiator port through another target port is another nexus.
    let pdu = own.write_pdu(0, 512).data(&[1; 512]);
    own.send(pdu);
    assert_eq!(own.end_of(own.task).0, 0x18, "reservation conflict");
    through_vm.write(0, &[2; 512], 512, 512);
    assert_eq!(own.read(0, 512), [2; 512]);
    let (_, _, full) = own.ask(0xc1, 255, &[0x5e, 3, 0, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(full[8 + 18..8 + 20], [4, 1], "relative target port of the VM's first portal");
    // A reset on one path is heard of on the other.
    through_vm.send(Pdu::new(0x42, 0x85).at(9, &[OTHER]).word(16, 99).word(20, u32::MAX).word(24, through_vm.number));
    assert_eq!(through_vm.receive().basic[..3], [0x22, 0x80, 0]);
    assert_eq!(attention(&mut own).map(|(code, _)| code), Some(0x29));
    assert_eq!(attention(&mut through_vm).map(|(code, _)| code), Some(0x29));
}

#[test]
fn logical_units_come_and_go_with_the_vdisks() {
    let server = start();
    server.names.set_luns(&BOTH[..1]);
    let mut initiator = vm(&server, 0);
    assert_eq!(luns(&mut initiator), [0]);
    server.names.set_luns(BOTH);
    let told = initiator.receive();
    assert_eq!((told.opcode(), told.data[14], told.data[15]), (0x32, 0x3f, 0x0e), "{:02x?}", told.data);
    assert_eq!(attention(&mut initiator), Some((0x3f, 0x0e)));
    assert_eq!(luns(&mut initiator), [0, OTHER]);
    initiator.lun = OTHER;
    let mut initiator = initiator.ready();
    initiator.write(0, &[7; 512], 512, 512);
    // What is under way when a vDisk goes is answered; nothing new gets there.
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let pdu = initiator.read_pdu(0, 512);
    initiator.send(pdu);
    let task = initiator.task;
    server.wait_until("it is under way", |server| server.controls.submitted.load(SeqCst) > before);
    server.names.set_luns(&BOTH[..1]);
    std::thread::sleep(Duration::from_millis(50));
    server.controls.open.send_replace(true);
    assert_eq!(initiator.end_of(task).2, [7; 512]);
    let told = initiator.receive();
    assert_eq!((told.opcode(), told.data[14], told.data[15]), (0x32, 0x3f, 0x0e));
    let (status, sense, _) = initiator.ask(0x81, 0, &[0; 6]);
    assert_eq!((status, sense[4], sense[14]), (2, 5, 0x25));
    server.wait_until("only one is attached", |server| server.controls.attached.load(SeqCst) == 1);
    initiator.lun = 0;
    assert_eq!(attention(&mut initiator), Some((0x3f, 0x0e)));
    assert_eq!(luns(&mut initiator), [0]);
}

#[test]
fn rules_of_each_vdisk_say_who_sees_it() {
    let named = |name: &str| IscsiAccess { initiators: vec![name.to_string()], ..IscsiAccess::default() };
    let server = Running::start(Setup { access: named("iqn.2000-01.test:somebody"), ..Setup::default() });
    server.names.set_luns(&BOTH[..1]);
    let mut nobody = Initiator::connect(server.portals[0]);
    assert_eq!(nobody.log_in("vm:both", &[]).basic[36..38], [2, 2], "there is nothing that it may see");
    server.names.set_luns(BOTH);
    let mut initiator = Initiator::connect(server.portals[0]).logged_in("vm:both", &[]);
    assert_eq!(luns(&mut initiator), [OTHER]);
    assert_eq!(initiator.ask(0x81, 0, &[0; 6]).1[14], 0x25);
    initiator.lun = OTHER;
    let mut initiator = initiator.ready();
    assert_eq!(initiator.read(0, 512), [0; 512]);
    // Rules that change let nobody further in while a session lasts, until the VM changes.
    *server.names.access.lock().expect("no panics") = named("iqn.2000-01.test:guest");
    server.names.set_luns(&[("disk", 5), ("other", 3)]);
    assert_eq!(initiator.receive().data[14..16], [0x3f, 0x0e]);
    assert_eq!(luns(&mut initiator), [OTHER, 5]);
    initiator.lun = 5;
    assert_eq!(initiator.ready().read(0, 512), [0; 512]);
}

#[test]
fn a_task_of_another_worker_is_aborted_while_its_data_is_gathered() {
    let server = start();
    let mut initiator = vm(&server, OTHER);
    let pdu = initiator.write_pdu(0, 65536).data(&[1; 512]);
    initiator.send(pdu);
    let task = initiator.task;
    assert_eq!(initiator.receive().opcode(), 0x31, "the rest is asked for");
    initiator.send(Pdu::new(0x42, 0x81).at(9, &[OTHER]).word(16, 99).word(20, task).word(24, initiator.number));
    let answer = initiator.receive();
    assert_eq!((answer.opcode(), answer.basic[2], answer.get(16)), (0x22, 0, 99));
    assert_eq!(initiator.read(0, 512), [0; 512], "nothing of it was written");
}

#[test]
fn the_same_port_takes_the_place_of_its_old_session_on_all_workers() {
    let server = start();
    let mut old = vm(&server, OTHER);
    old.write(0, &[3; 512], 512, 512);
    let mut new = Initiator::connect(server.portals[0]).logged_in("vm:both", &[]);
    assert!(old.until_closed().is_empty());
    new.lun = OTHER;
    assert_eq!(attention(&mut new), Some((0x29, 7)), "nexus loss");
    assert_eq!(new.read(0, 512), [3; 512]);
    assert_eq!(server.sessions.list().len(), 1);
}

#[test]
fn a_vm_that_is_gone_ends_its_sessions() {
    let server = start();
    let mut initiator = vm(&server, 0);
    server.controls.close.send_replace(true);
    // The vDisks go away: nothing is left to be seen, and the session stays.
    server.wait_until("nothing is attached", |server| server.controls.attached.load(SeqCst) == 0);
    assert_eq!(initiator.ask(0x81, 0, &[0; 6]).1[14], 0x25);
}

#[test]
fn a_vdisk_that_is_busy_is_waited_for() {
    let server = start();
    let busy = || *server.controls.attach_error.lock().expect("no panics") = Some("it is rolled back".to_string());
    // Whoever logs in is to have all of them.
    busy();
    let mut refused = Initiator::connect(server.portals[0]);
    assert_eq!(refused.log_in("vm:both", &[]).basic[36..38], [3, 1], "service unavailable");
    assert!(refused.until_closed().is_empty());
    server.wait_until("nothing is attached", |server| server.controls.attached.load(SeqCst) == 0);
    // Whoever is logged in already gets it later.
    server.names.set_luns(&BOTH[..1]);
    let mut initiator = vm(&server, 0);
    assert_eq!(luns(&mut initiator), [0]);
    busy();
    server.names.set_luns(BOTH);
    let told = initiator.receive();
    assert_eq!((told.opcode(), told.data[14], told.data[15]), (0x32, 0x3f, 0x0e));
    assert!(server.controls.attach_error.lock().expect("no panics").is_none(), "the first try failed");
    assert_eq!(luns(&mut initiator), [0, OTHER]);
}

#[test]
fn sessions_are_counted_where_they_are_seen() {
    let server = start();
    let seen = |server: &Running| server.sessions.list().into_iter().map(|one| one.units).collect::<Vec<_>>();
    let _through_vm = vm(&server, 0);
    let _own = Initiator::connect(server.portals[0]).logged_in("other", &[]).ready();
    assert_eq!(seen(&server), [vec![7, 8], vec![8]]);
    server.names.set_luns(&BOTH[..1]);
    server.wait_until("one is gone", |server| seen(server) == [vec![7], vec![8]]);
    server.names.set_luns(BOTH);
    server.wait_until("it is back", |server| seen(server) == [vec![7, 8], vec![8]]);
}

#[test]
fn a_refused_command_of_another_worker_can_be_aborted() {
    let server = start();
    let mut initiator = vm(&server, 0);
    // Its first command there meets a unit attention, which the session does not know while it asks for the data.
    initiator.lun = OTHER;
    let pdu = initiator.write_pdu(0, 65536).data(&[1; 512]);
    initiator.send(pdu);
    let task = initiator.task;
    assert_eq!(initiator.receive().opcode(), 0x31, "the rest is asked for");
    initiator.send(Pdu::new(0x42, 0x81).at(9, &[OTHER]).word(16, 99).word(20, task).word(24, initiator.number));
    let answer = initiator.receive();
    assert_eq!((answer.opcode(), answer.basic[2], answer.get(16)), (0x22, 0, 99));
    // Its tag names nothing any more.
    initiator.task = task - 1;
    assert_eq!(initiator.read(0, 512), [0; 512]);
    assert_eq!(initiator.task, task);
    server.wait_until("nothing is under way", |server| server.sessions.list()[0].commands_in_flight == 0);
}

#[test]
fn what_is_taken_twice_is_let_go_of_once_it_has_ended() {
    let server = start();
    let mut initiator = vm(&server, OTHER);
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let pdu = initiator.read_pdu(0, 512);
    initiator.send(pdu);
    let task = initiator.task;
    server.wait_until("it is under way", |server| server.controls.submitted.load(SeqCst) > before);
    // The vDisk leaves the VM, and goes away.
    server.names.set_luns(&BOTH[..1]);
    std::thread::sleep(Duration::from_millis(50));
    server.controls.close.send_replace(true);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.controls.attached.load(SeqCst), 2, "one has a command under way, the other one's turn is then");
    server.controls.open.send_replace(true);
    assert_eq!(initiator.end_of(task).2, [0; 512]);
    server.wait_until("nothing is attached", |server| server.controls.attached.load(SeqCst) == 0);
}
