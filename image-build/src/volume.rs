//! A persistent volume on its owner's machine: made once, and read back when the
//! owner wants to. The guest only ever opens what was made here.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use measured_boot::keys::VolumeKeys;
use measured_boot::manifest::PersistentVolume;
use measured_boot::verity::{BLOCK_SIZE as BLOCK, SECTOR_SIZE};
use measured_boot::volume::{BLOCK_SIZE, Volume};
use tempfile::NamedTempFile;

use crate::config::{self, Config};
use crate::key;

mod ext4;
mod journal;
mod sectors;

use sectors::Sectors;

/// What the manifest says about the volumes of a configuration.
///
/// # Errors
/// A size that is no number of blocks. Other bounds are the manifest's.
pub fn describe(volumes: &[config::Volume]) -> Result<Vec<PersistentVolume>> {
    let describe = |volume: &config::Volume| {
        let (name, size) = (&volume.name, volume.size.0);
        ensure!(
            size.is_multiple_of(BLOCK),
            "cannot use config: volume {name}: got a size of {size} bytes, expected a multiple of {BLOCK}"
        );
        Ok(PersistentVolume {
            name: name.clone(),
            key: volume.key.clone(),
            mount: volume.mount.clone(),
            data_blocks: size / BLOCK,
            epoch: volume.epoch,
        })
    };
    volumes.iter().map(describe).collect()
}

/// Makes the disk of the volume `name` of a configuration, with an empty ext4 in
/// it, as a sparse file that only its owner reads.
///
/// # Errors
/// The configuration has no such volume, `out` exists, or something cannot be
/// read or written; then nothing is left.
pub fn create(config: &Path, name: &str, key_file: &Path, out: &Path) -> Result<()> {
    let (volume, keys) = find(config, name, key_file)?;
    let output = output(out)?;
    let plain = ext4::make(volume.data_blocks(), folder(out))?;
    let disk = output.as_file();
    let written = write(&volume, &keys, disk, plain.as_file());
    written.with_context(|| format!("cannot write volume {}", out.display()))?;
    publish(output, out)
}

/// Writes the filesystem of a volume to a new file that only its owner reads.
/// Blocks that were never written become holes.
///
/// # Errors
/// The disk is not of this volume and key, a guest still uses it or did not close
/// it, or a sector was altered; then nothing is left.
pub fn extract(config: &Path, name: &str, key_file: &Path, disk: &Path, out: &Path) -> Result<()> {
    let (volume, keys) = find(config, name, key_file)?;
    let shown = disk.display();
    let disk = File::open(disk).with_context(|| format!("cannot open volume {shown}"))?;
    let output = output(out)?;
    let read = read(&volume, &keys, &disk, output.as_file());
    read.with_context(|| format!("cannot read volume {shown}"))?;
    publish(output, out)
}

fn find(config: &Path, name: &str, key_file: &Path) -> Result<(Volume, VolumeKeys)> {
    let described = describe(&Config::read(config)?.volume)?;
    let Some(described) = described.iter().find(|volume| volume.name == name) else {
        bail!("cannot find volume {name} in config {}", config.display());
    };
    let volume = described.volume().with_context(|| {
        format!("cannot use config: volume {name}: its name or size is out of bounds")
    })?;
    let keys = key::read_volume(key_file)?.volume(&volume.identity());
    Ok((volume, keys))
}

fn write(volume: &Volume, keys: &VolumeKeys, disk: &File, plain: &File) -> Result<()> {
    disk.set_len(volume.disk_sectors().saturating_mul(SECTOR_SIZE))?;
    let start = [
        volume.header(keys),
        volume.superblock(),
        journal::unused(volume),
    ];
    disk.write_all_at(&start.concat(), 0)?;
    Sectors::new(volume, keys)?.write(plain, disk, &ext4::extents(plain)?)?;
    disk.sync_all()?;
    Ok(())
}

fn read(volume: &Volume, keys: &VolumeKeys, disk: &File, plain: &File) -> Result<()> {
    let mut start = vec![0; journal::unused(volume).len().saturating_add(2 * BLOCK_SIZE)];
    disk.read_exact_at(&mut start, 0)?;
    let (header, rest) = start.split_at(BLOCK_SIZE);
    let (superblock, journal) = rest.split_at(BLOCK_SIZE);
    if let Err(mismatch) = volume.check_header(header, keys) {
        bail!("its header is another one: {mismatch}");
    }
    ensure!(
        superblock == volume.superblock(),
        "its dm-integrity superblock was altered"
    );
    ensure!(
        journal::is_unused(journal),
        "its journal is in use: the guest runs, or did not end by itself; let it boot and end once more"
    );
    plain.set_len(volume.data_blocks().saturating_mul(BLOCK))?;
    Sectors::new(volume, keys)?.read(disk, plain)
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file beside its place, with mode 0600, gone unless it is published.
fn output(out: &Path) -> Result<NamedTempFile> {
    let shown = out.display();
    ensure!(
        std::fs::symlink_metadata(out).is_err(),
        "cannot write {shown}: it exists already"
    );
    NamedTempFile::new_in(folder(out)).with_context(|| format!("cannot write {shown}"))
}

fn publish(output: NamedTempFile, out: &Path) -> Result<()> {
    let moved = output.persist_noclobber(out).map(drop);
    moved.with_context(|| format!("cannot write {}", out.display()))
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod tests;
