//! `drystone vdisk` on the past: how much of it is kept, what is of note in it, moments of it.

use super::args::rewind::{RewindFlags, Window};
use super::client::Client;
use super::output::{Printer, columns, duration, time};
use anyhow::{Result, anyhow, bail};
use base::units::format_size;
use control::{ClonesOfPast, HistoryPoint, Moment, RollBackToPast, SetRewind, SnapshotOfPast, VdiskInfo, rules};

/// What the controller would refuse, before anything is made.
pub fn check(flags: RewindFlags) -> Result<()> {
    let limit_bytes = flags.rewind_limit.unwrap_or(0);
    match flags.rewind {
        Some(Window::Off | Window::Inherit) if limit_bytes > 0 => bail!("a limit of a window that is not named"),
        Some(Window::Seconds(window_seconds)) => {
            rules::rewind::check_rewind(&SetRewind { window_seconds, limit_bytes })
                .map_err(|error| anyhow!(error.message))
        }
        _ => Ok(()),
    }
}

/// What a new vDisk is made with.
pub fn own(flags: RewindFlags) -> Option<Option<SetRewind>> {
    let limit_bytes = flags.rewind_limit.unwrap_or(0);
    match flags.rewind? {
        Window::Off => Some(None),
        Window::Inherit => None,
        Window::Seconds(window_seconds) => Some(Some(SetRewind { window_seconds, limit_bytes })),
    }
}

/// What the flags ask for; nothing if there are none.
pub fn set(client: &Client, name: &str, flags: RewindFlags) -> Result<Option<VdiskInfo>> {
    let limit_bytes = flags.rewind_limit.unwrap_or(0);
    Ok(match flags.rewind {
        None => None,
        Some(Window::Off) => Some(client.set_rewind(name, None)?),
        Some(Window::Inherit) => Some(client.inherit_rewind(name)?),
        Some(Window::Seconds(window_seconds)) => {
            Some(client.set_rewind(name, Some(&SetRewind { window_seconds, limit_bytes }))?)
        }
    })
}

/// For a table: the window, since when, what it takes.
pub fn text(vdisk: &VdiskInfo) -> String {
    let Some(info) = &vdisk.rewind else { return "off".to_string() };
    let whose = if vdisk.rewind_inherited { format!(" (of container {})", vdisk.container) } else { String::new() };
    let limit = if info.limit_bytes > 0 { format!(" of {}", format_size(info.limit_bytes)) } else { String::new() };
    let since = info.since_unix_ms.map_or_else(|| "not yet".to_string(), |ms| format!("since {}", time(ms)));
    let cut = if info.cut_short { "; CUT SHORT: older history went for space" } else { "" };
    format!("{}{whose}, {since}, holds {}{limit}{cut}", duration(info.window_seconds), format_size(info.held_bytes))
}

pub fn snapshot(client: &Client, printer: &Printer, name: &str, snapshot: String, moment: Moment) -> Result<()> {
    let Moment { at, before_write } = moment;
    let made = client.snapshot_past(name, &SnapshotOfPast { name: snapshot, at, before_write })?;
    printer.print(&made, |info| format!("took {}@{} as of {}\n", info.vdisk, info.name, time(info.created_unix_ms)))
}

pub fn make_clones(client: &Client, printer: &Printer, source: &str, names: Vec<String>, moment: Moment) -> Result<()> {
    let (name, None) = rules::snapshots::split(source) else {
        bail!("a snapshot has no past of its own: name the vDisk alone, or leave out --at and --before-write");
    };
    let Moment { at, before_write } = moment;
    let made = client.clone_past(name, &ClonesOfPast { names, at, before_write })?;
    printer.print(&made, |made| super::snapshots::made_text(made))
}

pub fn roll_back(client: &Client, printer: &Printer, name: &str, moment: Moment) -> Result<()> {
    let Moment { at, before_write } = moment;
    let to = match (&at, before_write) {
        (Some(at), _) => format!("at {at}"),
        (None, write) => format!("before write {}", write.unwrap_or_default()),
    };
    printer.print(&client.roll_back_to_past(name, &RollBackToPast { at, before_write })?, |done| {
        format!("{name} is as it was {to}; what was there before is {name}@{}\n", done.kept.name)
    })
}

pub fn history(client: &Client, printer: &Printer, name: &str, from: Option<&str>, to: Option<&str>) -> Result<()> {
    printer.print(&client.history(name, from, to)?, |points| table(name, points))
}

fn table(name: &str, points: &[HistoryPoint]) -> String {
    if points.is_empty() {
        return format!("no history of {name}; keep it from now on: drystone vdisk set {name} --rewind 24h\n");
    }
    let rows: Vec<_> = points
        .iter()
        .map(|point| {
            let len = if point.seconds > 0 { duration(point.seconds) } else { String::new() };
            let (kind, write) = (point.kind.word().to_string(), point.before_write.to_string());
            [point.at.clone(), write, kind, len, format_size(point.bytes)]
        })
        .collect();
    columns(["TIME", "BEFORE WRITE", "WHAT", "FOR", "WRITTEN"], &rows)
}
