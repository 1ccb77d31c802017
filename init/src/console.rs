//! The one console, opened for writing only: nothing typed there is ever read.

use alloc::format;
use core::fmt;
use core::time::Duration;

use rustix::fd::{BorrowedFd, IntoRawFd};
use rustix::fs::{Mode, OFlags};
use rustix::io;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::network::deadline;
use crate::sys;

/// Opens `/dev/console` without making it the controlling terminal, in the place
/// of whatever the kernel gave init as its standard descriptors.
///
/// # Errors
/// What the kernel says.
pub fn open() -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    let console = rustix::fs::open("/dev/console", flags, Mode::empty())?;
    dup2_stdin(&console)?;
    dup2_stdout(&console)?;
    dup2_stderr(&console)?;
    // It may be one of the three itself, so it is never closed.
    let _raw = console.into_raw_fd();
    Ok(())
}

/// Writes one line, whole. A console that cannot be written is no reason to
/// stop or to go on differently, so errors end here.
pub fn line(text: impl fmt::Display) {
    let text = format!("{text}\n");
    let mut rest = text.as_bytes();
    while let Ok(written) = io::write(console(), rest) {
        match rest.get(written..) {
            Some(tail) if !tail.is_empty() && written > 0 => rest = tail,
            _ => break,
        }
    }
}

/// Reports that a step is done, with the guest's time since its kernel started.
pub fn progress(text: impl fmt::Display) {
    let uptime = uptime();
    line(format_args!(
        "init: [{}.{:03}] {text}",
        uptime.as_secs(),
        uptime.subsec_millis()
    ));
}

/// Waits until the last line has left the machine.
pub fn drain() {
    // A console without that ioctl has nothing to wait for.
    rustix::termios::tcdrain(console()).ok();
}

/// Time since the kernel started.
pub fn uptime() -> Duration {
    deadline::now()
}

fn console() -> BorrowedFd<'static> {
    let [_, console] = sys::standard_streams();
    console
}
