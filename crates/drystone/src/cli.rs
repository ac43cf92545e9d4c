//! The command line: parsed here, carried out in the modules below, one for each verb that needs more than a request.
//!
//! Everything but `up`, `recover`, `vdisk verify-backup` and `completions` speaks to a running controller through its REST API.
//! Exit codes: 0 done, 1 failed, 2 used wrongly.

pub mod args;
mod backup;
mod client;
mod container;
mod export;
mod group;
mod image;
mod import;
mod iscsi;
pub mod output;
mod progress;
mod recover;
mod restore;
mod rewind;
mod schedule;
mod secret;
mod snapshots;
mod sparse;
mod status;
mod temporary;
mod transfer;
mod unfinished;
mod vdisk;
mod vm;
mod vm_backup;
mod vm_images;
mod vm_parts;

pub use recover::{Recovered, RecoveredVdisk};

use crate::config::Config;
use crate::logging::{self, LogFormat};
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use client::Client;
use output::Printer;
use std::process::ExitCode;

/// How it went wrong decides the exit code.
#[derive(Debug)]
enum Failure {
    Usage(anyhow::Error),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}

pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let (error, code) = match dispatch(cli) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (error, 1),
        Err(Failure::Usage(error)) => (error, 2),
    };
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}

fn dispatch(cli: Cli) -> std::result::Result<(), Failure> {
    let Cli { command, connection, output, logs } = cli;
    let printer = Printer::to_stdout(output.output);
    match command {
        Command::Up(mut flags) => {
            flags.data = connection.data;
            let config = Config::load(&flags).map_err(Failure::Usage)?;
            start_logs(&logs, &config)?;
            Ok(crate::up::run(config, &invoked_as())?)
        }
        Command::Recover(mut flags) => {
            flags.data = connection.data;
            let config = Config::load(&flags.into()).map_err(Failure::Usage)?;
            start_logs(&logs, &config)?;
            Ok(recover::run(&config, &printer)?)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "drystone", &mut script);
            Ok(output::print(&String::from_utf8_lossy(&script))?)
        }
        Command::Status => Ok(status::run(&Client::new(&connection)?, &printer)?),
        // Of files alone: it needs no controller and no token.
        Command::Vdisk { verb: args::Vdisk::VerifyBackup { files } } => Ok(backup::verify(&printer, &files)?),
        Command::Vm { verb: args::vm::Vm::VerifyBackup { folders } } => Ok(vm_backup::verify(&printer, &folders)?),
        Command::Vdisk { verb } => Ok(vdisk::run(verb, &Client::new(&connection)?, &printer)?),
        Command::Vm { verb } => Ok(vm::run(verb, &Client::new(&connection)?, &printer)?),
        Command::Container { verb } => Ok(container::run(verb, &Client::new(&connection)?, &printer)?),
        Command::Group { verb } => Ok(group::run(verb, &Client::new(&connection)?, &printer)?),
        Command::Schedule { verb } => Ok(schedule::run(verb, &Client::new(&connection)?, &printer)?),
        Command::Iscsi { verb } => Ok(iscsi::run(verb, &Client::new(&connection)?, &printer)?),
    }
}

/// Flags win over the file.
fn start_logs(flags: &args::Logs, config: &Config) -> std::result::Result<(), Failure> {
    let filter = flags.log.as_deref().or(config.log.filter.as_deref()).unwrap_or(logging::FILTER_DEFAULT);
    let format = flags.log_format.or(config.log.format).unwrap_or(LogFormat::Text);
    logging::start(filter, format).map_err(Failure::Usage)
}

/// The program as the user typed it, so that what is printed can be typed again.
fn invoked_as() -> String {
    std::env::args().next().unwrap_or_else(|| "drystone".to_string())
}

/// Carries one command line out against `client`, for tests.
#[cfg(test)]
fn run_line(line: &[&str], client: &Client, printer: &Printer) -> anyhow::Result<()> {
    let cli = Cli::try_parse_from(line)?;
    match cli.command {
        Command::Vdisk { verb } => vdisk::run(verb, client, printer),
        Command::Vm { verb } => vm::run(verb, client, printer),
        Command::Container { verb } => container::run(verb, client, printer),
        Command::Group { verb } => group::run(verb, client, printer),
        Command::Schedule { verb } => schedule::run(verb, client, printer),
        Command::Iscsi { verb } => iscsi::run(verb, client, printer),
        Command::Status => status::run(client, printer),
        other => anyhow::bail!("{other:?} needs no server"),
    }
}

#[cfg(test)]
mod tests;
