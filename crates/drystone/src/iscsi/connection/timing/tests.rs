//! When an initiator is asked, and when it is given up.

use super::*;

fn timing() -> (Timing, Instant) {
    let timeouts = Timeouts {
        ping_after: Duration::from_secs(30),
        pong_within: Duration::from_secs(15),
        stuck_after: Duration::from_secs(40),
    };
    let now = Instant::now();
    (Timing::new(timeouts, now), now)
}

fn at(begin: Instant, seconds: u64) -> Instant {
    begin + Duration::from_secs(seconds)
}

#[test]
fn a_silent_one_is_asked_and_then_dead() {
    let (mut timing, begin) = timing();
    assert_eq!(timing.next_look(begin), Duration::from_secs(30));
    assert_eq!(timing.judge(at(begin, 29), false, false), Verdict::Alive);
    assert_eq!(timing.judge(at(begin, 30), false, false), Verdict::Ask);
    assert_eq!(timing.next_look(at(begin, 30)), Duration::from_secs(15));
    assert_eq!(timing.judge(at(begin, 44), false, true), Verdict::Alive);
    assert_eq!(timing.judge(at(begin, 45), false, true), Verdict::Dead);
}

#[test]
fn one_that_says_anything_is_alive() {
    let (mut timing, begin) = timing();
    assert_eq!(timing.judge(at(begin, 30), false, false), Verdict::Ask);
    timing.heard = None;
    assert_eq!(timing.judge(at(begin, 45), false, true), Verdict::Alive, "it does something else than answer");
    assert_eq!(timing.judge(at(begin, 74), false, true), Verdict::Alive);
    assert_eq!(timing.judge(at(begin, 75), false, true), Verdict::Ask);
}

#[test]
fn one_that_owes_and_does_not_move_is_stuck() {
    let (mut timing, begin) = timing();
    assert_eq!(timing.judge(at(begin, 39), true, false), Verdict::Ask);
    assert_eq!(timing.judge(at(begin, 40), true, true), Verdict::Stuck);
    let (mut timing, begin) = self::timing();
    timing.moved = at(begin, 20);
    timing.heard = None;
    assert_eq!(timing.judge(at(begin, 59), true, false), Verdict::Alive);
    assert_eq!(timing.judge(at(begin, 60), true, false), Verdict::Stuck);
}
