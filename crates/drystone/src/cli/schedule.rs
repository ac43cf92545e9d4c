//! `drystone schedule`: one request each, and a table or JSON of what came back.

use super::args::schedule::Schedule;
use super::client::Client;
use super::output::{Printer, columns, pairs, time};
use super::vdisk::Deleted;
use crate::config::OnOff;
use anyhow::Result;
use control::{CreateSchedule, ScheduleInfo, ScheduleRule, ScheduleState, ScheduleTarget};

pub fn run(verb: Schedule, client: &Client, printer: &Printer) -> Result<()> {
    match verb {
        Schedule::Create { name, target, rules } => {
            let create = CreateSchedule { name, target: target.target(), rules: rules.rules()? };
            printer.print(&client.create_schedule(&create)?, |info| {
                format!("{} takes snapshots of {}: {}\n", info.name, target_text(info), rules_text(&info.rules))
            })
        }
        Schedule::List => printer.print(&client.schedules()?, |schedules| schedules_table(schedules)),
        Schedule::Show { name } => printer.print(&client.schedule(&name)?, schedule_table),
        Schedule::Pause { name, on } => {
            let info = client.pause_schedule(&name, on == OnOff::On)?;
            printer.print(&info, |info| format!("{} is {} now\n", info.name, state_text(&info.state)))
        }
        Schedule::Delete { name } => {
            client.delete_schedule(&name)?;
            printer.print(&Deleted { deleted: name }, |gone| format!("deleted {}; its snapshots stay\n", gone.deleted))
        }
    }
}

fn schedules_table(schedules: &[ScheduleInfo]) -> String {
    if schedules.is_empty() {
        return "no schedules yet; make one: drystone schedule create NAME --vm VM --hourly 24 --daily 7\n".to_string();
    }
    let row = |info: &ScheduleInfo| {
        [
            info.name.clone(),
            target_text(info),
            rules_text(&info.rules),
            info.snapshots.len().to_string(),
            last_text(info),
            state_text(&info.state),
        ]
    };
    let rows: Vec<_> = schedules.iter().map(row).collect();
    columns(["SCHEDULE", "OF", "RULES", "SNAPSHOTS", "LAST", "STATE"], &rows)
}

fn schedule_table(info: &ScheduleInfo) -> String {
    let mut text = pairs(&[
        ("name", info.name.clone()),
        ("of", target_text(info)),
        ("rules", rules_text(&info.rules)),
        ("state", state_text(&info.state)),
        ("last", last_text(info)),
        ("failures", info.failures.to_string()),
    ]);
    for snapshot in &info.snapshots {
        text += &format!("{snapshot}\n");
    }
    text
}

fn last_text(info: &ScheduleInfo) -> String {
    info.last_success_unix_ms.map_or_else(|| "-".to_string(), time)
}

fn target_text(info: &ScheduleInfo) -> String {
    match &info.target {
        Some(ScheduleTarget::Vdisk(name)) => format!("vDisk {name}"),
        Some(ScheduleTarget::Vm(name)) => format!("VM {name}"),
        Some(ScheduleTarget::Group(name)) => format!("group {name}"),
        Some(ScheduleTarget::Container(name)) => format!("container {name}"),
        None => "-".to_string(),
    }
}

fn state_text(state: &ScheduleState) -> String {
    match state {
        ScheduleState::Failing { reason } => format!("failing: {reason}"),
        ScheduleState::WithoutTarget => "without target: it was deleted".to_string(),
        other => other.word().to_string(),
    }
}

fn rules_text(rules: &[ScheduleRule]) -> String {
    let one = |rule: &ScheduleRule| {
        let units = [(604_800, "w"), (86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
        let unit = units.iter().find(|(seconds, _)| rule.every_seconds.is_multiple_of(*seconds));
        let (seconds, word) = unit.copied().unwrap_or((1, "s"));
        format!("{} every {}{word}", rule.keep, rule.every_seconds / seconds)
    };
    rules.iter().map(one).collect::<Vec<_>>().join(", ")
}
