//! The server with real sockets and threads, vDisks in memory behind it and a strict initiator before it.

mod access;
mod initiator;
mod patience;
mod rig;
mod vms;

use crate::frontend::testing::SIZE;
use block::Kind;
use initiator::{Initiator, Pdu};
use rig::{Running, Setup};
use std::io::Write;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

fn start() -> Running {
    Running::start(Setup::default())
}

/// Bytes that tell where they belong.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (seed + at / 512 * 7 + at) as u8).collect()
}

#[test]
fn what_is_written_is_read_however_the_data_comes() {
    let server = start();
    let digests = ["HeaderDigest=CRC32C", "DataDigest=CRC32C"];
    let small = ["MaxRecvDataSegmentLength=4096", "MaxBurstLength=8192", "MaxOutstandingR2T=4", "FirstBurstLength=512"];
    let large = ["MaxRecvDataSegmentLength=262144", "MaxBurstLength=1048576", "MaxOutstandingR2T=4"];
    for (index, keys) in [&digests[..], &small, &large, &[&digests[..], &large].concat(), &[]].into_iter().enumerate() {
        for pending in [false, true] {
            server.controls.pending.store(pending, SeqCst);
            let mut initiator = Initiator::connect(server.portals[0]).logged_in("disk", keys).ready();
            for (len, immediate, segment) in
                [(512, 512, 512), (512, 0, 512), (8192, 512, 777), (65_536 * 2, 512, 8192), (3 << 20, 512, 262_144)]
            {
                let data = pattern(index as u64 * 3, len);
                initiator.write(8, &data, immediate, segment);
                assert!(initiator.read(8, len as u32) == data, "{keys:?} {len}");
            }
            initiator.log_out();
            assert!(initiator.until_closed().is_empty());
        }
    }
}

#[test]
fn commands_have_the_answers_of_the_device_server() {
    let server = start();
    let mut initiator = Initiator::disk(server.portals[0]);
    let pdu = initiator.command(0x81, 0, &[0; 6]);
    initiator.send(pdu);
    let (status, sense, _) = initiator.end_of(initiator.task);
    assert_eq!((status, sense[4], sense[14]), (2, 6, 0x29), "a new nexus has a unit attention");
    let (status, _, data) = initiator.ask(0xc1, 36, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!((status, data.len(), &data[8..16]), (0, 36, b"DRYSTONE".as_slice()));
    let (_, _, data) = initiator.ask(0xc1, 8, &[0x25]);
    assert_eq!(data[..4], ((SIZE / 512 - 1) as u32).to_be_bytes());
    let (status, sense, _) = initiator.ask(0xc1, 512, &[0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0]);
    assert_eq!((status, sense[4], sense[14]), (2, 5, 0x21), "beyond the end");
    *server.controls.fail.lock().expect("no panics") = Some(Kind::Corrupt);
    let (status, sense, _) = initiator.ask(0xc1, 512, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!((status, sense[4]), (2, 3), "a medium error");
    *server.controls.fail.lock().expect("no panics") = None;
    let pdu = initiator.command(0xc1, 36, &[0x12, 0, 0, 0, 36, 0]).at(9, &[5]);
    initiator.send(pdu);
    let (status, _, data) = initiator.end_of(initiator.task);
    assert_eq!((status, data[0]), (0, 0x7f), "there is no such unit");
}

#[test]
fn targets_live_on_their_own_workers() {
    let server = start();
    let mut disk = Initiator::disk(server.portals[0]).ready();
    let mut other = Initiator::connect(server.portals[0]).logged_in("other", &[]).ready();
    disk.write(0, &[1; 512], 512, 512);
    assert_eq!(other.read(0, 512), [0; 512]);
    assert_eq!(disk.read(0, 512), [1; 512]);
}

#[test]
fn one_segment_may_hold_everything_from_the_login_on() {
    let server = start();
    let mut initiator = Initiator::connect(server.portals[0]);
    let keys = initiator::text(&[
        "InitiatorName=iqn.2000-01.test:guest",
        "TargetName=iqn.2026-11.io.drystone:disk",
        "ImmediateData=Yes",
    ]);
    let login = Pdu::new(0x43, 0x87).at(8, &[0x80]).word(16, 9).word(24, 1).data(&keys);
    let ready = initiator.command(0x81, 0, &[0; 6]);
    let write = initiator.write_pdu(0, 512).data(&[5; 512]);
    let read = initiator.read_pdu(0, 512);
    let bytes: Vec<u8> = [login, ready, write, read].iter().flat_map(|pdu| initiator.encode(pdu)).collect();
    initiator.stream.write_all(&bytes).expect("sent");
    assert_eq!(initiator.receive().opcode(), 0x23);
    assert_eq!(initiator.end_of(2).0, 2, "the unit attention");
    assert_eq!(initiator.end_of(3).0, 0);
    assert_eq!(initiator.end_of(4).2, [5; 512]);
}

#[test]
fn requests_that_trickle_in_are_put_together() {
    let server = start();
    let mut initiator = Initiator::disk(server.portals[0]).ready();
    let data = pattern(3, 60 * 1024);
    let write = initiator.write_pdu(0, data.len() as u32).data(&data);
    let bytes = initiator.encode(&write);
    let mut rest = bytes.as_slice();
    for size in [1, 20, 9, 1000, 20_000, 512, 30_000, 1].into_iter().cycle() {
        let (head, tail) = rest.split_at(size.min(rest.len()));
        initiator.stream.write_all(head).expect("sent");
        std::thread::sleep(Duration::from_millis(2));
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(initiator.end_of(initiator.task).0, 0);
    assert!(initiator.read(0, data.len() as u32) == data);
}

#[test]
fn a_deep_queue_is_answered_completely() {
    let server = start();
    for pending in [false, true] {
        server.controls.pending.store(pending, SeqCst);
        let mut initiator = Initiator::disk(server.portals[0]).ready();
        let mut expect = std::collections::HashMap::new();
        for round in 0..4 {
            let mut bytes = Vec::new();
            for index in 0..100u32 {
                let pdu = match round {
                    0 | 2 => initiator.write_pdu(index * 8, 4096).data(&pattern(index.into(), 4096)),
                    _ => initiator.read_pdu(index * 8, 4096),
                };
                let back = if round % 2 == 1 { pattern(index.into(), 4096) } else { Vec::new() };
                expect.insert(initiator.task, back);
                bytes.extend(initiator.encode(&pdu));
            }
            initiator.stream.write_all(&bytes).expect("sent");
            for _ in 0..100 {
                let pdu = initiator.receive();
                assert_eq!(pdu.basic[3], 0, "{:02x?}", pdu.data);
                assert!(expect.remove(&pdu.get(16)) == Some(pdu.data));
            }
        }
        assert!(expect.is_empty());
    }
}

#[test]
fn two_paths_share_one_unit() {
    let server = start();
    let mut first = Initiator::disk(server.portals[0]).ready();
    let mut second = Initiator::disk(server.portals[1]);
    second.isid[5] = 9;
    let mut second = second.ready();
    first.write(0, &[4; 512], 512, 512);
    assert_eq!(second.read(0, 512), [4; 512]);
    let identity = |initiator: &mut Initiator| initiator.ask(0xc1, 255, &[0x12, 1, 0x83, 0, 255, 0]).2;
    let (one, two) = (identity(&mut first), identity(&mut second));
    // The same designator of the unit, and the ports differ: relative target port 1 and 2.
    assert_ne!(one, two);
    let naa = |page: &[u8]| page.windows(4).position(|at| at[..2] == [0x01, 0x03]).map(|at| page[at..at + 12].to_vec());
    assert!(naa(&one).is_some() && naa(&one) == naa(&two));
    // A reset on one path is a unit attention on the other.
    let reset = Pdu::new(0x42, 0x85).word(16, 99).word(20, u32::MAX).word(24, first.number);
    first.send(reset);
    assert_eq!(first.receive().basic[..3], [0x22, 0x80, 0]);
    let pdu = second.command(0x81, 0, &[0; 6]);
    second.send(pdu);
    let (status, sense, _) = second.end_of(second.task);
    assert_eq!((status, sense[4], sense[14]), (2, 6, 0x29));
    assert_eq!(server.sessions.list().len(), 2);
}

#[test]
fn a_task_is_aborted_when_it_can_be_and_does_not_answer() {
    let server = start();
    let mut initiator = Initiator::disk(server.portals[0]).ready();
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let pdu = initiator.write_pdu(0, 512).data(&[1; 512]);
    initiator.send(pdu);
    let (task, number) = (initiator.task, initiator.number - 1);
    server.wait_until("it is under way", |server| server.controls.submitted.load(SeqCst) > before);
    initiator.send(Pdu::new(0x42, 0x81).word(16, 99).word(20, task).word(24, initiator.number).word(32, number));
    std::thread::sleep(Duration::from_millis(50));
    // It cannot be taken back from the device, so that the function waits for it.
    initiator.stream.set_nonblocking(true).expect("set");
    assert!(initiator.try_receive().is_err());
    initiator.stream.set_nonblocking(false).expect("set");
    server.controls.open.send_replace(true);
    let pdu = initiator.receive();
    assert_eq!((pdu.opcode(), pdu.basic[2], pdu.get(16)), (0x22, 0, 99));
    assert_eq!(initiator.read(8, 512), [0; 512], "nothing else came in between");
}

#[test]
fn the_same_port_takes_the_place_of_its_old_session() {
    let server = start();
    let mut old = Initiator::disk(server.portals[0]).ready();
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let pdu = old.read_pdu(0, 512);
    old.send(pdu);
    server.wait_until("it is under way", |server| server.controls.submitted.load(SeqCst) > before);
    let mut new = Initiator::connect(server.portals[0]).logged_in("disk", &[]);
    server.controls.open.send_replace(true);
    assert!(old.until_closed().is_empty());
    assert_ne!(new.tsih, old.tsih);
    assert_eq!(server.sessions.list().len(), 1);
    let pdu = new.command(0x81, 0, &[0; 6]);
    new.send(pdu);
    let (status, sense, _) = new.end_of(new.task);
    assert_eq!((status, sense[4], sense[14], sense[15]), (2, 6, 0x29, 7), "nexus loss");
    // Another port of the same initiator, and the same port through another portal, are other sessions.
    let mut other = Initiator::connect(server.portals[0]);
    other.isid[5] = 77;
    let _other = other.logged_in("disk", &[]).ready();
    let _third = Initiator::disk(server.portals[1]).ready();
    assert_eq!(server.sessions.list().len(), 3);
}

#[test]
fn sessions_are_listed_and_dropped() {
    let server = start();
    let keys = ["InitiatorAlias=me", "DataDigest=CRC32C"];
    let mut initiator = Initiator::connect(server.portals[1]).logged_in("disk", &keys).ready();
    initiator.write(0, &[1; 4096], 4096, 4096);
    initiator.read(0, 512);
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let pdu = initiator.read_pdu(0, 512);
    initiator.send(pdu);
    server.wait_until("it is under way", |server| server.controls.submitted.load(SeqCst) > before);
    server.wait_until("it is counted", |server| server.sessions.list()[0].commands_in_flight == 1);
    let session = &server.sessions.list()[0];
    assert_eq!((session.vdisk.as_str(), session.key), ("disk", 7));
    assert_eq!((session.initiator.as_str(), session.alias.as_deref()), ("iqn.2000-01.test:guest", Some("me")));
    assert_eq!((session.isid, session.tsih), (initiator.isid, initiator.tsih));
    assert_eq!((session.portal, session.portal_group), (server.portals[1], 2));
    assert_eq!(session.address, initiator.stream.local_addr().expect("an address"));
    assert_eq!((session.header_digest, session.data_digest, session.user.clone()), (false, true, None));
    assert_eq!((session.read_bytes, session.written_bytes), (512, 4096));
    assert!(!server.sessions.drop_session(session.id + 1));
    assert!(server.sessions.drop_session(session.id));
    // It is told, and what is under way is still answered.
    let told = initiator.receive();
    assert_eq!((told.opcode(), told.basic[36]), (0x32, 3));
    server.controls.open.send_replace(true);
    assert_eq!(initiator.end_of(initiator.task).0, 0);
    assert!(initiator.until_closed().is_empty());
}

#[test]
fn a_cold_reset_ends_all_sessions_of_the_target() {
    let server = start();
    let mut first = Initiator::disk(server.portals[0]).ready();
    let mut second = Initiator::disk(server.portals[1]).ready();
    let mut other = Initiator::connect(server.portals[0]).logged_in("other", &[]).ready();
    first.send(Pdu::new(0x42, 0x87).word(16, 99).word(20, u32::MAX).word(24, first.number));
    let answers = first.until_closed();
    assert_eq!(answers.iter().map(|pdu| (pdu.opcode(), pdu.basic[2])).collect::<Vec<_>>(), [(0x22, 0)]);
    assert_eq!(second.until_closed().iter().map(Pdu::opcode).collect::<Vec<_>>(), [0x32]);
    assert_eq!(other.read(0, 512), [0; 512]);
}

#[test]
fn a_resize_is_told() {
    let server = start();
    let mut first = Initiator::disk(server.portals[0]).ready();
    let mut second = Initiator::disk(server.portals[1]).ready();
    server.controls.size_bytes.store(2 * SIZE, SeqCst);
    // The device server notices with the next command.
    let pdu = first.command(0x81, 0, &[0; 6]);
    first.send(pdu);
    let told = second.receive();
    assert_eq!((told.opcode(), told.basic[36], told.data[4], told.data[14], told.data[15]), (0x32, 0, 6, 0x2a, 9));
    let (_, _, data) = second.ask(0xc1, 8, &[0x25]);
    assert_eq!(data[..4], ((2 * SIZE / 512 - 1) as u32).to_be_bytes());
}

#[test]
fn a_stop_asks_to_log_out_and_answers_what_is_under_way() {
    let mut server = start();
    let mut polite = Initiator::disk(server.portals[0]).ready();
    let mut deaf = Initiator::connect(server.portals[0]).logged_in("other", &[]).ready();
    let mut connecting = Initiator::connect(server.portals[0]);
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let pdu = polite.write_pdu(0, 512).data(&[1; 512]);
    polite.send(pdu);
    server.wait_until("it is under way", |server| server.controls.submitted.load(SeqCst) > before);
    let since = Instant::now();
    server.ask_to_stop();
    assert!(connecting.until_closed().is_empty());
    for initiator in [&mut polite, &mut deaf] {
        let told = initiator.receive();
        assert_eq!((told.opcode(), told.basic[36], told.basic[43]), (0x32, 1, 2), "log out within two seconds");
    }
    polite.send(Pdu::new(0x46, 0x80).word(16, 5).word(24, polite.number));
    std::thread::sleep(Duration::from_millis(50));
    server.controls.open.send_replace(true);
    let ends: Vec<u8> = polite.until_closed().iter().map(Pdu::opcode).collect();
    assert_eq!(ends, [0x21, 0x26], "the write, then the goodbye");
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(deaf.until_closed().iter().map(|pdu| pdu.basic[36]).collect::<Vec<_>>(), [3], "dropped");
    assert!(since.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_deleted_vdisk_ends_its_sessions() {
    let server = start();
    let mut initiator = Initiator::disk(server.portals[0]).ready();
    server.controls.close.send_replace(true);
    let ends: Vec<u8> = initiator.until_closed().iter().map(|pdu| pdu.basic[36]).collect();
    assert_eq!(ends, [1, 3]);
}

#[test]
fn connections_beyond_the_limit_are_turned_away() {
    let server = Running::start(Setup { connections_max: Some(2), ..Setup::default() });
    let first = Initiator::disk(server.portals[0]);
    let mut second = Initiator::disk(server.portals[1]).ready();
    let mut third = Initiator::connect(server.portals[0]);
    assert!(third.until_closed().is_empty());
    drop(first);
    assert_eq!(second.read(0, 512), [0; 512]);
    server.wait_until("the first one is gone", |server| server.sessions.list().len() == 1);
    let mut fourth = Initiator::connect(server.portals[0]);
    server.wait_until("its place is free", |server| {
        let mut again = Initiator::connect(server.portals[0]);
        std::mem::swap(&mut again, &mut fourth);
        fourth.stream.write_all(&[0x43]).is_ok() && {
            fourth.stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
            matches!(fourth.try_receive(), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        }
    });
}
