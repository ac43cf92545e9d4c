//! Structured logs to stderr: text for people, JSON lines for machines.

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Deserialize;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

#[derive(ValueEnum, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

pub const FILTER_DEFAULT: &str = "info";

/// `filter` is a level (`debug`) or directives (`info,api=debug`). To be called once.
pub fn start(filter: &str, format: LogFormat) -> Result<()> {
    let filter = EnvFilter::builder().parse(filter).with_context(|| {
        format!("{filter:?} is no log level; use error, warn, info, debug, trace, or e.g. info,api=debug")
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
