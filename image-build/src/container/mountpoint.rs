//! Adds to the container's root what init will mount over: the root is
//! read-only, so a mount point that is missing in the image cannot be made later.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use measured_boot::manifest::Container;

use crate::config::Volume;
use crate::spool::Extent;
use crate::tree::{Content, Entry, Leaf, Metadata, RealPath, Tree, plain_components, show_real};

/// Directories every container has.
const DIRECTORIES: [&str; 3] = ["/proc", "/dev", "/etc"];
/// Files that init may replace by its own.
const FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];
/// Mounted by init; nothing else can be mounted inside.
const RESERVED: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Adds the mount points of `container`, of the boot filesystem and of the volumes.
///
/// # Errors
/// A mount point is inside another one, or the image has a link or a file there.
pub fn add(
    tree: &mut Tree,
    container: &Container,
    boot: Option<&str>,
    volumes: &[Volume],
) -> Result<()> {
    let tmpfs = container
        .tmpfs
        .iter()
        .map(|t| ("container.tmpfs", t.path.as_str()));
    let boot = boot.map(|path| ("boot.mount", path));
    let volumes = volumes.iter().map(|v| ("volume.mount", v.mount.as_str()));
    let mounts: Vec<_> = tmpfs.chain(boot).chain(volumes).collect();
    for (index, (what, path)) in mounts.iter().enumerate() {
        for other in RESERVED {
            ensure!(
                !inside(path, other),
                "cannot mount {what} {path}: inside {other}"
            );
        }
        for (place, (_, other)) in mounts.iter().enumerate() {
            ensure!(
                place == index || !inside(path, other),
                "cannot mount {what} {path}: inside the mount at {other}"
            );
        }
    }
    let all = DIRECTORIES.iter().map(|path| ("container", *path));
    for (what, path) in all.chain(mounts.iter().copied()) {
        directory(tree, path).with_context(|| format!("cannot mount {what} {path}"))?;
    }
    for path in FILES {
        file(tree, path).with_context(|| format!("cannot mount {path}"))?;
    }
    Ok(())
}

/// Makes the working directory if the image does not have it, as runtimes do.
///
/// # Errors
/// Something else is there.
pub fn working_directory(tree: &mut Tree, cwd: &str) -> Result<()> {
    let what = || format!("cannot make working directory {cwd}");
    let path = tree
        .resolve(cwd.as_bytes(), crate::tree::Last::Follow)
        .with_context(what)?;
    tree.make_directory(&path, 0).with_context(what)?;
    Ok(())
}

fn inside(path: &str, other: &str) -> bool {
    path.strip_prefix(other)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn directory(tree: &mut Tree, path: &str) -> Result<()> {
    let path = components(path)?;
    no_links(tree, &path)?;
    tree.make_directory(&path, 0)?;
    Ok(())
}

fn file(tree: &mut Tree, path: &str) -> Result<()> {
    let path = components(path)?;
    no_links(tree, &path)?;
    match tree.entry(&path) {
        Some(Entry::Leaf(_)) => Ok(()),
        Some(Entry::Directory(_)) => bail!("the image has a directory there"),
        None => {
            let (name, parent) = path.split_last().context("the root is no file")?;
            let leaf = Leaf {
                metadata: Metadata::root(0o644),
                content: Content::File(Extent::default()),
            };
            let entry = Entry::Leaf(Arc::new(leaf));
            tree.make_directory(parent, 0)?.insert(name.clone(), entry);
            Ok(())
        }
    }
}

/// A link at a mount point would be followed to a place that nobody checked.
fn no_links(tree: &Tree, path: &[Vec<u8>]) -> Result<()> {
    for length in 1..=path.len() {
        let part = path.get(..length).unwrap_or(path);
        if let Some(Entry::Leaf(leaf)) = tree.entry(part)
            && matches!(leaf.content, Content::Symlink(_))
        {
            bail!(
                "{} is a symbolic link in the image; name the place it leads to",
                show_real(part)
            );
        }
    }
    Ok(())
}

fn components(path: &str) -> Result<RealPath> {
    let relative = path
        .strip_prefix('/')
        .with_context(|| format!("{path}: not an absolute path"))?;
    plain_components(relative.as_bytes())
}
