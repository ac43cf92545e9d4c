//! `drystone recover`: rebuilds the metadata store of a stopped controller, and says what was found.

use super::output::{Printer, columns};
use crate::config::Config;
use crate::controller;
use crate::data_directory::DataDirectory;
use anyhow::Result;
use base::units::format_size;
use serde::Serialize;

/// What the disks held. Made by [`controller::recover`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recovered {
    pub vdisks: Vec<RecoveredVdisk>,
    /// Extent groups that belong to these.
    pub groups: u64,
    /// Extent groups that belong to nobody: kept aside, never deleted.
    pub groups_quarantined: u64,
    /// The node number taken, so that no id is ever reused.
    pub node: u16,
    /// Anything else that somebody should know, as sentences.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecoveredVdisk {
    pub id: String,
    pub name: String,
    pub size_bytes: u64,
    /// Bytes of log replayed behind the newest checkpoint.
    pub replayed_bytes: u64,
    /// `None`: complete. Else what is wrong with it.
    pub damage: Option<String>,
}

pub fn run(config: &Config, printer: &Printer) -> Result<()> {
    // Held until the end: a controller that is running, or is started meanwhile, must not see a half-built store.
    let directory = DataDirectory::open(&config.data)?;
    let recovered = controller::recover(config)?;
    printer.print(&recovered, table)?;
    drop(directory);
    Ok(())
}

fn table(recovered: &Recovered) -> String {
    let rows: Vec<_> = recovered
        .vdisks
        .iter()
        .map(|vdisk| {
            let state = vdisk.damage.as_ref().map_or("complete".to_string(), |damage| format!("damaged: {damage}"));
            [
                vdisk.name.clone(),
                vdisk.id.clone(),
                format_size(vdisk.size_bytes),
                format_size(vdisk.replayed_bytes),
                state,
            ]
        })
        .collect();
    let mut text = columns(["NAME", "ID", "SIZE", "REPLAYED", "STATE"], &rows);
    text += &format!(
        "\nfound {} in {}, {}; this is node {} now\n",
        count(recovered.vdisks.len() as u64, "vDisk"),
        count(recovered.groups, "extent group"),
        match recovered.groups_quarantined {
            0 => "no other group".to_string(),
            1 => "1 more group belongs to nobody and is kept aside".to_string(),
            more => format!("{more} more groups belong to nobody and are kept aside"),
        },
        recovered.node
    );
    for note in &recovered.notes {
        text += &format!("note: {note}\n");
    }
    text
}

/// `1 vDisk`, `2 vDisks`.
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
