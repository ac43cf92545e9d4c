//! Initiators that stop reading, stop sending, or are not there any more: they are given up, and harm nobody meanwhile.

use super::initiator::{Initiator, Pdu};
use super::pattern;
use super::rig::{Running, Setup};
use crate::iscsi::Timeouts;
use std::io::Write;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

fn impatient() -> Setup {
    let timeouts = Timeouts {
        ping_after: Duration::from_millis(300),
        pong_within: Duration::from_millis(300),
        stuck_after: Duration::from_millis(600),
    };
    Setup { timeouts: Some(timeouts), ..Setup::default() }
}

#[test]
fn one_that_does_not_answer_pings_is_gone() {
    let server = Running::start(impatient());
    let mut alive = Initiator::disk(server.portals[0]).ready();
    let mut dead = Initiator::disk(server.portals[1]).ready();
    for _ in 0..3 {
        let ping = alive.receive();
        assert_eq!((ping.opcode(), ping.get(16)), (0x20, u32::MAX));
        alive.send(Pdu::new(0x40, 0x80).word(16, u32::MAX).word(20, ping.get(20)).word(24, alive.number));
    }
    assert_eq!(dead.until_closed().iter().map(Pdu::opcode).collect::<Vec<_>>(), [0x20]);
    alive.read(0, 512);
    assert_eq!(server.sessions.list().len(), 1);
}

#[test]
fn one_that_does_not_answer_an_r2t_is_cut_off() {
    let server = Running::start(impatient());
    let mut owing = Initiator::disk(server.portals[0]).ready();
    let since = Instant::now();
    let pdu = owing.write_pdu(0, 65_536);
    owing.send(pdu);
    assert_eq!(owing.receive().opcode(), 0x31);
    // It answers pings, which is not what it owes.
    while let Ok(ping) = owing.try_receive() {
        let pong = Pdu::new(0x40, 0x80).word(16, u32::MAX).word(20, ping.get(20)).word(24, owing.number);
        let bytes = owing.encode(&pong);
        if owing.stream.write_all(&bytes).is_err() {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "it is never cut off");
    }
    server.wait_until("it is gone", |server| server.sessions.list().is_empty());
}

#[test]
fn one_that_does_not_read_holds_little_and_harms_nobody() {
    let server = Running::start(Setup::default());
    let keys = ["MaxRecvDataSegmentLength=262144"];
    let mut deaf = Initiator::connect(server.portals[0]).logged_in("disk", &keys).ready();
    deaf.write(0, &pattern(1, 1 << 20), 0, 65_536);
    let before = server.controls.submitted.load(SeqCst);
    // 100 MiB in answers are asked for; 64 MiB and what the sockets hold may be under way.
    let bytes: Vec<u8> = (0..100)
        .flat_map(|_| {
            let pdu = deaf.read_pdu(0, 1 << 20);
            deaf.encode(&pdu)
        })
        .collect();
    deaf.stream.write_all(&bytes).expect("commands fit into the socket");
    server.wait_until("the server takes what it may", |server| server.controls.submitted.load(SeqCst) - before >= 60);
    let mut other = Initiator::disk(server.portals[1]).ready();
    for _ in 0..100 {
        assert!(other.read(0, 4096) == pattern(1, 4096));
    }
    std::thread::sleep(Duration::from_millis(100));
    let taken = server.controls.submitted.load(SeqCst) - before - 100;
    assert!(taken <= 64 + 16, "{taken} MiB of reads were taken for an initiator that does not read");
    let mut left: std::collections::BTreeMap<u32, Vec<u8>> = std::collections::BTreeMap::new();
    let mut ended = 0;
    while ended < 100 {
        let pdu = deaf.receive();
        let data = left.entry(pdu.get(16)).or_default();
        data.extend_from_slice(&pdu.data);
        if pdu.basic[1] & 1 != 0 {
            assert!(*data == pattern(1, 1 << 20));
            left.remove(&pdu.get(16));
            ended += 1;
        }
    }
}

#[test]
fn one_that_never_reads_is_cut_off() {
    let server = Running::start(impatient());
    let mut deaf = Initiator::disk(server.portals[0]).ready();
    let bytes: Vec<u8> = (0..60)
        .flat_map(|_| {
            let pdu = deaf.read_pdu(0, 1 << 20);
            deaf.encode(&pdu)
        })
        .collect();
    deaf.stream.write_all(&bytes).expect("commands fit into the socket");
    server.wait_until("it is gone", |server| server.sessions.list().is_empty());
}

#[test]
fn writes_that_wait_for_data_leave_room_for_others() {
    let server = Running::start(Setup { payload_bytes: Some(8 << 20), ..Setup::default() });
    // More than the budget, never sent.
    let mut greedy = Initiator::disk(server.portals[0]).ready();
    for _ in 0..20 {
        let pdu = greedy.write_pdu(0, 1 << 20);
        greedy.send(pdu);
    }
    let mut other = Initiator::disk(server.portals[1]).ready();
    for _ in 0..20 {
        other.write(4096, &pattern(2, 65_536), 512, 8192);
        assert!(other.read(4096, 65_536) == pattern(2, 65_536));
    }
}

#[test]
fn an_initiator_that_hangs_up_in_the_middle_lets_go() {
    let server = Running::start(Setup::default());
    for _ in 0..3 {
        let mut initiator = Initiator::disk(server.portals[0]).ready();
        server.controls.open.send_replace(false);
        for _ in 0..10 {
            let pdu = initiator.write_pdu(0, 4096).data(&[1; 4096]);
            initiator.send(pdu);
        }
        let pdu = initiator.write_pdu(0, 65_536);
        initiator.send(pdu);
        drop(initiator);
        server.controls.open.send_replace(true);
        server.wait_until("the hold is dropped", |server| server.controls.attached.load(SeqCst) == 0);
    }
}

#[test]
fn who_does_not_speak_the_protocol_is_cut_off() {
    let server = Running::start(Setup::default());
    for bytes in [vec![0xff; 48], b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl\r\n\r\n".to_vec()] {
        let mut stranger = Initiator::connect(server.portals[0]);
        stranger.stream.write_all(&bytes).expect("sent");
        assert!(stranger.until_closed().is_empty());
    }
    let keys = ["HeaderDigest=CRC32C"];
    let mut broken = Initiator::connect(server.portals[0]).logged_in("disk", &keys);
    broken.stream.write_all(&[0; 52]).expect("sent");
    assert!(broken.until_closed().is_empty());
    let _other = Initiator::disk(server.portals[0]).ready();
}
