//! Results on standard output: aligned columns for people, JSON for programs.

use anyhow::{Context, Result};
use clap::ValueEnum;
use control::utc::Utc;
use serde::Serialize;
use std::io::{ErrorKind, Write};

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
}

/// Where results go, and in which form.
pub struct Printer {
    pub format: Format,
    sink: Sink,
}

enum Sink {
    Stdout,
    /// What tests read back.
    #[cfg(test)]
    Memory(std::sync::Mutex<String>),
}

impl Printer {
    pub fn to_stdout(format: Format) -> Printer {
        Printer { format, sink: Sink::Stdout }
    }

    #[cfg(test)]
    pub fn to_memory(format: Format) -> Printer {
        Printer { format, sink: Sink::Memory(Default::default()) }
    }

    #[cfg(test)]
    pub fn take(&self) -> String {
        match &self.sink {
            Sink::Stdout => String::new(),
            Sink::Memory(text) => std::mem::take(&mut *text.lock().expect("one thread")),
        }
    }

    /// `value` as JSON, or what `table` makes of it.
    pub fn print<T: Serialize>(&self, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(value).context("cannot write JSON")? + "\n",
            Format::Table => table(value),
        };
        self.put(&text)
    }

    /// One line of JSON for each, whatever the format: for lists that programs read and that may be long.
    pub fn print_lines<T: Serialize>(&self, values: &[T]) -> Result<()> {
        let mut text = String::new();
        for value in values {
            text += &serde_json::to_string(value).context("cannot write JSON")?;
            text.push('\n');
        }
        self.put(&text)
    }

    fn put(&self, text: &str) -> Result<()> {
        match &self.sink {
            Sink::Stdout => print(text),
            #[cfg(test)]
            Sink::Memory(all) => {
                all.lock().expect("one thread").push_str(text);
                Ok(())
            }
        }
    }
}

/// Writes to standard output. A reader that went away (`| head`) has seen enough.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// Columns as wide as their widest cell, the last one ragged.
pub fn columns<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head.map(str::to_string)).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// One name and value on each line, values aligned.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{:<w$}  {value}\n", format!("{name}:"), w = width + 1)).collect()
}

/// `2026-11-20 10:09:08 UTC`.
pub fn time(unix_ms: u64) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::of_unix_seconds(unix_ms / 1000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `3d 4h`, `5m 6s`: the two largest units.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}
