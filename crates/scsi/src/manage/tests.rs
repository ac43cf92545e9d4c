//! Task management: what is aborted never answers, and a function completes when all it named has ended.

use crate::testing::{Bench, Initiator, LUN0, finish, now, poll};
use crate::{Attribute, Ended, Event, Function, Outcome, Status};
use bytes::Bytes;
use std::task::{Context, Poll, Waker};
use world::Completion;

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

fn running(initiator: &Initiator, cdb: &[u8]) -> (u64, Completion<Ended>) {
    let (tag, task) = initiator.start(cdb, Attribute::Simple, 512);
    let data = vec![1; task.data_out_bytes() as usize];
    let mut run = task.run(data.into());
    assert!(poll(&mut run).is_pending());
    (tag, run)
}

fn tas(initiator: &Initiator) {
    let page = [0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0];
    initiator.good(&[0x15, 0x10, 0, 0, 16, 0], &page);
}

#[test]
fn an_abort_waits_for_the_device() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for function in [
        Function::AbortTask { tag: 0 },
        Function::AbortTaskSet,
        Function::ClearTaskSet,
        Function::LogicalUnitReset,
        Function::TargetReset,
    ] {
        bench.memory.held.set(true);
        let (tag, mut run) = running(&initiator, &READ);
        let function = if let Function::AbortTask { .. } = function { Function::AbortTask { tag } } else { function };
        let mut managed = initiator.nexus.manage(function, LUN0);
        assert!(poll(&mut managed).is_pending(), "{function:?}");
        assert_eq!(now(initiator.nexus.manage(Function::QueryTask { tag }, LUN0)), Outcome::Complete);
        bench.memory.release();
        assert!(matches!(poll(&mut run), Poll::Ready(Ended::Aborted)), "{function:?}");
        assert_eq!(now(managed), Outcome::Complete);
        bench.memory.held.set(false);
        if matches!(function, Function::LogicalUnitReset | Function::TargetReset) {
            assert_eq!(initiator.codes(&[0; 6], &[]), (6, 0x29, 3));
        }
        assert_eq!(initiator.send(&[0; 6], &[]).status, Status::Good, "{function:?}");
    }
}

#[test]
fn a_run_that_is_dropped_is_waited_for_all_the_same() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let other = bench.initiator("iqn.b,i,0x1");
    bench.memory.held.set(true);
    let (_, run) = running(&initiator, &WRITE);
    drop(run);
    drop(initiator);
    let mut reset = other.nexus.manage(Function::LogicalUnitReset, LUN0);
    bench.keeper.run();
    assert!(poll(&mut reset).is_pending(), "the write may still reach the medium");
    bench.memory.release();
    assert_eq!(finish(&bench.keeper, reset), Outcome::Complete);
}

#[test]
fn what_still_gathers_data_ends_at_once_and_its_transport_hears_of_it() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    let (tag, task) = first.start(&WRITE, Attribute::Simple, 512);
    assert!(!task.is_aborted());
    assert_eq!(now(second.nexus.manage(Function::ClearTaskSet, LUN0)), Outcome::Complete);
    assert!(task.is_aborted());
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(first.nexus.poll_event(&mut context), Poll::Ready(Event::TaskAborted { tag }));
    assert!(matches!(now(task.run(vec![1; 512].into())), Ended::Aborted));
    assert_eq!(bench.memory.content.borrow()[0], 0, "it must not have been written");
    // The one that lost a task hears of it, the one that cleared does not.
    assert_eq!(first.codes(&[0; 6], &[]), (6, 0x2f, 0));
    assert_eq!(second.send(&[0; 6], &[]).status, Status::Good);
}

#[test]
fn with_tas_the_others_get_a_status_instead() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    tas(&first);
    assert_eq!(second.codes(&[0; 6], &[]), (6, 0x2a, 1));
    bench.memory.held.set(true);
    let (_, mut lost) = running(&first, &READ);
    let (_, mut own) = running(&second, &READ);
    let mut clear = second.nexus.manage(Function::ClearTaskSet, LUN0);
    assert!(poll(&mut clear).is_pending());
    bench.memory.release();
    bench.memory.release();
    match poll(&mut lost) {
        Poll::Ready(Ended::Response(response)) => assert_eq!(response.status, Status::TaskAborted),
        _ => panic!("it has to be told"),
    }
    assert!(matches!(poll(&mut own), Poll::Ready(Ended::Aborted)));
    assert_eq!(now(clear), Outcome::Complete);
    bench.memory.held.set(false);
    assert_eq!(first.send(&[0; 6], &[]).status, Status::Good, "no unit attention beside the status");
}

#[test]
fn an_abort_of_one_nexus_leaves_the_tasks_of_others() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    bench.memory.held.set(true);
    let (tag, mut run) = running(&first, &READ);
    assert_eq!(now(second.nexus.manage(Function::AbortTaskSet, LUN0)), Outcome::Complete);
    assert_eq!(now(second.nexus.manage(Function::AbortTask { tag }, LUN0)), Outcome::TaskDoesNotExist);
    assert!(matches!(now(first.nexus.manage(Function::QueryTask { tag }, LUN0)), Outcome::Succeeded(_)));
    assert!(matches!(now(first.nexus.manage(Function::QueryTaskSet, LUN0)), Outcome::Succeeded(_)));
    assert_eq!(now(second.nexus.manage(Function::QueryTaskSet, LUN0)), Outcome::Complete);
    bench.memory.release();
    assert!(matches!(poll(&mut run), Poll::Ready(Ended::Response(_))));
}

#[test]
fn a_second_abort_waits_for_what_the_first_one_waits_for() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    bench.memory.held.set(true);
    let (tag, mut run) = running(&initiator, &READ);
    let mut first = initiator.nexus.manage(Function::AbortTask { tag }, LUN0);
    let mut second = initiator.nexus.manage(Function::AbortTask { tag }, LUN0);
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    bench.memory.release();
    assert!(matches!(poll(&mut run), Poll::Ready(Ended::Aborted)));
    assert_eq!((now(first), now(second)), (Outcome::Complete, Outcome::Complete));
    assert_eq!(now(initiator.nexus.manage(Function::AbortTask { tag }, LUN0)), Outcome::TaskDoesNotExist);
}

#[test]
fn queries_and_what_is_not_there() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let manage = |function, lun| now(initiator.nexus.manage(function, lun));
    assert_eq!(manage(Function::QueryAsynchronousEvent, LUN0), Outcome::Complete);
    bench.unit.establish(None, crate::attention::Attention::CapacityChanged);
    assert_eq!(manage(Function::QueryAsynchronousEvent, LUN0), Outcome::Succeeded([0x16, 0x2a, 9]));
    assert_eq!(manage(Function::ClearAca, LUN0), Outcome::NotSupported);
    assert_eq!(manage(Function::LogicalUnitReset, [0, 1, 0, 0, 0, 0, 0, 0]), Outcome::IncorrectLun);
    assert_eq!(manage(Function::AbortTask { tag: 77 }, LUN0), Outcome::TaskDoesNotExist);
}

#[test]
fn a_reset_brings_the_defaults_back_and_keeps_persistent_reservations() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    first.good(&[0x16, 0, 0, 0, 0, 0], &[]);
    tas(&first);
    assert_eq!(second.send(&[0; 6], &[]).status, Status::ReservationConflict);
    assert_eq!(now(second.nexus.manage(Function::LogicalUnitReset, LUN0)), Outcome::Complete);
    assert_eq!(second.codes(&[0; 6], &[]), (6, 0x29, 3));
    assert_eq!(second.send(&[0; 6], &[]).status, Status::Good);
    assert_eq!(second.good(&[0x1a, 8, 0x0a, 0, 255, 0], &[])[9] & 0x40, 0, "TAS");
    assert_eq!(first.codes(&[0; 6], &[]), (6, 0x29, 3));
}

#[test]
fn a_nexus_reset_ends_what_one_nexus_has() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    first.good(&[0x16, 0, 0, 0, 0, 0], &[]);
    bench.memory.held.set(true);
    let (_, mut own) = running(&first, &READ);
    // The holder alone reads, so that the other one asks for what is always allowed.
    let mut reset = first.nexus.manage(Function::NexusReset, LUN0);
    assert!(poll(&mut reset).is_pending(), "its read is under way");
    bench.memory.release();
    assert!(matches!(poll(&mut own), Poll::Ready(Ended::Aborted)));
    assert_eq!(now(reset), Outcome::Complete);
    bench.memory.held.set(false);
    assert_eq!(
        second.send(&[0; 6], &[]).status,
        Status::Good,
        "the reservation is gone, and no attention for the other"
    );
    assert_eq!(first.codes(&[0; 6], &[]), (6, 0x29, 7));
    // Of the other one nothing ends.
    bench.memory.held.set(true);
    let (_, mut other) = running(&second, &READ);
    assert_eq!(now(first.nexus.manage(Function::NexusReset, LUN0)), Outcome::Complete);
    bench.memory.release();
    assert!(matches!(poll(&mut other), Poll::Ready(Ended::Response(_))));
}

#[test]
fn ordered_tasks_wait_for_what_came_before() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    bench.memory.held.set(true);
    let (_, mut first) = running(&initiator, &WRITE);
    let (_, task) = initiator.start(&WRITE, Attribute::Ordered, 512);
    let mut ordered = task.run(vec![2; 512].into());
    let (_, task) = initiator.start(&READ, Attribute::Simple, 0);
    let mut simple = task.run(Bytes::new());
    assert!(poll(&mut ordered).is_pending() && poll(&mut simple).is_pending());
    assert_eq!(bench.memory.requests.borrow().len(), 1, "only the first has reached the device");
    // Ahead of the queue, beside what runs.
    let (_, task) = initiator.start(&READ, Attribute::HeadOfQueue, 0);
    let mut head = task.run(Bytes::new());
    assert!(poll(&mut head).is_pending());
    assert_eq!(bench.memory.requests.borrow().len(), 2);
    bench.memory.release();
    bench.memory.release();
    assert!(poll(&mut first).is_ready() && poll(&mut head).is_ready());
    assert!(poll(&mut ordered).is_pending() && poll(&mut simple).is_pending());
    assert_eq!(bench.memory.requests.borrow().len(), 3);
    bench.memory.release();
    assert!(poll(&mut ordered).is_ready());
    assert!(poll(&mut simple).is_pending());
    bench.memory.release();
    match poll(&mut simple) {
        Poll::Ready(Ended::Response(response)) => assert_eq!(crate::testing::flat(&response), [2; 512]),
        _ => panic!("it was the last"),
    }
}
