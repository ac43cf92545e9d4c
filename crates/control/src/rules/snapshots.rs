//! What names of snapshots may be, and what `NAME@SNAPSHOT` and `desk-{001..500}` mean.

use super::{NAME_LEN_MAX, check_name};
use crate::utc::Utc;
use crate::{Error, MakeClones, Result};
use std::collections::BTreeSet;

/// Between the name of a vDisk or VM and that of its snapshot; no name contains it.
pub const SEPARATOR: char = '@';
/// Clones made by one call: twice the boot storm of a large classroom. Their names fit into one request, their records into
/// one transaction of the metadata store.
pub const CLONES_MAX: usize = 1_000;
/// Snapshots of one vDisk: each is some 60 bytes in every checkpoint of it, and 8 for each vDisk of the set that it is a part of
/// ([`super::groups::GROUP_VDISKS_MAX`]); one is a line in listings.
pub const SNAPSHOTS_MAX: usize = 1_024;
/// Ranges on one page of a comparison: some 50 bytes of JSON each.
pub const CHANGES_LIMIT_MAX: u32 = 10_000;
/// What a temporary snapshot's name begins with: no name that somebody chose does.
const TEMPORARY: &str = ".clone-";

pub fn check_snapshot_name(name: &str) -> Result<()> {
    check_name(name)
        .map_err(|error| Error::invalid(error.message.replace("the name of a vDisk", "the name of a snapshot")))
}

/// The name of a snapshot that lives as long as a call. What a crash leaves of them is deleted by the next start.
pub fn temporary_name(unix_ms: u64) -> String {
    format!("{TEMPORARY}{unix_ms}")
}

pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.')
}

/// `web@monday` is the snapshot `monday` of `web`; `web` is `web` as it is now.
pub fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once(SEPARATOR).map_or((name, None), |(name, snapshot)| (name, Some(snapshot)))
}

/// The name of the snapshot that keeps what a rollback replaces.
pub fn kept_name(now_unix_ms: u64, is_taken: impl Fn(&str) -> bool) -> String {
    let name = format!("before-rollback-{}", Utc::of_unix_seconds(now_unix_ms / 1000).compact());
    let numbered = (2_u32..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !is_taken(name)).expect("the numbers do not end")
}

/// Room for one more.
pub fn check_snapshot_count(vdisk: &str, count: usize) -> Result<()> {
    if count < SNAPSHOTS_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "vDisk {vdisk:?} has {count} snapshots, the most that one may have; delete some (`drystone vdisk snapshot-delete`)"
    )))
}

/// 1 to [`CHANGES_LIMIT_MAX`].
pub fn check_changes_limit(limit: u32) -> Result<()> {
    if (1..=CHANGES_LIMIT_MAX).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid(format!("limit {limit} is not between 1 and {CHANGES_LIMIT_MAX}")))
}

/// The names of all clones that are asked for: ranges expanded, checked, none twice.
pub fn clone_names(clones: &MakeClones) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for pattern in &clones.names {
        expand(pattern, &mut names)?;
        if names.len() > CLONES_MAX {
            return Err(too_many(names.len() as u64));
        }
    }
    if names.is_empty() {
        return Err(Error::invalid("clones need names, such as \"copy\" or \"desk-{001..500}\""));
    }
    names.iter().try_for_each(|name| check_name(name))?;
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(Error::invalid(format!("{twice:?} is named twice; each clone needs a name of its own"))),
        None => Ok(names),
    }
}

fn too_many(count: u64) -> Error {
    Error::invalid(format!("{count} clones are more than one call makes ({CLONES_MAX}); make them in several calls"))
}

/// At most one `{FIRST..LAST}`, as shells have it: numbers get zeros in front if the first one has, or if both are as long.
fn expand(pattern: &str, names: &mut Vec<String>) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::invalid(format!("{pattern:?} names no clones: {why}; write, for example, desk-{{001..500}}")))
    };
    let Some((before, rest)) = pattern.split_once('{') else {
        if pattern.contains('}') {
            return refuse("a '}' without a '{'");
        }
        names.push(pattern.to_string());
        return Ok(());
    };
    let Some((range, behind)) = rest.split_once('}') else { return refuse("a '{' without a '}'") };
    if behind.contains(['{', '}']) {
        return refuse("one range is expanded, it has more");
    }
    let Some((first, last)) = range.split_once("..") else { return refuse("between the braces is no FIRST..LAST") };
    let is_number = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return refuse("FIRST and LAST are numbers of 1 to 9 digits");
    }
    let (Ok(from), Ok(to)) = (first.parse::<u64>(), last.parse::<u64>()) else { return refuse("no numbers") };
    if from > to {
        return refuse("its first number is greater than the last");
    }
    let count = to - from + 1;
    if count > CLONES_MAX as u64 {
        return Err(too_many(count));
    }
    if before.len() + first.len().max(last.len()) + behind.len() > NAME_LEN_MAX {
        return refuse(&format!("the names would be longer than {NAME_LEN_MAX} characters"));
    }
    let is_padded = |text: &str| text.len() > 1 && text.starts_with('0');
    let width = if is_padded(first) || is_padded(last) { first.len().max(last.len()) } else { 0 };
    names.extend((from..=to).map(|number| format!("{before}{number:0width$}{behind}")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patterns: &[&str]) -> Result<Vec<String>> {
        clone_names(&MakeClones { snapshot: None, names: patterns.iter().map(|name| name.to_string()).collect() })
    }

    #[test]
    fn ranges_are_expanded_as_shells_do() {
        for (patterns, expect) in [
            (&["one"][..], "one"),
            (&["b", "a"], "b a"),
            (&["d{1..3}"], "d1 d2 d3"),
            (&["d{8..11}"], "d8 d9 d10 d11"),
            (&["d{08..11}x"], "d08x d09x d10x d11x"),
            (&["d{1..010}"], "d001 d002 d003 d004 d005 d006 d007 d008 d009 d010"),
            (&["d{0..0}"], "d0"),
            (&["{7..8}-a", "c"], "7-a 8-a c"),
        ] {
            assert_eq!(names(patterns).expect("good").join(" "), expect, "{patterns:?}");
        }
        let desks = names(&["desk-{001..500}"]).expect("good");
        assert_eq!((desks.len(), desks[0].as_str(), desks[499].as_str()), (500, "desk-001", "desk-500"));
        assert_eq!(names(&["d{1..1000}"]).expect("as many as may be").len(), CLONES_MAX);
    }

    #[test]
    fn what_names_no_clones_is_refused() {
        let long = "n".repeat(62);
        for (patterns, part) in [
            (&[][..], "need names"),
            (&["d{1..1001}"], "1001 clones are more"),
            (&["d{0..999999999}"], "1000000000 clones are more"),
            (&["d{1..600}", "e{1..600}"], "1200 clones are more"),
            (&["d{9..1}"], "greater than the last"),
            (&["d{1..2}{3..4}"], "one range"),
            (&["d{1..2"], "without a '}'"),
            (&["d1..2}"], "without a '{'"),
            (&["d{a..c}"], "numbers of 1 to 9 digits"),
            (&["d{1..}"], "numbers of 1 to 9 digits"),
            (&["d{..}"], "numbers of 1 to 9 digits"),
            (&["d{-1..2}"], "numbers of 1 to 9 digits"),
            (&["d{1..1234567890}"], "numbers of 1 to 9 digits"),
            (&["d{5}"], "no FIRST..LAST"),
            (&["a", "a"], "named twice"),
            (&["d{1..3}", "d2"], "named twice"),
            (&["a b"], "contains ' '"),
            (&["{1..2}/"], "contains '/'"),
            (&["web@monday"], "contains '@'"),
            (&[""], "it is empty"),
            (&[&format!("{long}{{10..11}}")], "longer than 63"),
        ] {
            let error = names(patterns).expect_err(part);
            assert!(error.message.contains(part), "{patterns:?}: {}", error.message);
        }
    }

    #[test]
    fn addresses_of_snapshots() {
        for (text, expect) in [
            ("web", ("web", None)),
            ("web@a", ("web", Some("a"))),
            ("web@", ("web", Some(""))),
            ("a@b@c", ("a", Some("b@c"))),
        ] {
            assert_eq!(split(text), expect);
        }
        assert!(check_snapshot_name("before-upgrade").is_ok());
        let refused = check_snapshot_name("b@c").expect_err("two separators").message;
        assert!(refused.contains("the name of a snapshot"), "{refused}");
        assert!(is_temporary(&temporary_name(7)) && check_snapshot_name(&temporary_name(7)).is_err());
    }

    #[test]
    fn what_a_rollback_keeps_has_a_free_name() {
        let first = kept_name(1_700_000_000_999, |_| false);
        assert_eq!(first, "before-rollback-20231114T221320Z");
        check_snapshot_name(&first).expect("a name");
        assert_eq!(kept_name(1_700_000_000_999, |name| !name.ends_with("-3")), "before-rollback-20231114T221320Z-3");
    }

    #[test]
    fn limits() {
        assert!(check_snapshot_count("web", SNAPSHOTS_MAX - 1).is_ok());
        let full = check_snapshot_count("web", SNAPSHOTS_MAX).expect_err("one too many").message;
        assert!(full.contains("1024 snapshots") && full.contains("snapshot-delete"), "{full}");
        assert!(check_changes_limit(1).is_ok() && check_changes_limit(CHANGES_LIMIT_MAX).is_ok());
        assert!(check_changes_limit(0).is_err() && check_changes_limit(CHANGES_LIMIT_MAX + 1).is_err());
    }
}
