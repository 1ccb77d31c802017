//! `measured-boot predict`: what an image will measure.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// What an image will measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    bail!("cannot predict: not in this build")
}
