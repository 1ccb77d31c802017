//! One module for each subcommand, and what they read and write alike.

/// Prints a line. A reader that went away is an error, not a panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($text)*)?
    }};
}

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
