//! Numbers, windows, limits, pings, texts and goodbyes.

use super::*;
use crate::login::Advertised;
use crate::testing::{open_targets, pairs, step, text};
use proptest::prelude::*;

#[test]
fn commands_are_taken_in_order_once() {
    let mut host = Host::new(&[]);
    assert!(host.send(&read(102, 0)).is_empty(), "two are missing");
    assert!(host.send(&read(101, 0)).is_empty());
    assert!(host.send(&read(101, 0).word(16, 77)).is_empty(), "the first one of a number counts");
    let numbers: Vec<u32> = host.send(&read(100, 0)).iter().map(task_of).collect();
    assert_eq!(numbers, [100, 101, 102]);
    for number in [99, 100, 101, 103 + 125, 103 + 1000] {
        assert!(host.send(&read(number, 0).word(16, 5)).is_empty(), "{number} is outside the window");
    }
    assert!(host.replies().is_empty());
    assert_eq!(host.session.commands_under_way(), 3);
}

fn task_of(next: &Next<u32>) -> u32 {
    match next {
        Next::Command { tag, .. } => tag.task,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_window_closes_and_opens() {
    let limits = Limits { commands: 3, ..Limits::default() };
    let mut host = Host::with(&[], limits);
    let mut tags: Vec<Tag> = (100..103).map(|number| host.run(&read(number, 512))).collect();
    assert!(host.send(&read(103, 0)).is_empty(), "there is no place for a fourth");
    assert_eq!(host.session.commands_under_way(), 3);
    let mut ends = Vec::new();
    for tag in tags.drain(..) {
        host.session.respond(tag, good(&[&[1; 512]]), &mut host.out);
        let reply = host.reply();
        ends.push((reply.get(28), reply.get(32)));
    }
    assert_eq!(ends, [(103, 103), (103, 104), (103, 105)]);
    let _ = host.run(&read(103, 0));
}

#[test]
fn immediate_commands_are_bounded_and_have_no_number() {
    let mut host = Host::new(&[]);
    let mut tags = Vec::new();
    for task in 0..IMMEDIATE_MAX {
        tags.push(host.run(&read(100, 0).word(16, task).immediate()));
    }
    assert!(host.send(&read(100, 0).word(16, 99).immediate()).is_empty());
    let reply = host.reply();
    assert_eq!(reply.basic[..3], [0x3f, 0x80, 0x06]);
    assert_eq!((reply.get(16), reply.get(28), reply.get(32)), (u32::MAX, 100, 227));
    assert_eq!(reply.data[16..20], 99u32.to_be_bytes());
    tags.drain(..).for_each(|tag| host.session.respond(tag, good(&[]), &mut host.out));
    let _ = host.run(&read(100, 0));
}

#[test]
fn a_task_tag_in_use_is_refused() {
    let mut host = Host::new(&[]);
    let tag = host.run(&read(100, 0));
    assert!(host.send(&read(101, 0).word(16, 100)).is_empty());
    assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x07]);
    host.session.forget(tag);
    let _ = host.run(&read(102, 0).word(16, 100));
}

#[test]
fn commands_wait_for_room_and_data_goes_on() {
    let limits = Limits { room: Room { payload_bytes: 70_000, single_bytes: 70_000 }, ..Limits::default() };
    let mut host = Host::with(&["InitialR2T=No"], limits);
    let data = pattern(65_536);
    let first = host.command(&write(100, 65_536, true, &[]));
    assert!(host.session.gather(first, 65_536, 1, &mut host.out).is_none());
    let transfer = host.reply().get(20);
    // There is no room for these, and the data of the first must get past them. One of them brings data too.
    assert!(host.send(&read(101, 8192)).is_empty());
    assert!(host.send(&write(102, 4096, false, &data[..1024])).is_empty());
    assert!(host.send(&data_out(102, u32::MAX, 0, 1024, true, &data[1024..4096])).is_empty());
    assert!(!host.session.has_room(&host.out) && host.session.has_room_within(&Limits::default(), &host.out));
    let mut next = host.send(&data_out(100, transfer, 0, 0, true, &data));
    let Next::Execute(execute) = next.remove(0) else { panic!("{next:?}") };
    assert!(execute.data == data && next.is_empty());
    host.session.respond(execute.tag, good(&[]), &mut host.out);
    drop(host.replies());
    let mut next = host.bytes(&[]);
    assert_eq!(next.len(), 2, "{next:?}");
    let Next::Command { tag, .. } = next.remove(1) else { panic!() };
    let execute = host.session.gather(tag, 4096, 2, &mut host.out).expect("its data came meanwhile");
    assert!(execute.data == data[..4096]);
}

#[test]
fn one_that_is_larger_than_the_room_goes_alone() {
    let limits = Limits { room: Room { payload_bytes: 4096, single_bytes: 1 << 20 }, ..Limits::default() };
    let mut host = Host::with(&[], limits);
    let small = host.run(&read(100, 512));
    assert!(host.send(&read(101, 65_536)).is_empty());
    assert!(host.send(&read(102, 512)).is_empty(), "it does not overtake");
    host.session.respond(small, good(&[&[0; 512]]), &mut host.out);
    drop(host.replies());
    assert_eq!(host.bytes(&[]).iter().map(task_of).collect::<Vec<_>>(), [101]);
}

#[test]
fn who_does_not_read_is_not_read_from() {
    let limits = Limits { room: Room { payload_bytes: 100_000, single_bytes: 32 << 20 }, ..Limits::default() };
    let mut host = Host::with(&["MaxRecvDataSegmentLength=65536"], limits);
    let ping = Pdu::new(0x40, 0x80).word(16, 5).word(20, u32::MAX).word(24, 100).data(&[7; 65_536]);
    assert!(host.send(&ping).is_empty());
    let bytes = [host.encode(&ping), host.encode(&ping), host.encode(&ping)].concat();
    assert!(matches!(host.bytes(&bytes)[..], [Next::Full]));
    assert!(host.out.pending_bytes() < 200_000);
}

#[test]
fn pings_go_both_ways() {
    let mut host = Host::new(&["MaxRecvDataSegmentLength=512"]);
    let ping = Pdu::new(0x00, 0x80).at(8, &[9; 8]).word(16, 5).word(20, u32::MAX).word(24, 100).data(&[7; 600]);
    assert!(host.send(&ping).is_empty());
    let pong = host.reply();
    assert_eq!(pong.basic[..2], [0x20, 0x80]);
    assert_eq!(pong.basic[8..16], [9; 8]);
    assert_eq!([pong.get(16), pong.get(20), pong.get(24), pong.get(28)], [5, u32::MAX, 2, 101]);
    assert_eq!(pong.data, [7; 512], "no more than the initiator takes");
    host.session.ping(&mut host.out);
    let ping = host.reply();
    assert_eq!([ping.get(16), ping.get(24)], [u32::MAX, 3], "it uses up no status number");
    assert!(host.session.awaits_pong());
    let pong = Pdu::new(0x40, 0x80).word(16, u32::MAX).word(24, 101);
    assert!(host.send(&pong.clone().word(20, ping.get(20) + 1)).is_empty());
    assert!(host.session.awaits_pong());
    assert!(host.send(&pong.word(20, ping.get(20))).is_empty());
    assert!(!host.session.awaits_pong() && host.replies().is_empty());
}

#[test]
fn a_session_ends_as_the_initiator_asks() {
    // Reason, connection, response.
    for (reason, connection, response, ends) in [(0, 9, 0, true), (1, 1, 0, true), (1, 9, 1, false), (2, 1, 2, false)] {
        let mut host = Host::new(&[]);
        let logout = Pdu::new(0x46, 0x80 | reason).word(16, 4).at(20, &[0, connection]).word(24, 100);
        let next = host.send(&logout);
        assert_eq!(matches!(next[..], [Next::Logout]), ends, "{reason}: {next:?}");
        host.session.logged_out(&mut host.out);
        host.session.logged_out(&mut host.out);
        let reply = host.reply();
        assert_eq!(reply.basic[..3], [0x26, 0x80, response], "{reason}");
        assert_eq!((reply.get(16), reply.get(40)), (4, 2 << 16), "time to wait 2, to retain 0");
    }
    let mut host = Host::new(&[]);
    assert!(host.send(&Pdu::new(0x46, 0x85).word(24, 100)).is_empty());
    assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x09]);
}

#[test]
fn what_nobody_understands_is_rejected() {
    for (opcode, reason) in [(0x10, 0x03), (0x43, 0x04), (0x1c, 0x05), (0x3e, 0x05), (0x0a, 0x05)] {
        let mut host = Host::new(&[]);
        assert!(host.send(&Pdu::new(opcode, 0x80).word(16, 4).data(&[1; 40])).is_empty());
        let reply = host.reply();
        assert_eq!(reply.basic[..3], [0x3f, 0x80, reason], "{opcode:#x}");
        assert_eq!(reply.data.len(), 48);
    }
    let mut host = Host::new(&[]);
    let too_long = Pdu::new(0x40, 0x80).data(&vec![0; (256 << 10) + 1]);
    let bytes = host.encode(&too_long);
    assert!(matches!(host.session.next(&mut bytes.as_slice(), &mut host.out), Next::Broken(_)));
}

fn text_request(flags: u8, transfer: u32, number: u32, keys: &[&str]) -> Pdu {
    Pdu::new(0x04, flags).word(16, 6).word(20, transfer).word(24, number).data(&text(keys))
}

fn targets(count: usize) -> Vec<Advertised> {
    let portals = vec![("127.0.0.1:3260".parse().expect("an address"), 1), ("[::1]:3261".parse().expect("one"), 2)];
    (0..count).map(|i| Advertised { name: format!("iqn.2026-11.io.drystone:{i}"), portals: portals.clone() }).collect()
}

fn discovery() -> Host {
    let mut machine = crate::Login::new(1, crate::testing::ENTROPY);
    let request = crate::testing::login(0x87, &["InitiatorName=iqn.2000-01.test:guest", "SessionType=Discovery"]);
    step(&mut machine, &request, &open_targets());
    let mut out = Output::new();
    let session = machine.accept(1, Limits::default(), &mut out);
    drop(drain(&mut out));
    Host { session, out, header_digest: false, data_digest: false }
}

#[test]
fn targets_are_told_with_all_their_portals() {
    let mut host = discovery();
    let mut next = host.send(&text_request(0x80, u32::MAX, 100, &["SendTargets=All"]));
    let Next::Targets(tag, Scope::All) = next.remove(0) else { panic!("{next:?}") };
    host.session.advertise(tag, &targets(1), &mut host.out);
    let reply = host.reply();
    let expect =
        ["TargetName=iqn.2026-11.io.drystone:0", "TargetAddress=127.0.0.1:3260,1", "TargetAddress=[::1]:3261,2"];
    assert_eq!(pairs(&reply.data), expect);
    assert_eq!((reply.basic[..2].to_vec(), reply.get(16), reply.get(20)), (vec![0x24, 0x80], 6, u32::MAX));
    // One by name; and what a discovery session may not ask.
    let mut next = host.send(&text_request(0x80, u32::MAX, 101, &["SendTargets=iqn.X:1"]));
    let Next::Targets(tag, Scope::Target(name)) = next.remove(0) else { panic!("{next:?}") };
    assert_eq!(name, "iqn.x:1");
    host.session.advertise(tag, &[], &mut host.out);
    assert!(host.reply().data.is_empty());
    assert!(host.send(&text_request(0x80, u32::MAX, 102, &["SendTargets="])).is_empty());
    assert_eq!(pairs(&host.reply().data), ["SendTargets=Reject"]);
    for pdu in [read(103, 0), Pdu::new(0x02, 0x81).word(24, 104)] {
        assert!(host.send(&pdu).is_empty());
        assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x04]);
    }
}

#[test]
fn a_long_list_comes_in_parts() {
    let mut host = discovery();
    let mut next = host.send(&text_request(0x80, u32::MAX, 100, &["SendTargets=All"]));
    let Next::Targets(tag, _) = next.remove(0) else { panic!("{next:?}") };
    host.session.advertise(tag, &targets(1000), &mut host.out);
    let mut all = Vec::new();
    for number in 101.. {
        let reply = host.reply();
        assert!(reply.data.len() <= 8192);
        all.extend_from_slice(&reply.data);
        match reply.basic[1] {
            0x80 => break,
            flags => assert_eq!(flags, 0x40),
        }
        let wrong = text_request(0x80, reply.get(20) + 1, number, &[]);
        if number == 101 {
            assert!(host.send(&wrong.immediate()).is_empty());
            assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x04], "no such exchange");
        }
        assert!(host.send(&text_request(0x80, reply.get(20), number, &[])).is_empty());
    }
    assert_eq!(pairs(&all).len(), 3000);
}

#[test]
fn a_normal_session_may_ask_for_its_own_target() {
    let own = crate::testing::TARGET;
    for (asked, rejected) in [("", false), (own, false), ("All", true), ("iqn.2026-11.io.drystone:other", true)] {
        let mut host = Host::new(&[]);
        let mut next = host.send(&text_request(0x80, u32::MAX, 100, &[&format!("SendTargets={asked}")]));
        match rejected {
            true => assert_eq!(pairs(&host.reply().data), ["SendTargets=Reject"], "{asked}"),
            false => {
                let Next::Targets(_, Scope::Target(name)) = next.remove(0) else { panic!("{next:?}") };
                assert_eq!(name, own);
            }
        }
    }
}

#[test]
fn other_texts_are_answered() {
    let mut host = Host::new(&[]);
    let keys = ["MaxRecvDataSegmentLength=512", "HeaderDigest=CRC32C", "X-com.example=1", "InitiatorAlias=me"];
    assert!(host.send(&text_request(0x40, u32::MAX, 100, &keys[..2])).is_empty());
    let reply = host.reply();
    assert_eq!((reply.basic[1], reply.data.len()), (0, 0), "go on");
    assert!(host.send(&text_request(0x80, reply.get(20), 101, &keys[2..])).is_empty());
    let reply = host.reply();
    assert_eq!(pairs(&reply.data), ["HeaderDigest=Reject", "X-com.example=NotUnderstood"]);
    assert_eq!(host.session.parameters().send_bytes_max, 512);
    assert!(host.send(&text_request(0x80, u32::MAX, 102, &[]).data(b"no end")).is_empty());
    assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x09]);
    // More than is gathered.
    assert!(host.send(&text_request(0x40, u32::MAX, 103, &[]).data(&[b'a'; 16 << 10])).is_empty());
    let tag = host.reply().get(20);
    assert!(host.send(&text_request(0x40, tag, 104, &[]).data(b"a")).is_empty());
    assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x09]);
}

#[test]
fn asynchronous_messages_say_what_happened() {
    let mut host = Host::new(&[]);
    let sense = scsi::Sense { key: scsi::Key::UnitAttention, asc: 0x2a, ascq: 9, bytes: vec![0x70; 18] };
    host.session.notify(&Notice::Sense { lun: [0, 1, 0, 0, 0, 0, 0, 0], sense }, &mut host.out);
    host.session.notify(&Notice::RequestLogout { seconds: 3 }, &mut host.out);
    host.session.notify(&Notice::Dropped, &mut host.out);
    let replies = host.replies();
    assert_eq!(replies.iter().map(|pdu| pdu.basic[36]).collect::<Vec<_>>(), [0, 1, 3]);
    assert!(replies.iter().all(|pdu| pdu.basic[..2] == [0x32, 0x80] && pdu.get(16) == u32::MAX));
    assert_eq!(replies.iter().map(|pdu| pdu.get(24)).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!((replies[0].data.len(), replies[0].data[..2].to_vec(), replies[0].basic[9]), (20, vec![0, 18], 1));
    assert_eq!(replies[1].basic[42..44], [0, 3]);
    assert_eq!(replies[2].get(40), 2 << 16);
}

/// A conversation of everything that has data, with the answers to it.
fn conversation(cuts: &[usize], digests: bool) -> Vec<u8> {
    let mut keys = vec!["InitialR2T=No", "FirstBurstLength=1024", "MaxBurstLength=2048"];
    if digests {
        keys.extend(["HeaderDigest=CRC32C", "DataDigest=CRC32C"]);
    }
    let mut host = Host::new(&keys);
    let data = pattern(4096);
    let mut bytes = Vec::new();
    for pdu in [
        read(100, 3000),
        write(101, 600, true, &data[..599]),
        write(102, 4096, false, &data[..100]),
        data_out(102, u32::MAX, 0, 100, true, &data[100..1024]),
        Pdu::new(0x00, 0x80).word(16, 8).word(20, u32::MAX).word(24, 103).data(&data[..77]),
        data_out(102, 2, 0, 1024, false, &data[1024..2001]),
        data_out(102, 2, 1, 2001, true, &data[2001..3072]),
        data_out(102, 3, 0, 3072, true, &data[3072..]),
        data_out(101, 1, 0, 599, true, &data[599..600]),
        Pdu::new(0x1f, 0).data(&data[..33]),
        Pdu::new(0x46, 0x80).word(16, 4).word(24, 104),
    ] {
        bytes.extend(host.encode(&pdu));
    }
    let mut answers = Vec::new();
    let mut rest = bytes.as_slice();
    let mut cuts = cuts.iter().cycle();
    loop {
        let (mut head, tail) = rest.split_at((*cuts.next().expect("a cycle")).min(rest.len()));
        rest = tail;
        loop {
            match host.session.next(&mut head, &mut host.out) {
                Next::Command { tag, cdb, .. } => {
                    let wanted = if cdb.as_slice()[0] == 0x2a { if tag.task == 101 { 600 } else { 4096 } } else { 0 };
                    if let Some(execute) = host.session.gather(tag, wanted, 0, &mut host.out) {
                        host.session.respond(execute.tag, good(&[&pattern(3000)]), &mut host.out);
                    }
                }
                Next::Execute(execute) => {
                    assert!(execute.data == pattern(execute.data.len()));
                    host.session.respond(execute.tag, good(&[]), &mut host.out);
                }
                Next::Starved => break,
                Next::Logout => {
                    host.session.logged_out(&mut host.out);
                    answers.extend(drain(&mut host.out));
                    return answers;
                }
                other => panic!("{other:?}"),
            }
        }
        answers.extend(drain(&mut host.out));
    }
}

proptest! {
    #[test]
    fn it_does_not_matter_how_bytes_are_cut(cuts in prop::collection::vec(1usize..700, 1..50), digests: bool) {
        prop_assert!(conversation(&cuts, digests) == conversation(&[1 << 20], digests));
    }

    #[test]
    fn no_bytes_break_it(
        pdus in prop::collection::vec((any::<[u8; 12]>(), 0usize..200, any::<u8>()), 0..20),
        noise in prop::collection::vec(any::<u8>(), 0..100),
        digests: bool,
    ) {
        let keys: &[&str] = if digests { &["HeaderDigest=CRC32C"] } else { &["InitialR2T=No"] };
        let mut host = Host::new(keys);
        let mut number = 100;
        for (head, len, kind) in pdus {
            let pdu = Pdu::new((kind % 8) | (head[0] & 0x40), head[1]).at(8, &head[2..6]).at(16, &[0, 0, 0, head[6] % 4]);
            let pdu = pdu.word(20, u32::from(head[7]) * 16).word(24, number).at(36, &[0, 0, 0, head[8] % 2]);
            number += u32::from(head[9] % 3);
            for next in host.send(&pdu.data(&vec![head[10]; len])) {
                match next {
                    Next::Command { tag, .. } => {
                        if let Some(execute) = host.session.gather(tag, u32::from(head[11]) * 8, 0, &mut host.out) {
                            host.session.respond(execute.tag, good(&[&[1; 100]]), &mut host.out);
                        }
                    }
                    Next::Execute(execute) => host.session.respond(execute.tag, good(&[]), &mut host.out),
                    Next::Manage { tag, .. } => host.session.managed(tag, scsi::Outcome::Complete, &mut host.out),
                    Next::Targets(tag, _) => host.session.advertise(tag, &[], &mut host.out),
                    _ => {}
                }
            }
            host.replies();
        }
        host.session.next(&mut noise.as_slice(), &mut host.out);
    }
}

#[test]
fn what_a_command_reads_is_counted_whatever_its_initiator_expects() {
    let limits = Limits { room: Room { payload_bytes: 1 << 20, single_bytes: 1 << 20 }, ..Limits::default() };
    let mut host = Host::with(&[], limits);
    let tag = host.command(&read(100, 512));
    host.session.takes(&tag, 4 << 20);
    let execute = host.session.gather(tag, 0, 1, &mut host.out).expect("nothing to wait for");
    assert!(host.send(&read(101, 512)).is_empty(), "the next one waits");
    host.session.respond(execute.tag, good(&[&[7; 512]]), &mut host.out);
    host.replies();
    assert_eq!(host.session.held_bytes(&host.out), 0);
    assert!(matches!(host.bytes(&[])[..], [Next::Command { .. }]));
}
