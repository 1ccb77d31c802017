//! From the start of the container to the end of the machine.
//!
//! A loop over what can happen: output, a child that ended, the power button, a
//! lease to renew. Whatever goes wrong in it kills the container first.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use measured_boot::code::Code;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::{self, Errno};
use rustix::process::{PidfdFlags, WaitOptions, WaitStatus, pidfd_open, waitpid};
use rustix::system::{RebootCommand, reboot};

use crate::console::{line, progress, uptime};
pub use crate::container::End;
use crate::container::{Report, Running};
use crate::error::BootError;
use crate::network::Interface;
use crate::sys::process;

mod output;
mod power_button;

use output::Lines;

const STEP: &str = "supervise";
/// How long killed processes may take to be gone.
const KILL_TIME: Duration = Duration::from_secs(10);
/// Bytes of output taken at once, so that a flood of it delays nothing else.
const OUTPUT_CHUNK: usize = 4096;

/// What the container came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the workload ended.
    pub end: End,
    /// Whether the kernel killed a process of the container because memory ran out.
    pub out_of_memory: bool,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            End::Exited(status) => write!(f, "exited {status}")?,
            End::Signaled(signal) => write!(f, "signaled {signal}")?,
        }
        if self.out_of_memory {
            f.write_str(" (out of memory)")?;
        }
        Ok(())
    }
}

/// Stays with the container until nothing is left of it.
///
/// # Errors
/// `E_SUPERVISE`, after everything in the container was killed.
pub fn run(running: Running, interface: Option<Interface>) -> Result<Outcome, BootError> {
    let mut watch = Watch {
        running,
        interface,
        buttons: Vec::new(),
        output: Lines::default(),
        stage: Stage::Running,
    };
    let reaped = watch.until_reaped();
    // The kernel kills what the reaper leaves behind; this is for a reaper that
    // could not be waited for.
    let killed = watch
        .running
        .cgroup
        .kill()
        .map_err(failed("kill the container"));
    while let Ok(true) = watch.relay_output() {}
    watch.output.finish(&mut |text: &str| line(text));

    let reaper = reaped?;
    killed?;
    let report =
        Report::receive(&watch.running.status).map_err(failed("read the reaper's report"))?;
    let out_of_memory = watch.running.cgroup.ran_out_of_memory();
    Ok(Outcome {
        end: end_of_workload(report, reaper)?,
        out_of_memory: out_of_memory.map_err(failed("read the memory events"))?,
    })
}

/// How far the end of the container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// The workload was asked to end, and has until then.
    Stopping(Duration),
    /// Everything was killed, and should be gone by then.
    Killed(Duration),
}

struct Watch {
    running: Running,
    interface: Option<Interface>,
    buttons: Vec<OwnedFd>,
    output: Lines,
    stage: Stage,
}

impl Watch {
    fn until_reaped(&mut self) -> Result<WaitStatus, BootError> {
        let reaper = self.running.reaper;
        let ended = pidfd_open(reaper, PidfdFlags::empty()).map_err(failed("watch the reaper"))?;
        // Makes Ctrl-Alt-Del a signal to init, for which it does nothing.
        reboot(RebootCommand::CadOff).map_err(failed("disable Ctrl-Alt-Del"))?;
        self.buttons = power_button::open_devices().map_err(failed("open /dev/input"))?;
        loop {
            let reaped = waitpid(Some(reaper), WaitOptions::NOHANG);
            if let Some((_, status)) = reaped.map_err(failed("wait for the reaper"))? {
                return Ok(status);
            }
            self.wait_for_event(&ended)
                .map_err(failed("wait for events"))?;
            self.relay_output()
                .map_err(failed("read the container's output"))?;
            if self.power_button_pressed() && self.stage == Stage::Running {
                self.stop()?;
            }
            self.end_stage()?;
            if let Some(interface) = &mut self.interface
                && interface.next_renewal().is_some_and(|due| due <= uptime())
            {
                interface.renew();
            }
        }
    }

    fn wait_for_event(&self, ended: &OwnedFd) -> io::Result<()> {
        let renewal = self.interface.as_ref().and_then(Interface::next_renewal);
        let stage = match self.stage {
            Stage::Running => None,
            Stage::Stopping(deadline) | Stage::Killed(deadline) => Some(deadline),
        };
        let due = renewal.into_iter().chain(stage).min();
        let timeout = due.map(|due| timeout(due, uptime())).transpose()?;
        let mut descriptors: Vec<PollFd<'_>> = [ended]
            .into_iter()
            .chain(&self.running.log)
            .chain(&self.buttons)
            .map(|descriptor| PollFd::new(descriptor, PollFlags::IN))
            .collect();
        poll(&mut descriptors, timeout.as_ref()).map(drop)
    }

    /// Passes a piece of output on; false when there is none for now, or ever.
    fn relay_output(&mut self) -> io::Result<bool> {
        let Some(log) = &self.running.log else {
            return Ok(false);
        };
        let mut chunk = [0; OUTPUT_CHUNK];
        let length = match io::read(log, &mut chunk[..]) {
            Err(Errno::AGAIN) => return Ok(false),
            other => other?,
        };
        self.output.push(
            chunk.get(..length).unwrap_or_default(),
            &mut |text: &str| line(text),
        );
        if length == 0 {
            self.running.log = None;
        }
        Ok(length > 0)
    }

    fn power_button_pressed(&mut self) -> bool {
        let mut pressed = false;
        self.buttons.retain(|device| {
            let press = power_button::was_pressed(device);
            pressed |= press == Ok(true);
            press.is_ok()
        });
        pressed
    }

    /// Asks the workload to end.
    fn stop(&mut self) -> Result<(), BootError> {
        let grace = Duration::from_secs(u64::from(self.running.stop_grace_seconds));
        progress(format_args!(
            "{STEP}: power button, stopping the container with signal {}",
            self.running.stop_signal
        ));
        self.stage = Stage::Stopping(uptime().saturating_add(grace));
        process::kill(self.running.reaper, self.running.stop_signal)
            .map_err(failed("signal the workload"))
    }

    /// Goes on to the next stage when this one has had its time.
    fn end_stage(&mut self) -> Result<(), BootError> {
        match self.stage {
            Stage::Stopping(deadline) if deadline <= uptime() => {
                self.stage = Stage::Killed(uptime().saturating_add(KILL_TIME));
                self.running
                    .cgroup
                    .kill()
                    .map_err(failed("kill the container"))
            }
            Stage::Killed(deadline) if deadline <= uptime() => {
                Err(error("end the container", "a process survived SIGKILL"))
            }
            Stage::Running | Stage::Stopping(_) | Stage::Killed(_) => Ok(()),
        }
    }
}

fn timeout(due: Duration, now: Duration) -> io::Result<Timespec> {
    Timespec::try_from(due.saturating_sub(now)).map_err(|_| Errno::INVAL)
}

/// The reaper's word, or its own end if it was killed before it could say.
fn end_of_workload(report: Option<Report>, reaper: WaitStatus) -> Result<End, BootError> {
    match (report, End::of(reaper)) {
        (Some(Report::Ended(end)), _) | (None, Some(end @ End::Signaled(_))) => Ok(end),
        (Some(Report::Failed(failure)), _) => Err(error(failure.action, failure.errno)),
        (Some(Report::Started), _) | (None, _) => Err(error(
            "learn how the workload ended",
            "the reaper did not report it",
        )),
    }
}

fn error(action: impl fmt::Display, cause: impl fmt::Display) -> BootError {
    BootError::new(Code::Supervise, STEP, action, cause)
}

fn failed(action: &'static str) -> impl Fn(Errno) -> BootError {
    move |errno| error(action, errno)
}

#[cfg(test)]
mod tests {
    use super::{Duration, End, Outcome, timeout};
    use alloc::string::ToString;

    #[test]
    fn an_outcome_is_told_as_the_launcher_reads_it() {
        let outcome = |end, out_of_memory| Outcome { end, out_of_memory }.to_string();
        assert_eq!(outcome(End::Exited(7), false), "exited 7");
        assert_eq!(
            outcome(End::Signaled(9), true),
            "signaled 9 (out of memory)"
        );
    }

    #[test]
    fn what_is_overdue_is_not_waited_for() {
        let at = |millis| Duration::from_millis(millis);
        let wait = timeout(at(2500), at(1000)).unwrap();
        assert_eq!((wait.tv_sec, wait.tv_nsec), (1, 500_000_000));
        let wait = timeout(at(1000), at(2500)).unwrap();
        assert_eq!((wait.tv_sec, wait.tv_nsec), (0, 0));
    }
}
