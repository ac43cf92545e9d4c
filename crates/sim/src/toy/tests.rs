//! The oracle against the toy: the correct engine passes everything, each broken one is caught.

use super::*;
use crate::journal::Journal;
use crate::rng::Chance;
use crate::run::exhaustive::{self, Failed, run_case};
use crate::run::profile::{NAMES, Profile};
use crate::run::{TRACE_LINES, guarded, keep_panics, run_random};

fn toy(bug: Bug) -> Rc<dyn Engine> {
    Rc::new(Toy { bug })
}

fn profile(name: &str) -> Profile {
    Profile::named(name).expect("a profile of the list")
}

#[test]
fn the_correct_toy_passes_every_profile() {
    keep_panics();
    for (name, seed) in NAMES
        .into_iter()
        .filter(|name| !name.starts_with("rewind-"))
        .flat_map(|name| (0..14).map(move |seed| (name, seed)))
    {
        let outcome = run_random(seed, profile(name), toy(Bug::None), u64::MAX, TRACE_LINES);
        if let Some(failure) = outcome.failure {
            panic!("profile {name}, seed {seed}: {}\n{}", failure.what, failure.trace);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_digest_and_another_one_another() {
    let digest = |seed| run_random(seed, profile("crash"), toy(Bug::None), u64::MAX, TRACE_LINES).digest;
    assert_eq!(digest(3), digest(3));
    assert_ne!(digest(3), digest(4));
}

#[test]
fn the_correct_toy_survives_a_crash_at_every_operation() {
    keep_panics();
    for snapshots in [Chance::NEVER, Chance::HALF] {
        let profile = Profile { snapshots, request_bytes_max: 16 << 10, ..profile("crash") };
        let passed = exhaustive::run(true, 3, |case| {
            let journal = Journal::new();
            let result =
                guarded(&journal, TRACE_LINES, || run_case(11, 12, &profile, toy(Bug::None), journal.clone(), case));
            result.map(Some).map_err(|failure| Failed { case, report: format!("{}\n{}", failure.what, failure.trace) })
        });
        let passed = passed.unwrap_or_else(|failed| panic!("{:?}: {}", failed.case, failed.report));
        assert!(passed > 200, "only {passed} cases");
    }
}

/// Each bug, the profile that brings it to light, and a word of the complaint.
#[test]
fn every_broken_toy_is_caught() {
    keep_panics();
    for (bug, name, complaint) in [
        (Bug::AcksBeforeWrite, "crash", "legal"),
        (Bug::ForgetsSync, "crash", "legal"),
        (Bug::ForgetsFua, "crash", "legal"),
        (Bug::HidesFailedSync, "sync", "legal"),
        (Bug::RetriesSync, "sync", "legal"),
        (Bug::TrustsPayload, "crash", "sector"),
        (Bug::SkipsHoles, "crash", "legal"),
        (Bug::Resurrects, "crash", ""),
        (Bug::ReadsStale, "calm", "legal"),
        (Bug::TrustsReads, "corrupt", ""),
        (Bug::Misplaces, "calm", "as WriteId"),
        (Bug::TearsBlocks, "calm", "torn block"),
        (Bug::TearsWrites, "crash", "torn write"),
        (Bug::ComparesEarly, "calm", ""),
        (Bug::ForgetsTrims, "crash", "legal"),
        (Bug::ForgetsRename, "crash", "legal would be"),
        (Bug::ForgetsNotes, "crash", "legal would be"),
        (Bug::WritesReadOnly, "crash", "read-only"),
        (Bug::LosesAnswers, "calm", "hangs"),
        (Bug::ForgetsSnapshot, "snap-crash", "found as None"),
        (Bug::SharesSnapshot, "snap-calm", "not in this snapshot"),
        (Bug::RevivesSnapshot, "snap-crash", "found as Some"),
        (Bug::CutsOneByOne, "snap-calm", "no one instant"),
        (Bug::ClonesNow, "snap-calm", "legal"),
        (Bug::ClonesSome, "snap-crash", "only some are there"),
        (Bug::HalvesRollback, "snap-crash", "neither"),
        (Bug::OverlooksTrims, "snap-calm", "not reported"),
    ] {
        let caught = (0..200).find_map(|seed| run_random(seed, profile(name), toy(bug), u64::MAX, TRACE_LINES).failure);
        let failure = caught.unwrap_or_else(|| panic!("{bug:?} was not caught"));
        assert!(failure.what.contains(complaint), "{bug:?} was caught for another reason: {}", failure.what);
    }
}
