//! What the machine checks of the house style: purpose lines, direction of dependencies, licences, documents.

use crate::process::{command, finish, repository};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file past this is named in the report; it is a hint to split, not an error.
const LINES_HINT: usize = 500;

/// What each crate may build on, as drawn in ARCHITECTURE.md. A crate that is not listed here has no place yet.
const LAYERS: [(&str, &[&str]); 18] = [
    ("base", &[]),
    ("backup", &["base"]),
    ("world", &["base"]),
    ("block", &["base", "world"]),
    ("meta", &["base", "world"]),
    ("pool", &["base", "world", "meta"]),
    ("vdisk", &["base", "world", "block", "meta", "pool"]),
    ("nbd", &["base", "block"]),
    ("scsi", &["base", "world", "block"]),
    ("iscsi", &["base", "world", "block", "scsi"]),
    ("control", &["base"]),
    ("api", &["base", "control"]),
    ("node", &["base", "world", "block", "meta", "pool", "vdisk", "control"]),
    ("metal", &["base", "world"]),
    ("sim", &["base", "world", "block", "meta", "pool", "vdisk", "node", "nbd", "scsi", "iscsi", "control"]),
    (
        "drystone",
        &[
            "base", "world", "block", "meta", "pool", "vdisk", "nbd", "scsi", "iscsi", "control", "api", "node",
            "metal", "backup",
        ],
    ),
    ("xtask", &["base"]),
    ("drystone-fuzz", &["backup", "base", "world", "block", "nbd", "scsi", "iscsi", "pool", "vdisk"]),
];

/// Engines: these and everything they build on, outside tests.
const ENGINES: [&str; 9] = ["base", "world", "block", "meta", "pool", "vdisk", "nbd", "scsi", "iscsi"];
/// What must not be found anywhere below an engine: runtimes, transports, sources of time and chance.
const FORBIDDEN: [&str; 16] = [
    "tokio",
    "async-std",
    "smol",
    "mio",
    "io-uring",
    "rustix",
    "nix",
    "hyper",
    "axum",
    "ureq",
    "rustls",
    "serde_json",
    "rand",
    "getrandom",
    "chrono",
    "parking_lot",
];

const LICENCES: [&str; 13] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

const DOCUMENTS: [&str; 9] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "docs/format.md",
    "docs/testing.md",
    "docs/benchmarks.md",
    "docs/decisions",
];

/// The report: what is worth knowing, when nothing is wrong.
pub fn run() -> Result<String> {
    let mut wrong = Vec::new();
    let mut report = Vec::new();
    sources(&mut wrong, &mut report)?;
    let metadata = metadata()?;
    layers(&metadata, &mut wrong)?;
    engines(&metadata, &mut wrong)?;
    licences(&metadata, &mut wrong)?;
    report.push(lock_file()?);
    for name in DOCUMENTS {
        if !repository().join(name).exists() {
            wrong.push(format!("{name} is missing"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(report.join("; "))
}

fn sources(wrong: &mut Vec<String>, report: &mut Vec<String>) -> Result<()> {
    let mut files = Vec::new();
    for top in ["crates", "xtask", "fuzz"] {
        collect(&repository().join(top), &mut files)?;
    }
    ensure!(files.len() > 20, "found only {} source files; is this the repository?", files.len());
    let (mut longest, mut long) = ((0, PathBuf::new()), 0);
    for path in &files {
        let text = fs::read_to_string(path)?;
        let name = path.strip_prefix(repository()).unwrap_or(path);
        if !first_line_has_purpose(&text) {
            wrong.push(format!("{}: line 1 has to say what the file is for (//! …)", name.display()));
        }
        let lines = text.lines().count();
        long += usize::from(lines > LINES_HINT);
        longest = longest.max((lines, name.to_path_buf()));
    }
    report.push(format!(
        "{} files, {long} of more than {LINES_HINT} lines, longest {} ({})",
        files.len(),
        longest.0,
        longest.1.display()
    ));
    Ok(())
}

fn first_line_has_purpose(text: &str) -> bool {
    // cargo-fuzz's targets have to begin with their inner attribute.
    let line = text.lines().find(|line| !line.starts_with("#![")).unwrap_or("");
    line.strip_prefix("//! ").is_some_and(|purpose| purpose.len() > 10)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn metadata() -> Result<Value> {
    let mut cargo = command("cargo", &["metadata", "--format-version", "1", "--locked"]);
    cargo.current_dir(repository());
    let finished = finish(cargo, Duration::from_secs(120))?;
    ensure!(finished.status.success(), "cargo metadata: {}", finished.stderr);
    Ok(serde_json::from_str(&finished.stdout)?)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Packages of this workspace.
fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    array(metadata, "packages").iter().filter(|package| package.get("source").is_none_or(Value::is_null))
}

fn layers(metadata: &Value, wrong: &mut Vec<String>) -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let ours: HashSet<&str> = members(metadata).map(|package| text(package, "name")).collect();
    for package in members(metadata) {
        let name = text(package, "name");
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("crate {name} has no layer; draw it in ARCHITECTURE.md and xtask/src/tidy.rs"));
            continue;
        };
        for dependency in array(package, "dependencies") {
            let on = text(dependency, "name");
            // A test may look down from anywhere, but a build never.
            let is_test = text(dependency, "kind") == "dev";
            if ours.contains(on) && !may.contains(&on) && !is_test {
                wrong.push(format!("crate {name} must not build on {on} (ARCHITECTURE.md, direction of dependencies)"));
            }
        }
    }
    Ok(())
}

fn engines(metadata: &Value, wrong: &mut Vec<String>) -> Result<()> {
    let names: BTreeMap<&str, &str> =
        array(metadata, "packages").iter().map(|package| (text(package, "id"), text(package, "name"))).collect();
    let nodes = metadata.get("resolve").map(|resolve| array(resolve, "nodes")).context("cargo metadata resolves")?;
    let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        for dependency in array(node, "deps") {
            let normal = array(dependency, "dep_kinds")
                .iter()
                .any(|kind| kind.get("kind").is_none_or(Value::is_null) && applies_to_linux(text(kind, "target")));
            if normal {
                edges.entry(text(node, "id")).or_default().push(text(dependency, "pkg"));
            }
        }
    }
    for (id, name) in &names {
        if !ENGINES.contains(name) || !members(metadata).any(|package| text(package, "id") == *id) {
            continue;
        }
        let (mut open, mut seen) = (vec![*id], BTreeSet::new());
        while let Some(at) = open.pop() {
            for next in edges.get(at).map_or(&[][..], Vec::as_slice) {
                if seen.insert(*next) {
                    open.push(next);
                    let found = names.get(next).copied().unwrap_or("");
                    if FORBIDDEN.contains(&found) {
                        let via = names.get(at).copied().unwrap_or("");
                        wrong.push(format!("engine crate {name} reaches {found} (through {via})"));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Dependencies for other systems are in the metadata too.
fn applies_to_linux(target: &str) -> bool {
    !(target.contains("windows") || target.contains("wasm") || target.contains("macos") || target.contains("wasi"))
}

fn licences(metadata: &Value, wrong: &mut Vec<String>) -> Result<()> {
    for package in array(metadata, "packages") {
        let expression = text(package, "license");
        if !licence_is_accepted(expression) {
            wrong.push(format!("{} {}: licence {expression:?}", text(package, "name"), text(package, "version")));
        }
        if text(package, "source").starts_with("git+") {
            wrong.push(format!("{} comes from git; only crates.io is allowed", text(package, "name")));
        }
    }
    Ok(())
}

/// SPDX: of alternatives one must be accepted, of conjunctions all.
fn licence_is_accepted(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let expression = expression.trim();
    let accepted = |term: &str| LICENCES.contains(&term.trim().trim_matches(['(', ')']).trim());
    expression.split(" AND ").all(|all| all.split(" OR ").any(accepted))
}

fn lock_file() -> Result<String> {
    let lock = fs::read_to_string(repository().join("Cargo.lock"))?;
    let packages = lock.matches("[[package]]").count();
    if packages == 0 {
        bail!("Cargo.lock names no packages");
    }
    Ok(format!("{packages} packages in the lock file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_and_purposes_are_judged() {
        for (expression, expect) in [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("MIT/Apache-2.0", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND GPL-2.0", false),
            ("AGPL-3.0", false),
            ("", false),
        ] {
            assert_eq!(licence_is_accepted(expression), expect, "{expression}");
        }
        assert!(first_line_has_purpose("//! Sizes that all agree on.\n"));
        assert!(!first_line_has_purpose("use std::fs;\n//! Too late to say it.\n"));
        assert!(!first_line_has_purpose(""));
    }
}
