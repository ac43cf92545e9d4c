//! `drystone container`: one request each, and a table or JSON of what came back.

use super::args::container::Container;
use super::args::rewind::{RewindFlags, Window};
use super::client::Client;
use super::output::{Printer, columns, duration, pairs};
use super::rewind;
use super::vdisk::Deleted;
use anyhow::{Result, bail};
use base::units::format_size;
use control::{ContainerInfo, CreateContainer, SetContainer, SetRewind};

pub fn run(verb: Container, client: &Client, printer: &Printer) -> Result<()> {
    match verb {
        Container::Create { name, rewind, capacity, comment } => {
            let rewind = window(rewind)?.flatten();
            let (capacity_bytes, comment) = (capacity.unwrap_or(0), comment.unwrap_or_default());
            let made = client.create_container(&CreateContainer { name, rewind, capacity_bytes, comment })?;
            printer.print(&made, |info| format!("created {}\n", info.name))
        }
        Container::List => printer.print(&client.containers()?, |containers| list_table(containers)),
        Container::Show { name } => printer.print(&client.container(&name)?, show_table),
        Container::Set { name, rewind, capacity, comment } => {
            let set = SetContainer { name: None, rewind: window(rewind)?, capacity_bytes: capacity, comment };
            printer.print(&client.set_container(&name, &set)?, show_table)
        }
        Container::Rename { name, new_name } => {
            let set = SetContainer { name: Some(new_name), ..SetContainer::default() };
            printer.print(&client.set_container(&name, &set)?, |info| format!("{name} is {} now\n", info.name))
        }
        Container::Delete { name } => {
            client.delete_container(&name)?;
            printer.print(&Deleted { deleted: name }, |gone| format!("deleted {}\n", gone.deleted))
        }
    }
}

/// What the flags ask for; nothing if there are none.
fn window(flags: RewindFlags) -> Result<Option<Option<SetRewind>>> {
    rewind::check(flags)?;
    let limit_bytes = flags.rewind_limit.unwrap_or(0);
    match flags.rewind {
        None => Ok(None),
        Some(Window::Inherit) => bail!("a container is in no other one whose window it could have"),
        Some(Window::Off) => Ok(Some(None)),
        Some(Window::Seconds(window_seconds)) => Ok(Some(Some(SetRewind { window_seconds, limit_bytes }))),
    }
}

fn window_text(info: &ContainerInfo) -> String {
    match info.rewind {
        None => "off".to_string(),
        Some(SetRewind { window_seconds, limit_bytes: 0 }) => duration(window_seconds),
        Some(SetRewind { window_seconds, limit_bytes }) => {
            format!("{}, at most {} for each vDisk", duration(window_seconds), format_size(limit_bytes))
        }
    }
}

fn capacity_text(info: &ContainerInfo) -> String {
    if info.capacity_bytes > 0 { format_size(info.capacity_bytes) } else { "-".to_string() }
}

fn list_table(containers: &[ContainerInfo]) -> String {
    let row = |info: &ContainerInfo| {
        [
            info.name.clone(),
            info.vdisks.to_string(),
            format_size(info.used_bytes),
            capacity_text(info),
            window_text(info),
            info.vdisks_behind.to_string(),
            info.comment.clone(),
        ]
    };
    let rows: Vec<_> = containers.iter().map(row).collect();
    columns(["CONTAINER", "VDISKS", "DATA", "CAPACITY", "REWIND", "BEHIND", "COMMENT"], &rows)
}

fn show_table(info: &ContainerInfo) -> String {
    let behind = match (info.vdisks_behind, &info.trouble) {
        (0, _) => "on all vDisks".to_string(),
        (count, None) => format!("not yet on {count} of {} vDisks", info.vdisks),
        (count, Some(why)) => format!("NOT YET on {count} of {} vDisks: {why}", info.vdisks),
    };
    pairs(&[
        ("name", info.name.clone()),
        ("id", info.id.clone()),
        ("vDisks", info.vdisks.to_string()),
        ("data", format_size(info.used_bytes)),
        ("capacity", capacity_text(info)),
        ("rewind", window_text(info)),
        ("carried out", behind),
        ("comment", info.comment.clone()),
    ])
}
