//! Order of checks, unit attentions, logical units that are not there, events.

use crate::testing::{Bench, LUN0, flat, identity};
use crate::{Attribute, Command, Ended, Event, LogicalUnit, Response, Status, Target};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

fn attention(response: &Response) -> Option<(u8, u8)> {
    let sense = response.sense.as_ref()?;
    (sense.key == crate::Key::UnitAttention).then_some((sense.asc, sense.ascq))
}

#[test]
fn a_nexus_hears_once_of_the_power_on_and_of_its_loss() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    assert_eq!(initiator.send(&[0; 6], &[]).status, Status::Good);
    drop(initiator);
    let again = bench.target.nexus("iqn.a,i,0x1", 1);
    let send = |cdb: &[u8]| {
        let command = Command { tag: 1, lun: LUN0, cdb, attribute: Attribute::Simple, data_out_offered: 0 };
        match crate::testing::now(again.start(command).run(bytes::Bytes::new())) {
            Ended::Response(response) => response,
            Ended::Aborted => panic!("nobody aborts it"),
        }
    };
    // These three are carried out all the same, and leave it pending, REQUEST SENSE excepted.
    assert_eq!(send(&[0x12, 0, 0, 0, 36, 0]).status, Status::Good);
    assert_eq!(send(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]).status, Status::Good);
    assert_eq!(attention(&send(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0])), Some((0x29, 0x07)));
    assert_eq!(send(&[0; 6]).status, Status::Good);
    let elsewhere = bench.initiator("iqn.a,i,0x2");
    assert_eq!(elsewhere.good(&[0x03, 0, 0, 0, 18, 0], &[])[2], 0);
}

#[test]
fn request_sense_tells_an_attention_and_clears_it() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    bench.unit.establish(None, crate::attention::Attention::CapacityChanged);
    let fixed = initiator.good(&[0x03, 0, 0, 0, 252, 0], &[]);
    assert_eq!((fixed[0], fixed[2], fixed[12], fixed[13]), (0x70, 6, 0x2a, 9));
    assert_eq!(initiator.good(&[0x03, 1, 0, 0, 252, 0], &[]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(initiator.send(&[0; 6], &[]).status, Status::Good);
}

#[test]
fn a_resize_is_told_to_everybody() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    let mut geometry = bench.memory.geometry.get();
    geometry.size_bytes -= 4096;
    bench.memory.geometry.set(geometry);
    bench.unit.geometry_may_have_changed();
    for initiator in [&first, &second] {
        let mut context = Context::from_waker(Waker::noop());
        match initiator.nexus.poll_event(&mut context) {
            Poll::Ready(Event::Asynchronous { lun, sense }) => {
                assert_eq!((lun, sense.asc, sense.ascq), (LUN0, 0x2a, 0x09));
            }
            other => panic!("{other:?}"),
        }
        assert!(initiator.nexus.poll_event(&mut context).is_pending());
        assert_eq!(initiator.codes(&[0; 6], &[]), (6, 0x2a, 9));
        assert_eq!(initiator.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])[..4], 2039u32.to_be_bytes());
    }
    // Without a call it is noticed by the next command.
    geometry.size_bytes += 4096;
    bench.memory.geometry.set(geometry);
    assert_eq!(second.codes(&[0; 6], &[]), (6, 0x2a, 9));
    assert_eq!(first.codes(&[0; 6], &[]), (6, 0x2a, 9));
}

#[test]
fn a_reservation_conflict_goes_before_an_attention_and_that_before_a_wrong_cdb() {
    let bench = Bench::new();
    let (holder, other) = (bench.initiator("iqn.a,i,0x1"), bench.initiator("iqn.b,i,0x1"));
    holder.good(&[0x16, 0, 0, 0, 0, 0], &[]);
    bench.unit.establish(None, crate::attention::Attention::CapacityChanged);
    let wrong = [0x28, 0xe0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(other.send(&wrong, &[]).status, Status::ReservationConflict);
    assert_eq!(holder.codes(&wrong, &[]), (6, 0x2a, 9));
    assert_eq!(holder.codes(&wrong, &[]), (5, 0x24, 0));
    assert_eq!(other.codes(&[0xff; 6], &[]), (6, 0x2a, 9), "also before an unknown operation code");
    assert_eq!(other.codes(&[0xff; 6], &[]), (5, 0x20, 0));
}

#[test]
fn a_unit_that_is_not_there() {
    let bench = Bench::new();
    let unit =
        LogicalUnit::new(Rc::new(crate::testing::Handle(bench.memory.clone())), identity(8), bench.keeper.clone(), &[]);
    let target = Target::new(BTreeMap::from([(0, bench.unit.clone()), (300, unit.expect("nothing was saved"))]));
    let nexus = target.nexus("iqn.a,i,0x1", 1);
    let send = |lun: [u8; 8], cdb: &[u8]| {
        let command = Command { tag: 1, lun, cdb, attribute: Attribute::Simple, data_out_offered: 0 };
        match crate::testing::now(nexus.start(command).run(bytes::Bytes::new())) {
            Ended::Response(response) => response,
            Ended::Aborted => panic!("nobody aborts it"),
        }
    };
    let absent = [0, 1, 0, 0, 0, 0, 0, 0];
    let inquiry = send(absent, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!((inquiry.status, flat(&inquiry)[0]), (Status::Good, 0x7f));
    let sense = flat(&send(absent, &[0x03, 0, 0, 0, 18, 0]));
    assert_eq!((sense[2], sense[12]), (5, 0x25));
    for lun in [absent, [0, 0, 0, 0, 0, 0, 0, 1], [0xff; 8]] {
        let luns = flat(&send(lun, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]));
        assert_eq!(luns, [[0, 0, 0, 16, 0, 0, 0, 0], [0; 8], [0x41, 44, 0, 0, 0, 0, 0, 0]].concat());
        let refused = send(lun, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]).sense.expect("it is refused");
        assert_eq!((refused.key as u8, refused.asc), (5, 0x25));
    }
    assert_eq!(flat(&send([0x41, 44, 0, 0, 0, 0, 0, 0], &[0x12, 0, 0, 0, 36, 0]))[0], 0);
}

#[test]
fn data_is_asked_for_only_by_what_is_accepted() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let wanted = |cdb: &[u8]| initiator.start(cdb, Attribute::Simple, 4096).1.data_out_bytes();
    assert_eq!(wanted(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0]), 4096);
    assert_eq!(wanted(&[0x2a, 0xe0, 0, 0, 0, 0, 0, 0, 8, 0]), 0);
    assert_eq!(wanted(&[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0]), 0);
    bench.unit.establish(None, crate::attention::Attention::CapacityChanged);
    assert_eq!(wanted(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0]), 0);
}

#[test]
fn an_aca_command_is_refused() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let (_, task) = initiator.start(&[0; 6], Attribute::Aca, 0);
    match crate::testing::now(task.run(bytes::Bytes::new())) {
        Ended::Response(response) => assert_eq!(response.status, Status::CheckCondition),
        Ended::Aborted => panic!("nobody aborts it"),
    }
}

#[test]
fn a_full_task_set_takes_no_more() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let tasks: Vec<_> =
        (0..crate::task_set::TASKS_PER_NEXUS_MAX).map(|_| initiator.start(&[0; 6], Attribute::Simple, 0)).collect();
    assert_eq!(initiator.send(&[0; 6], &[]).status, Status::TaskSetFull);
    drop(tasks);
    assert_eq!(initiator.send(&[0; 6], &[]).status, Status::Good);
}

#[test]
fn logical_units_come_and_go() {
    let (one, two) = (Bench::new(), Bench::new());
    let nexus = crate::Nexus::new("iqn.a,i,0x1", 1025, Some(crate::TargetPort { target_name: "iqn.vm", tag: 1 }));
    nexus.report(vec![0, 3]);
    nexus.put(0, one.unit.clone());
    nexus.put(3, two.unit.clone());
    let send = |lun: u8, cdb: &[u8]| {
        let lun = [0, lun, 0, 0, 0, 0, 0, 0];
        let command = Command { tag: 1, lun, cdb, attribute: Attribute::Simple, data_out_offered: 0 };
        match crate::testing::now(nexus.start(command).run(bytes::Bytes::new())) {
            Ended::Response(response) => response,
            Ended::Aborted => panic!("nobody aborts it"),
        }
    };
    let luns = |lun: u8| flat(&send(lun, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]))[8..].to_vec();
    let both = [[0u8; 8], [0, 3, 0, 0, 0, 0, 0, 0]].concat();
    for lun in [0, 3, 7] {
        assert_eq!(luns(lun), both, "asked at {lun}");
    }
    for lun in [0, 3] {
        assert_eq!(attention(&send(lun, &[0; 6])), Some((0x29, 0)));
        assert_eq!(send(lun, &[0; 6]).status, Status::Good);
    }
    // The port is that of the target through which it is seen.
    let page = flat(&send(3, &[0x12, 1, 0x83, 1, 0, 0]));
    let has = |text: &[u8]| page.windows(text.len()).any(|at| at == text);
    assert!(has(b"iqn.vm,t,0x0001\0") && has(b"iqn.vm\0"), "{page:02x?}");
    let leaving = nexus.take(0).expect("it was there");
    nexus.report(vec![3]);
    drop(leaving);
    assert_eq!(attention(&send(3, &[0; 6])), Some((0x3f, 0x0e)), "reported LUNs data has changed");
    assert_eq!(send(3, &[0; 6]).status, Status::Good);
    assert_eq!((luns(0), luns(3)), (both[8..].to_vec(), both[8..].to_vec()));
    let sense = send(0, &[0; 6]).sense.expect("it is not there any more");
    assert_eq!((sense.asc, sense.ascq), (0x25, 0));
    assert!(nexus.take(0).is_none());
    nexus.report(vec![3]);
    assert_eq!(send(3, &[0; 6]).status, Status::Good, "no change, no attention");
}

#[test]
fn what_leaves_ends_its_tasks_first() {
    let bench = Bench::new();
    let nexus = crate::Nexus::new("iqn.a,i,0x1", 1, None);
    nexus.put(0, bench.unit.clone());
    let start = |cdb: &[u8]| {
        let command = Command { tag: 1, lun: LUN0, cdb, attribute: Attribute::Simple, data_out_offered: 0 };
        nexus.start(command)
    };
    crate::testing::now(start(&[0; 6]).run(bytes::Bytes::new()));
    bench.memory.held.set(true);
    let mut read = start(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]).run(bytes::Bytes::new());
    let mut context = Context::from_waker(Waker::noop());
    let mut poll = |future: &mut (dyn Future<Output = Ended> + Unpin)| std::pin::Pin::new(future).poll(&mut context);
    assert!(poll(&mut read).is_pending());
    let leaving = nexus.take(0).expect("it was there");
    let mut idle = Box::pin(leaving.idle());
    let mut context = Context::from_waker(Waker::noop());
    assert!(idle.as_mut().poll(&mut context).is_pending());
    bench.memory.release();
    match poll(&mut read) {
        Poll::Ready(Ended::Response(response)) => assert_eq!(response.status, Status::Good),
        other => panic!("{other:?}"),
    }
    assert!(idle.as_mut().poll(&mut context).is_ready());
}
