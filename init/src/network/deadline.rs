//! One absolute deadline for however many waits.

use core::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::{self, Errno};
use rustix::time::{ClockId, clock_gettime};

/// Time since boot. The host can slow it, not set it back.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A moment on the clock of [`now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Duration);

impl Deadline {
    /// `length` from now.
    pub fn after(length: Duration) -> Self {
        Self(now().saturating_add(length))
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        now() >= self.0
    }

    /// Waits until `fd` is ready for one of `events` or has failed.
    ///
    /// # Errors
    /// `ETIMEDOUT` when the deadline passed first, otherwise what the kernel says.
    pub fn wait(self, fd: impl AsFd, events: PollFlags) -> io::Result<()> {
        while !self.passed() {
            let rest = self.0.saturating_sub(now());
            let timeout = Timespec::try_from(rest).map_err(|_| Errno::INVAL)?;
            match poll(&mut [PollFd::new(&fd, events)], Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(Errno::TIMEDOUT)
    }
}
