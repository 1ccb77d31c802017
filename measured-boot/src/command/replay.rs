//! `measured-boot replay`: registers from an event log.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Registers from an event log.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    bail!("cannot replay: not in this build")
}
