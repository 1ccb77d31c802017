//! What the processes of the container tell init, through a pipe.
//!
//! Each report is one packet: a kind, then what belongs to it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use measured_boot::code::Code;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{self, Errno};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::WaitStatus;

use crate::error::BootError;

/// Longest report, in bytes: a packet of a pipe has at most 4096.
const MAX_SIZE: usize = 512;
/// First byte of a report.
const STARTED: u8 = 1;
const FAILED: u8 = 2;
const EXITED: u8 = 3;
const SIGNALED: u8 = 4;

/// What could not be done, and the kernel's reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Verb and object, to be read after "cannot".
    pub(crate) action: String,
    pub(crate) errno: Errno,
}

impl From<Failure> for BootError {
    fn from(failure: Failure) -> Self {
        Self::new(Code::Container, super::STEP, failure.action, failure.errno)
    }
}

/// Names what a system call was for.
pub(crate) trait Attempt<T> {
    /// `action` reads after "cannot": verb and object.
    fn attempt(self, action: impl fmt::Display) -> Result<T, Failure>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, action: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|errno| Failure {
            action: format!("{action}"),
            errno,
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Signaled(u8),
}

impl End {
    /// Nothing for a process that has not ended.
    pub(crate) fn of(status: WaitStatus) -> Option<Self> {
        let byte = |value: i32| u8::try_from(value).ok();
        let exited = status.exit_status().and_then(byte).map(Self::Exited);
        exited.or_else(|| {
            status
                .terminating_signal()
                .and_then(byte)
                .map(Self::Signaled)
        })
    }
}

/// One report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The workload's program runs.
    Started,
    /// It does not, and nothing is left of the container.
    Failed(Failure),
    /// The workload ended.
    Ended(End),
}

/// A pipe for reports: its reader and its writer.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT)
}

impl Report {
    /// Writes the report. It fits into an empty pipe, so this does not wait.
    pub(crate) fn send(&self, pipe: impl AsFd) -> io::Result<()> {
        let mut packet = match self {
            Self::Started => [STARTED].to_vec(),
            Self::Ended(End::Exited(status)) => [EXITED, *status].to_vec(),
            Self::Ended(End::Signaled(signal)) => [SIGNALED, *signal].to_vec(),
            Self::Failed(failure) => {
                let errno = failure.errno.raw_os_error().to_be_bytes();
                [&[FAILED], &errno[..], failure.action.as_bytes()].concat()
            }
        };
        packet.truncate(MAX_SIZE);
        io::write(pipe, &packet).map(drop)
    }

    /// Waits for a report; `None` when the pipe ended without one, or with
    /// something else.
    pub(crate) fn receive(pipe: impl AsFd) -> io::Result<Option<Self>> {
        let mut packet = Vec::from([0; MAX_SIZE]);
        let length = io::read(pipe, &mut packet[..])?;
        packet.truncate(length);
        Ok(match *packet {
            [STARTED] => Some(Self::Started),
            [EXITED, status] => Some(Self::Ended(End::Exited(status))),
            [SIGNALED, signal] => Some(Self::Ended(End::Signaled(signal))),
            [FAILED, a, b, c, d, ref action @ ..] => Some(Self::Failed(Failure {
                action: String::from_utf8_lossy(action).into_owned(),
                errno: Errno::from_raw_os_error(i32::from_be_bytes([a, b, c, d])),
            })),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Errno, Failure, MAX_SIZE, Report, pipe};

    #[test]
    fn every_report_arrives_as_sent_and_apart_from_the_next() {
        let failure = |action: &str| Failure {
            action: action.into(),
            errno: Errno::NOENT,
        };
        let reports = [
            Report::Started,
            Report::Failed(failure("mount tmpfs at /run")),
            Report::Ended(End::Exited(7)),
            Report::Ended(End::Signaled(9)),
        ];
        let (read, write) = pipe().unwrap();
        for report in &reports {
            report.send(&write).unwrap();
        }
        Report::Failed(failure(&"x".repeat(MAX_SIZE)))
            .send(&write)
            .unwrap();
        drop(write);
        for report in reports {
            assert_eq!(Report::receive(&read).unwrap(), Some(report));
        }
        let cut = Report::Failed(failure(&"x".repeat(MAX_SIZE - 5)));
        assert_eq!(Report::receive(&read).unwrap(), Some(cut));
        assert_eq!(Report::receive(&read).unwrap(), None);
    }

    #[test]
    fn cut_and_unknown_packets_are_no_report() {
        for packet in [&[2, 0, 0, 0][..], &[1, 1], &[3], &[3, 0, 0], &[9, 0]] {
            let (read, write) = pipe().unwrap();
            rustix::io::write(&write, packet).unwrap();
            assert_eq!(Report::receive(&read).unwrap(), None, "{packet:?}");
        }
    }
}
