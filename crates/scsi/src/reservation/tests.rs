//! Persistent reservations: random service actions of several nexuses, compared with a model written from the tables of SPC-4 5.13.

mod gone;

use crate::testing::{Bench, Initiator, Keeper, Memory, finish, flat};
use crate::{Ended, Status};
use proptest::prelude::*;
use std::rc::Rc;

const NEXUSES: usize = 4;
/// Write exclusive, exclusive access, the same for registrants only, the same for all registrants.
const TYPES: [u8; 6] = [1, 3, 5, 6, 7, 8];

/// What everybody knows of the unit, by number of the nexus.
#[derive(Debug, Default, Clone, PartialEq)]
struct Model {
    generation: u32,
    keys: [Option<u64>; NEXUSES],
    /// Type and who made it.
    held: Option<(u8, usize)>,
    /// Unit attentions that each has to hear of, as additional sense codes.
    told: [Vec<(u8, u8)>; NEXUSES],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Good,
    Conflict,
    Illegal,
}
use Verdict::{Conflict, Good, Illegal};

const PREEMPTED: (u8, u8) = (0x2a, 3);
const RELEASED: (u8, u8) = (0x2a, 4);
const REGISTRATION_GONE: (u8, u8) = (0x2a, 5);

impl Model {
    fn shared(kind: u8) -> bool {
        kind >= 7
    }
    fn is_holder(&self, who: usize) -> bool {
        match self.held {
            Some((kind, _)) if Self::shared(kind) => self.keys[who].is_some(),
            Some((_, holder)) => holder == who,
            None => false,
        }
    }
    fn tell(&mut self, who: usize, what: (u8, u8)) {
        if !self.told[who].contains(&what) {
            self.told[who].push(what);
        }
    }
    fn tell_registered(&mut self, but: usize, what: (u8, u8)) {
        for other in 0..NEXUSES {
            if other != but && self.keys[other].is_some() {
                self.tell(other, what);
            }
        }
    }

    fn register(&mut self, who: usize, key: Option<u64>, new: u64) -> Verdict {
        match (self.keys[who], key) {
            (None, Some(key)) if key != 0 => return Conflict,
            (Some(own), Some(key)) if key != own => return Conflict,
            (None, _) if new == 0 => return Good,
            _ => {}
        }
        self.generation += 1;
        if new != 0 {
            self.keys[who] = Some(new);
            return Good;
        }
        let held = self.is_holder(who);
        self.keys[who] = None;
        if !held {
            return Good;
        }
        match self.held.expect("it is held") {
            (kind, _) if Self::shared(kind) => {
                if self.keys.iter().all(Option::is_none) {
                    self.held = None;
                }
            }
            (kind, _) => {
                self.held = None;
                if kind >= 5 {
                    self.tell_registered(who, RELEASED);
                }
            }
        }
        Good
    }

    fn reserve(&mut self, who: usize, key: u64, kind: u8) -> Verdict {
        if self.keys[who] != Some(key) {
            return Conflict;
        }
        match self.held {
            None => self.held = Some((kind, who)),
            Some((held, _)) if held == kind && self.is_holder(who) => {}
            Some(_) => return Conflict,
        }
        Good
    }

    fn release(&mut self, who: usize, key: u64, kind: u8) -> Verdict {
        if self.keys[who] != Some(key) {
            return Conflict;
        }
        let Some((held, _)) = self.held.filter(|_| self.is_holder(who)) else { return Good };
        if held != kind {
            return Illegal;
        }
        self.held = None;
        if kind >= 5 {
            self.tell_registered(who, RELEASED);
        }
        Good
    }

    fn clear(&mut self, who: usize, key: u64) -> Verdict {
        if self.keys[who] != Some(key) {
            return Conflict;
        }
        self.tell_registered(who, PREEMPTED);
        self.keys = [None; NEXUSES];
        self.held = None;
        self.generation += 1;
        Good
    }

    fn preempt(&mut self, who: usize, key: u64, victim: u64, kind: u8) -> Verdict {
        if self.keys[who] != Some(key) {
            return Conflict;
        }
        let shared = self.held.is_some_and(|(held, _)| Self::shared(held));
        if victim == 0 && !shared {
            return Illegal;
        }
        let known = self.keys.contains(&Some(victim));
        if victim != 0 && !known {
            return Conflict;
        }
        let replaces = match self.held {
            Some(_) if shared => victim == 0,
            Some((_, holder)) => self.keys[holder] == Some(victim),
            None => false,
        };
        for other in 0..NEXUSES {
            if other != who && self.keys[other].is_some() && (victim == 0 || self.keys[other] == Some(victim)) {
                self.keys[other] = None;
                self.tell(other, REGISTRATION_GONE);
            }
        }
        if replaces {
            let (before, _) = self.held.expect("it is held");
            if before != kind && before >= 5 {
                self.tell_registered(who, RELEASED);
            }
            self.held = Some((kind, who));
        }
        self.generation += 1;
        Good
    }

    /// SPC-4 table 66: whether reads and writes go through.
    fn admits(&self, who: usize) -> (bool, bool) {
        let Some((kind, _)) = self.held else { return (true, true) };
        let trusted = self.is_holder(who) || kind >= 5 && self.keys[who].is_some();
        (trusted || matches!(kind, 1 | 5 | 7), trusted)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Register {
        ignore: bool,
        key: u64,
        new: u64,
    },
    Reserve {
        key: u64,
        kind: u8,
    },
    Release {
        key: u64,
        kind: u8,
    },
    Clear {
        key: u64,
    },
    Preempt {
        key: u64,
        victim: u64,
        kind: u8,
        abort: bool,
    },
    /// The nexus is lost and comes again.
    Lose,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    // Few keys, so that they are the right ones often, and the same of several.
    let key = || 0..4u64;
    let kind = || prop::sample::select(&TYPES[..]);
    let step = prop_oneof![
        6 => (any::<bool>(), key(), key()).prop_map(|(ignore, key, new)| Step::Register { ignore, key, new }),
        4 => (key(), kind()).prop_map(|(key, kind)| Step::Reserve { key, kind }),
        2 => (key(), kind()).prop_map(|(key, kind)| Step::Release { key, kind }),
        1 => key().prop_map(|key| Step::Clear { key }),
        4 => (key(), key(), kind(), any::<bool>())
            .prop_map(|(key, victim, kind, abort)| Step::Preempt { key, victim, kind, abort }),
        1 => Just(Step::Lose),
    ];
    (0..NEXUSES, step)
}

fn out(action: u8, kind: u8, key: u64, new: u64, flags: u8) -> ([u8; 10], Vec<u8>) {
    let mut list = [key.to_be_bytes(), new.to_be_bytes()].concat();
    list.extend([0, 0, 0, 0, flags, 0, 0, 0]);
    ([0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], list)
}

fn name(who: usize) -> String {
    format!("iqn.2026-11.example:{who},i,0x80000000000{who}")
}

/// What the unit did.
fn act(initiator: &Initiator, keeper: &Keeper, step: &Step, flags: u8) -> Verdict {
    let (cdb, list) = match *step {
        Step::Register { ignore, key, new } => out(if ignore { 6 } else { 0 }, 0, key, new, flags),
        Step::Reserve { key, kind } => out(1, kind, key, 0, 0),
        Step::Release { key, kind } => out(2, kind, key, 0, 0),
        Step::Clear { key } => out(3, 0, key, 0, 0),
        Step::Preempt { key, victim, kind, abort } => out(if abort { 5 } else { 4 }, kind, key, victim, 0),
        Step::Lose => return Good,
    };
    match finish(keeper, initiator.submit(&cdb, &list)) {
        Ended::Response(response) => match response.status {
            Status::Good => Good,
            Status::ReservationConflict => Conflict,
            Status::CheckCondition => Illegal,
            other => panic!("{other:?}"),
        },
        Ended::Aborted => panic!("nobody aborts it"),
    }
}

fn compare(model: &mut Model, initiators: &[Initiator]) {
    for (who, initiator) in initiators.iter().enumerate() {
        for told in std::mem::take(&mut model.told[who]) {
            assert_eq!(initiator.codes(&[0; 6], &[]), (6, told.0, told.1), "nexus {who}");
        }
        assert_eq!(initiator.send(&[0; 6], &[]).status, Status::Good, "nexus {who} has nothing else to hear");
        let goes = |cdb: &[u8]| initiator.send(cdb, &[0; 512]).status == Status::Good;
        let found = (goes(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), goes(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
        assert_eq!(found, model.admits(who), "nexus {who}: read and write");
    }
    let keys = initiators[0].good(&[0x5e, 0, 0, 0, 0, 0, 0, 4, 0, 0], &[]);
    assert_eq!(keys[..4], model.generation.to_be_bytes());
    let mut found: Vec<u64> =
        keys[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().expect("eight"))).collect();
    let mut expected: Vec<u64> = model.keys.iter().flatten().copied().collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let reservation = initiators[0].good(&[0x5e, 1, 0, 0, 0, 0, 0, 4, 0, 0], &[]);
    match model.held {
        None => assert_eq!(reservation.len(), 8),
        Some((kind, holder)) => {
            let key = if Model::shared(kind) { 0 } else { model.keys[holder].expect("the holder is registered") };
            assert_eq!((&reservation[8..16], reservation[21]), (&key.to_be_bytes()[..], kind));
        }
    }
    full_status(model, &initiators[0]);
}

fn full_status(model: &Model, initiator: &Initiator) {
    let status = initiator.good(&[0x5e, 3, 0, 0, 0, 0, 0, 8, 0, 0], &[]);
    let mut rest = &status[8..];
    let mut found = [None; NEXUSES];
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[20..24].try_into().expect("four bytes")) as usize;
        let (one, others) = rest.split_at(24 + len);
        let who = (0..NEXUSES).find(|who| one[28..].starts_with(name(*who).as_bytes())).expect("a name of ours");
        found[who] = Some(u64::from_be_bytes(one[..8].try_into().expect("eight bytes")));
        let holder = one[12] & 1 == 1;
        assert_eq!(holder, model.is_holder(who));
        assert_eq!(one[13], if holder { model.held.expect("it is held").0 } else { 0 });
        assert_eq!((one[18], one[19], one[24]), (0, 1, 0x45));
        rest = others;
    }
    assert_eq!(found, model.keys);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn reservations_are_those_of_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let bench = Bench::new();
        let mut initiators: Vec<Initiator> = (0..NEXUSES).map(|who| bench.initiator(&name(who))).collect();
        let mut model = Model::default();
        for (who, step) in steps {
            let expected = match step {
                Step::Register { ignore, key, new } => model.register(who, (!ignore).then_some(key), new),
                Step::Reserve { key, kind } => model.reserve(who, key, kind),
                Step::Release { key, kind } => model.release(who, key, kind),
                Step::Clear { key } => model.clear(who, key),
                Step::Preempt { key, victim, kind, .. } => model.preempt(who, key, victim, kind),
                Step::Lose => Good,
            };
            if let Step::Lose = step {
                // The unit keeps the registration of the ports, whoever is connected through them.
                initiators[who] = bench.initiator(&name(who));
            }
            prop_assert_eq!(act(&initiators[who], &bench.keeper, &step, 0), expected, "{} {:?}", who, step);
            compare(&mut model, &initiators);
        }
    }
}

#[test]
fn registrations_survive_a_restart_if_the_last_one_asked_for_it() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator(&name(0)), bench.initiator(&name(1)));
    let register = |new| Step::Register { ignore: true, key: 0, new };
    assert_eq!(act(&first, &bench.keeper, &register(5), 0), Good);
    assert_eq!(bench.keeper.saves.get(), 0);
    assert_eq!(act(&second, &bench.keeper, &register(6), 1), Good);
    assert_eq!(act(&first, &bench.keeper, &Step::Reserve { key: 5, kind: 3 }, 0), Good);
    assert_eq!(bench.keeper.saves.get(), 2);
    let saved = bench.keeper.saved.borrow().clone().expect("it was saved");
    let restarted = Bench::with(bench.memory.clone(), Rc::new(Keeper::default()), &saved);
    let (first, second) = (restarted.initiator(&name(0)), restarted.initiator(&name(1)));
    let mut model = Model { keys: [Some(5), Some(6), None, None], held: Some((3, 0)), ..Model::default() };
    compare(&mut model, &[first, second]);
    // Without APTPL nothing is kept any more.
    let third = restarted.initiator(&name(2));
    assert_eq!(act(&third, &restarted.keeper, &register(7), 0), Good);
    assert_eq!(restarted.keeper.saved.borrow().as_deref(), Some(&[][..]));
}

#[test]
fn a_change_that_cannot_be_kept_does_not_take_effect() {
    let bench = Bench::new();
    let initiator = bench.initiator(&name(0));
    bench.keeper.save_fails.set(true);
    let (cdb, list) = out(6, 0, 0, 5, 1);
    assert_eq!(initiator.codes(&cdb, &list), (4, 0x44, 0));
    compare(&mut Model::default(), &[initiator]);
}

#[test]
fn a_reservation_moves_to_a_port_that_was_never_seen() {
    let bench = Bench::new();
    let first = bench.initiator(&name(0));
    let act = |step: &Step| act(&first, &bench.keeper, step, 0);
    let transfer = |new: u64, flags: u8, port: u16, to: &str| {
        let mut id = vec![0x45, 0];
        let len = (to.len() + 1).next_multiple_of(4) as u16;
        id.extend(len.to_be_bytes());
        id.extend_from_slice(to.as_bytes());
        id.resize(4 + usize::from(len), 0);
        let mut list = [5u64.to_be_bytes(), new.to_be_bytes()].concat();
        list.extend([0, flags]);
        list.extend(port.to_be_bytes());
        list.extend((id.len() as u32).to_be_bytes());
        list.extend(id);
        first.send(&[0x5f, 7, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], &list)
    };
    assert_eq!(act(&Step::Register { ignore: true, key: 0, new: 5 }), Good);
    assert_eq!(transfer(6, 0, 1, &name(1)).status, Status::CheckCondition, "nothing to move");
    assert_eq!(act(&Step::Reserve { key: 5, kind: 1 }), Good);
    for (new, port, to) in [(0, 1, name(1)), (6, 9, name(1)), (6, 1, name(0)), (6, 1, "iqn.no-port".to_string())] {
        assert_eq!(transfer(new, 0, port, &to).status, Status::CheckCondition, "{new} {port} {to}");
    }
    assert_eq!(transfer(6, 2, 1, &name(1)).status, Status::Good);
    let second = bench.initiator(&name(1));
    let mut model = Model { keys: [None, Some(6), None, None], held: Some((1, 1)), generation: 2, ..Model::default() };
    compare(&mut model, &[first, second]);
}

#[test]
fn other_ports_are_registered_along() {
    let bench = Bench::new();
    let first = bench.initiator(&name(0));
    let ids: Vec<u8> = [1, 2].into_iter().flat_map(|who| super::transport_id::encode(&name(who))).collect();
    let list = |key: u64| {
        let (_, mut list) = out(0, 0, key, 5, 8);
        list.extend((ids.len() as u32).to_be_bytes());
        list.extend(&ids);
        list
    };
    let send = |action: u8, list: &[u8]| first.send(&[0x5f, action, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], list);
    assert_eq!(send(6, &list(0)).status, Status::CheckCondition, "only with REGISTER");
    assert_eq!(send(0, &list(0)[..30]).status, Status::CheckCondition);
    assert_eq!(send(0, &list(0)).status, Status::Good);
    let others = [bench.initiator(&name(1)), bench.initiator(&name(2))];
    let mut model = Model { keys: [Some(5), Some(5), Some(5), None], generation: 1, ..Model::default() };
    let [second, third] = others;
    compare(&mut model, &[first, second, third]);
}

#[test]
fn preempt_and_abort_ends_the_tasks_of_the_preempted() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator(&name(0)), bench.initiator(&name(1)));
    for (initiator, new) in [(&first, 5), (&second, 6)] {
        assert_eq!(act(initiator, &bench.keeper, &Step::Register { ignore: true, key: 0, new }, 0), Good);
    }
    bench.memory.held.set(true);
    let mut write = second.submit(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]);
    assert!(crate::testing::poll(&mut write).is_pending());
    let (cdb, list) = out(5, 3, 5, 6, 0);
    let mut preempt = first.submit(&cdb, &list);
    assert!(crate::testing::poll(&mut preempt).is_pending(), "the write may still reach the medium");
    bench.memory.release();
    assert!(matches!(crate::testing::now(write), Ended::Aborted));
    assert!(matches!(crate::testing::now(preempt), Ended::Response(response) if response.status == Status::Good));
    assert_eq!(second.codes(&[0; 6], &[]), (6, 0x2a, 5));
}

#[test]
fn the_old_reservation_and_the_persistent_kind_exclude_each_other() {
    let bench = Bench::new();
    let (first, second) = (bench.initiator(&name(0)), bench.initiator(&name(1)));
    let status = |initiator: &Initiator, cdb: &[u8]| initiator.send(cdb, &[]).status;
    for (reserve, release) in [
        (&[0x16, 0, 0, 0, 0, 0][..], &[0x17, 0, 0, 0, 0, 0][..]),
        (&[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(status(&first, reserve), Status::Good);
        assert_eq!(status(&first, reserve), Status::Good);
        assert_eq!(status(&second, reserve), Status::ReservationConflict);
        assert_eq!(status(&second, release), Status::Good, "of nothing");
        assert_eq!(status(&second, &[0; 6]), Status::ReservationConflict);
        let (cdb, list) = out(6, 0, 0, 5, 0);
        assert_eq!(second.send(&cdb, &list).status, Status::ReservationConflict);
        assert_eq!(status(&first, release), Status::Good);
        assert_eq!(status(&second, &[0; 6]), Status::Good);
    }
    assert_eq!(act(&first, &bench.keeper, &Step::Register { ignore: true, key: 0, new: 5 }, 0), Good);
    assert_eq!(status(&second, &[0x16, 0, 0, 0, 0, 0]), Status::ReservationConflict);
    assert_eq!(act(&first, &bench.keeper, &Step::Clear { key: 5 }, 0), Good);
    assert_eq!(status(&second, &[0x16, 0, 0, 0, 0, 0]), Status::Good);
    drop(second);
    assert_eq!(status(&first, &[0; 6]), Status::Good, "the loss of the nexus releases it");
}

#[test]
fn lists_and_types_that_are_wrong() {
    let bench = Bench::with(Memory::new(1 << 20, 512), Rc::default(), &[]);
    let initiator = bench.initiator(&name(0));
    let (_, list) = out(0, 0, 0, 5, 0);
    for len in [0, 23, 25] {
        assert_eq!(initiator.codes(&[0x5f, 1, 1, 0, 0, 0, 0, 0, len, 0], &[0; 40]), (5, 0x1a, 0), "{len}");
    }
    assert_eq!(initiator.codes(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list[..20]), (5, 0x1a, 0));
    for kind in [0x00, 0x02, 0x04, 0x09, 0x11] {
        assert_eq!(initiator.codes(&[0x5f, 1, kind, 0, 0, 0, 0, 0, 24, 0], &list), (5, 0x24, 0), "{kind:02x}");
    }
    let capabilities = initiator.good(&[0x5e, 2, 0, 0, 0, 0, 0, 1, 0, 0], &[]);
    assert_eq!(capabilities, [0, 8, 0x0d, 0x80, 0xea, 0x01, 0, 0]);
    assert!(flat(&initiator.send(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[])).len() == 8);
}

#[test]
fn a_registration_may_be_for_all_target_ports() {
    let bench = Bench::new();
    let at = |who: usize, port: u16| bench.initiator_at(&name(who), port, &[1, 2, 3]);
    let (first, second, stranger) = (at(0, 1), at(0, 2), at(1, 2));
    let generation = || first.good(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0], &[])[3];
    let registered = || {
        let status = first.good(&[0x5e, 3, 0, 0, 0, 0, 0, 1, 255, 0], &[])[8..].to_vec();
        let mut ports = Vec::new();
        let mut rest = status.as_slice();
        while !rest.is_empty() {
            ports.push((rest[7], rest[19]));
            rest = &rest[24 + usize::from(rest[23])..];
        }
        ports
    };
    let send = |initiator: &Initiator, action: u8, kind: u8, key: u64, new_key: u64, flags: u8| {
        let (cdb, list) = out(action, kind, key, new_key, flags);
        initiator.send(&cdb, &list).status
    };
    assert_eq!(send(&first, 0, 0, 0, 5, 4), Status::Good);
    assert_eq!((registered(), generation()), (vec![(5, 1), (5, 2), (5, 3)], 1), "one change");
    // Whichever port it comes by, it may do what registrants may; others may not.
    assert_eq!(send(&first, 1, 5, 5, 0, 0), Status::Good);
    second.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]);
    assert_eq!(stranger.send(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]).status, Status::ReservationConflict);
    // All of it or nothing: one of them has another key now.
    assert_eq!(send(&second, 0, 0, 5, 6, 0), Status::Good);
    assert_eq!(send(&first, 0, 0, 5, 7, 4), Status::ReservationConflict);
    assert_eq!((registered(), generation()), (vec![(5, 1), (6, 2), (5, 3)], 2));
    // Without a key to be compared, and for all of them again.
    assert_eq!(send(&first, 6, 0, 0, 8, 4), Status::Good);
    assert_eq!(registered(), [(8, 1), (8, 2), (8, 3)]);
    assert_eq!(send(&first, 0, 0, 8, 0, 4), Status::Good);
    assert_eq!((registered(), generation()), (vec![], 4));
    assert_eq!(second.codes(&[0; 6], &[]), (6, 0x2a, 4), "the reservation ended while it was registered");
    stranger.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]);
    // With other initiator ports as well: each of them through each port.
    let id = super::transport_id::encode(&name(2));
    let (mut cdb, mut list) = out(0, 0, 0, 9, 0x0c);
    list.extend((id.len() as u32).to_be_bytes());
    list.extend(id);
    cdb[8] = list.len() as u8;
    assert_eq!(first.send(&cdb, &list).status, Status::Good);
    assert_eq!(registered().len(), 6);
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let bench = Bench::new();
    let initiators: Vec<Initiator> =
        (0..=super::REGISTRANTS_MAX).map(|who| bench.initiator(&format!("iqn.{who},i,0x800000000000"))).collect();
    for (at, initiator) in initiators.iter().enumerate() {
        let register = Step::Register { ignore: true, key: 0, new: at as u64 + 1 };
        let room = at < super::REGISTRANTS_MAX;
        assert_eq!(act(initiator, &bench.keeper, &register, 1) == Good, room, "{at}");
    }
    let saved = bench.keeper.saved.borrow().clone().expect("it was saved");
    assert!(saved.len() < 256 << 10);
    assert_eq!(
        crate::saved::decode(&saved).map(|saved| saved.reservations.registrants.len()),
        Ok(super::REGISTRANTS_MAX)
    );
}
