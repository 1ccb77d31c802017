//! The filesystems, handed over from init to the container as their user.

use measured_boot::manifest::{ContainerRoot, Manifest};

use crate::boot_filesystem::BootFiles;
use crate::error::BootError;
use crate::latch::Latched;
use crate::rootfs::VerifiedRoot;
use crate::verity::Armed;
use crate::volumes::Volumes;

/// Every filesystem of the image is mounted read-only, and a block that does not
/// match its root hash panics the kernel; the volumes are mounted writable. The
/// latch closed before that.
#[derive(Debug)]
pub struct Storage {
    _rootfs: Armed,
    boot: Option<Armed>,
    volumes: Volumes,
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

    /// The persistent volumes.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Ends the use of what can be written, after the container ended.
    ///
    /// # Errors
    /// `E_VOLUME_CLOSE`.
    pub fn close(self) -> Result<(), BootError> {
        self.volumes.close()
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
    volumes: Volumes,
) -> Result<Storage, BootError> {
    Ok(Storage {
        _rootfs: root.arm()?,
        boot: boot.map(BootFiles::arm).transpose()?,
        volumes,
    })
}
