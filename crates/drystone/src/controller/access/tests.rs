//! Golden bytes, damage, and what rules resolve to.

use super::*;
use control::rules::iscsi::{GROUPS_MAX, INITIATORS_MAX, NAME_BYTES_MAX, SECRET_BYTES_MAX};
use vdisk::NoteKind;

fn secret(user: &str, secret: &str) -> Option<ChapSecret> {
    Some(ChapSecret { user: user.into(), secret: secret.into() })
}

fn note() -> AccessNote {
    AccessNote {
        rules: IscsiRules {
            initiators: vec!["a".into()],
            groups: vec!["g".into()],
            chap: secret("u", "twelve-bytes"),
            mutual: None,
        },
        groups: BTreeMap::from([("g".into(), Group { serial: 2, initiators: vec!["b".into()] })]),
    }
}

#[test]
fn golden_bytes() {
    let hex: String = note().encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "01",
            "0100",
            "010061",
            "01",
            "010067",
            "0200000000000000",
            "0100",
            "010062",
            "01",
            "010075",
            "0c00",
            "7477656c76652d6279746573",
            "00"
        )
    );
}

#[test]
fn notes_come_back_and_nothing_else_does() {
    for note in [note(), AccessNote::default()] {
        assert_eq!(AccessNote::decode(&note.encode()), Ok(note));
    }
    let bytes = note().encode();
    for len in 1..bytes.len() {
        assert_eq!(AccessNote::decode(&bytes[..len]), Err(Unreadable), "{len} bytes");
    }
    assert_eq!(AccessNote::decode(&[&bytes[..], &[0]].concat()), Err(Unreadable));
    assert_eq!(AccessNote::decode(&[&[2], &bytes[1..]].concat()), Err(Unreadable), "a newer build's");
    assert_eq!(AccessNote::decode(&[1, 0, 0, 0, 0, 0]), Err(Unreadable), "rules that let anybody in");
}

#[test]
fn the_longest_rules_fit_into_a_note() {
    let long = |length: usize| "x".repeat(length);
    let names = || vec![long(NAME_BYTES_MAX); INITIATORS_MAX];
    let groups: Vec<String> = (0..GROUPS_MAX).map(|i| format!("{i}{}", long(62))).collect();
    let chap = || secret(&long(NAME_BYTES_MAX), &long(SECRET_BYTES_MAX));
    let note = AccessNote {
        groups: groups.iter().map(|name| (name.clone(), Group { serial: 1, initiators: names() })).collect(),
        rules: IscsiRules { initiators: names(), groups, chap: chap(), mutual: chap() },
    };
    assert!(note.encode().len() <= NoteKind::IscsiAccess.bytes_max(), "{}", note.encode().len());
}

#[test]
fn groups_count_as_they_are_now_and_without_them_nobody_comes_in() {
    let groups = Groups::default();
    assert_eq!(note().resolve(&groups).initiators, ["a", "b"], "as they were");
    groups.put("g", Group { serial: 3, initiators: vec!["c".into(), "a".into()] });
    assert_eq!(note().resolve(&groups).initiators, ["a", "c"]);
    assert_eq!(note().with_groups_of(&groups).groups["g"].serial, 3);
    let rules = IscsiRules { groups: vec!["unknown".into()], ..IscsiRules::default() };
    let lost = AccessNote { rules, groups: BTreeMap::new() };
    assert!(!lost.resolve(&groups).is_open());
    assert!(AccessNote::default().resolve(&groups).is_open());
}
