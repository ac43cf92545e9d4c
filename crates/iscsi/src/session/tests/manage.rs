//! Task management: what it names, in whatever state that is.

use super::*;
use scsi::{Function, Outcome};

/// A function; `number` is its command number, and its task tag behind 1000.
fn function(code: u8, number: u32, referenced: u32, referenced_number: u32) -> Pdu {
    let pdu = Pdu::new(0x02, 0x80 | code).word(16, 1000 + number).word(20, referenced);
    pdu.word(24, number).word(32, referenced_number)
}

fn code(host: &mut Host) -> u8 {
    let reply = host.reply();
    assert_eq!(reply.basic[..2], [0x22, 0x80]);
    reply.basic[2]
}

fn managed(host: &mut Host, pdu: &Pdu, outcome: Outcome) -> (Function, u8) {
    let mut next = host.send(pdu);
    assert_eq!(next.len(), 1, "{next:?}");
    let Next::Manage { tag, function, .. } = next.remove(0) else { panic!("{next:?}") };
    host.session.managed(tag, outcome, &mut host.out);
    (function, code(host))
}

#[test]
fn a_running_command_is_aborted_by_the_device_server() {
    let mut host = Host::new(&[]);
    let tag = host.run(&read(100, 512));
    let number = tag.number();
    let (asked, answer) = managed(&mut host, &function(1, 101, 100, 100), Outcome::Complete);
    assert_eq!((asked, answer), (Function::AbortTask { tag: number }, 0));
    // What still comes of it is not sent, and its task tag is free.
    host.session.respond(tag, good(&[&[1; 512]]), &mut host.out);
    assert!(host.replies().is_empty());
    assert_eq!((host.session.commands_under_way(), host.session.running()), (0, 0));
    let _ = host.run(&read(102, 0).word(16, 100));
}

#[test]
fn a_command_that_ended_first_keeps_its_answer() {
    let mut host = Host::new(&[]);
    let tag = host.run(&read(100, 512));
    let mut next = host.send(&function(1, 101, 100, 100).immediate());
    let Next::Manage { tag: manage, .. } = next.remove(0) else { panic!("{next:?}") };
    host.session.respond(tag, good(&[&[1; 512]]), &mut host.out);
    host.session.managed(manage, Outcome::TaskDoesNotExist, &mut host.out);
    let replies = host.replies();
    assert_eq!(replies.iter().map(|pdu| (pdu.basic[0], pdu.basic[2])).collect::<Vec<_>>(), [(0x25, 0), (0x22, 1)]);
}

#[test]
fn a_command_that_the_device_server_is_done_with_has_no_answer_behind_that_of_its_abort() {
    for gathers in [false, true] {
        let mut host = Host::new(&[]);
        let tag = host.command(&write(100, 1024, true, &[]));
        let wanted = if gathers { 1024 } else { 0 };
        let running = host.session.gather(tag, wanted, 9, &mut host.out).map(|execute| execute.tag);
        assert_eq!(host.replies().len(), usize::from(gathers), "an R2T");
        let (_, answer) = managed(&mut host, &function(1, 101, 100, 100).immediate(), Outcome::TaskDoesNotExist);
        assert_eq!(answer, 0);
        if let Some(tag) = running {
            host.session.respond(tag, good(&[]), &mut host.out);
        }
        assert!(host.replies().is_empty());
        assert_eq!((host.session.commands_under_way(), host.session.running()), (0, 0));
    }
}

#[test]
fn a_function_that_overtakes_commands_waits_for_them() {
    for by in [2, 4, 5, 6, 7] {
        let mut host = Host::new(&[]);
        let first = host.run(&read(100, 0));
        assert!(host.send(&function(by, 103, u32::MAX, 0).immediate()).is_empty(), "two are missing");
        let second = host.run(&read(101, 0));
        let mut next = host.send(&read(102, 0));
        assert_eq!(next.len(), 2, "{next:?}");
        let Next::Manage { tag: manage, .. } = next.remove(1) else { panic!("{next:?}") };
        let Next::Command { tag, .. } = next.remove(0) else { panic!("{next:?}") };
        let third = host.session.gather(tag, 0, 9, &mut host.out).expect("nothing to wait for").tag;
        let later = host.run(&read(103, 0));
        host.session.managed(manage, Outcome::Complete, &mut host.out);
        assert_eq!(code(&mut host), 0);
        [first, second, third].into_iter().for_each(|tag| host.session.respond(tag, good(&[]), &mut host.out));
        assert!(host.replies().is_empty(), "they have ended");
        host.session.respond(later, good(&[]), &mut host.out);
        assert_eq!(host.reply().get(16), 103);
    }
    // One that waits takes its place among those that are immediate.
    let mut host = Host::new(&[]);
    for _ in 0..IMMEDIATE_MAX {
        assert!(host.send(&function(2, 101, u32::MAX, 0).immediate()).is_empty());
    }
    assert!(host.replies().is_empty());
    assert!(host.send(&function(2, 101, u32::MAX, 0).immediate()).is_empty());
    assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x06]);
    assert_eq!(host.send(&read(100, 0)).len(), 1 + IMMEDIATE_MAX as usize);
}

#[test]
fn a_command_whose_data_is_gathered_is_dropped() {
    for stopped_first in [false, true] {
        let mut host = Host::new(&[]);
        let tag = host.command(&write(100, 1024, true, &[]));
        let number = tag.number();
        assert!(host.session.gather(tag, 1024, 9, &mut host.out).is_none());
        let transfer = host.reply().get(20);
        let mut next = host.send(&function(1, 101, 100, 100));
        let Next::Manage { tag: manage, .. } = next.remove(0) else { panic!("{next:?}") };
        if stopped_first {
            let execute = host.session.stop_gathering(number).expect("it was gathered");
            assert_eq!((execute.task, execute.data.len()), (9, 0));
            host.session.forget(execute.tag);
        }
        host.session.managed(manage, Outcome::Complete, &mut host.out);
        assert_eq!(code(&mut host), 0);
        assert_eq!((host.session.commands_under_way(), host.session.running()), (0, 0));
        assert!(host.session.stop_gathering(number).is_none());
        // Data that was on its way is dropped without a word.
        assert!(host.send(&data_out(100, transfer, 0, 0, true, &[1; 1024])).is_empty());
        assert!(host.replies().is_empty());
    }
}

#[test]
fn commands_that_wait_for_room_end_here() {
    let limits = Limits { room: Room { payload_bytes: 512, single_bytes: 512 }, ..Limits::default() };
    for by in [1, 2, 5, 6] {
        let mut host = Host::with(&[], limits);
        let first = host.run(&read(100, 512));
        assert!(host.send(&read(101, 512)).is_empty(), "no room");
        let number = first.number();
        if by == 1 {
            assert!(host.send(&function(1, 102, 101, 101)).is_empty());
            assert_eq!(code(&mut host), 0);
        } else {
            let (asked, answer) = managed(&mut host, &function(by, 102, u32::MAX, 0), Outcome::Complete);
            let expect = match by {
                2 => Function::AbortTaskSet,
                5 => Function::LogicalUnitReset,
                _ => Function::TargetReset,
            };
            assert_eq!((asked, answer), (expect, 0));
        }
        assert_eq!(host.session.commands_under_way(), u32::from(by == 1));
        host.session.respond(first, good(&[]), &mut host.out);
        assert!(host.bytes(&[]).is_empty(), "the second one is gone");
        assert!(number > 0);
    }
}

#[test]
fn what_waits_does_not_begin_while_a_function_is_carried_out() {
    let limits = Limits { room: Room { payload_bytes: 512, single_bytes: 512 }, ..Limits::default() };
    let mut host = Host::with(&[], limits);
    let first = host.run(&read(100, 512));
    assert!(host.send(&read(101, 512)).is_empty(), "no room");
    let mut next = host.send(&function(5, 102, u32::MAX, 0));
    let Next::Manage { tag, .. } = next.remove(0) else { panic!("{next:?}") };
    host.session.forget(first);
    assert!(host.bytes(&[]).is_empty(), "there is room now, and the second one is to be ended");
    host.session.managed(tag, Outcome::Complete, &mut host.out);
    assert_eq!(code(&mut host), 0);
}

#[test]
fn a_command_that_is_missing_never_runs() {
    let mut host = Host::new(&[]);
    // It came before its turn.
    assert!(host.send(&read(101, 0)).is_empty());
    assert!(host.send(&function(1, 102, 101, 101).immediate()).is_empty());
    assert_eq!(code(&mut host), 0);
    // It was lost on the way.
    assert!(host.send(&function(1, 102, 100, 100).immediate()).is_empty());
    assert_eq!(code(&mut host), 0);
    let _ = host.run(&read(102, 0));
    assert!(host.send(&read(100, 0)).is_empty(), "it is too late now");
    assert_eq!(host.session.commands_under_way(), 1);
}

#[test]
fn what_is_not_there_cannot_be_aborted() {
    let mut host = Host::new(&[]);
    let _ = host.run(&read(100, 0));
    // Neither a task nor a number that could still come.
    for (referenced, number) in [(55, 99), (55, 100), (55, 101), (55, 5000)] {
        assert!(host.send(&function(1, 101, referenced, number).immediate()).is_empty());
        assert_eq!(code(&mut host), 1, "{referenced} {number}");
    }
    let other_unit = function(1, 101, 100, 100).immediate().at(9, &[3]);
    assert!(host.send(&other_unit).is_empty());
    assert_eq!(code(&mut host), 1);
}

#[test]
fn sets_are_of_one_unit_and_of_what_came_before() {
    let mut host = Host::new(&[]);
    let here = host.run(&read(100, 0));
    let there = host.run(&read(101, 0).at(9, &[1]));
    let mut next = host.send(&function(4, 102, u32::MAX, 0).immediate());
    let Next::Manage { tag, lun, function: asked } = next.remove(0) else { panic!("{next:?}") };
    assert_eq!((lun, asked), (LUN, Function::ClearTaskSet));
    let later = host.run(&read(102, 0));
    host.session.managed(tag, Outcome::Complete, &mut host.out);
    assert_eq!(code(&mut host), 0);
    assert_eq!(host.session.commands_under_way(), 2, "one of another unit, and one that came later");
    for tag in [here, there, later] {
        host.session.respond(tag, good(&[]), &mut host.out);
    }
    assert_eq!(host.replies().iter().map(|pdu| pdu.get(16)).collect::<Vec<_>>(), [101, 102]);
}

#[test]
fn functions_are_answered_as_the_device_server_says() {
    let cases = [
        (3, Outcome::NotSupported, 5),
        (5, Outcome::IncorrectLun, 2),
        (7, Outcome::Complete, 0),
        (2, Outcome::Rejected, 255),
    ];
    for (by, outcome, expect) in cases {
        assert_eq!(managed(&mut Host::new(&[]), &function(by, 100, u32::MAX, 0), outcome).1, expect, "{by}");
    }
    // Reassignment, and what nobody knows, never get there.
    for (by, expect) in [(8, 4), (9, 5), (10, 5), (11, 5), (12, 5), (77, 5)] {
        let mut host = Host::new(&[]);
        assert!(host.send(&function(by, 100, u32::MAX, 0)).is_empty());
        assert_eq!(code(&mut host), expect, "{by}");
    }
}

#[test]
fn queries_are_for_initiators_that_know_them() {
    let mut host = Host::new(&["iSCSIProtocolLevel=2"]);
    let tag = host.run(&read(100, 0));
    let (asked, answer) = managed(&mut host, &function(9, 101, 100, 0), Outcome::Succeeded([0; 3]));
    assert_eq!((asked, answer), (Function::QueryTask { tag: tag.number() }, 7));
    assert!(host.send(&function(9, 102, 55, 0)).is_empty());
    assert_eq!(code(&mut host), 0, "there is no such task");
    let mut next = host.send(&function(12, 103, u32::MAX, 0));
    let Next::Manage { tag, function: asked, .. } = next.remove(0) else { panic!("{next:?}") };
    assert_eq!(asked, Function::QueryAsynchronousEvent);
    let (asked, answer) =
        managed(&mut Host::new(&["iSCSIProtocolLevel=2"]), &function(11, 100, 0, 0), Outcome::Complete);
    assert_eq!((asked, answer), (Function::NexusReset, 0));
    host.session.managed(tag, Outcome::Succeeded([1, 2, 3]), &mut host.out);
    let reply = host.reply();
    assert_eq!((reply.basic[2], reply.basic[36..39].to_vec()), (7, vec![1, 2, 3]));
}

#[test]
fn immediate_functions_are_bounded() {
    let mut host = Host::new(&[]);
    for _ in 0..IMMEDIATE_MAX {
        let next = host.send(&function(2, 100, u32::MAX, 0).immediate());
        assert!(matches!(next[..], [Next::Manage { .. }]));
    }
    assert!(host.send(&function(2, 100, u32::MAX, 0).immediate()).is_empty());
    assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x06]);
}
