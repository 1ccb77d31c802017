//! The first process of the container's PID namespace: init's own code, between
//! init and the workload.
//!
//! It is there so that the workload is an ordinary process: signals have their
//! default actions for it, and orphans are not its concern. When the workload
//! ends the reaper reports and ends too, and the kernel ends the rest of the
//! namespace.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io;
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, wait};
use rustix::thread::{CapabilitySet, set_name, set_no_new_privs};

use super::capabilities;
use super::report::{self, Attempt, End, Failure, Report};
use super::{Plan, mounts, workload};
use crate::sys::{self, process};

/// Sets up the container, starts the workload and stays until it ends. Reports go
/// to `status`.
pub(super) fn run(plan: Plan<'_>, status: &OwnedFd) {
    let report = start(plan)
        .and_then(|workload| {
            Report::Started.send(status).attempt("report the start")?;
            watch(workload).attempt("wait for the workload")
        })
        .map_or_else(Report::Failed, Report::Ended);
    // When even this fails init finds the pipe at its end, and says so.
    let _sent: io::Result<()> = report.send(status);
}

fn start(plan: Plan<'_>) -> Result<Pid, Failure> {
    // From here on this process takes no signal except by waiting for one.
    process::set_signal_mask(u64::MAX).attempt("block signals")?;
    // The memory is a copy of init's: nobody in the container may read it, nor
    // reach init's files through this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).attempt("make the reaper undumpable")?;
    set_name(c"reaper").attempt("name the reaper")?;
    process::new_cgroup_namespace().attempt("create the cgroup namespace")?;
    rustix::process::umask(Mode::empty());
    mounts::enter(&plan)?;
    let hostname = plan.container.hostname.as_bytes();
    rustix::system::sethostname(hostname).attempt("set the host name")?;
    let oom_score = rustix::fs::open(
        "/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt("open /proc/self/oom_score_adj")?;

    let (outcome, report) = report::pipe().attempt("create the workload's pipe")?;
    // The plan moves on, so that its secrets do not stay behind.
    let child = move |report: OwnedFd| {
        let failure = workload::run(&plan);
        let _sent: io::Result<()> = Report::Failed(failure).send(&report);
    };
    let [null, log] = sys::standard_streams();
    let pid = process::start(None, null, log, report.as_fd(), child)
        .attempt("start the workload's process")?;
    drop(report);

    // A reaper that outlives the workload can say how that ended.
    io::write(oom_score, b"-1000").attempt("exempt the reaper from the OOM killer")?;
    set_no_new_privs(true).attempt("give up new privileges")?;
    capabilities::restrict_to(CapabilitySet::KILL).attempt("give up capabilities")?;
    // The pipe ends without a report when the process has become the program.
    match Report::receive(outcome).attempt("read the workload's report")? {
        None => Ok(pid),
        Some(Report::Failed(failure)) => Err(failure),
        Some(_) => Err(io::Errno::BADMSG).attempt("read the workload's report"),
    }
}

/// Reaps what ends, passes init's signals on, and returns when the workload has
/// ended.
fn watch(workload: Pid) -> io::Result<End> {
    loop {
        while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
            if pid == workload
                && let Some(end) = End::of(status)
            {
                return Ok(end);
            }
        }
        if let Some(signal) = process::wait_for_signal()? {
            process::kill(workload, signal)?;
        }
    }
}
