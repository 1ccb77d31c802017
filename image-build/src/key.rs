//! The master key of an encrypted boot filesystem or of a persistent volume, as
//! a file of 32 bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use measured_boot::keys::{BOOT_KEY_SIZE, BootKey, VolumeKey};
use zeroize::Zeroizing;

/// Makes a new key in a new file that only its owner reads.
///
/// # Errors
/// The file exists already, or cannot be written; then none is left.
pub fn create(path: &Path) -> Result<()> {
    let mut key = Zeroizing::new([0; BOOT_KEY_SIZE]);
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut *key))
        .context("cannot read /dev/urandom")?;
    write_secret(path, &*key)
}

/// Writes a secret to a new file that only its owner reads.
///
/// # Errors
/// The file exists already, or cannot be written; then none is left.
pub fn write_secret(path: &Path, secret: &[u8]) -> Result<()> {
    let shown = path.display();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create key file {shown}"))?;
    let written = file.write_all(secret).and_then(|()| file.sync_all());
    if written.is_err() {
        drop(fs::remove_file(path));
    }
    written.with_context(|| format!("cannot write key file {shown}"))
}

/// Reads the key of a boot filesystem.
///
/// # Errors
/// The file cannot be read, or is not 32 bytes long.
pub fn read(path: &Path) -> Result<BootKey> {
    read_as("boot", path, BootKey::from_slice)
}

/// Reads the key of a persistent volume.
///
/// # Errors
/// As [`read`].
pub fn read_volume(path: &Path) -> Result<VolumeKey> {
    read_as("volume", path, VolumeKey::from_slice)
}

fn read_as<K>(what: &str, path: &Path, from_slice: fn(&[u8]) -> Option<K>) -> Result<K> {
    let shown = format!("{what} key {}", path.display());
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    // Never reallocated, so that no copy of the key is left in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * BOOT_KEY_SIZE));
    file.take(33)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {shown}"))?;
    let length = bytes.len();
    ensure!(
        length <= BOOT_KEY_SIZE,
        "cannot read {shown}: got more than {BOOT_KEY_SIZE} bytes"
    );
    from_slice(&bytes).with_context(|| {
        format!("cannot read {shown}: got {length} bytes, expected {BOOT_KEY_SIZE}")
    })
}
