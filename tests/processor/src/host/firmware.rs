//! The firmware of emulated launches, as `tests/firmware/README.md` has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use measured_boot::base16;
use sha2::{Digest, Sha256};

const COMPRESSED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../firmware/OVMF.amdsev.fd.xz");
const SHA256: &str = "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f";

/// Writes the firmware into `folder`.
///
/// # Errors
/// `xz` is missing, or the file is another.
pub fn write_firmware(folder: &Path) -> Result<PathBuf> {
    let output = Command::new("xz")
        .args(["--decompress", "--stdout", COMPRESSED])
        .output()
        .context("cannot run xz: install xz-utils")?;
    ensure!(
        output.status.success(),
        "cannot decompress {COMPRESSED}: {}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let digest = base16::encode(&Sha256::digest(&output.stdout));
    ensure!(
        digest == SHA256,
        "cannot use {COMPRESSED}: got SHA-256 {digest}, expected {SHA256}"
    );
    let file = folder.join("OVMF.amdsev.fd");
    fs::write(&file, output.stdout).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
