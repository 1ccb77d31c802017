//! Resolves what the container is: the image's configuration, overridden by the
//! builder's, made concrete against the image's files.

use anyhow::{Context as _, Result, ensure};
use measured_boot::manifest::{
    self, Bytes, ContainerRoot, Secret, SecretFile, SecretTarget, Tmpfs,
};
use oci_spec::image::ImageConfiguration;

use crate::config::{self, Config, Root, Signal};
use crate::notes::Notes;
use crate::seccomp;
use crate::spool::Spool;
use crate::tree::Tree;

pub mod mountpoint;
mod program;
mod user;

use program::{DEFAULT_PATH, Search};
use user::User;

const DEFAULT_PIDS: u64 = 512;
const DEFAULT_HOSTNAME: &str = "container";
const DEFAULT_GRACE_SECONDS: u32 = 10;
/// Bound of the tmpfs that is made for a secret without one.
const SECRETS_SIZE: u64 = 1 << 20;

/// Resolves the container. `tree` is its root filesystem.
///
/// # Errors
/// A user, program or signal that cannot be resolved.
pub fn resolve(
    config: &Config,
    image: &ImageConfiguration,
    tree: &Tree,
    spool: &Spool,
    notes: &mut Notes,
) -> Result<manifest::Container> {
    let ours = &config.container;
    let default = oci_spec::image::Config::default();
    let theirs = image.config().as_ref().unwrap_or(&default);

    let user = ours.user.as_ref().or(theirs.user().as_ref());
    let user = User::resolve(user.map(String::as_str).unwrap_or_default(), tree, spool)?;
    let env = environment(
        theirs.env().as_deref().unwrap_or_default(),
        &ours.env,
        &user,
    )?;
    let cwd = ours.cwd.as_ref().or(theirs.working_dir().as_ref());
    let cwd = cwd.map(String::as_str).filter(|cwd| !cwd.is_empty());
    let cwd = working_directory(cwd.unwrap_or("/"))?;
    let argv = match &ours.argv {
        Some(argv) => argv.clone(),
        None => [theirs.entrypoint(), theirs.cmd()]
            .into_iter()
            .flatten()
            .flatten()
            .cloned()
            .collect(),
    };
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH="));
    let search = Search {
        tree,
        spool,
        cwd: &cwd,
        path: path.unwrap_or(DEFAULT_PATH),
    };
    let argv = search.resolve(&argv, notes)?;
    for volume in theirs.volumes().iter().flatten() {
        notes.add(format!(
            "the image declares a volume at {volume}; it is part of the read-only root unless container.tmpfs or container.writable says otherwise"
        ));
    }
    let secrets: Vec<_> = ours.secret.iter().map(|s| secret(s, &user)).collect();
    Ok(manifest::Container {
        root: match ours.root {
            Root::Rootfs => ContainerRoot::Rootfs,
            Root::Boot => ContainerRoot::Boot,
        },
        argv,
        env,
        hostname: ours
            .hostname
            .clone()
            .unwrap_or_else(|| DEFAULT_HOSTNAME.into()),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        capabilities: ours.capabilities.0,
        seccomp: Bytes(seccomp::default_filter()?),
        rlimits: ours.rlimits.with_defaults(),
        memory: ours.memory.map(|memory| memory.0),
        pids: ours.pids.unwrap_or(DEFAULT_PIDS),
        writable: ours.writable.map(|writable| writable.0),
        tmpfs: tmpfs(&ours.tmpfs, &secrets, &user),
        secrets,
        stop_signal: stop_signal(ours.stop_signal, theirs.stop_signal().as_deref())?,
        stop_grace_seconds: ours.stop_grace.map_or(DEFAULT_GRACE_SECONDS, |s| s.0),
        cwd,
    })
}

/// The image's variables, ours over them, PATH and HOME if nobody set them.
fn environment(theirs: &[String], ours: &[String], user: &User) -> Result<Vec<String>> {
    let name = |entry: &str| entry.split_once('=').map(|(name, _)| name.to_owned());
    let home = user.home.as_deref().filter(|home| !home.is_empty());
    let defaults = [
        format!("PATH={DEFAULT_PATH}"),
        format!("HOME={}", home.unwrap_or("/")),
    ];
    let mut env: Vec<(String, String)> = Vec::new();
    for entry in theirs.iter().chain(ours) {
        let name = name(entry)
            .filter(|name| !name.is_empty())
            .with_context(|| {
                format!("cannot use environment entry {entry:?}: expected NAME=value")
            })?;
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, value)) => value.clone_from(entry),
            None => env.push((name, entry.clone())),
        }
    }
    for entry in defaults {
        let name = name(&entry).unwrap_or_default();
        if !env.iter().any(|(known, _)| *known == name) {
            env.push((name, entry));
        }
    }
    Ok(env.into_iter().map(|(_, entry)| entry).collect())
}

/// Without empty parts and `.`, which images often have at the end.
fn working_directory(cwd: &str) -> Result<String> {
    let parts = cwd
        .strip_prefix('/')
        .with_context(|| format!("cannot use working directory {cwd:?}: not absolute"))?
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    let parts: Vec<_> = parts.collect();
    ensure!(
        !parts.contains(&".."),
        "cannot use working directory {cwd:?}: has '..'"
    );
    Ok(format!("/{}", parts.join("/")))
}

fn secret(secret: &config::Secret, user: &User) -> Secret {
    let target = match (&secret.path, &secret.env) {
        (Some(path), _) => SecretTarget::File(SecretFile {
            path: path.clone(),
            mode: secret.mode.map_or(0o400, |mode| mode.0),
            uid: secret.uid.unwrap_or(user.uid),
            gid: secret.gid.unwrap_or(user.gid),
        }),
        (None, name) => SecretTarget::Env(name.clone().unwrap_or_default()),
    };
    Secret {
        resource: secret.resource.clone(),
        target,
    }
}

/// The tmpfs mounts asked for, and one for each folder of secrets without.
fn tmpfs(asked: &[config::Tmpfs], secrets: &[Secret], user: &User) -> Vec<Tmpfs> {
    let asked = asked.iter().map(|tmpfs| Tmpfs {
        path: tmpfs.path.clone(),
        size: tmpfs.size.0,
        mode: tmpfs.mode.map_or(0o1777, |mode| mode.0),
        uid: tmpfs.uid.unwrap_or(user.uid),
        gid: tmpfs.gid.unwrap_or(user.gid),
    });
    let mut mounts: Vec<_> = asked.collect();
    for secret in secrets {
        let SecretTarget::File(file) = &secret.target else {
            continue;
        };
        let Some((folder, _)) = file.path.rsplit_once('/').filter(|(f, _)| !f.is_empty()) else {
            continue;
        };
        if !mounts.iter().any(|mount| mount.path == folder) {
            mounts.push(Tmpfs {
                path: folder.to_owned(),
                size: SECRETS_SIZE,
                mode: 0o500,
                uid: user.uid,
                gid: user.gid,
            });
        }
    }
    mounts
}

fn stop_signal(ours: Option<Signal>, theirs: Option<&str>) -> Result<u8> {
    const SIGTERM: Signal = Signal(15);
    match (ours, theirs) {
        (Some(signal), _) => Ok(signal.0),
        (None, None | Some("")) => Ok(SIGTERM.0),
        (None, Some(text)) => Signal::parse(text).map(|signal| signal.0).with_context(|| {
            format!(
                "cannot use the image's stop signal {text:?}: expected one that a program \
                     can get; the config's stop_signal goes before it"
            )
        }),
    }
}

#[cfg(test)]
mod tests;
