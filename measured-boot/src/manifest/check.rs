//! The bounds of a manifest's members.

use super::{
    Container, ContainerRoot, Error, Manifest, Network, PersistentVolume, SecretTarget, Tee,
    VERSION,
};
use crate::verity::MAX_DATA_BLOCKS;

const MAX_MEMORY: u64 = 1 << 44;

/// Says the first member that is out of bounds.
pub(super) fn manifest(m: &Manifest) -> Result<(), Error> {
    let rules: [(bool, &str, &str); 13] = [
        (m.version == VERSION, "version", "1"),
        (
            name_ok(&m.image.name),
            "image.name",
            "1 to 64 of a-z, 0-9, '-', '_', '.'",
        ),
        (
            !m.attestation.tee.is_empty(),
            "attestation.tee",
            "at least one TEE",
        ),
        (
            m.attestation.tee == [Tee::Tpm] || !m.attestation.tee.contains(&Tee::Tpm),
            "attestation.tee",
            "tpm alone or hardware TEEs, since a host can forge a TPM",
        ),
        (
            m.broker
                .as_ref()
                .is_none_or(|b| b.url.starts_with("https://")),
            "broker.url",
            "https://HOST[:PORT]",
        ),
        (
            m.broker
                .as_ref()
                .is_none_or(|b| !b.ca.0.is_empty() && b.ca.0.len() <= 8192),
            "broker.ca",
            "one certificate of at most 8192 bytes",
        ),
        (
            m.broker.is_none() || m.network.is_some(),
            "network",
            "present with a broker",
        ),
        (
            m.boot.is_none() || m.broker.is_some(),
            "broker",
            "present with a boot filesystem",
        ),
        (
            m.boot
                .as_ref()
                .is_none_or(|b| (1..=MAX_DATA_BLOCKS).contains(&b.data_blocks)),
            "boot.data_blocks",
            "1 to 2^32",
        ),
        (
            m.boot
                .as_ref()
                .and_then(|b| b.mount.as_deref())
                .is_none_or(path_ok),
            "boot.mount",
            "an absolute, plain path",
        ),
        (
            m.container.root != ContainerRoot::Boot || m.boot.is_some(),
            "boot",
            "present when the container's root is on it",
        ),
        (
            m.container.secrets.is_empty() || m.broker.is_some(),
            "broker",
            "present with container.secrets",
        ),
        (
            m.volumes.is_empty() || m.broker.is_some(),
            "broker",
            "present with volumes",
        ),
    ];
    first(&rules)?;
    if let Some(Network::Static(n)) = &m.network {
        first(&[
            ((1..=31).contains(&n.prefix), "network.prefix", "1 to 31"),
            (n.dns.len() <= 3, "network.dns", "at most 3 addresses"),
        ])?;
    }
    volumes(&m.volumes)?;
    container(&m.container)
}

fn volumes(all: &[PersistentVolume]) -> Result<(), Error> {
    let unique = |v: &PersistentVolume| all.iter().filter(|w| w.name == v.name).count() == 1;
    first(&[
        (
            all.len() <= 8 && all.iter().all(|v| v.volume().is_some() && unique(v)),
            "volumes",
            "at most 8, with names of their own of 1 to 12 of a-z, 0-9, '-', and 16 MiB to 1 TiB",
        ),
        (
            all.iter().all(|v| path_ok(&v.mount)),
            "volumes.mount",
            "an absolute, plain path",
        ),
        (
            all.iter().all(|v| (1..1 << 53).contains(&v.epoch)),
            "volumes.epoch",
            "1 to 2^53",
        ),
    ])
}

fn container(c: &Container) -> Result<(), Error> {
    let program_ok = c.argv.first().is_some_and(|p| path_ok(p));
    let args_ok = c.argv.len() <= 1024 && c.argv.iter().all(|a| text_ok(a));
    first(&[
        (
            program_ok,
            "container.argv",
            "a program with an absolute, plain path",
        ),
        (
            args_ok,
            "container.argv",
            "at most 1024 strings of at most 64 KiB without NUL",
        ),
        (
            c.env.len() <= 1024 && c.env.iter().all(|e| text_ok(e) && env_ok(e)),
            "container.env",
            "at most 1024 of NAME=value without NUL",
        ),
        (
            c.cwd == "/" || path_ok(&c.cwd),
            "container.cwd",
            "an absolute, plain path",
        ),
        (
            (1..=64).contains(&c.hostname.len())
                && c.hostname.bytes().all(|b| b.is_ascii_graphic()),
            "container.hostname",
            "1 to 64 printable characters",
        ),
        (
            c.groups.len() <= 64,
            "container.groups",
            "at most 64 groups",
        ),
        (
            c.capabilities < 1 << 41,
            "container.capabilities",
            "bits 0 to 40",
        ),
        (
            c.seccomp.0.len().is_multiple_of(8) && (8..=4096 * 8).contains(&c.seccomp.0.len()),
            "container.seccomp",
            "1 to 4096 records of 8 bytes",
        ),
        (
            rlimits_ok(c),
            "container.rlimits",
            "numbers 0 to 15 once each, soft at most hard",
        ),
        (
            c.memory.is_none_or(|m| (1 << 20..MAX_MEMORY).contains(&m)),
            "container.memory",
            "1 MiB to 16 TiB",
        ),
        (
            (1..=4_194_304).contains(&c.pids),
            "container.pids",
            "1 to 4194304",
        ),
        (
            c.writable.is_none_or(|w| (4096..MAX_MEMORY).contains(&w)),
            "container.writable",
            "4 KiB to 16 TiB",
        ),
        (
            c.tmpfs.len() <= 64
                && c.tmpfs.iter().all(|t| {
                    path_ok(&t.path) && (4096..MAX_MEMORY).contains(&t.size) && t.mode <= 0o1777
                }),
            "container.tmpfs",
            "at most 64, each with a plain path, 4 KiB to 16 TiB, mode at most 1777",
        ),
        (
            c.secrets.len() <= 64 && c.secrets.iter().all(|s| target_ok(c, &s.target)),
            "container.secrets",
            "at most 64, each an environment name or a file directly inside a tmpfs",
        ),
        (
            (1..=64).contains(&c.stop_signal),
            "container.stop_signal",
            "1 to 64",
        ),
        (
            (1..=300).contains(&c.stop_grace_seconds),
            "container.stop_grace_seconds",
            "1 to 300",
        ),
    ])
}

fn first(rules: &[(bool, &'static str, &'static str)]) -> Result<(), Error> {
    match rules.iter().find(|(holds, ..)| !holds) {
        None => Ok(()),
        Some((_, name, expected)) => Err(Error::Member { name, expected }),
    }
}

fn name_ok(name: &str) -> bool {
    let char_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(char_ok)
}

fn text_ok(text: &str) -> bool {
    text.len() <= 65536 && !text.contains('\0')
}

fn env_ok(entry: &str) -> bool {
    entry
        .split_once('=')
        .is_some_and(|(name, _)| !name.is_empty())
}

/// Absolute, without empty, `.` or `..` parts, so that it has one spelling and
/// stays where it points.
fn path_ok(path: &str) -> bool {
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    text_ok(path)
        && path.len() <= 4096
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(part_ok))
}

fn rlimits_ok(c: &Container) -> bool {
    let mut seen = 0u32;
    c.rlimits.iter().all(|limit| {
        let bit = 1u32.checked_shl(u32::from(limit.number)).unwrap_or(0);
        let new = limit.number < 16 && seen & bit == 0;
        seen |= bit;
        new && limit.soft <= limit.hard
    })
}

fn target_ok(c: &Container, target: &SecretTarget) -> bool {
    match target {
        SecretTarget::Env(name) => {
            !name.is_empty() && name.len() <= 256 && text_ok(name) && !name.contains('=')
        }
        SecretTarget::File(file) => {
            path_ok(&file.path)
                && file.mode <= 0o777
                && file
                    .path
                    .rsplit_once('/')
                    .is_some_and(|(parent, _)| c.tmpfs.iter().any(|t| t.path == parent))
        }
    }
}
