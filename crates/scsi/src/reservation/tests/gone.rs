//! Changes whose nexus goes away halfway, tasks of nexuses that are gone, names of ports, and copies past a reservation.

use super::{act, name, out};
use crate::Status;
use crate::reservation::tests::Step;
use crate::testing::{Bench, Memory, poll};
use std::task::Poll;

const APTPL: u8 = 1;

#[test]
fn a_change_that_is_being_kept_takes_effect_though_its_nexus_is_lost() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator(&name(0)), bench.initiator(&name(1)));
    for (initiator, new) in [(&first, 5), (&second, 6)] {
        act(initiator, &bench.keeper, &Step::Register { ignore: true, key: 0, new }, APTPL);
    }
    act(&first, &bench.keeper, &Step::Reserve { key: 5, kind: 1 }, 0);
    bench.keeper.save_held.set(true);
    let (cdb, list) = out(3, 0, 5, 0, 0);
    let mut clear = first.submit(&cdb, &list);
    assert!(poll(&mut clear).is_pending());
    drop(clear);
    drop(first);
    // A second change has to wait until the first one is kept, or the older could replace the newer.
    let (cdb, list) = out(6, 0, 0, 7, APTPL);
    let mut register = second.submit(&cdb, &list);
    assert!(poll(&mut register).is_pending());
    let saves = bench.keeper.saves.get();
    bench.keeper.run();
    assert_eq!(bench.keeper.saves.get(), saves, "one after the other");
    bench.keeper.release_save();
    bench.keeper.run();
    assert!(poll(&mut register).is_pending());
    bench.keeper.release_save();
    assert!(poll(&mut register).is_ready());
    let saved = bench.keeper.saved.borrow().clone().expect("it was saved");
    let restarted = Bench::with(Memory::new(1 << 20, 512), Default::default(), &saved);
    let again = restarted.initiator(&name(1));
    let reservation = [0x5e, 1, 0, 0, 0, 0, 0, 0, 64, 0];
    second.send(&[0; 6], &[]);
    assert_eq!(second.good(&reservation, &[])[4..], [0; 4], "it does not hold any more");
    assert_eq!(again.good(&reservation, &[])[4..], [0; 4], "nor after a restart");
}

#[test]
fn preempt_and_abort_waits_for_writes_of_a_nexus_that_is_gone() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator(&name(0)), bench.initiator(&name(1)));
    for (initiator, new) in [(&first, 5), (&second, 6)] {
        act(initiator, &bench.keeper, &Step::Register { ignore: true, key: 0, new }, 0);
    }
    bench.memory.held.set(true);
    let mut write = second.submit(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]);
    assert!(poll(&mut write).is_pending());
    drop(write);
    drop(second);
    let (cdb, list) = out(5, 3, 5, 6, 0);
    let mut preempt = first.submit(&cdb, &list);
    bench.keeper.run();
    assert!(poll(&mut preempt).is_pending(), "the write may still reach the medium");
    bench.memory.release();
    bench.keeper.run();
    assert!(
        matches!(poll(&mut preempt), Poll::Ready(crate::Ended::Response(response)) if response.status == Status::Good)
    );
    assert_eq!(bench.unit.ids_of(|_| true).len(), 1, "nothing is remembered of it");
}

#[test]
fn names_of_other_ports_are_spelled_as_the_transport_does_and_are_bounded() {
    let bench = Bench::new();
    let first = bench.initiator(&name(0));
    let register = |other: &str| {
        let id = crate::reservation::transport_id::encode(other);
        let (_, mut list) = out(0, 0, 0, 5, 8);
        list.extend((id.len() as u32).to_be_bytes());
        list.extend(id);
        let [high, low] = (list.len() as u16).to_be_bytes();
        first.send(&[0x5f, 0, 0, 0, 0, 0, 0, high, low, 0], &list).status
    };
    let long = format!("iqn.{},i,0x80000000000a", "a".repeat(220));
    for wrong in [long.as_str(), ",i,0x80000000000a"] {
        assert_eq!(register(wrong), Status::CheckCondition, "{wrong}");
    }
    assert_eq!(register("IQN.2026-11.Example:1,i,0x80000000000A"), Status::Good);
    let other = bench.initiator("iqn.2026-11.example:1,i,0x80000000000a");
    assert_eq!(act(&other, &bench.keeper, &Step::Reserve { key: 5, kind: 3 }, 0), super::Good, "it is registered");
}

#[test]
fn a_copy_from_elsewhere_is_kept_out_as_its_initiator_would_be() {
    let bench = Bench::new();
    let first = bench.initiator(&name(0));
    let admits = |who: usize| (bench.unit.admits_copy(&name(who), false), bench.unit.admits_copy(&name(who), true));
    assert_eq!(admits(1), (true, true));
    act(&first, &bench.keeper, &Step::Register { ignore: true, key: 0, new: 5 }, 0);
    for (kind, strangers) in [(1, (true, false)), (3, (false, false)), (5, (true, false)), (6, (false, false))] {
        act(&first, &bench.keeper, &Step::Reserve { key: 5, kind }, 0);
        assert_eq!((admits(0), admits(1)), ((true, true), strangers), "{kind}");
        assert!(bench.unit.admits_copy("iqn.2026-11.example:0,i,0x80000000ffff", true), "another port of the same");
        act(&first, &bench.keeper, &Step::Release { key: 5, kind }, 0);
    }
    act(&first, &bench.keeper, &Step::Clear { key: 5 }, 0);
    first.good(&[0x16, 0, 0, 0, 0, 0], &[]);
    assert_eq!((admits(0), admits(1)), ((true, true), (false, false)));
    first.good(&[0x17, 0, 0, 0, 0, 0], &[]);
    bench.memory.held.set(true);
    let mut sanitize = first.submit(&[0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    assert!(poll(&mut sanitize).is_pending());
    assert_eq!(admits(0), (false, false));
}
