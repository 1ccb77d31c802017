//! The encrypted boot filesystem: dm-crypt without a header, dm-verity over it.
//!
//! The released key gives secrecy, the root hash in the manifest integrity and
//! freshness. Nothing on the disk is parsed before both hold.

use alloc::format;
use alloc::vec::Vec;

use measured_boot::base16;
use measured_boot::code::Code;
use measured_boot::keys::{BootKey, ContentId};
use measured_boot::manifest::BootFilesystem;
use zeroize::Zeroizing;

use crate::console;
use crate::disk;
use crate::dm::{Device, Target};
use crate::error::BootError;
use crate::mounts;
use crate::verity::{Armed, Parameters, Verified};

const STEP: &str = "boot-filesystem";
/// Serial of its disk.
const SERIAL: &str = "boot";
const NEEDS: disk::Needs = disk::Needs {
    step: STEP,
    missing: Code::BootMissing,
    ambiguous: Code::BootAmbiguous,
    short: Code::BootSize,
    unreadable: Code::BootDevice,
};

/// The boot filesystem is mounted at [`mounts::BOOT`], read-only, decrypted with
/// the released key and checked against the manifest's root hash.
#[derive(Debug)]
pub struct BootFiles(Verified);

/// Opens and mounts the boot filesystem, if the manifest has one, consuming its
/// key: afterwards only the kernel has it.
///
/// # Errors
/// `E_BOOT_*`.
pub fn open(
    description: Option<&BootFilesystem>,
    key: Option<BootKey>,
) -> Result<Option<BootFiles>, BootError> {
    let Some(description) = description else {
        return Ok(None);
    };
    let internal = |cause| BootError::new(Code::Internal, STEP, "open the boot filesystem", cause);
    // A manifest with a boot filesystem has a broker, and that gave a key.
    let key = key.ok_or_else(|| internal("got no key"))?;
    let (root_hash, geometry) = description
        .verity()
        .ok_or_else(|| internal("got a size out of bounds"))?;
    let disk = disk::find(SERIAL, geometry.total_sectors(), &NEEDS)?;

    let keys = key.boot_filesystem(&ContentId(description.content_id.0));
    // 4096-byte sectors, the IV counted in units of 512 bytes, as
    // `cryptsetup open --type plain --sector-size 4096` does it.
    let volume_key = Zeroizing::new(base16::encode(&*keys.volume_key));
    let target = Target {
        kind: "crypt",
        sectors: geometry.total_sectors(),
        parameters: Zeroizing::new(format!(
            "aes-xts-plain64 {} 0 {} 0 1 sector_size:4096",
            *volume_key, disk.device
        )),
    };
    let decrypted = Device::open("boot-crypt", &target)
        .map_err(|e| device_error("open dm-crypt device boot", e))?;

    let parameters = Parameters {
        device: decrypted.device(),
        geometry,
        root_hash,
        salt: Zeroizing::new(Vec::from(*keys.salt)),
    };
    let verified = Verified::open("boot", parameters)
        .map_err(|e| device_error("open dm-verity device boot", e))?;
    verified
        .mount(mounts::BOOT)
        .map_err(|e| BootError::new(Code::BootIntegrity, STEP, "mount the boot filesystem", e))?;
    console::progress("boot-filesystem: mounted");
    Ok(Some(BootFiles(verified)))
}

impl BootFiles {
    /// Hands the boot filesystem over to the container as its reader.
    ///
    /// # Errors
    /// `E_BOOT_DEVICE`.
    pub fn arm(self) -> Result<Armed, BootError> {
        self.0
            .arm()
            .map_err(|e| device_error("arm dm-verity device boot", e))
    }
}

fn device_error(action: &str, errno: rustix::io::Errno) -> BootError {
    BootError::new(Code::BootDevice, STEP, action, errno)
}
