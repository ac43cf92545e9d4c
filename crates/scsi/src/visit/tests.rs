//! Copies into a logical unit that does something else meanwhile.

use super::*;
use crate::testing::{Bench, Initiator, LUN0, Memory, finish, identity, poll};
use crate::{Ended, Function, Outcome, Status};
use std::task::Poll;

const FROM: &str = "iqn.a,i,0x1";
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// Where copies come from, and where they go to.
fn benches() -> (Bench, Bench) {
    let (source, destination) = (Bench::new(), Bench::of(9, Memory::new(1 << 20, 512), Rc::default(), &[]));
    source.keeper.units.borrow_mut().push(destination.unit.clone());
    (source, destination)
}

/// EXTENDED COPY of eight blocks from the beginning of the one to the beginning of the other, and of the next eight.
fn copy(initiator: &Initiator) -> Completion<Ended> {
    copy_as(initiator, Attribute::Simple, (7, 9))
}

fn copy_as(initiator: &Initiator, attribute: Attribute, (from, to): (u64, u64)) -> Completion<Ended> {
    let target = |id: u64| {
        let mut descriptor = [&[0xe4, 0, 0, 0, 1, 3, 0, 16][..], &identity(id).naa()].concat();
        descriptor.resize(32, 0);
        descriptor
    };
    let segment = |lba: u8| {
        let mut descriptor = [0; 28];
        (descriptor[0], descriptor[3], descriptor[7], descriptor[11]) = (2, 0x18, 1, 8);
        (descriptor[19], descriptor[27]) = (lba, lba);
        descriptor.to_vec()
    };
    let head = vec![1, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 56, 0, 0, 0, 0];
    let list = [head, target(from), target(to), segment(0), segment(8)].concat();
    let cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0];
    let (_, task) = initiator.start(&cdb, attribute, list.len());
    task.run(list.into())
}

fn failed(ended: Poll<Ended>) {
    let Poll::Ready(Ended::Response(response)) = ended else { panic!("it goes on") };
    let sense = response.sense.expect("it fails");
    assert_eq!((sense.key as u8, sense.asc, sense.ascq), (0x0a, 0x0d, 1), "third party device failure");
}

/// True: it was carried out.
type Stop = Box<dyn Fn(&Initiator) -> Completion<bool>>;

/// What stops a copy, told to the destination through another initiator of its.
fn stops() -> Vec<(&'static str, Stop)> {
    fn manage(function: Function) -> Stop {
        Box::new(move |other| {
            let mut managed = other.nexus.manage(function, LUN0);
            match poll(&mut managed) {
                Poll::Ready(outcome) => Completion::Ready(outcome == Outcome::Complete),
                Poll::Pending => Completion::pending(async move { managed.await == Outcome::Complete }),
            }
        })
    }
    let preempt = |other: &Initiator| {
        let list = [&6u64.to_be_bytes()[..], &5u64.to_be_bytes(), &[0; 8]].concat();
        let mut ended = other.submit(&[0x5f, 5, 1, 0, 0, 0, 0, 0, 24, 0], &list);
        let is_good = |ended| matches!(ended, Ended::Response(response) if response.status == Status::Good);
        match poll(&mut ended) {
            Poll::Ready(ended) => Completion::Ready(is_good(ended)),
            Poll::Pending => Completion::pending(async move { is_good(ended.await) }),
        }
    };
    vec![
        ("reset", manage(Function::LogicalUnitReset)),
        ("target reset", manage(Function::TargetReset)),
        ("clear", manage(Function::ClearTaskSet)),
        ("preempt", Box::new(preempt)),
    ]
}

/// Both are registered with the destination, where nothing is reserved.
fn registered(destination: &Bench) -> (Initiator, Initiator) {
    // Another port of the one that copies.
    let both = (destination.initiator("iqn.a,i,0x7"), destination.initiator("iqn.b,i,0x1"));
    for (initiator, key) in [(&both.0, 5u64), (&both.1, 6)] {
        let list = [&[0; 8][..], &key.to_be_bytes(), &[0; 8]].concat();
        initiator.good(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &list);
    }
    both
}

#[test]
fn what_a_copy_has_under_way_is_waited_for_and_nothing_follows() {
    for (name, stop) in stops() {
        let (source, destination) = benches();
        source.memory.content.borrow_mut().fill(1);
        let (_own, other) = registered(&destination);
        let initiator = source.initiator(FROM);
        destination.memory.held.set(true);
        let mut run = copy(&initiator);
        assert!(poll(&mut run).is_pending());
        let mut stopped = stop(&other);
        destination.keeper.run();
        assert!(poll(&mut stopped).is_pending(), "{name}: the write may still reach the medium");
        destination.memory.release();
        failed(poll(&mut run));
        assert!(finish(&destination.keeper, stopped), "{name}");
        assert_eq!(destination.memory.requests.borrow().len(), 1, "{name}");
        destination.memory.held.set(false);
        assert!(matches!(poll(&mut copy(&initiator)), Poll::Ready(Ended::Response(one)) if one.status == Status::Good));
    }
}

#[test]
fn a_copy_that_reads_elsewhere_is_stopped_all_the_same() {
    for (name, stop) in stops() {
        let (source, destination) = benches();
        let (_own, other) = registered(&destination);
        let initiator = source.initiator(FROM);
        source.memory.held.set(true);
        let mut run = copy(&initiator);
        assert!(poll(&mut run).is_pending());
        assert!(finish(&destination.keeper, stop(&other)), "{name}");
        source.memory.release();
        failed(poll(&mut run));
        assert!(destination.memory.requests.borrow().is_empty(), "{name}");
    }
}

#[test]
fn others_and_what_is_over_are_not_stopped() {
    let (source, destination) = benches();
    let (own, other) = registered(&destination);
    let stranger = source.initiator("iqn.c,i,0x1");
    source.memory.held.set(true);
    let mut run = copy(&stranger);
    assert!(poll(&mut run).is_pending());
    let (_, preempt) = stops().pop().expect("the last one");
    assert!(finish(&destination.keeper, preempt(&other)));
    assert_eq!(finish(&destination.keeper, own.nexus.manage(Function::AbortTaskSet, LUN0)), Outcome::Complete);
    source.memory.held.set(false);
    source.memory.release();
    assert!(matches!(poll(&mut run), Poll::Ready(Ended::Response(response)) if response.status == Status::Good));
    assert!(destination.unit.visits_for(&[]).is_empty() && destination.unit.tasks.borrow().is_empty());
}

#[test]
fn a_copy_waits_for_what_a_lost_initiator_left_behind() {
    let (_, destination) = benches();
    let lost = destination.initiator(FROM);
    destination.memory.held.set(true);
    let mut write = lost.submit(&WRITE, &[1; 512]);
    assert!(poll(&mut write).is_pending());
    drop(write);
    drop(lost);
    let visit = destination.unit.visit(FROM);
    let data = bytes::Bytes::from_static(&[2; 512]);
    // Nobody waits for it: it is carried out all the same.
    drop(visit.submit(Request::Write { offset: 0, data, fua: false }));
    destination.keeper.run();
    assert_eq!(destination.memory.requests.borrow().len(), 1, "it would take effect before the older one");
    destination.memory.held.set(false);
    destination.memory.release();
    destination.keeper.run();
    destination.keeper.run();
    assert_eq!(destination.memory.content.borrow()[0], 2);
}

#[test]
fn copies_to_and_fro_do_not_wait_for_each_other() {
    let (source, destination) = benches();
    destination.keeper.units.borrow_mut().push(source.unit.clone());
    let (there, back) = (source.initiator(FROM), destination.initiator(FROM));
    for lost in [false, true] {
        // Both have read before either writes.
        let (from, to) = (source.memory.clone(), destination.memory.clone());
        [&from, &to].into_iter().for_each(|memory| memory.held.set(true));
        let mut copies = [copy_as(&there, Attribute::Ordered, (7, 9)), copy_as(&back, Attribute::Ordered, (9, 7))];
        copies.iter_mut().for_each(|copy| assert!(poll(copy).is_pending()));
        [&from, &to].into_iter().for_each(|memory| memory.held.set(false));
        if lost {
            [&source, &destination].into_iter().for_each(|bench| {
                bench.unit.abort(|_| Some(crate::task_set::Abort::Silent));
            });
        }
        from.release();
        to.release();
        for _ in 0..10 {
            copies.iter_mut().for_each(|copy| drop(poll(copy)));
            [&source, &destination].into_iter().for_each(|bench| bench.keeper.run());
            if [&source, &destination].into_iter().all(|bench| bench.unit.tasks.borrow().is_empty()) {
                break;
            }
        }
        assert!(source.unit.tasks.borrow().is_empty() && destination.unit.tasks.borrow().is_empty(), "{lost}");
    }
}

#[test]
fn what_a_lost_copy_does_elsewhere_holds_up_nothing_here() {
    let (source, destination) = benches();
    let initiator = source.initiator(FROM);
    destination.memory.held.set(true);
    let mut run = copy(&initiator);
    assert!(poll(&mut run).is_pending());
    drop(run);
    drop(initiator);
    let other = source.initiator("iqn.b,i,0x1");
    assert_eq!(other.send(&WRITE, &[1; 512]).status, Status::Good);
    destination.memory.release();
    source.keeper.run();
    assert!(source.unit.tasks.borrow().is_empty() && destination.unit.tasks.borrow().is_empty());
}

#[test]
fn a_sanitize_operation_waits_for_what_a_copy_writes() {
    let (_, destination) = benches();
    let initiator = destination.initiator(FROM);
    destination.memory.held.set(true);
    let visit = destination.unit.visit(FROM);
    let data = bytes::Bytes::from_static(&[2; 512]);
    let mut write = visit.submit(Request::Write { offset: 0, data, fua: false });
    assert!(poll(&mut write).is_pending());
    let mut sanitize = initiator.submit(&[0x48, 0x82, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    assert!(poll(&mut sanitize).is_pending());
    destination.keeper.run();
    assert_eq!(destination.memory.requests.borrow().len(), 1, "what is written now would outlive it");
    destination.memory.held.set(false);
    destination.memory.release();
    assert!(poll(&mut write).is_ready());
    destination.keeper.run();
    destination.keeper.run();
    assert_eq!(destination.memory.content.borrow()[0], 0);
}
