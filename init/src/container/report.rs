//! What the processes of the container tell init, through a pipe.
//!
//! Each report is 8 bytes, kind and value; a failure is followed by a text, and
//! by the end of the pipe.

use alloc::format;
use alloc::string::String;
use core::fmt;

use rustix::fd::AsFd;
use rustix::io::{self, Errno};

/// Longest text of a failure, in bytes.
const MAX_TEXT: usize = 512;

/// What could not be done, and the kernel's reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Verb and object, to be read after "cannot".
    pub(crate) action: String,
    pub(crate) errno: Errno,
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

/// One report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The workload's program runs.
    Started,
    /// It does not, and nothing is left of the container.
    Failed(Failure),
    /// The workload ended by itself.
    Exited(u8),
    /// A signal ended the workload.
    Signaled(u8),
}

impl Report {
    fn head(&self) -> [u8; 8] {
        let (kind, value) = match self {
            Self::Started => (1_u32, 0),
            Self::Failed(failure) => (2, failure.errno.raw_os_error().unsigned_abs()),
            Self::Exited(status) => (3, u32::from(*status)),
            Self::Signaled(signal) => (4, u32::from(*signal)),
        };
        (u64::from(kind) << 32 | u64::from(value)).to_be_bytes()
    }

    fn from_head(head: [u8; 8]) -> Option<Self> {
        let [k0, k1, k2, k3, v0, v1, v2, v3] = head;
        let value = u32::from_be_bytes([v0, v1, v2, v3]);
        let small = u8::try_from(value).ok();
        match u32::from_be_bytes([k0, k1, k2, k3]) {
            1 if value == 0 => Some(Self::Started),
            2 => Some(Self::Failed(Failure {
                action: String::new(),
                errno: Errno::from_raw_os_error(i32::try_from(value).ok()?),
            })),
            3 => small.map(Self::Exited),
            4 => small.map(Self::Signaled),
            _ => None,
        }
    }

    /// Writes the report. It fits into an empty pipe, so this does not wait.
    pub(crate) fn send(&self, pipe: impl AsFd) -> io::Result<()> {
        io::write(&pipe, &self.head())?;
        if let Self::Failed(failure) = self {
            let text = failure.action.as_bytes();
            io::write(&pipe, text.get(..MAX_TEXT).unwrap_or(text))?;
        }
        Ok(())
    }

    /// Waits for a report; `None` when the pipe ended without a whole one.
    pub(crate) fn receive(pipe: impl AsFd) -> io::Result<Option<Self>> {
        let mut head = [0; 8];
        if read_full(&pipe, &mut head)? != head.len() {
            return Ok(None);
        }
        let mut report = Self::from_head(head);
        if let Some(Self::Failed(failure)) = &mut report {
            let mut text = [0; MAX_TEXT];
            let length = read_full(&pipe, &mut text)?;
            failure.action =
                String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
        }
        Ok(report)
    }
}

/// Reads until `buffer` is full or the pipe ends.
fn read_full(pipe: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0_usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match io::read(&pipe, rest)? {
            0 => break,
            length => filled = filled.saturating_add(length),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::{Errno, Failure, Report};

    fn through_a_pipe(report: &Report) -> Report {
        let (read, write) = rustix::pipe::pipe().unwrap();
        report.send(&write).unwrap();
        drop(write);
        Report::receive(&read).unwrap().unwrap()
    }

    #[test]
    fn every_report_arrives_as_sent() {
        let failure = Failure {
            action: "mount tmpfs at /run".into(),
            errno: Errno::NOENT,
        };
        for report in [
            Report::Started,
            Report::Failed(failure),
            Report::Exited(7),
            Report::Signaled(9),
        ] {
            assert_eq!(through_a_pipe(&report), report);
        }
    }

    #[test]
    fn an_ended_pipe_and_a_cut_report_are_no_report() {
        for part in [&[][..], &[0, 0, 0]] {
            let (read, write) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&write, part).unwrap();
            drop(write);
            assert_eq!(Report::receive(&read).unwrap(), None);
        }
    }

    #[test]
    fn unknown_kinds_and_values_are_no_report() {
        for head in [
            [0, 0, 0, 9, 0, 0, 0, 0],
            [0, 0, 0, 3, 0, 0, 1, 0],
            [0, 0, 0, 1, 0, 0, 0, 1],
        ] {
            assert_eq!(Report::from_head(head), None);
        }
    }
}
