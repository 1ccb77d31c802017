//! Both filesystems, handed over from init to the container as their reader.

use measured_boot::manifest::{ContainerRoot, Manifest};

use crate::boot_filesystem::BootFiles;
use crate::error::BootError;
use crate::latch::Latched;
use crate::rootfs::VerifiedRoot;
use crate::verity::Armed;

/// Every filesystem the container can see is mounted read-only, and a block that
/// does not match its root hash panics the kernel. The latch closed before that.
#[derive(Debug)]
pub struct Storage {
    _rootfs: Armed,
    boot: Option<Armed>,
}

/// Where the container's root is on the rootfs, and what is on the boot
/// filesystem (`measured_boot::manifest::{CONTAINER_ROOT, BOOT_FILES}`).
const ROOT_ON_ROOTFS: &str = "/mnt/rootfs/rootfs";
const ROOT_ON_BOOT: &str = "/mnt/boot/rootfs";
const BOOT_FILES: &str = "/mnt/boot/files";

impl Storage {
    /// The directory that becomes the container's root.
    pub fn container_root(&self, manifest: &Manifest) -> &'static str {
        match manifest.container.root {
            ContainerRoot::Rootfs => ROOT_ON_ROOTFS,
            ContainerRoot::Boot => ROOT_ON_BOOT,
        }
    }

    /// The directory of private files, when there is a boot filesystem.
    pub fn boot_files(&self) -> Option<&'static str> {
        self.boot.as_ref().map(|_| BOOT_FILES)
    }
}

/// Exchanges the dm-verity tables, after the last read whose failure init wants
/// to tell in words of its own, and not before the right to keys has ended.
///
/// # Errors
/// `E_ROOTFS_DEVICE`, `E_BOOT_DEVICE`.
pub fn hand_over(
    _: Latched,
    root: VerifiedRoot,
    boot: Option<BootFiles>,
) -> Result<Storage, BootError> {
    Ok(Storage {
        _rootfs: root.arm()?,
        boot: boot.map(BootFiles::arm).transpose()?,
    })
}
