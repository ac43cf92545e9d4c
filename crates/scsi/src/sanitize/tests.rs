//! Tests of SANITIZE: what is overwritten, and what is refused meanwhile.

use crate::testing::{Bench, Keeper, LUN0, finish, now, poll};
use crate::{Ended, Function, LogicalUnit, Outcome, Status};
use block::{Error, Kind, Request};
use std::rc::Rc;
use std::task::Poll;

const ERASE: [u8; 10] = [0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0];
const EXIT: [u8; 10] = [0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0];

fn overwrite(flags: u8, list: &[u8]) -> [u8; 10] {
    let [high, low] = (list.len() as u16).to_be_bytes();
    [0x48, flags | 1, 0, 0, 0, 0, 0, high, low, 0]
}

#[test]
fn an_overwrite_leaves_the_pattern_everywhere() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    // One pass; three with the complement between them, which ends with the pattern; two, which end with the complement.
    for (flags, byte) in [(0x01, 0xa1), (0x83, 0xa1), (0x82, !0xa1), (0x02, 0xa1)] {
        let list = [flags, 0, 0, 3, 0xa1, 0xa1, 0xa1];
        let response = initiator.send_with(&bench.keeper, &overwrite(0, &list), &list);
        assert_eq!(response.status, Status::Good);
        assert!(bench.memory.content.borrow().iter().all(|one| *one == byte), "{flags:02x}");
    }
    // Within each block the pattern begins anew.
    let list = [1, 0, 0, 3, 1, 2, 3];
    initiator.send_with(&bench.keeper, &overwrite(0, &list), &list);
    assert_eq!(bench.memory.content.borrow()[510..515], [1, 2, 1, 2, 3]);
    assert!(matches!(bench.memory.requests.borrow().last(), Some(Request::Flush)));
}

#[test]
fn an_erase_leaves_nothing_mapped() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for action in [2, 3] {
        initiator.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 32, 0], &[1; 32 * 512]);
        let mut cdb = ERASE;
        cdb[1] = action;
        assert_eq!(initiator.send_with(&bench.keeper, &cdb, &[]).status, Status::Good);
        assert!(bench.memory.content.borrow().iter().all(|byte| *byte == 0));
        assert!(bench.memory.allocated.borrow().iter().all(|allocated| !allocated));
    }
}

#[test]
fn what_is_wrong_with_an_overwrite_is_told() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let pattern = |header: [u8; 4], len: usize| [header.to_vec(), vec![7; len]].concat();
    for list in [
        pattern([0, 0, 2, 0], 512),
        pattern([1, 0, 0, 0], 512),
        pattern([1, 0, 2, 4], 512),
        pattern([0x21, 0, 2, 0], 512),
        pattern([1, 1, 2, 0], 512),
        pattern([1, 0, 1, 0], 512),
    ] {
        assert_eq!(initiator.codes(&overwrite(0, &list), &list), (5, 0x26, 0), "{:02x?}", &list[..4]);
    }
    for len in [0, 1, 4, 517] {
        let list = vec![1; len];
        assert_eq!(initiator.codes(&overwrite(0, &list), &list), (5, 0x24, 0), "{len}");
    }
    let list = pattern([1, 0, 2, 0], 512);
    assert_eq!(initiator.codes(&overwrite(0, &list), &list[..100]), (5, 0x1a, 0));
    assert_eq!(initiator.codes(&overwrite(0x40, &list), &list), (5, 0x24, 0));
    assert!(bench.memory.requests.borrow().is_empty());
    for action in 0..=0x1f {
        let known = matches!(action, 1 | 2 | 3 | 0x1f);
        assert!(known || initiator.codes(&[0x48, action, 0, 0, 0, 0, 0, 0, 0, 0], &[]) == (5, 0x24, 0));
    }
}

#[test]
fn while_it_runs_hardly_anything_is_answered_and_nothing_stops_it() {
    let bench = Bench::new();
    let (initiator, other) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    let list = [2, 0, 0, 1, 9];
    bench.memory.held.set(true);
    let mut sanitize = initiator.submit(&overwrite(0, &list), &list);
    assert!(poll(&mut sanitize).is_pending());
    bench.keeper.run();
    for half in 0..2u8 {
        for cdb in [&[0; 6][..], &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0x1b, 0, 0, 0, 1, 0], &ERASE] {
            let sense = other.check(cdb, &[]);
            assert_eq!((sense.key as u8, sense.asc, sense.ascq), (2, 4, 0x1b), "{cdb:02x?}");
            assert_eq!(sense.bytes[15..18], [0x80, half * 0x80, 0], "progress");
        }
        other.good(&[0x12, 0, 0, 0, 36, 0], &[]);
        let sense = other.good(&[0x03, 0, 0, 0, 18, 0], &[]);
        assert_eq!((sense[2], sense[12], sense[13]), (2, 4, 0x1b));
        // The write and the flush of one pass.
        bench.memory.release();
        bench.keeper.run();
        if half == 0 {
            bench.memory.release();
            bench.keeper.run();
        }
    }
    // The command ends when it is aborted, the operation does not.
    let mut reset = other.nexus.manage(Function::LogicalUnitReset, LUN0);
    assert!(poll(&mut reset).is_pending());
    assert!(matches!(poll(&mut sanitize), Poll::Ready(Ended::Aborted)));
    assert_eq!(now(reset), Outcome::Complete);
    drop(initiator);
    assert_eq!(other.codes(&[0; 6], &[]), (6, 0x29, 3));
    assert_eq!(other.codes(&[0; 6], &[]), (2, 4, 0x1b));
    bench.memory.release();
    bench.keeper.run();
    assert_eq!(other.send(&[0; 6], &[]).status, Status::Good);
    assert!(bench.memory.content.borrow().iter().all(|byte| *byte == 9));
}

#[test]
fn with_immed_the_command_ends_at_once() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    bench.memory.held.set(true);
    let mut cdb = ERASE;
    cdb[1] |= 0x80;
    assert_eq!(initiator.send_with(&bench.keeper, &cdb, &[]).status, Status::Good);
    assert_eq!(initiator.codes(&[0; 6], &[]), (2, 4, 0x1b));
}

#[test]
fn what_was_let_in_before_is_waited_for_and_what_gathers_data_is_refused() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    bench.memory.held.set(true);
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let mut running = initiator.submit(&write, &[1; 512]);
    assert!(poll(&mut running).is_pending());
    let (_, gathering) = initiator.start(&write, crate::Attribute::Simple, 512);
    let mut sanitize = initiator.submit(&ERASE, &[]);
    assert!(poll(&mut sanitize).is_pending());
    bench.keeper.run();
    assert_eq!(bench.memory.requests.borrow().len(), 1, "it has not begun");
    match now(gathering.run(vec![2; 512].into())) {
        Ended::Response(response) => assert_eq!(response.status, Status::CheckCondition),
        Ended::Aborted => panic!("nobody aborts it"),
    }
    bench.memory.held.set(false);
    bench.memory.release();
    assert!(poll(&mut running).is_ready());
    assert!(matches!(finish(&bench.keeper, sanitize), Ended::Response(_)));
    assert!(bench.memory.content.borrow().iter().all(|byte| *byte == 0));
}

#[test]
fn one_that_failed_shuts_everything_else_out_until_it_is_left() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for (ause, leaves) in [(0x20, true), (0, false)] {
        *bench.memory.fails.borrow_mut() = Some(Error::new(Kind::Io, "broken"));
        let mut cdb = ERASE;
        cdb[1] |= ause;
        let response = initiator.send_with(&bench.keeper, &cdb, &[]);
        let sense = response.sense.expect("it failed");
        assert_eq!((sense.key as u8, sense.asc, sense.ascq), (3, 0x31, 3));
        *bench.memory.fails.borrow_mut() = None;
        assert_eq!(initiator.codes(&[0; 6], &[]), (3, 0x31, 3));
        let exit = initiator.send_with(&bench.keeper, &EXIT, &[]);
        assert_eq!(exit.status == Status::Good, leaves);
        if !leaves {
            assert_eq!(initiator.codes(&[0; 6], &[]), (3, 0x31, 3));
            assert_eq!(initiator.send_with(&bench.keeper, &ERASE, &[]).status, Status::Good);
        }
        assert_eq!(initiator.send(&[0; 6], &[]).status, Status::Good);
    }
    initiator.good(&EXIT, &[]);
}

#[test]
fn a_restart_goes_on_with_it() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    bench.memory.held.set(true);
    let list = [1, 0, 0, 1, 9];
    let mut sanitize = initiator.submit(&overwrite(0, &list), &list);
    assert!(poll(&mut sanitize).is_pending());
    bench.keeper.run();
    let saved = bench.keeper.saved.borrow().clone().expect("it is kept before it begins");
    bench.memory.held.set(false);
    assert!(LogicalUnit::goes_on(&saved) && !LogicalUnit::goes_on(&[]));
    let keeper = Rc::new(Keeper::default());
    let restarted = Bench::with(bench.memory.clone(), keeper.clone(), &saved);
    let initiator = restarted.initiator("iqn.a,i,0x1");
    assert_eq!(initiator.codes(&[0; 6], &[]), (2, 4, 0x1b));
    keeper.run();
    assert_eq!(initiator.send(&[0; 6], &[]).status, Status::Good);
    assert!(bench.memory.content.borrow().iter().all(|byte| *byte == 9));
    assert_eq!(keeper.saved.borrow().as_deref(), Some(&[][..]), "nothing is left to be kept");
}

#[test]
fn one_that_cannot_be_kept_does_not_begin() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    bench.keeper.save_fails.set(true);
    let response = initiator.send_with(&bench.keeper, &ERASE, &[]);
    assert_eq!(response.sense.map(|sense| sense.asc), Some(0x44));
    assert!(bench.memory.requests.borrow().is_empty());
    assert_eq!(initiator.send(&[0; 6], &[]).status, Status::Good);
}

/// What is kept says that it goes on: the next who finds that would sanitize what was written since.
#[test]
fn one_whose_end_cannot_be_kept_has_not_ended_well() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    bench.memory.held.set(true);
    let mut cdb = ERASE;
    cdb[1] |= 0x20;
    let mut sanitize = initiator.submit(&cdb, &[]);
    assert!(poll(&mut sanitize).is_pending());
    bench.keeper.run();
    assert!(poll(&mut sanitize).is_pending());
    bench.keeper.save_fails.set(true);
    bench.memory.held.set(false);
    bench.memory.release();
    match finish(&bench.keeper, sanitize) {
        Ended::Response(response) => assert_eq!(response.status, Status::CheckCondition),
        Ended::Aborted => panic!("nobody aborts it"),
    }
    let is_kept = || bench.keeper.saved.borrow().as_deref().is_some_and(LogicalUnit::goes_on);
    assert!(is_kept() && initiator.codes(&[0; 6], &[]) == (3, 0x31, 3));
    bench.keeper.save_fails.set(false);
    initiator.good(&EXIT, &[]);
    assert!(!is_kept() && initiator.send(&[0; 6], &[]).status == Status::Good);
}

#[test]
fn of_two_that_come_together_one_begins() {
    let bench = Bench::new();
    let (initiator, other) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    bench.memory.held.set(true);
    // Neither is polled before both were handed in, as when one read of a socket brings both.
    let mut first = initiator.submit(&ERASE, &[]);
    let second = initiator.submit(&ERASE, &[]);
    match now(second) {
        Ended::Response(response) => assert_eq!(response.status, Status::CheckCondition),
        Ended::Aborted => panic!("nobody aborts it"),
    }
    assert!(poll(&mut first).is_pending());
    bench.keeper.run();
    assert_eq!(bench.memory.requests.borrow().len(), 1, "one operation");
    assert_eq!(other.codes(&[0; 6], &[]), (2, 4, 0x1b));
}
