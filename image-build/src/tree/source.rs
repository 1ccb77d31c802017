//! Reads the private files of an encrypted boot filesystem, from a directory of
//! this machine or from a tar archive.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::layer::Layers;
use super::{Content, Directory, Entry, Leaf, MAX_DEPTH, Metadata, Tree};
use crate::notes::Notes;
use crate::oci::compression;
use crate::spool::Spool;

/// Reads `path`. In a tar archive, owners and modes count. In a directory they
/// do not, since they depend on who checked it out under which umask: its files
/// get `owner`, and the execute bit is all that is kept of their modes.
///
/// # Errors
/// What cannot be read, or is neither file, directory nor symbolic link.
pub fn read(path: &Path, owner: (u32, u32), spool: &mut Spool, notes: &mut Notes) -> Result<Tree> {
    let shown = path.display();
    let kind = fs::metadata(path).with_context(|| format!("cannot read boot.source {shown}"))?;
    if kind.is_dir() {
        let root = directory(path, owner, spool, 0)?;
        return Ok(Tree { root });
    }
    let file = File::open(path).with_context(|| format!("cannot open boot.source {shown}"))?;
    let mut layers = Layers::new(spool, notes);
    layers
        .apply(compression::decompress(file)?)
        .with_context(|| format!("cannot read boot.source {shown} as a tar archive"))?;
    Ok(layers.tree)
}

fn directory(path: &Path, owner: (u32, u32), spool: &mut Spool, depth: usize) -> Result<Directory> {
    let shown = path.display();
    ensure!(
        depth <= MAX_DEPTH,
        "cannot read {shown}: more than {MAX_DEPTH} directories deep"
    );
    let mut result = Directory::new(owned(0o755, owner));
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {shown}"))? {
        let entry = entry.with_context(|| format!("cannot read {shown}"))?;
        let path = entry.path();
        let name = entry.file_name().as_bytes().to_vec();
        let read = self::entry(&path, owner, spool, depth)
            .with_context(|| format!("cannot read {}", path.display()))?;
        result.insert(name, read);
    }
    Ok(result)
}

fn entry(path: &Path, owner: (u32, u32), spool: &mut Spool, depth: usize) -> Result<Entry> {
    let metadata = fs::symlink_metadata(path)?;
    let (mode, content) = if metadata.is_dir() {
        let below = directory(path, owner, spool, depth.saturating_add(1))?;
        return Ok(Entry::Directory(below));
    } else if metadata.is_symlink() {
        let target = fs::read_link(path)?.as_os_str().as_bytes().to_vec();
        (0o777, Content::Symlink(target))
    } else {
        ensure!(
            metadata.is_file(),
            "neither file, directory nor symbolic link"
        );
        let executable = metadata.permissions().mode() & 0o100 != 0;
        let extent = spool.append_all(&mut File::open(path)?)?;
        let mode = if executable { 0o755 } else { 0o644 };
        (mode, Content::File(extent))
    };
    let metadata = owned(mode, owner);
    Ok(Entry::Leaf(Arc::new(Leaf { metadata, content })))
}

fn owned(mode: u16, (uid, gid): (u32, u32)) -> Metadata {
    Metadata {
        uid,
        gid,
        ..Metadata::root(mode)
    }
}
