//! The measured kernel command line. Argv and environment, where the kernel puts
//! parameters it does not know, are never read.

use measured_boot::cmdline::Cmdline;
use measured_boot::code::Code;

use crate::console;
use crate::error::BootError;
use crate::file;
use crate::mounts::EarlyMounts;

const STEP: &str = "cmdline";
/// Longer than any command line of the grammar.
const LIMIT: usize = 4096;

/// Reads `/proc/cmdline` by the grammar of [`Cmdline`].
///
/// # Errors
/// `E_CMDLINE`.
pub fn read(_: &EarlyMounts) -> Result<Cmdline, BootError> {
    let text = file::read_line("/proc/cmdline", LIMIT)
        .map_err(|e| BootError::new(Code::Cmdline, STEP, "read /proc/cmdline", e))?;
    let cmdline = Cmdline::parse(&text)
        .map_err(|e| BootError::new(Code::Cmdline, STEP, "accept the command line", e))?;
    console::progress(format_args!("cmdline: root hash {}", cmdline.root_hash));
    Ok(cmdline)
}
