//! From a copy of the reaper to the workload's program: what the manifest says
//! about the process, and nothing else.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{chdir, setsid, umask};
use rustix::thread::{
    CapabilitySet, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::report::{Attempt, Failure};
use super::{Plan, capabilities};
use crate::sys::{process, seccomp};

/// Becomes the workload's program. Returns only to say why it could not.
pub(super) fn run(plan: &Plan<'_>) -> Failure {
    execute(plan).unwrap_or_else(|failure| failure)
}

fn execute(plan: &Plan<'_>) -> Result<Failure, Failure> {
    let container = plan.container;
    let arguments: Vec<&CStr> = plan.arguments.iter().map(CString::as_c_str).collect();
    let program = arguments.first().copied().ok_or(Errno::INVAL);
    let program = program.attempt("find the program")?;
    let environment = plan.environment.iter();
    let environment: Vec<&CStr> = environment
        .map(|entry| CStr::from_bytes_with_nul(entry.expose()).map_err(|_| Errno::INVAL))
        .collect::<Result<_, _>>()
        .attempt("read the environment")?;

    setsid().attempt("start a session")?;
    umask(Mode::from_raw_mode(0o022));
    chdir(&*container.cwd).attempt(format_args!("enter {}", container.cwd))?;
    for limit in &container.rlimits {
        process::set_limit(limit.number, limit.soft, limit.hard)
            .attempt(format_args!("set resource limit {}", limit.number))?;
    }

    capabilities::keep_across_user_change().attempt("set the secure bits")?;
    set_user(container.uid, container.gid, &container.groups)?;
    let wanted = CapabilitySet::from_bits_retain(container.capabilities);
    capabilities::restrict_to(wanted).attempt("set the capabilities")?;

    // Init never gave a signal an action, so all have their default one.
    process::set_signal_mask(0).attempt("unblock the signals")?;
    set_no_new_privs(true).attempt("give up new privileges")?;
    seccomp::install(&container.seccomp.0).attempt("install the seccomp filter")?;
    let action = format!("execute {}", program.to_string_lossy());
    Ok(Failure {
        action,
        errno: process::execute(program, &arguments, &environment),
    })
}

fn set_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Failure> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&groups).attempt("set the supplementary groups")?;
    set_thread_res_gid(group, group, group).attempt(format_args!("become group {gid}"))?;
    set_thread_res_uid(user, user, user).attempt(format_args!("become user {uid}"))
}
