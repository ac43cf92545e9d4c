//! A run of every fuzz target, from its seeds in the repository and what earlier runs found; a crash becomes a test of its crate.

use crate::process::{command, finish, logged, repository, target_dir};
use crate::steps::Done;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const BUILD_LIMIT: Duration = Duration::from_secs(1200);
/// Of each target. The slowest one does 900 on two busy cores; one that is far below hangs somewhere, or runs nothing.
const INPUTS_PER_SECOND_MIN: u64 = 100;

/// How the targets are built.
enum Toolchain {
    Nightly,
    /// Without a sanitizer: the toolchain that builds everything else can do the rest.
    Stable,
}

/// Each target for `seconds`.
pub fn run(seconds: u64) -> Result<Done> {
    let dir = target_dir().join("blackbox");
    std::fs::create_dir_all(&dir)?;
    let fuzz = install()?;
    let toolchain = toolchain()?;
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(&fuzz);
        cargo.arg("fuzz").args(arguments).current_dir(repository());
        if matches!(toolchain, Toolchain::Nightly) {
            // cargo-fuzz calls whatever `cargo` rustup selects.
            cargo.env("RUSTUP_TOOLCHAIN", "nightly");
        }
        cargo
    };
    let list = finish(cargo(&["list"]), Duration::from_secs(60))?;
    let targets: Vec<&str> = list.stdout.split_whitespace().collect();
    ensure!(list.status.success() && !targets.is_empty(), "no fuzz targets: {}", list.stderr);
    let sanitizer = if matches!(toolchain, Toolchain::Nightly) { "address" } else { "none" };
    logged(cargo(&["build", "--sanitizer", sanitizer]), &dir.join("fuzz-build.log"), BUILD_LIMIT)?;
    let mut runs = Vec::new();
    for target in &targets {
        let corpus = target_dir().join("fuzz-corpus").join(target);
        std::fs::create_dir_all(&corpus)?;
        let mut run = cargo(&["run", "--sanitizer", sanitizer, target]);
        run.arg(&corpus);
        let seeds = repository().join("fuzz/seeds").join(target);
        if seeds.exists() {
            run.arg(seeds);
        }
        // How much memory one input takes and leaves behind is looked at by the targets themselves (fuzz/src/lib.rs).
        run.args(["--", &format!("-max_total_time={seconds}"), "-timeout=10", "-rss_limit_mb=2048"]);
        let dictionary =
            repository().join("fuzz").join(target.split('_').next().unwrap_or(target)).with_extension("dict");
        if dictionary.exists() {
            run.arg(format!("-dict={}", dictionary.display()));
        }
        let said = logged(run, &dir.join(format!("fuzz-{target}.log")), Duration::from_secs(seconds + 120))?;
        let inputs = executions(&said);
        ensure!(inputs >= seconds * INPUTS_PER_SECOND_MIN, "{target}: only {inputs} inputs in {seconds} s");
        runs.push((*target, inputs));
    }
    let how = if matches!(toolchain, Toolchain::Nightly) { "" } else { ", without sanitizer (no nightly toolchain)" };
    let sum: u64 = runs.iter().map(|(_, inputs)| inputs).sum();
    let each: Vec<String> = runs.iter().map(|(target, inputs)| format!("{target} {inputs}")).collect();
    Ok(Done::new(targets.len() as u64, format!("{sum} inputs ({}){how}", each.join(", "))))
}

/// libFuzzer's last words: `Done 12345 runs in 31 second(s)`.
fn executions(said: &str) -> u64 {
    let line = said.lines().rev().find(|line| line.starts_with("Done "));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

fn toolchain() -> Result<Toolchain> {
    let list = finish(command("rustup", &["toolchain", "list"]), Duration::from_secs(60));
    match list {
        Ok(list) if list.stdout.contains("nightly") => Ok(Toolchain::Nightly),
        _ => Ok(Toolchain::Stable),
    }
}

/// cargo-fuzz: the one in the path, or one built into the target folder (about a minute).
fn install() -> Result<PathBuf> {
    if finish(command("cargo-fuzz", &["fuzz", "--version"]), Duration::from_secs(60)).is_ok_and(|f| f.status.success())
    {
        return Ok("cargo-fuzz".into());
    }
    let root = target_dir().join("tools");
    let program = root.join("bin/cargo-fuzz");
    if !program.exists() {
        let mut cargo = command("cargo", &["install", "--locked", "cargo-fuzz", "--root"]);
        cargo.arg(&root).env_remove("CARGO_TARGET_DIR");
        logged(cargo, &target_dir().join("blackbox/cargo-fuzz.log"), BUILD_LIMIT).context("install cargo-fuzz")?;
    }
    Ok(program)
}
