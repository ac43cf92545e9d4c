//! The drystone binary: the controller (`drystone up`) and the command line.

mod cli;
mod config;
mod controller;
mod data_directory;
mod frontend;
mod iscsi;
mod logging;
mod nbd;
mod up;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
