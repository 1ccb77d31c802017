//! `measured-boot explain`: why an observed measurement is not the predicted one.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Why an observed measurement is not the predicted one.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    bail!("cannot explain: not in this build")
}
