//! The oracle itself: small histories, each with what is legal and what is not.

use super::history::recovered::{Floor, Observed};
use super::history::{History, Image, Outcome, RequestId, SharedCut, Time};
use super::pattern::{SECTOR, Value, WriteId, sector_bytes};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

const TAG: u64 = 5;

/// A history that is built step by step, with a clock that counts the steps.
struct Script {
    history: History,
    now: u64,
}

impl Script {
    fn new() -> Self {
        Script { history: History::new(TAG), now: 0 }
    }
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
    fn begin(&mut self, write: u64, sectors: Range<u64>) -> RequestId {
        let (now, value) = (self.tick(), if write == 0 { Value::Zero } else { Value::Data(WriteId(write)) });
        self.history.submit(now, sectors, value, false)
    }
    fn end(&mut self, id: RequestId) {
        let now = self.tick();
        self.history.answer(now, id, Outcome::Acknowledged);
    }
    fn write(&mut self, write: u64, sectors: Range<u64>) {
        let id = self.begin(write, sectors);
        self.end(id);
    }
    fn flush(&mut self) {
        let submitted = self.tick();
        let now = self.tick();
        self.history.flushed(submitted, now);
    }
    fn read(&mut self, first: u64, writes: &[u64]) -> bool {
        let submitted = self.tick();
        self.read_since(submitted, first, writes)
    }
    fn read_since(&mut self, submitted: u64, first: u64, writes: &[u64]) -> bool {
        let now = self.tick();
        self.history.check_read(submitted, now, first, &bytes(first, writes)).is_ok()
    }
    fn recovers_to(mut self, floor: Floor, values: &[u64]) -> bool {
        let now = self.tick();
        self.history.crash(now);
        let value = |write: &u64| Some(if *write == 0 { Value::Zero } else { Value::Data(WriteId(*write)) });
        let observed: Observed = (0..).zip(values.iter().map(value)).collect();
        self.history.check_recovered(floor, now, &observed).is_ok()
    }
}

fn bytes(first: u64, writes: &[u64]) -> Vec<u8> {
    let sector = |(sector, write): (u64, &u64)| match write {
        0 => [0; SECTOR as usize],
        write => sector_bytes(TAG, sector, WriteId(*write)),
    };
    (first..).zip(writes).flat_map(sector).collect()
}

#[test]
fn a_read_sees_the_last_acknowledged_write_or_one_under_way() {
    let mut script = Script::new();
    assert!(script.read(0, &[0]));
    script.write(1, 0..2);
    assert!(script.read(0, &[1, 1, 0]));
    assert!(!script.read(0, &[0]));
    let second = script.begin(2, 1..2);
    assert!(script.read(0, &[1, 1]));
    assert!(script.read(0, &[1, 2]));
    assert!(!script.read(0, &[1, 1]), "what was seen to be overwritten does not come back");
    script.end(second);
    assert!(script.read(0, &[1, 2]));
    script.write(0, 0..8);
    assert!(script.read(0, &[0, 0]) && !script.read(0, &[0, 2]));
}

#[test]
fn concurrent_writes_settle_on_one_and_stay_there() {
    let mut script = Script::new();
    let (a, b) = (script.begin(1, 0..1), script.begin(2, 0..1));
    script.end(a);
    script.end(b);
    assert!(script.read(0, &[2]) && script.read(0, &[2]) && !script.read(0, &[1]));
}

#[test]
fn a_read_beside_a_write_may_see_either_and_one_after_it_only_the_new() {
    let mut script = Script::new();
    script.write(1, 0..1);
    let read = script.tick();
    script.write(2, 0..1);
    assert!(script.read_since(read, 0, &[1]));
    assert!(!script.read(0, &[1]));
}

#[test]
fn blocks_are_whole_and_requests_of_many_blocks_need_not_be() {
    let torn = |writes: [u64; 8]| {
        let mut script = Script::new();
        script.write(1, 0..8);
        let _second = script.begin(2, 0..8);
        let _third = script.begin(3, 0..4);
        !script.read(0, &writes)
    };
    assert!(!torn([1; 8]) && !torn([2; 8]));
    assert!(!torn([3, 3, 3, 3, 2, 2, 2, 2]) && !torn([3, 3, 3, 3, 1, 1, 1, 1]));
    assert!(torn([2, 2, 2, 2, 2, 2, 2, 1]) && torn([1, 2, 2, 2, 2, 2, 2, 2]));
    assert!(torn([3, 3, 3, 1, 1, 1, 1, 1]) && torn([3, 3, 3, 2, 2, 2, 2, 2]));
    let mut script = Script::new();
    let _long = script.begin(4, 0..16);
    assert!(script.read(0, &[[4; 8], [0; 8]].concat()));
}

#[test]
fn after_a_kill_everything_acknowledged_is_there() {
    let history = || {
        let mut script = Script::new();
        script.write(1, 0..1);
        script.write(2, 1..2);
        script.begin(3, 0..1);
        script
    };
    assert!(history().recovers_to(Floor::Acknowledged, &[1, 2]));
    assert!(history().recovers_to(Floor::Acknowledged, &[3, 2]));
    assert!(!history().recovers_to(Floor::Acknowledged, &[1, 0]));
    assert!(!history().recovers_to(Floor::Acknowledged, &[0, 2]));
}

#[test]
fn after_power_loss_what_was_flushed_is_there_and_the_rest_is_a_prefix() {
    let history = || {
        let mut script = Script::new();
        script.write(1, 0..1);
        script.flush();
        script.write(2, 1..2);
        script.write(3, 2..3);
        script.begin(4, 3..4);
        script
    };
    for (values, legal) in [
        ([1, 0, 0, 0], true),
        ([1, 2, 0, 0], true),
        ([1, 2, 3, 0], true),
        ([1, 2, 3, 4], true),
        ([0, 0, 0, 0], false),
        ([1, 0, 3, 0], false),
        ([1, 2, 0, 4], false),
        ([0, 2, 0, 0], false),
    ] {
        assert_eq!(history().recovers_to(Floor::Flushed, &values), legal, "{values:?}");
    }
}

#[test]
fn zeros_take_part_in_the_order() {
    let history = || {
        let mut script = Script::new();
        script.write(1, 0..8);
        script.flush();
        script.write(2, 8..9);
        script.write(0, 0..8);
        script
    };
    let state = |first: u64, second: u64| [vec![first; 8], vec![second]].concat();
    assert!(history().recovers_to(Floor::Flushed, &state(1, 0)));
    assert!(history().recovers_to(Floor::Flushed, &state(1, 2)));
    assert!(history().recovers_to(Floor::Flushed, &state(0, 2)));
    assert!(!history().recovers_to(Floor::Flushed, &state(0, 0)), "the trim survived alone");
}

#[test]
fn a_flush_covers_only_what_was_acknowledged_before_it_was_asked_for() {
    let history = || {
        let mut script = Script::new();
        let first = script.begin(1, 0..1);
        let flush = script.tick();
        script.end(first);
        let now = script.tick();
        script.history.flushed(flush, now);
        script
    };
    assert!(history().recovers_to(Floor::Flushed, &[0]));
    assert!(!history().recovers_to(Floor::Acknowledged, &[0]));
}

#[test]
fn a_fua_write_survives_and_so_does_what_came_before_it() {
    let history = || {
        let mut script = Script::new();
        script.write(1, 0..1);
        let now = script.tick();
        let fua = script.history.submit(now, 1..2, Value::Data(WriteId(2)), true);
        script.end(fua);
        script
    };
    assert!(history().recovers_to(Floor::Flushed, &[1, 2]));
    assert!(!history().recovers_to(Floor::Flushed, &[1, 0]) && !history().recovers_to(Floor::Flushed, &[0, 2]));
}

#[test]
fn what_one_recovery_dropped_does_not_come_back_in_the_next() {
    let mut script = Script::new();
    script.write(1, 0..1);
    script.history.crash(script.now);
    let observed = Observed::from([(0, Some(Value::Zero))]);
    script.history.check_recovered(Floor::Flushed, script.now, &observed).expect("it was not flushed");
    assert!(script.read(0, &[0]) && !script.read(0, &[1]));
    assert!(!script.recovers_to(Floor::Flushed, &[1]));
}

#[test]
fn a_block_torn_by_a_crash_is_found() {
    let history = || {
        let mut script = Script::new();
        script.write(1, 0..8);
        script.flush();
        script.begin(2, 0..8);
        script
    };
    assert!(history().recovers_to(Floor::Flushed, &[2; 8]));
    assert!(!history().recovers_to(Floor::Flushed, &[2, 2, 2, 2, 1, 1, 1, 1]));
}

#[test]
fn foreign_bytes_are_found() {
    let mut script = Script::new();
    script.write(1, 0..2);
    let mut torn = bytes(0, &[1, 1]);
    torn[600] ^= 1;
    assert!(script.history.check_read(10, 11, 0, &torn).is_err());
    assert!(script.history.check_read(10, 11, 1, &bytes(0, &[1])).is_err());
    assert!(script.history.check_read(10, 11, 0, &bytes(0, &[1, 1])).is_ok());
}

#[test]
fn one_damaged_place_may_cost_the_last_flush_and_no_more() {
    let history = || {
        let mut script = Script::new();
        for write in 1..4 {
            script.write(write, write - 1..write);
            script.flush();
        }
        script
    };
    assert!(!history().recovers_to(Floor::Flushed, &[1, 2, 0]));
    assert!(history().recovers_to(Floor::FlushedBefore, &[1, 2, 0]));
    assert!(!history().recovers_to(Floor::FlushedBefore, &[1, 0, 0]));
    assert!(!history().recovers_to(Floor::Nothing, &[1, 0, 3]), "there is no past yet that could excuse it");
    assert!(history().recovers_to(Floor::Nothing, &[0, 0, 0]));
}

/// A snapshot that is asked for, then what `meanwhile` does, then it is answered.
fn snapshot(script: &mut Script, meanwhile: impl FnOnce(&mut Script)) -> Image {
    let cut: SharedCut = Rc::new(Cell::new((script.tick(), Time::MAX)));
    meanwhile(script);
    let now = script.tick();
    cut.set((cut.get().0, now));
    script.history.capture(cut, 1 << 20)
}

#[test]
fn a_snapshot_has_what_was_acknowledged_before_it_and_nothing_sent_after_it() {
    let image = || {
        let mut script = Script::new();
        script.write(1, 0..1);
        script.write(2, 0..1);
        let image = snapshot(&mut script, |script| script.write(3, 1..2));
        script.write(4, 0..2);
        image
    };
    let shows = |writes: &[u64]| image().check(0, &bytes(0, writes)).is_ok();
    assert!(shows(&[2, 0]) && shows(&[2, 3]));
    assert!(!shows(&[1, 0]), "it had been replaced");
    assert!(!shows(&[0, 3]) && !shows(&[4, 0]) && !shows(&[2, 4]));
    let mut seen = image();
    assert!(
        seen.check(0, &bytes(0, &[2, 3])).is_ok() && seen.check(1, &bytes(1, &[0])).is_err(),
        "what it shows stays"
    );
}

#[test]
fn a_snapshot_is_of_one_instant() {
    let image = || {
        let mut script = Script::new();
        script.write(1, 0..3);
        snapshot(&mut script, |script| {
            let slow = script.begin(2, 0..1);
            script.write(3, 1..2);
            script.write(4, 2..3);
            script.end(slow);
        })
    };
    let shows = |writes: &[u64]| image().check(0, &bytes(0, writes)).is_ok();
    for legal in [[1, 1, 1], [2, 1, 1], [1, 3, 1], [1, 3, 4], [2, 3, 4]] {
        assert!(shows(&legal), "{legal:?}");
    }
    assert!(!shows(&[1, 1, 4]) && !shows(&[2, 1, 4]), "the third write was sent when the second was acknowledged");
    let mut in_parts = image();
    assert!(in_parts.check(2, &bytes(2, &[4])).is_ok() && in_parts.check(1, &bytes(1, &[1])).is_err());
}

#[test]
fn snapshots_of_a_set_are_of_one_instant_together() {
    for (first, second, legal) in [(1, 2, true), (1, 0, true), (0, 0, true), (0, 2, false)] {
        let (mut a, mut b) = (Script::new(), Script::new());
        let cut: SharedCut = Rc::new(Cell::new((a.tick(), Time::MAX)));
        a.write(1, 0..1);
        b.now = a.now;
        b.write(2, 0..1);
        cut.set((cut.get().0, b.tick()));
        let mut images = [a, b].map(|script| script.history.capture(cut.clone(), 1 << 20));
        let shown = images[1].check(0, &bytes(0, &[second])).and_then(|()| images[0].check(0, &bytes(0, &[first])));
        assert_eq!(shown.is_ok(), legal, "{first} {second}");
    }
}

#[test]
fn blocks_of_a_snapshot_are_whole() {
    let image = || {
        let mut script = Script::new();
        script.write(1, 0..8);
        snapshot(&mut script, |script| {
            script.begin(2, 0..8);
        })
    };
    assert!(image().check(0, &bytes(0, &[2; 8])).is_ok() && image().check(0, &bytes(0, &[1; 8])).is_ok());
    assert!(image().check(0, &bytes(0, &[2, 2, 2, 2, 1, 1, 1, 1])).is_err());
}

#[test]
fn a_clone_begins_with_the_snapshot_and_goes_its_own_way() {
    let mut script = Script::new();
    script.write(1, 0..2);
    let mut image = snapshot(&mut script, |script| script.write(2, 0..1));
    let mut clone = Script { history: History::of_image(&image), now: script.now };
    script.write(3, 1..2);
    clone.write(4, 1..2);
    assert!(script.read(0, &[2, 3]) && clone.read(1, &[4]) && !clone.read(1, &[3]) && !clone.read(1, &[1]));
    image.check(0, &bytes(0, &[1])).expect("the write beside it may be behind it");
    clone.history.narrow(&image);
    assert!(!clone.read(0, &[2]) && clone.read(0, &[1]));
    assert!(!clone.recovers_to(Floor::Flushed, &[0, 4]), "its beginning is durable");
}

#[test]
fn a_rollback_ends_what_came_before_it() {
    let mut script = Script::new();
    script.write(1, 0..1);
    let image = snapshot(&mut script, |_| {});
    script.write(2, 0..2);
    script.history.become_image(&image);
    assert!(script.read(0, &[1, 0]) && !script.read(0, &[2]) && !script.read(1, &[2]));
    script.write(5, 1..2);
    assert!(script.recovers_to(Floor::Flushed, &[1, 0]));
}

#[test]
fn a_snapshot_proves_what_it_is_behind() {
    let history = |witnessed_until| {
        let mut script = Script::new();
        script.write(1, 0..1);
        script.history.witnessed_until = witnessed_until;
        script
    };
    assert!(history(0).recovers_to(Floor::Flushed, &[0]) && !history(9).recovers_to(Floor::Flushed, &[0]));
}
