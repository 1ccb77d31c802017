//! The one console, opened for writing only: nothing typed there is ever read.

use alloc::format;
use core::fmt;
use core::sync::atomic::{AtomicI32, Ordering};
use core::time::Duration;

use rustix::fd::{BorrowedFd, IntoRawFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::io;
use rustix::time::{ClockId, clock_gettime};

use crate::sys;

/// Set once by [`open`]; -1 before. The last words of a boot need it from
/// everywhere, also from a panic.
static CONSOLE: AtomicI32 = AtomicI32::new(-1);

/// Opens `/dev/console` without making it the controlling terminal.
///
/// # Errors
/// What the kernel says.
pub fn open() -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    let console: RawFd = rustix::fs::open("/dev/console", flags, Mode::empty())?.into_raw_fd();
    CONSOLE.store(console, Ordering::Relaxed);
    Ok(())
}

/// Writes one line, whole. A console that cannot be written is no reason to
/// stop or to go on differently, so errors end here.
pub fn line(text: impl fmt::Display) {
    let text = format!("{text}\n");
    let mut rest = text.as_bytes();
    while let Some(written) = console().and_then(|fd| io::write(fd, rest).ok()) {
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
    if let Some(console) = console() {
        // A console without that ioctl has nothing to wait for.
        rustix::termios::tcdrain(console).ok();
    }
}

/// Time since the kernel started.
pub fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

fn console() -> Option<BorrowedFd<'static>> {
    let raw = CONSOLE.load(Ordering::Relaxed);
    (raw >= 0).then(|| sys::borrow_forever(raw))
}
