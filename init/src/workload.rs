//! What this machine is for: the manifest on the verified rootfs.

use alloc::format;

use measured_boot::code::Code;
use measured_boot::manifest::{self, Manifest};
use rustix::io::Errno;

use crate::console;
use crate::error::BootError;
use crate::file;
use crate::mounts;
use crate::rootfs::{self, VerifiedRoot};

const STEP: &str = "workload";

/// Reads and checks the manifest, which is measured by way of the root hash.
///
/// # Errors
/// `E_MANIFEST`, or `E_ROOTFS_INTEGRITY` when its blocks were altered.
pub fn read(_: &VerifiedRoot) -> Result<Manifest, BootError> {
    let path = format!("{}/{}", mounts::ROOTFS, manifest::PATH);
    let limit = usize::try_from(manifest::MAX_SIZE).unwrap_or(usize::MAX);
    let json = file::read(&path, limit).map_err(|errno| match errno {
        Errno::IO => rootfs::integrity("read manifest", errno),
        other => BootError::new(Code::Manifest, STEP, "read manifest", other),
    })?;
    let manifest = Manifest::parse(&json)
        .map_err(|e| BootError::new(Code::Manifest, STEP, "accept manifest", e))?;
    console::progress(format_args!(
        "workload: image {} version {}",
        manifest.image.name, manifest.image.version
    ));
    Ok(manifest)
}
