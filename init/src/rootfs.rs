//! The rootfs: the disk that the measured command line names by its root hash.

use alloc::vec::Vec;

use measured_boot::cmdline::Cmdline;
use measured_boot::code::Code;
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::console;
use crate::disk;
use crate::entropy::Entropy;
use crate::error::BootError;
use crate::mounts::{self, EarlyMounts};
use crate::verity::{Armed, Parameters, Verified};

const STEP: &str = "rootfs";
/// Serial of its disk, and name of its device.
const NAME: &str = "rootfs";
const NEEDS: disk::Needs = disk::Needs {
    step: STEP,
    missing: Code::RootfsMissing,
    ambiguous: Code::RootfsAmbiguous,
    short: Code::RootfsSize,
    unreadable: Code::RootfsDevice,
};

/// The rootfs is mounted at [`mounts::ROOTFS`], read-only, and every block read
/// from it is checked against the command line's root hash.
#[derive(Debug)]
pub struct VerifiedRoot(Verified);

/// Opens and mounts the rootfs.
///
/// # Errors
/// `E_ROOTFS_*`.
pub fn open(_: &EarlyMounts, _: &Entropy, cmdline: &Cmdline) -> Result<VerifiedRoot, BootError> {
    let Cmdline {
        root_hash,
        geometry,
    } = *cmdline;
    let disk = disk::find(NAME, geometry.total_sectors(), &NEEDS)?;
    let parameters = Parameters {
        device: disk.device,
        geometry,
        root_hash,
        salt: Zeroizing::new(Vec::new()),
    };
    let verified = Verified::open(NAME, parameters)
        .map_err(|e| BootError::new(Code::RootfsDevice, STEP, "open dm-verity device rootfs", e))?;
    verified
        .mount(mounts::ROOTFS)
        .map_err(|e| integrity("mount rootfs", e))?;
    console::progress("rootfs: mounted");
    Ok(VerifiedRoot(verified))
}

/// A read that failed: dm-verity answers `EIO` for a block that does not match.
pub(crate) fn integrity(action: &str, errno: Errno) -> BootError {
    BootError::new(Code::RootfsIntegrity, STEP, action, errno)
}

impl VerifiedRoot {
    /// Hands the rootfs over to the container as its reader.
    ///
    /// # Errors
    /// `E_ROOTFS_DEVICE`.
    pub fn arm(self) -> Result<Armed, BootError> {
        self.0
            .arm()
            .map_err(|e| BootError::new(Code::RootfsDevice, STEP, "arm dm-verity device rootfs", e))
    }
}
