//! The table of commands, and that nothing which can be sent brings the server down.

use super::*;
use crate::testing::{Bench, Initiator, Keeper, LUN0, Memory, finish, identity};
use crate::{Attribute, Ended, Function, Status};
use proptest::prelude::*;
use std::rc::Rc;

#[test]
fn entries_are_in_order_and_say_their_length() {
    let keys: Vec<(u8, Option<u8>)> = TABLE.iter().map(|entry| (entry.opcode, entry.action)).collect();
    assert!(keys.is_sorted() && TABLE.len() < usize::from(NOWHERE));
    assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
    for entry in TABLE {
        // The group code says how long a CDB is (SPC-4 4.2.5.1); opcodes with service actions of 0x7f are none of ours.
        let expected = [6, 10, 10, 0, 16, 12, 0, 0][usize::from(entry.opcode >> 5)];
        assert_eq!(entry.cdb_bytes(), expected, "{:02x}", entry.opcode);
        assert!(entry.action.is_none() || entry.usage[0] & 0x1f == 0, "{:02x}", entry.opcode);
    }
}

#[test]
fn every_reserved_bit_is_checked() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for entry in TABLE {
        for (index, usage) in entry.usage.iter().enumerate() {
            let action = if index == 0 && entry.action.is_some() { 0x1f } else { 0 };
            for bit in (0..8).filter(|bit| (usage | action) & 1 << bit == 0) {
                let mut cdb = vec![0; entry.cdb_bytes()];
                cdb[0] = entry.opcode;
                cdb[1] = entry.action.unwrap_or(0);
                cdb[index + 1] |= 1 << bit;
                let sense = initiator.check(&cdb, &[]);
                assert_eq!(
                    (sense.asc, sense.bytes[15], sense.bytes[17]),
                    (0x24, 0xc8 | bit, index as u8 + 1),
                    "{cdb:02x?}"
                );
            }
        }
    }
}

#[test]
fn a_cdb_that_is_too_short_is_refused() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for entry in TABLE {
        let mut cdb = vec![0; entry.cdb_bytes() - 1];
        cdb[0] = entry.opcode;
        cdb[1] = entry.action.unwrap_or(0);
        assert_eq!(initiator.codes(&cdb, &[]), (5, 0x24, 0), "{cdb:02x?}");
    }
    assert_eq!(initiator.codes(&[], &[]), (5, 0x20, 0));
}

/// A command that is likely to be understood: one of the table, small numbers in its fields, no reserved bits most of the time.
fn command() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let cdb = (0..TABLE.len(), prop::collection::vec(any::<u8>(), 15), any::<[bool; 15]>(), 0..10u8);
    let cdb = cdb.prop_map(|(entry, bytes, small, wild)| {
        let entry = &TABLE[entry];
        let mut cdb = vec![entry.opcode];
        for (index, usage) in entry.usage.iter().enumerate() {
            let byte = if small[index] { 0 } else { bytes[index] };
            cdb.push(if wild == 0 { byte } else { byte & usage });
        }
        if let Some(action) = entry.action {
            cdb[1] = cdb[1] & 0xe0 | action;
        }
        cdb
    });
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(8), Just(24), any::<u8>()], 0..100),
        (0..9usize).prop_map(|blocks| vec![0x5a; blocks * 512]),
        Just(third_party_list()),
    ];
    (cdb, data)
}

fn third_party_list() -> Vec<u8> {
    let mut list = vec![1, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0, 0xe4, 0, 0, 0, 1, 3, 0, 8];
    list.extend(identity(7).naa());
    list.resize(48, 0);
    list.extend([2, 2, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 50]);
    list
}

#[derive(Debug, Clone)]
enum Step {
    Send { who: usize, cdb: Vec<u8>, data: Vec<u8>, offered: usize, attribute: Attribute },
    Manage { who: usize, function: Function },
    Lose { who: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let attribute = prop_oneof![
        6 => Just(Attribute::Simple),
        1 => Just(Attribute::Ordered),
        1 => Just(Attribute::HeadOfQueue),
    ];
    let raw = (prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..40));
    let function = prop_oneof![
        Just(Function::AbortTaskSet),
        Just(Function::ClearTaskSet),
        Just(Function::LogicalUnitReset),
        Just(Function::TargetReset),
        Just(Function::NexusReset),
        (0..40u64).prop_map(|tag| Function::AbortTask { tag }),
    ];
    prop_oneof![
        20 => (0..3usize, command(), 0..3usize, attribute).prop_map(|(who, (cdb, data), less, attribute)| {
            let offered = data.len().saturating_sub(less);
            Step::Send { who, cdb, data, offered, attribute }
        }),
        2 => (0..3usize, raw).prop_map(|(who, (cdb, data))| {
            let offered = data.len();
            Step::Send { who, cdb, data, offered, attribute: Attribute::Simple }
        }),
        1 => (0..3usize, function).prop_map(|(who, function)| Step::Manage { who, function }),
        1 => (0..3usize).prop_map(|who| Step::Lose { who }),
    ]
}

fn names(who: usize) -> String {
    format!("iqn.{who},i,0x123456789ab{who}")
}

fn run(bench: &Bench, initiators: &mut [Initiator], step: Step) {
    match step {
        Step::Send { who, cdb, data, offered, attribute } => {
            let (_, task) = initiators[who].start(&cdb, attribute, offered);
            let wanted = task.data_out_bytes() as usize;
            let data = bytes::Bytes::copy_from_slice(&data[..offered.min(wanted)]);
            match finish(&bench.keeper, task.run(data)) {
                Ended::Response(response) => {
                    assert_eq!(response.status == Status::CheckCondition, response.sense.is_some());
                    assert!(response.data.is_empty() || response.status == Status::Good);
                }
                Ended::Aborted => panic!("nobody aborted {cdb:02x?}"),
            }
        }
        Step::Manage { who, function } => {
            finish(&bench.keeper, initiators[who].nexus.manage(function, LUN0));
        }
        Step::Lose { who } => initiators[who] = bench.initiator(&names(who)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_sent_is_answered(steps in prop::collection::vec(step(), 1..60), big in any::<bool>()) {
        let memory = Memory::new(256 << 10, if big { 4096 } else { 512 });
        let bench = Bench::with(memory, Rc::new(Keeper::default()), &[]);
        let mut initiators: Vec<Initiator> = (0..3).map(|who| bench.initiator(&names(who))).collect();
        for step in steps {
            run(&bench, &mut initiators, step);
        }
        // What is kept can be read again, whatever it was.
        let saved = bench.keeper.saved.borrow().clone().unwrap_or_default();
        let kept = crate::saved::decode(&saved).expect("it was written here");
        let now = bench.unit.reservations.borrow().clone();
        let expected = if now.aptpl { now.registrants } else { Vec::new() };
        prop_assert_eq!(kept.reservations.registrants, expected);
    }
}
