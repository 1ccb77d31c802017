//! `measured-boot diff`: which measured bytes of two images differ.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Which measured bytes of two images differ.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    bail!("cannot diff: not in this build")
}
