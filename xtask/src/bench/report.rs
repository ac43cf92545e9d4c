//! The table: medians, ratios, targets.

use super::Settings;
use super::machine::Machine;
use super::servers::Name;
use crate::process::{finish, repository};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::time::Duration;

const BEGIN: &str = "<!-- measured: begin (written by cargo xtask bench) -->";
const END: &str = "<!-- measured: end -->";

/// What a row is to reach against one peer, or by itself.
#[derive(Clone, Copy)]
pub enum Target {
    /// At least that many times the peer.
    AtLeast(f64, Name),
    /// At most that many times the peer.
    AtMost(f64, Name),
    /// At least that many times the best of all peers measured.
    BestOfPeers(f64),
    /// At most, absolute.
    Below(f64),
    /// At least, absolute.
    Above(f64),
}

struct Row {
    columns: &'static [Name],
    job: String,
    unit: &'static str,
    /// Median, least, most.
    values: Vec<(Name, f64, f64, f64)>,
    targets: Vec<Target>,
}

pub struct Report {
    machine: Machine,
    how: String,
    rows: Vec<Row>,
    notes: Vec<String>,
    took: Duration,
}

impl Report {
    pub fn new(machine: Machine, settings: &Settings) -> Report {
        let how = format!(
            "{} rounds of {} s, medians; vDisk and files of {} GiB, filled before; drystone with --memory {}",
            settings.rounds,
            settings.run.as_secs(),
            settings.size_bytes >> 30,
            settings.memory
        );
        Report { machine, how, rows: Vec::new(), notes: Vec::new(), took: Duration::ZERO }
    }

    pub fn row(&mut self, job: &str, unit: &'static str, values: &[(Name, Vec<f64>)], targets: &[Target]) {
        self.add(Name::NBD, job, unit, values, targets);
    }

    /// In the table of snapshots beside writes.
    pub fn snapshot_row(&mut self, job: &str, unit: &'static str, values: &[(Name, Vec<f64>)], targets: &[Target]) {
        self.add(Name::SNAPSHOTS, job, unit, values, targets);
    }

    /// In the second table.
    pub fn iscsi_row(&mut self, job: &str, unit: &'static str, values: &[(Name, Vec<f64>)], targets: &[Target]) {
        self.add(Name::ISCSI, job, unit, values, targets);
    }

    fn add(
        &mut self,
        columns: &'static [Name],
        job: &str,
        unit: &'static str,
        values: &[(Name, Vec<f64>)],
        targets: &[Target],
    ) {
        let values = values
            .iter()
            .filter(|(_, all)| !all.is_empty())
            .map(|(name, all)| {
                let mut all = all.clone();
                all.sort_by(f64::total_cmp);
                (*name, median(&all), all[0], all[all.len() - 1])
            })
            .collect();
        let row = Row { columns, job: job.to_string(), unit, values, targets: targets.to_vec() };
        eprintln!("  {}", row.markdown());
        self.rows.push(row);
    }

    pub fn note(&mut self, note: String) {
        eprintln!("  {note}");
        self.notes.push(note);
    }

    pub fn took(&mut self, took: Duration) {
        self.took = took;
    }

    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "Machine: {}.", self.machine.text);
        let _ = writeln!(text, "Versions: {}.", versions());
        let _ = writeln!(text, "{}; {} s in all.\n", self.how, self.took.as_secs());
        self.table(Name::NBD, &mut text);
        self.table(Name::SNAPSHOTS, &mut text);
        self.table(Name::ISCSI, &mut text);
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }

    /// The rows with these columns, if there are any.
    fn table(&self, columns: &[Name], text: &mut String) {
        let mut rows = self.rows.iter().filter(|row| row.columns == columns).peekable();
        if rows.peek().is_none() {
            return;
        }
        if columns == Name::ISCSI {
            text.push_str("\nOver iSCSI:\n\n");
        } else if columns == Name::SNAPSHOTS {
            text.push_str("\nSnapshots while writing:\n\n");
        }
        let names: Vec<&str> = columns.iter().map(|name| name.text()).collect();
        let _ = writeln!(text, "| job | unit | {} | ratio (target) | |", names.join(" | "));
        let _ = writeln!(text, "|---|---|{}---|---|", "--:|".repeat(columns.len()));
        for row in rows {
            let _ = writeln!(text, "{}", row.markdown());
        }
    }

    /// Replaces the measured part of docs/benchmarks.md; what people wrote around it stays.
    pub fn write(&self) -> Result<()> {
        let path = repository().join("docs/benchmarks.md");
        let old = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let (head, rest) = old.split_once(BEGIN).context("docs/benchmarks.md has no begin mark")?;
        let (_, tail) = rest.split_once(END).context("docs/benchmarks.md has no end mark")?;
        std::fs::write(&path, format!("{head}{BEGIN}\n\n{}\n{END}{tail}", self.markdown()))?;
        eprintln!("written to {}", path.display());
        Ok(())
    }
}

impl Row {
    fn value(&self, name: Name) -> Option<f64> {
        self.values.iter().find(|(of, ..)| *of == name).map(|(_, median, ..)| *median)
    }

    fn markdown(&self) -> String {
        let mut text = format!("| {} | {} |", self.job, self.unit);
        for name in self.columns {
            match self.values.iter().find(|(of, ..)| of == name) {
                Some((_, median, least, most)) if least < most => {
                    let _ = write!(text, " {} ({}…{}) |", short(*median), short(*least), short(*most));
                }
                Some((_, median, ..)) => {
                    let _ = write!(text, " {} |", short(*median));
                }
                None => text.push_str(" |"),
            }
        }
        let (mut ratios, mut met) = (Vec::new(), true);
        for target in &self.targets {
            if let Some((ratio, good)) = self.judge(*target) {
                ratios.push(ratio);
                met &= good;
            }
        }
        let verdict = match (ratios.is_empty(), met) {
            (true, _) => "",
            (false, true) => "met",
            (false, false) => "**missed**",
        };
        let _ = write!(text, " {} | {verdict} |", ratios.join(", "));
        text
    }

    /// `1.62 × nbdkit file (≥ 1.2)` and whether it holds.
    fn judge(&self, target: Target) -> Option<(String, bool)> {
        let ours = self.value(Name::Drystone)?;
        match target {
            Target::AtLeast(least, peer) => {
                let ratio = ours / self.value(peer)?;
                Some((format!("{ratio:.2} × {} (≥ {least})", peer.text()), ratio >= least))
            }
            Target::AtMost(most, peer) => {
                let ratio = ours / self.value(peer)?;
                Some((format!("{ratio:.2} × {} (≤ {most})", peer.text()), ratio <= most))
            }
            Target::BestOfPeers(least) => {
                let peers = self.values.iter().filter(|(name, ..)| *name != Name::Drystone);
                let best = peers.map(|(_, median, ..)| *median).max_by(f64::total_cmp)?;
                let ratio = ours / best;
                Some((format!("{ratio:.2} × best peer (≥ {least})"), ratio >= least))
            }
            Target::Below(most) => Some((format!("{} (≤ {most})", short(ours)), ours <= most)),
            Target::Above(least) => Some((format!("{} (≥ {least})", short(ours)), ours >= least)),
        }
    }
}

/// Of sorted values; the mean of the middle two when their number is even.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn versions() -> String {
    let first = |program: &str, arguments: &[&str]| {
        let finished = finish(crate::process::command(program, arguments), Duration::from_secs(20)).ok()?;
        finished.stdout.lines().next().map(|line| line.trim().to_string())
    };
    let drystone = first(&crate::server::binary().to_string_lossy(), &["--version"]);
    let tgt = first("tgtd", &["--version"]).map(|version| format!("tgt {version}"));
    let nbd = [first("qemu-nbd", &["--version"]), first("nbdkit", &["--version"]), first("fio", &["--version"])];
    [drystone].into_iter().chain(nbd).chain([tgt]).flatten().collect::<Vec<_>>().join("; ")
}
