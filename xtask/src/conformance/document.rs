//! docs/conformance.md: made from what was just run, and compared with what is checked in.

use super::outcome::Outcome;
use super::{FAILS, Row, TESTS, UNITS, checked_in, reason};
use crate::process::target_dir;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;

pub(super) fn compare(rows: &BTreeMap<String, Row>) -> Result<()> {
    let made = target_dir().join("blackbox/conformance.md");
    let text = text(rows);
    std::fs::write(&made, &text)?;
    let known = std::fs::read_to_string(checked_in()).unwrap_or_default();
    ensure!(
        known == text,
        "docs/conformance.md says something else than was found. If the change is meant: cp {} docs/conformance.md",
        made.display()
    );
    Ok(())
}

fn text(rows: &BTreeMap<String, Row>) -> String {
    let mut text = String::from(INTRODUCTION);
    for unit in &UNITS {
        let _ = writeln!(text, "- **{}**: {}", unit.name, unit.what);
    }
    let skipped = rows.iter().filter(|(_, row)| !row.iter().flatten().any(|outcome| *outcome == Outcome::Passed));
    let skipped: Vec<&String> = skipped.map(|(test, _)| test).collect();
    let _ = writeln!(
        text,
        "\n{} of {TESTS} tests pass, {} are skipped with every kind:\n",
        TESTS - skipped.len(),
        skipped.len()
    );
    text.push_str("| skipped | because it |\n|---|---|\n");
    for test in skipped {
        let _ = writeln!(text, "| {test} | {} |", reason(test).unwrap_or("?"));
    }
    text.push_str("\nNo test fails with every kind. With one kind of vDisk fails:\n\n| kind | test | because it |\n|---|---|---|\n");
    for (unit, test, why) in FAILS {
        let _ = writeln!(text, "| {unit} | {test} | {why} |");
    }
    text.push_str("\n## Test by test\n\n| test |");
    for unit in &UNITS {
        let _ = write!(text, " {} |", unit.name);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(UNITS.len()));
    text.push('\n');
    for (test, row) in rows {
        let _ = write!(text, "| {test} |");
        for outcome in row {
            let word = match outcome {
                None => "",
                Some(Outcome::Passed) => "pass",
                Some(Outcome::Skipped) => "skip",
                Some(Outcome::Failed) => "FAIL",
            };
            let _ = write!(text, " {word} |");
        }
        text.push('\n');
    }
    text
}

const INTRODUCTION: &str = "# iSCSI conformance

Made by `cargo xtask conformance`, and compared with a new run by every `cargo xtask test`. It runs Debian's libiscsi-bin 1.19.0,
`iscsi-test-cu --dataloss --allow-sanitize`, against the release binary, with these kinds of vDisk:

";
