//! A list of named steps with the time each took, up to the first failure, and the count at the end.

use crate::process::{clear_scratch, free_bytes, keep_scratch};
use anyhow::Result;
use std::io::Write;
use std::time::{Duration, Instant};

/// What a step that went well reports: how many checks it stands for, and one sentence.
pub struct Done {
    pub checks: u64,
    pub said: String,
}

impl Done {
    pub fn new(checks: u64, said: impl Into<String>) -> Done {
        Done { checks, said: said.into() }
    }
}

pub struct Step {
    pub name: &'static str,
    pub what: &'static str,
    pub run: Box<dyn Fn() -> Result<Done>>,
}

impl Step {
    pub fn new(name: &'static str, what: &'static str, run: impl Fn() -> Result<Done> + 'static) -> Step {
        Step { name, what, run: Box::new(run) }
    }
}

/// Runs the steps in order; false if one failed. The last line it prints is `N passed, N failed`.
pub fn run(steps: &[Step], keep_going: bool) -> Result<bool> {
    let begin = Instant::now();
    let (mut passed, mut failed) = (0, Vec::new());
    for step in steps {
        print!("{:<10} {:<46} ", step.name, step.what);
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        match (step.run)().and_then(|done| clear_scratch().map(|()| done)) {
            Ok(done) => {
                passed += done.checks;
                println!("ok {:>7}  {}", seconds(start.elapsed()), done.said);
            }
            Err(error) => {
                keep_scratch();
                println!("FAILED {}\n\n{error:#}\n", seconds(start.elapsed()));
                match free_bytes() {
                    Ok(free) => println!("{:.1} GiB are free where tests write", free as f64 / f64::from(1 << 30)),
                    Err(error) => println!("how much is free where tests write is not known: {error:#}"),
                }
                println!("repeat with: cargo xtask test --only {}", step.name);
                failed.push(step.name);
                if !keep_going {
                    break;
                }
            }
        }
    }
    if failed.is_empty() {
        println!("{}", seconds(begin.elapsed()));
    } else {
        println!("{}; failed: {}", seconds(begin.elapsed()), failed.join(", "));
    }
    println!("{passed} passed, {} failed", failed.len());
    Ok(failed.is_empty())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
