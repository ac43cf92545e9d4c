//! When snapshots are due and which go, under clocks that jump and attempts that fail.

use super::*;
use crate::{Kind, ScheduleTarget};
use proptest::prelude::*;

fn rule(every_seconds: u32, keep: u32) -> ScheduleRule {
    ScheduleRule { every_seconds, keep }
}

fn taken(times: &[u64]) -> Vec<Taken> {
    times.iter().zip(1..).map(|(unix_seconds, id)| Taken { id, unix_seconds: *unix_seconds }).collect()
}

#[test]
fn what_is_refused() {
    let schedule = |name: &str, rules: &[ScheduleRule]| CreateSchedule {
        name: name.to_string(),
        target: ScheduleTarget::Vdisk("web".to_string()),
        rules: rules.to_vec(),
    };
    assert!(check_schedule(&schedule("nightly", &[rule(3600, 24), rule(DAY, 7), rule(WEEK, 4)])).is_ok());
    assert!(check_schedule(&schedule(&"n".repeat(40), &[rule(1, 512)])).is_ok());
    let nine: Vec<_> = (1..=9).map(|every| rule(every, 1)).collect();
    for (create, why) in [
        (schedule("", &[rule(1, 1)]), "empty"),
        (schedule(&"n".repeat(41), &[rule(1, 1)]), "41 characters"),
        (schedule("n", &[]), "--every"),
        (schedule("n", &nine), "at most 8"),
        (schedule("n", &[rule(0, 1)]), "not between"),
        (schedule("n", &[rule(EVERY_SECONDS_MAX + 1, 1)]), "not between"),
        (schedule("n", &[rule(5, 1), rule(5, 2)]), "two rules"),
        (schedule("n", &[rule(5, 0)]), "at least 1"),
        (schedule("n", &[rule(5, 512), rule(6, 1)]), "513"),
        (schedule("n", &[rule(5, u32::MAX), rule(6, 2)]), "at most 512"),
    ] {
        let error = check_schedule(&create).expect_err(why);
        assert!(error.kind == Kind::Invalid && error.message.contains(why), "{}", error.message);
    }
    assert!(check_schedules_of_target(7).is_ok() && check_schedules_of_target(8).is_err());
    assert!(check_schedule_count(SCHEDULES_MAX - 1).is_ok() && check_schedule_count(SCHEDULES_MAX).is_err());
}

#[test]
fn names_sort_and_fit() {
    let name = snapshot_name("nightly", 1_795_813_200, |_| false);
    assert_eq!(name, "nightly-2026-11-27T21-00-00Z");
    assert_eq!(snapshot_name("nightly", 1_795_813_200, |other| other == name), format!("{name}.2"));
    let longest = snapshot_name(&"n".repeat(SCHEDULE_NAME_LEN_MAX), 0, |name| !name.ends_with(".2"));
    assert!(crate::rules::snapshots::check_snapshot_name(&longest).is_ok(), "{longest}");
    let names: Vec<String> =
        [0, 59, 60, 3_599, 86_399, 2_678_400, 1_795_813_200].map(|time| snapshot_name("n", time, |_| false)).to_vec();
    assert!(names.is_sorted(), "{names:?}");
}

#[test]
fn weeks_begin_on_monday() {
    // 1970-01-05 was a Monday.
    let monday = 4 * u64::from(DAY);
    assert_eq!(period(WEEK, monday), period(WEEK, monday + u64::from(WEEK) - 1));
    assert_ne!(period(WEEK, monday), period(WEEK, monday - 1));
    assert_ne!(period(DAY, u64::from(DAY)), period(DAY, u64::from(DAY) - 1));
}

#[test]
fn hours_days_and_weeks_are_kept() {
    let rules = [rule(3600, 24), rule(DAY, 7), rule(WEEK, 4)];
    // An hour's distance for sixty days, from a Monday on, with what goes at each step gone.
    let mut now = taken(&[]);
    for hour in 0..60 * 24u64 {
        now.push(Taken { id: hour, unix_seconds: 4 * u64::from(DAY) + hour * 3600 });
        let gone = excess(&rules, &now);
        now.retain(|one| !gone.contains(&one.id));
    }
    let hours: Vec<u64> = now.iter().map(|one| one.id).collect();
    let newest = 60 * 24 - 1;
    let mut expected: BTreeSet<u64> = (newest - 23..=newest).collect();
    // Day 59 is the last one; weeks began on days 35, 42, 49, 56.
    expected.extend((53..60).map(|day| day * 24));
    expected.extend([35, 42, 49, 56].map(|day| day * 24));
    assert_eq!(hours, expected.into_iter().collect::<Vec<_>>());
}

#[test]
fn missed_periods_are_made_up_for_once() {
    let rules = [rule(10, 3)];
    let mut attempts = Attempts::default();
    let at = |unix_seconds: u64| Now { unix_seconds, up_ms: unix_seconds * 1000 };
    assert_eq!(next(&rules, &attempts, at(1003)), Next::Take);
    attempts.succeeded(&rules, at(1003));
    assert_eq!(next(&rules, &attempts, at(1004)), Next::Wait(6000));
    // Another process, after five periods.
    let mut later = Attempts { last_period: attempts.last_period, ..Attempts::default() };
    assert_eq!(next(&rules, &later, at(1057)), Next::Take);
    later.succeeded(&rules, at(1057));
    assert_eq!(next(&rules, &later, at(1059)), Next::Wait(1000));
    assert_eq!(next(&rules, &later, at(1060)), Next::Take);
}

#[test]
fn a_failure_is_tried_again_with_pauses_that_grow() {
    let rules = [rule(3600, 3)];
    let mut attempts = Attempts::default();
    let mut now = Now { unix_seconds: 7200, up_ms: 0 };
    let mut pauses = Vec::new();
    for _ in 0..12 {
        attempts.failed(now);
        let Next::Wait(pause) = next(&rules, &attempts, now) else { panic!("it does not wait") };
        now.up_ms += pause;
        assert_eq!(next(&rules, &attempts, now), Next::Take);
        pauses.push(pause / 1000);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    attempts.succeeded(&rules, now);
    assert_eq!(next(&rules, &attempts, now), Next::Wait(3_600_000));
}

#[test]
fn a_clock_that_jumps_deletes_nothing_but_the_oldest() {
    let rules = [rule(10, 4)];
    // Three in the far future, then the clock is put right.
    let times = [100, 110, 9_000_000, 9_000_010, 9_000_020, 120, 130];
    assert_eq!(excess(&rules, &taken(&times)), [1, 2, 3]);
    // The newest stays, be it the second of its period.
    assert_eq!(excess(&rules, &taken(&[100, 101, 102])), [2]);
    assert_eq!(excess(&[rule(10, 1)], &taken(&[100])), Vec::<u64>::new());
}

#[derive(Debug, Clone)]
enum Step {
    /// Both clocks.
    Pass(u64),
    /// The wall clock alone, to anywhere.
    Jump(u64),
    Fail,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u64..4_000).prop_map(Step::Pass),
        1 => (0u64..4_000_000_000).prop_map(Step::Jump),
        1 => Just(Step::Fail),
        1 => Just(Step::Restart),
    ]
}

fn rules_of(every: Vec<(u32, u32)>) -> Vec<ScheduleRule> {
    let distinct: std::collections::BTreeMap<u32, u32> = every.into_iter().collect();
    distinct.into_iter().map(|(every, keep)| rule(every, keep)).collect()
}

proptest! {
    #[test]
    fn whatever_the_clocks_do(
        rules in prop::collection::vec((1u32..5_000, 1u32..6), 1..4).prop_map(rules_of),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut now = Now { unix_seconds: 1_000_000, up_ms: 5_000_000 };
        let (mut attempts, mut all, mut born) = (Attempts::default(), Vec::<Taken>::new(), 0);
        let mut moments: Vec<u64> = Vec::new();
        let every_ms = u64::from(shortest(&rules)) * 1000;
        for step in steps {
            match step {
                Step::Pass(seconds) => {
                    now.unix_seconds += seconds;
                    now.up_ms += seconds * 1000;
                }
                Step::Jump(to) => now.unix_seconds = to,
                Step::Restart => {
                    attempts = Attempts { last_period: attempts.last_period, ..Attempts::default() };
                    moments.clear();
                }
                Step::Fail => {
                    attempts.failed(now);
                    continue;
                }
            }
            // As often as it likes: a loop that never waits would show here.
            for round in 0.. {
                prop_assert!(round < 3, "a burst");
                match next(&rules, &attempts, now) {
                    Next::Wait(ms) => {
                        prop_assert!(ms > 0 && ms <= every_ms.max(RETRY_MS_MAX));
                        break;
                    }
                    Next::Take => {}
                }
                attempts.succeeded(&rules, now);
                born += 1;
                all.push(Taken { id: born, unix_seconds: now.unix_seconds });
                moments.push(now.up_ms);
                if let [.., third, _, last] = moments[..] {
                    prop_assert!(last - third >= every_ms * 9 / 10, "three within a period");
                }
                let gone = excess(&rules, &all);
                // One more drives out at most one of each rule, and the one that was the newest.
                prop_assert!(gone.len() <= rules.len() + 1, "{} go at once", gone.len());
                prop_assert!(!gone.contains(&born), "the newest goes");
                all.retain(|one| !gone.contains(&one.id));
                prop_assert!(excess(&rules, &all).is_empty(), "what stays stays");
                let limit: u32 = rules.iter().map(|rule| rule.keep).sum();
                prop_assert!(all.len() <= limit as usize + 1);
            }
        }
    }

    /// Compared with what the words say: each of the newest `keep` periods in which something was taken keeps its first.
    #[test]
    fn each_rule_has_what_it_keeps(
        rules in prop::collection::vec((1u32..50, 1u32..6), 1..4).prop_map(rules_of),
        gaps in prop::collection::vec(0u64..80, 0..60),
    ) {
        let times: Vec<u64> = gaps.iter().scan(1_000, |at, gap| { *at += gap; Some(*at) }).collect();
        let all = taken(&times);
        let gone = excess(&rules, &all);
        for rule in &rules {
            let periods: BTreeSet<u64> = all.iter().map(|one| period(rule.every_seconds, one.unix_seconds)).collect();
            for wanted in periods.iter().rev().take(rule.keep as usize) {
                let first = all.iter().find(|one| period(rule.every_seconds, one.unix_seconds) == *wanted);
                prop_assert!(first.is_some_and(|first| !gone.contains(&first.id)));
            }
        }
    }
}
