//! The one container: namespaces, mounts, limits, and its start.
//!
//! Init stays outside, in the namespaces the kernel gave it. It starts the
//! reaper, PID 1 of the container's PID namespace, and that starts the workload.
//! The network is the one thing they share with init.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use measured_boot::code::Code;
use measured_boot::manifest::{self, Logs, Manifest, SecretTarget};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, fcntl_setfl};
use rustix::io::{self, Errno};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::console;
use crate::error::BootError;
use crate::network::Interface;
use crate::secret::SecretBytes;
use crate::storage::Storage;
use crate::sys::process;

mod capabilities;
mod cgroup;
mod mounts;
mod proc_files;
mod reaper;
mod report;
mod workload;

pub(crate) use cgroup::Cgroup;
pub use report::End;
pub(crate) use report::Report;
use report::{Attempt, Failure};

const STEP: &str = "container";

/// A secret the broker released, and what it is for.
#[derive(Debug)]
pub struct ReleasedSecret {
    /// What the manifest says about it.
    pub secret: manifest::Secret,
    /// Its value.
    pub value: SecretBytes,
}

/// A container that only needs to be started: its group with the limits exists,
/// and every string of its program is one the kernel takes.
#[derive(Debug)]
pub struct Prepared<'a> {
    plan: Plan<'a>,
    cgroup: Cgroup,
    logs: Logs,
}

/// What the processes of the container need to know to set themselves up.
#[derive(Debug)]
struct Plan<'a> {
    container: &'a manifest::Container,
    /// The container's root, in init's tree.
    root: &'a str,
    /// Where the boot files are in init's tree, and in the container's.
    boot_files: Option<(&'a str, &'a str)>,
    /// The same for each persistent volume.
    volumes: Vec<(String, String)>,
    /// Content of `/etc/resolv.conf`.
    resolver: Option<String>,
    arguments: Vec<CString>,
    /// `NAME=value` and a NUL; some are secrets.
    environment: Vec<SecretBytes>,
    /// Secrets that become files.
    files: Vec<ReleasedSecret>,
}

/// A container whose program runs.
#[derive(Debug)]
pub struct Running {
    /// The reaper. Init's signals to it reach the workload.
    pub(crate) reaper: Pid,
    /// Where the reaper says how the workload ended.
    pub(crate) status: OwnedFd,
    /// The workload's output. Does not block.
    pub(crate) log: Option<OwnedFd>,
    pub(crate) cgroup: Cgroup,
    pub(crate) stop_signal: u8,
    pub(crate) stop_grace_seconds: u32,
}

/// Sets up what does not need the container's namespaces.
///
/// The name servers of the network, if there is one, go into `/etc/resolv.conf`.
///
/// # Errors
/// `E_CONTAINER`.
pub fn prepare<'a>(
    manifest: &'a Manifest,
    storage: &Storage,
    secrets: Vec<ReleasedSecret>,
    interface: Option<&Interface>,
) -> Result<Prepared<'a>, BootError> {
    let container = &manifest.container;
    let mount = manifest
        .boot
        .as_ref()
        .and_then(|boot| boot.mount.as_deref());
    let (environment, files) = environment(container, secrets)?;
    let arguments = container
        .argv
        .iter()
        .map(|argument| CString::new(argument.as_bytes()).map_err(|_| Errno::INVAL))
        .collect::<io::Result<_>>()
        .attempt("read the arguments")?;
    let plan = Plan {
        container,
        root: storage.container_root(manifest),
        boot_files: storage.boot_files().zip(mount),
        volumes: storage
            .volumes()
            .mounts()
            .map(|(source, target)| (source.into(), target.into()))
            .collect(),
        resolver: interface.and_then(|interface| resolver(interface.dns())),
        arguments,
        environment,
        files,
    };
    Ok(Prepared {
        plan,
        cgroup: Cgroup::create(container)?,
        logs: manifest.logs,
    })
}

/// Starts the container and waits until its program runs. Init's copies of the
/// secrets are gone afterwards.
///
/// # Errors
/// `E_CONTAINER`; nothing of the container is left then.
pub fn start(prepared: Prepared<'_>) -> Result<Running, BootError> {
    let Prepared { plan, cgroup, logs } = prepared;
    let container = plan.container;
    let running = start_reaper(plan, cgroup, logs, container)?;
    let error = match Report::receive(&running.status) {
        Ok(Some(Report::Started)) => {
            console::progress("container: started");
            return Ok(running);
        }
        Ok(Some(Report::Failed(failure))) => failure.into(),
        Ok(_) => BootError::new(
            Code::Container,
            STEP,
            "start the workload",
            "the reaper ended without a report",
        ),
        Err(errno) => BootError::new(Code::Container, STEP, "read the report", errno),
    };
    // The reaper ends by itself after a failure, unless it is what failed.
    let _killed: io::Result<()> = running.cgroup.kill();
    let _reaped = waitpid(Some(running.reaper), WaitOptions::empty());
    Err(error)
}

fn start_reaper(
    plan: Plan<'_>,
    cgroup: Cgroup,
    logs: Logs,
    container: &manifest::Container,
) -> Result<Running, Failure> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .attempt("open /dev/null")?;
    let (status, report) = report::pipe().attempt("create a pipe")?;
    let (log, output) = match logs {
        Logs::None => (None, None),
        Logs::Console => log_pipe(container).attempt("create the log pipe")?,
    };
    let reaper = process::start(
        Some(cgroup.as_fd()),
        null.as_fd(),
        output.as_ref().unwrap_or(&null).as_fd(),
        report.as_fd(),
        move |status| reaper::run(plan, &status),
    )
    .attempt("start the reaper")?;
    Ok(Running {
        reaper,
        status,
        log,
        cgroup,
        stop_signal: container.stop_signal,
        stop_grace_seconds: container.stop_grace_seconds,
    })
}

/// A pipe whose reader does not block. The workload owns it, so that it can open
/// `/dev/stdout`, which opens the pipe anew.
fn log_pipe(container: &manifest::Container) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    let (log, output) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&log, OFlags::NONBLOCK)?;
    let (uid, gid) = (Uid::from_raw(container.uid), Gid::from_raw(container.gid));
    fchown(&output, Some(uid), Some(gid))?;
    Ok((Some(log), Some(output)))
}

/// The environment, and the secrets that are not part of it. A secret replaces a
/// variable of the same name.
fn environment(
    container: &manifest::Container,
    secrets: Vec<ReleasedSecret>,
) -> Result<(Vec<SecretBytes>, Vec<ReleasedSecret>), Failure> {
    let mut files = Vec::new();
    let mut named = Vec::new();
    for secret in secrets {
        match &secret.secret.target {
            SecretTarget::File(_) => files.push(secret),
            SecretTarget::Env(name) => {
                let value = secret.value.expose();
                if value.contains(&0) || core::str::from_utf8(value).is_err() {
                    return Err(Errno::ILSEQ).attempt(format_args!("set variable {name}"));
                }
                // Allocated at once: growing would leave copies of the secret.
                let entry = [name.as_bytes(), b"=", value, b"\0"].concat();
                named.push((name.clone(), SecretBytes::new(entry)));
            }
        }
    }
    let plain = container.env.iter().filter(|variable| {
        let name = variable.split_once('=').map(|(name, _)| name);
        !named.iter().any(|(secret, _)| Some(&**secret) == name)
    });
    let mut environment: Vec<_> = plain
        .map(|variable| SecretBytes::new([variable.as_bytes(), b"\0"].concat()))
        .collect();
    environment.extend(named.into_iter().map(|(_, entry)| entry));
    Ok((environment, files))
}

fn resolver(dns: &[Ipv4Addr]) -> Option<String> {
    let lines = dns.iter().map(|server| format!("nameserver {server}\n"));
    (!dns.is_empty()).then(|| lines.collect())
}

#[cfg(test)]
mod tests;
