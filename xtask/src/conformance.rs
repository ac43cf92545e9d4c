//! libiscsi's conformance suite against the real binary: every test has to pass somewhere, and to fail nowhere but where the test
//! itself is wrong; what is skipped everywhere has to be skipped for a reason that is known. docs/conformance.md is made anew and
//! compared.

mod document;
mod outcome;

use crate::process::{command, finish, scratch, target_dir};
use crate::server::{Server, free_port};
use crate::steps::Done;
use anyhow::{Context, Result, bail, ensure};
use outcome::{Outcome, parse};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What the sanitize tests need: they look at an overwrite four seconds after it began, which has to be under way still.
const SIZE: &str = "2GiB";
/// One run; the suite itself waits a minute for a sanitize operation to end.
const RUN_LIMIT: Duration = Duration::from_secs(900);
/// Tests of the suite in Debian 12 (libiscsi 1.19.0).
const TESTS: usize = 230;

/// A pass over the suite with one kind of vDisk.
struct Unit {
    /// Heading in the document, and name of the vDisk.
    name: &'static str,
    what: &'static str,
    create: &'static [&'static str],
    read_only: bool,
    /// 1 or 2.
    portals: usize,
    /// Patterns of libiscsi's test tool.
    tests: &'static str,
}

/// The first is the whole suite at one vDisk as it is by default; the others are what it cannot show there.
const UNITS: [Unit; 4] = [
    Unit {
        name: "512e",
        what: "`--test=ALL` with a vDisk as it is by default: 512-byte sectors on 4 KiB blocks",
        create: &[],
        read_only: false,
        portals: 1,
        tests: "ALL",
    },
    Unit {
        name: "multipath",
        what: "the same through two portals at once, what is about several ways to a vDisk",
        create: &[],
        read_only: false,
        portals: 2,
        tests: "ALL.Inquiry,ALL.Prout*,ALL.Reserve6,ALL.MultipathIO",
    },
    Unit {
        name: "4kn",
        what: "`--sector 4096`. Left to the first kind: sanitize, which takes minutes; ProutReserve, which writes 512 bytes of a longer \
               block; WriteAtomic16 and WriteSame16, which transfer so many blocks whatever the limit",
        create: &["--sector", "4096"],
        read_only: false,
        portals: 1,
        tests: "ALL.[A-LORTUVi]*,ALL.M[!u]*,ALL.Pr[!o]*,ALL.ProutRegister,ALL.Prout[!R]*,ALL.Write[1V]*,ALL.WriteSame10",
    },
    Unit {
        name: "read-only",
        what: "a read-only vDisk",
        create: &[],
        read_only: true,
        portals: 1,
        tests: "ALL.ReadOnly",
    },
];

/// Skipped everywhere, and why. Nothing else may be.
const SKIPPED: [(&str, &str); 5] = [
    ("WriteSame10.ZeroBlocks", WSNZ),
    ("WriteSame16.ZeroBlocks", WSNZ),
    ("PreventAllow.", "asks for a removable medium; a vDisk is none"),
    ("StartStopUnit.", "asks for a removable medium; a vDisk is none"),
    ("NoMedia.", "asks for a removable medium; a vDisk is none"),
];

const WSNZ: &str = "is content with the refusal (WSNZ is one); were it zero, WriteSame10.UnmapUntilEnd would have blocks unmapped that are to \
     hold other data than zeros, which SBC-3 forbids";

/// Has to fail with that kind of vDisk and to pass with another: kind, test, and why.
const FAILS: [(&str, &str, &str); 1] = [(
    "512e",
    "GetLBAStatus.UnmapSingle",
    "unmaps the first N blocks, asks for the status at block N + 1, and expects an answer that begins at the physical block behind them. \
     SBC-3 has it begin at the block that was asked for: the same only where a physical block is one logical block, as with 4kn",
)];

/// What became of one test with each of the units; `None`: not run with it.
type Row = [Option<Outcome>; UNITS.len()];

pub fn run() -> Result<Done> {
    let dir = scratch("conformance")?;
    let mut server = Server::new(&dir)?;
    let portals = [format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?)];
    for portal in &portals {
        server.options.extend(["--iscsi".to_string(), portal.clone()]);
    }
    server.start()?;
    let mut rows: BTreeMap<String, Row> = listed()?.into_iter().map(|test| (test, Row::default())).collect();
    ensure!(rows.len() == TESTS, "the suite has {} tests, and {TESTS} are expected", rows.len());
    for (column, unit) in UNITS.iter().enumerate() {
        for (test, outcome) in suite(&server, unit, &portals).with_context(|| format!("unit {}", unit.name))? {
            let row = rows.get_mut(&test).with_context(|| format!("the suite did not list {test}"))?;
            row[column] = Some(outcome);
        }
    }
    server.stop()?;
    let (passed, skipped) = judge(&rows)?;
    document::compare(&rows)?;
    Ok(Done::new(
        passed,
        format!("{passed} of {TESTS} tests pass, {skipped} are skipped for reasons that docs/conformance.md gives"),
    ))
}

/// Names without the family: `CompareAndWrite.Simple`.
fn listed() -> Result<Vec<String>> {
    let list = finish(command("iscsi-test-cu", &["--list"]), Duration::from_secs(20))?;
    let names = list.stdout.lines().filter_map(|line| line.strip_prefix("ALL."));
    Ok(names.filter(|name| name.contains('.')).map(str::to_string).collect())
}

fn suite(server: &Server, unit: &Unit, portals: &[String; 2]) -> Result<Vec<(String, Outcome)>> {
    let mut create = vec!["vdisk", "create", unit.name, "--size", SIZE];
    create.extend(unit.create);
    server.run(&create)?;
    if unit.read_only {
        server.run(&["vdisk", "set", unit.name, "--read-only", "on"])?;
    }
    let url = |portal: &String| format!("iscsi://{portal}/iqn.2026-11.io.drystone:{}/0", unit.name);
    // -V: half of what is skipped is said only then.
    let mut test = command("iscsi-test-cu", &["--dataloss", "--allow-sanitize", "-v", "-V"]);
    test.arg(format!("--test={}", unit.tests)).args(portals.iter().take(unit.portals).map(url));
    let log = target_dir().join("blackbox").join(format!("conformance-{}.log", unit.name));
    let said = finish(test, RUN_LIMIT)?;
    std::fs::write(&log, format!("{}{}", said.stdout, said.stderr))?;
    let outcomes = parse(&said.stdout);
    ensure!(!outcomes.is_empty(), "it ran no test; see {}", log.display());
    let complaints = server.complaints();
    ensure!(complaints == 0, "{complaints} warnings or errors in the controller's log:\n{}", server.log());
    Ok(outcomes)
}

/// How many pass and how many are skipped, if all is as it has to be.
fn judge(rows: &BTreeMap<String, Row>) -> Result<(u64, u64)> {
    let (mut passed, mut skipped, mut wrong) = (0, 0, Vec::new());
    for (test, row) in rows {
        let any = |outcome| row.iter().flatten().any(|own| *own == outcome);
        let with_unit = UNITS.iter().zip(row);
        let other =
            with_unit.filter(|(unit, own)| (**own == Some(Outcome::Failed)) != fails(unit.name, test).is_some());
        let other: Vec<&str> = other.map(|(unit, _)| unit.name).collect();
        if !other.is_empty() {
            wrong.push(format!("{test} failed, or passed where it must fail, with {}", other.join(", ")));
        } else if any(Outcome::Passed) {
            passed += 1;
        } else if any(Outcome::Skipped) && reason(test).is_some() {
            skipped += 1;
        } else {
            wrong.push(format!("{test} was skipped, or not run at all"));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{passed} of {} tests pass; {}; what they said is in {}/conformance-*.log",
            rows.len(),
            wrong.join(", "),
            target_dir().join("blackbox").display()
        );
    }
    Ok((passed, skipped))
}

/// Why a test may be skipped everywhere.
fn reason(test: &str) -> Option<&'static str> {
    SKIPPED.iter().find(|(prefix, _)| test.starts_with(prefix)).map(|(_, reason)| *reason)
}

/// Why a test has to fail with a kind of vDisk.
fn fails(unit: &str, test: &str) -> Option<&'static str> {
    let found = FAILS.iter().find(|(kind, name, _)| (*kind, *name) == (unit, test));
    found.map(|(_, _, why)| *why)
}

/// Where the document lies.
fn checked_in() -> std::path::PathBuf {
    crate::process::repository().join(Path::new("docs/conformance.md"))
}
