//! The first process of the container's PID namespace: init's own code, between
//! init and the workload.
//!
//! It is there so that the workload is an ordinary process: signals have their
//! default actions for it, and orphans are not its concern. When the workload
//! ends the reaper reports and ends too, and the kernel ends the rest of the
//! namespace.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown};
use rustix::io;
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, wait};
use rustix::thread::{CapabilitySet, set_name, set_no_new_privs};

use super::capabilities;
use super::report::{Attempt, Failure, Report};
use super::{Plan, mounts, workload};
use crate::sys::process;

/// The reaper's ends of the pipes it shares with init, and what the workload
/// gets as its standard descriptors.
#[derive(Debug)]
pub(super) struct Channels {
    /// `/dev/null`.
    pub(super) null: OwnedFd,
    /// To write reports to.
    pub(super) status: OwnedFd,
    /// To read the numbers of signals for the workload from, one byte each.
    pub(super) control: OwnedFd,
    /// For the workload's output; without it, that goes nowhere.
    pub(super) log: Option<OwnedFd>,
}

/// Sets up the container, starts the workload and stays until it ends.
pub(super) fn run(plan: Plan<'_>, channels: Channels) {
    let Channels {
        null,
        status,
        control,
        log,
    } = channels;
    let report = start(plan, null, log)
        .and_then(|workload| {
            Report::Started.send(&status).attempt("report the start")?;
            watch(workload, &control).attempt("wait for the workload")
        })
        .unwrap_or_else(Report::Failed);
    // When even this fails init finds the pipe at its end, and says so.
    let _sent: io::Result<()> = report.send(&status);
}

fn start(plan: Plan<'_>, null: OwnedFd, log: Option<OwnedFd>) -> Result<Pid, Failure> {
    // The memory is a copy of init's: nobody in the container may read it, nor
    // reach init's files through this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).attempt("make the reaper undumpable")?;
    set_name(c"reaper").attempt("name the reaper")?;
    workload::set_standard_descriptors(&null, &null)?;
    process::new_cgroup_namespace().attempt("create the cgroup namespace")?;
    rustix::process::umask(Mode::empty());
    mounts::enter(&plan)?;
    let hostname = plan.container.hostname.as_bytes();
    rustix::system::sethostname(hostname).attempt("set the host name")?;
    if let Some(log) = &log {
        // So that the workload can open /dev/stdout, which opens the pipe anew.
        let owner = (
            Uid::from_raw(plan.container.uid),
            Gid::from_raw(plan.container.gid),
        );
        fchown(log, Some(owner.0), Some(owner.1)).attempt("give the log to the workload")?;
    }
    let oom_score = rustix::fs::open(
        "/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt("open /proc/self/oom_score_adj")?;

    let (outcome, pid) = start_workload(plan, null, log)?;

    // A reaper that outlives the workload can say how that ended.
    io::write(oom_score, b"-1000").attempt("exempt the reaper from the OOM killer")?;
    set_no_new_privs(true).attempt("give up new privileges")?;
    capabilities::restrict_to(CapabilitySet::KILL).attempt("give up capabilities")?;
    match Report::receive(outcome).attempt("read the workload's report")? {
        None => Ok(pid),
        Some(Report::Failed(failure)) => Err(failure),
        Some(_) => Err(io::Errno::BADMSG).attempt("read the workload's report"),
    }
}

/// Starts the workload's process. The pipe returned ends without a report when
/// the process has become the workload's program. Secrets do not stay behind.
fn start_workload(
    plan: Plan<'_>,
    null: OwnedFd,
    log: Option<OwnedFd>,
) -> Result<(OwnedFd, Pid), Failure> {
    let (outcome, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .attempt("create the workload's pipe")?;
    let log = match log {
        Some(log) => log,
        None => io::fcntl_dupfd_cloexec(&null, 3).attempt("duplicate /dev/null")?,
    };
    let kept = [null.as_raw_fd(), log.as_raw_fd(), report.as_raw_fd()];
    let child = move || {
        let failure = workload::run(&plan, &null, &log);
        let _sent: io::Result<()> = Report::Failed(failure).send(report);
    };
    let pid = process::start(process::Namespaces::Inherited, None, &kept, child)
        .attempt("start the workload's process")?;
    Ok((outcome, pid))
}

/// Reaps what ends, passes signals on, and returns when the workload has ended.
fn watch(workload: Pid, control: &OwnedFd) -> io::Result<Report> {
    let signals = process::signal_descriptor()?;
    loop {
        while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
            let value = |value: Option<i32>| value.and_then(|v| u8::try_from(v).ok());
            if pid != workload {
                continue;
            }
            if let Some(status) = value(status.exit_status()) {
                return Ok(Report::Exited(status));
            }
            if let Some(signal) = value(status.terminating_signal()) {
                return Ok(Report::Signaled(signal));
            }
        }
        let mut ready = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN),
        ];
        poll(&mut ready, None)?;
        let control_ready = ready.iter().skip(1).any(|fd| !fd.revents().is_empty());
        process::drain_signals(&signals);
        if control_ready {
            let mut number = [0_u8; 1];
            match io::read(control, &mut number[..])? {
                // Init is gone, and the machine with it.
                0 => return Ok(Report::Signaled(9)),
                _ => process::kill(workload, u8::from_ne_bytes(number))?,
            }
        }
    }
}
