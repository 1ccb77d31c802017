//! One module for each subcommand, and what they read and write alike.

pub(crate) mod diff;
pub(crate) mod explain;
mod image;
mod machine;
pub(crate) mod predict;
pub(crate) mod replay;
pub(crate) mod verify;

use std::process::ExitCode;

use anyhow::Result;

/// Of commands whose status 1 is an answer.
const TROUBLE: u8 = 2;

/// The status of a command that answers yes with 0 and no with 1: trouble is
/// neither.
fn answered(answer: Result<bool>) -> ExitCode {
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("measured-boot: {error:#}");
            ExitCode::from(TROUBLE)
        }
    }
}
