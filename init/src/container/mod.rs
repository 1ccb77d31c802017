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
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
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
    pub(crate) reaper: Pid,
    /// Where the reaper says how the workload ended.
    pub(crate) status: OwnedFd,
    /// Takes numbers of signals for the workload, one byte each.
    pub(crate) control: OwnedFd,
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
    let (environment, files) = environment(container, secrets).map_err(error)?;
    let arguments = container
        .argv
        .iter()
        .map(|argument| CString::new(argument.as_bytes()));
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
        arguments: arguments
            .collect::<Result<_, _>>()
            .map_err(|_| Errno::INVAL)
            .attempt("read the arguments")
            .map_err(error)?,
        environment,
        files,
    };
    let cgroup = Cgroup::create(container).map_err(error)?;
    Ok(Prepared {
        plan,
        cgroup,
        logs: manifest.logs,
    })
}

/// Starts the container and waits until its program runs. Init's copies of the
/// secrets are gone afterwards. From here on init takes no signal except by
/// reading it.
///
/// # Errors
/// `E_CONTAINER`; nothing of the container is left then.
pub fn start(prepared: Prepared<'_>) -> Result<Running, BootError> {
    let Prepared { plan, cgroup, logs } = prepared;
    let container = plan.container;
    let (running, started) = start_reaper(plan, cgroup, logs, container).map_err(error)?;
    match started {
        Ok(Some(Report::Started)) => {
            console::progress("container: started");
            Ok(running)
        }
        other => {
            // The reaper ends by itself after a failure, unless it is what failed.
            let _killed: io::Result<()> = running.cgroup.kill();
            let _reaped = waitpid(Some(running.reaper), WaitOptions::empty());
            Err(match other {
                Ok(Some(Report::Failed(failure))) => error(failure),
                Err(errno) => BootError::new(Code::Container, STEP, "read the report", errno),
                Ok(_) => BootError::new(
                    Code::Container,
                    STEP,
                    "start the workload",
                    "the reaper ended without a report",
                ),
            })
        }
    }
}

fn start_reaper(
    plan: Plan<'_>,
    cgroup: Cgroup,
    logs: Logs,
    container: &manifest::Container,
) -> Result<(Running, io::Result<Option<Report>>), Failure> {
    process::block_signals().attempt("block signals")?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).attempt("create a pipe");
    let (status, status_writer) = pipe()?;
    let (control_reader, control) = pipe()?;
    let (log, log_writer) = match logs {
        Logs::None => (None, None),
        Logs::Console => {
            let (log, writer) = pipe()?;
            fcntl_setfl(&log, OFlags::NONBLOCK).attempt("set up the log pipe")?;
            (Some(log), Some(writer))
        }
    };
    let channels = reaper::Channels {
        null: rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .attempt("open /dev/null")?,
        status: status_writer,
        control: control_reader,
        log: log_writer,
    };
    let kept: Vec<_> = [&channels.null, &channels.status, &channels.control]
        .into_iter()
        .chain(&channels.log)
        .map(AsRawFd::as_raw_fd)
        .collect();
    let reaper = process::start(
        process::Namespaces::Container,
        Some(cgroup.as_fd()),
        &kept,
        move || reaper::run(plan, channels),
    )
    .attempt("start the reaper")?;
    let started = Report::receive(&status);
    let running = Running {
        reaper,
        status,
        control,
        log,
        cgroup,
        stop_signal: container.stop_signal,
        stop_grace_seconds: container.stop_grace_seconds,
    };
    Ok((running, started))
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
                named.push((name.clone(), entry(&[name.as_bytes(), b"=", value])));
            }
        }
    }
    let plain = container.env.iter().filter(|variable| {
        let name = variable.split_once('=').map(|(name, _)| name);
        !named.iter().any(|(secret, _)| Some(&**secret) == name)
    });
    let mut environment: Vec<_> = plain
        .map(|variable| entry(&[variable.as_bytes()]))
        .collect();
    environment.extend(named.into_iter().map(|(_, entry)| entry));
    Ok((environment, files))
}

/// The parts and a NUL, in a buffer that never grows and so leaves no copy.
fn entry(parts: &[&[u8]]) -> SecretBytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(length.saturating_add(1));
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes.push(0);
    SecretBytes::new(bytes)
}

fn resolver(dns: &[Ipv4Addr]) -> Option<String> {
    let lines = dns.iter().map(|server| format!("nameserver {server}\n"));
    (!dns.is_empty()).then(|| lines.collect())
}

fn error(failure: Failure) -> BootError {
    BootError::new(Code::Container, STEP, failure.action, failure.errno)
}

#[cfg(test)]
mod tests;
