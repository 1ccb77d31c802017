//! A mounted filesystem on dm-verity, in its two modes.
//!
//! While init is the reader a bad block fails the read, so that the boot ends
//! with a line that says what was altered. Before the container becomes the
//! reader the table is exchanged for one under which a bad block panics the
//! kernel: a failed read would be an answer the host could steer it with.

use alloc::string::String;
use alloc::vec::Vec;

use measured_boot::base16::Hex32;
use measured_boot::verity::{Geometry, OnCorruption, table};
use rustix::io;
use rustix::mount::{MountFlags, mount};
use zeroize::Zeroizing;

use crate::dm::{Device, Target};

const TARGET: &str = "verity";

/// What a dm-verity device is opened with. Every value is measured or derived
/// from a released key.
pub struct Parameters {
    /// `major:minor` of the device that holds data and hash tree.
    pub device: String,
    /// Size of the data; the hash tree follows.
    pub geometry: Geometry,
    /// Top of the hash tree.
    pub root_hash: Hex32,
    /// May be secret, see [`measured_boot::keys::BootFilesystemKeys`].
    pub salt: Zeroizing<Vec<u8>>,
}

impl core::fmt::Debug for Parameters {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Parameters({}, {:?}, salt redacted)",
            self.device, self.root_hash
        )
    }
}

impl Parameters {
    fn target(&self, on_corruption: OnCorruption) -> Target {
        let Self {
            device,
            geometry,
            root_hash,
            salt,
        } = self;
        Target {
            kind: TARGET,
            sectors: geometry.data_sectors(),
            parameters: Zeroizing::new(table(device, *geometry, root_hash, salt, on_corruption)),
        }
    }
}

/// A dm-verity device in use; a bad block fails the read.
#[derive(Debug)]
pub struct Verified {
    device: Device,
    parameters: Parameters,
}

/// The same device after [`Verified::arm`]; a bad block panics the kernel.
#[derive(Debug)]
pub struct Armed(());

impl Verified {
    /// Opens the device read-only under `name`.
    ///
    /// # Errors
    /// What the kernel says. A wrong root hash shows only when a block is read.
    pub fn open(name: &'static str, parameters: Parameters) -> io::Result<Self> {
        let device = Device::open(name, &parameters.target(OnCorruption::FailRead))?;
        Ok(Self { device, parameters })
    }

    /// Mounts its EROFS read-only. The superblock is the first block read, so
    /// this is where a wrong key or root hash shows.
    ///
    /// # Errors
    /// `EIO` for a block that does not match its digest; otherwise what the
    /// kernel says.
    pub fn mount(&self, directory: &str) -> io::Result<()> {
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        mount(&*self.device.node(), directory, "erofs", flags, None)
    }

    /// From here on a bad block panics the kernel.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn arm(self) -> io::Result<Armed> {
        self.device
            .reload(&self.parameters.target(OnCorruption::Panic))?;
        Ok(Armed(()))
    }
}
