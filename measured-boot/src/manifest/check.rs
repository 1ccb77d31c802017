//! The bounds of a manifest's members.

use alloc::format;
use alloc::string::String;
use core::ops::RangeInclusive;

use super::{Container, ContainerRoot, Error, Manifest, Network, SecretTarget, Tee, VERSION};
use crate::verity::MAX_DATA_BLOCKS;

/// The last byte below 16 TiB.
const MAX_MEMORY: u64 = (1 << 44) - 1;
const PATH: &str = "an absolute, plain path";

/// Capabilities (`linux/capability.h`) with which a workload leaves its
/// container: into other processes' memory, onto devices, into the kernel, or
/// out of its mounts (capabilities(7)).
pub const REFUSED_CAPABILITIES: u64 = 1 << 16 // SYS_MODULE
    | 1 << 17 // SYS_RAWIO
    | 1 << 19 // SYS_PTRACE
    | 1 << 21 // SYS_ADMIN
    | 1 << 22 // SYS_BOOT
    | 1 << 27 // MKNOD
    | 1 << 34 // SYSLOG
    | 1 << 38 // PERFMON
    | 1 << 39 // BPF
    | 1 << 40; // CHECKPOINT_RESTORE

/// Says the first member that is out of bounds. A `.length` counts the bytes of
/// binary data or the entries of a list.
pub(super) fn manifest(m: &Manifest) -> Result<(), Error> {
    within("version", m.version, VERSION..=VERSION)?;
    require(
        name_ok(&m.image.name),
        "image.name",
        "1 to 64 of a-z, 0-9, '-', '_', '.'",
    )?;
    let tee = &m.attestation.tee;
    require(!tee.is_empty(), "attestation.tee", "at least one TEE")?;
    require(
        *tee == [Tee::Tpm] || !tee.contains(&Tee::Tpm),
        "attestation.tee",
        "tpm alone or hardware TEEs, since a host can forge a TPM",
    )?;
    if let Some(broker) = &m.broker {
        let https = broker.url.starts_with("https://");
        require(https, "broker.url", "https://HOST[:PORT]")?;
        within("broker.ca.length", broker.ca.0.len(), 1..=8192)?;
        require(m.network.is_some(), "network", "present with a broker")?;
    }
    for (present, what) in [
        (m.boot.is_some(), "a boot filesystem"),
        (!m.container.secrets.is_empty(), "container.secrets"),
        (!m.volumes.is_empty(), "volumes"),
    ] {
        let expected = format!("present with {what}");
        require(!present || m.broker.is_some(), "broker", &expected)?;
    }
    if let Some(boot) = &m.boot {
        within("boot.data_blocks", boot.data_blocks, 1..=MAX_DATA_BLOCKS)?;
        let mount_ok = boot.mount.as_deref().is_none_or(path_ok);
        require(mount_ok, "boot.mount", PATH)?;
    }
    require(
        m.container.root != ContainerRoot::Boot || m.boot.is_some(),
        "boot",
        "present when the container's root is on it",
    )?;
    if let Some(Network::Static(network)) = &m.network {
        within("network.prefix", network.prefix, 1..=31)?;
        within("network.dns.length", network.dns.len(), 0..=3)?;
    }
    within("volumes.length", m.volumes.len(), 0..=8)?;
    for volume in &m.volumes {
        let same = m.volumes.iter().filter(|other| other.name == volume.name);
        require(
            volume.volume().is_some() && same.count() == 1,
            "volumes",
            "names of their own of 1 to 12 of a-z, 0-9, '-', and 16 MiB to 1 TiB",
        )?;
        require(path_ok(&volume.mount), "volumes.mount", PATH)?;
        within("volumes.epoch", volume.epoch, 1..=1 << 53)?;
    }
    container(&m.container)
}

fn container(c: &Container) -> Result<(), Error> {
    require(
        c.argv.first().is_some_and(|program| path_ok(program)),
        "container.argv",
        "a program with an absolute, plain path",
    )?;
    require(
        c.argv.len() <= 1024 && c.argv.iter().all(|a| text_ok(a)),
        "container.argv",
        "at most 1024 strings of at most 64 KiB without NUL",
    )?;
    require(
        c.env.len() <= 1024 && c.env.iter().all(|e| text_ok(e) && env_ok(e)),
        "container.env",
        "at most 1024 of NAME=value without NUL",
    )?;
    require(c.cwd == "/" || path_ok(&c.cwd), "container.cwd", PATH)?;
    let graphic = c.hostname.bytes().all(|b| b.is_ascii_graphic());
    require(
        graphic && (1..=64).contains(&c.hostname.len()),
        "container.hostname",
        "1 to 64 printable characters",
    )?;
    within("container.groups.length", c.groups.len(), 0..=64)?;
    let capabilities_ok = c.capabilities < 1 << 41 && c.capabilities & REFUSED_CAPABILITIES == 0;
    require(
        capabilities_ok,
        "container.capabilities",
        "bits 0 to 40, none that leads out",
    )?;
    let seccomp = c.seccomp.0.len();
    require(
        seccomp.is_multiple_of(8) && (8..=4096 * 8).contains(&seccomp),
        "container.seccomp",
        "1 to 4096 records of 8 bytes",
    )?;
    require(
        rlimits_ok(c),
        "container.rlimits",
        "numbers 0 to 15 once each, soft at most hard",
    )?;
    let memory = c.memory.unwrap_or(MAX_MEMORY);
    within("container.memory", memory, 1 << 20..=MAX_MEMORY)?;
    within("container.pids", c.pids, 1..=4_194_304)?;
    let writable = c.writable.unwrap_or(MAX_MEMORY);
    within("container.writable", writable, 4096..=MAX_MEMORY)?;
    within("container.tmpfs.length", c.tmpfs.len(), 0..=64)?;
    for tmpfs in &c.tmpfs {
        require(path_ok(&tmpfs.path), "container.tmpfs.path", PATH)?;
        within("container.tmpfs.size", tmpfs.size, 4096..=MAX_MEMORY)?;
        within("container.tmpfs.mode", tmpfs.mode, 0..=0o1777)?;
    }
    require(
        c.secrets.len() <= 64 && c.secrets.iter().all(|s| target_ok(c, &s.target)),
        "container.secrets",
        "at most 64, each an environment name or a file directly inside a tmpfs",
    )?;
    within("container.stop_signal", c.stop_signal, 1..=64)?;
    let grace = c.stop_grace_seconds;
    within("container.stop_grace_seconds", grace, 1..=300)
}

fn require(holds: bool, name: &'static str, expected: &str) -> Result<(), Error> {
    let expected = String::from(expected);
    holds.then_some(()).ok_or(Error::Member { name, expected })
}

fn within<N: TryInto<u64>>(
    name: &'static str,
    got: N,
    bounds: RangeInclusive<N>,
) -> Result<(), Error> {
    let (first, last) = bounds.into_inner();
    let [got, first, last] = [got, first, last].map(|n| n.try_into().unwrap_or(u64::MAX));
    let expected = format!("{first} to {last}, got {got}");
    let holds = (first..=last).contains(&got);
    holds.then_some(()).ok_or(Error::Member { name, expected })
}

fn name_ok(name: &str) -> bool {
    let char_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(char_ok)
}

fn text_ok(text: &str) -> bool {
    text.len() <= 65536 && !text.contains('\0')
}

fn env_ok(entry: &str) -> bool {
    let name = entry.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty())
}

/// Absolute, without empty, `.` or `..` parts, so that it has one spelling and
/// stays where it points.
fn path_ok(path: &str) -> bool {
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    let parts = path.strip_prefix('/').map(|rest| rest.split('/'));
    text_ok(path) && path.len() <= 4096 && parts.is_some_and(|mut parts| parts.all(part_ok))
}

fn rlimits_ok(c: &Container) -> bool {
    let once = |number| c.rlimits.iter().filter(|l| l.number == number).count() == 1;
    let ok = |l: &super::Rlimit| l.number < 16 && once(l.number) && l.soft <= l.hard;
    c.rlimits.len() <= 16 && c.rlimits.iter().all(ok)
}

fn target_ok(c: &Container, target: &SecretTarget) -> bool {
    match target {
        SecretTarget::Env(name) => {
            !name.is_empty() && name.len() <= 256 && text_ok(name) && !name.contains('=')
        }
        SecretTarget::File(file) => {
            let parent = file.path.rsplit_once('/').map(|(parent, _)| parent);
            let in_tmpfs = c.tmpfs.iter().any(|tmpfs| Some(&*tmpfs.path) == parent);
            path_ok(&file.path) && file.mode <= 0o777 && in_tmpfs
        }
    }
}
