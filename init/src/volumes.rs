//! The persistent encrypted volumes: dm-crypt with authenticated encryption over
//! dm-integrity, ext4 inside. A volume is made by its owner; here it is opened,
//! never formatted, since "it does not open" is what the host can arrange.
//!
//! The header is read once and compared with the only one this volume can have.
//! dm-integrity reads its superblock by itself: it is compared beforehand, and
//! what the kernel made of it afterwards.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use measured_boot::code::Code;
use measured_boot::keys::VolumeKey;
use measured_boot::manifest::PersistentVolume;
use measured_boot::volume::{BLOCK_SIZE, crypt_table};
use rustix::fs::{Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use zeroize::Zeroizing;

use crate::console;
use crate::disk;
use crate::dm::{Device, Target};
use crate::error::BootError;

const STEP: &str = "volumes";
const NEEDS: disk::Needs = disk::Needs {
    step: STEP,
    missing: Code::VolumeMissing,
    ambiguous: Code::VolumeAmbiguous,
    short: Code::VolumeSize,
    unreadable: Code::VolumeDevice,
};

/// Every volume of the manifest is mounted, writable, and its key is in the
/// kernel only.
#[derive(Debug)]
pub struct Volumes(Vec<Volume>);

#[derive(Debug)]
struct Volume {
    /// Where it is mounted in init's tree, and in the container's.
    source: String,
    target: String,
    /// From the top: dm-crypt, dm-integrity, the disk.
    devices: [Device; 3],
}

/// Opens and mounts the volumes, consuming their keys.
///
/// # Errors
/// `E_VOLUME_*`.
pub fn open(descriptions: &[PersistentVolume], keys: Vec<VolumeKey>) -> Result<Volumes, BootError> {
    if keys.len() != descriptions.len() {
        let cause = "the number of keys is another";
        return Err(BootError::new(Code::Internal, STEP, "open volumes", cause));
    }
    let opened = descriptions
        .iter()
        .zip(keys)
        .map(|(d, key)| open_one(d, key));
    opened.collect::<Result<_, _>>().map(Volumes)
}

fn open_one(description: &PersistentVolume, key: VolumeKey) -> Result<Volume, BootError> {
    let name = &description.name;
    let failed = |code, verb| {
        move |errno: Errno| BootError::new(code, STEP, format_args!("{verb} volume {name}"), errno)
    };
    let device = |verb| failed(Code::VolumeDevice, verb);
    let volume = description
        .volume()
        .ok_or(Errno::INVAL)
        .map_err(failed(Code::Internal, "size"))?;
    let keys = key.volume(&volume.identity());

    let found = disk::find(&format!("volume-{name}"), volume.disk_sectors(), &NEEDS)?;
    // A device of the manifest's length, so that the kernel's arithmetic does not
    // depend on that of the host's disk.
    let linear = target(
        "linear",
        volume.disk_sectors(),
        format!("{} 0", found.device),
    );
    let disk = Device::open_writable(&format!("volume-{name}-disk"), &linear)
        .map_err(device("open the disk of"))?;

    let start = read_start(&disk.node()).map_err(device("read the header of"))?;
    let (header, superblock) = start.split_at(BLOCK_SIZE);
    volume.check_header(header, &keys).map_err(|mismatch| {
        let action = format_args!("accept the header of volume {name}");
        BootError::new(Code::VolumeHeader, STEP, action, mismatch)
    })?;
    let refuse = |cause| {
        let action = format_args!("accept the superblock of volume {name}");
        BootError::new(Code::VolumeSuperblock, STEP, action, cause)
    };
    if superblock != volume.superblock() {
        return Err(refuse("it differs from what the manifest says"));
    }

    let table = volume.integrity_table(&disk.device());
    let tags = target("integrity", volume.data_sectors(), table);
    let integrity = Device::open_writable(&format!("volume-{name}-integrity"), &tags)
        .map_err(device("open dm-integrity of"))?;
    if !integrity.reads_back(&tags).map_err(device("read back"))? {
        return Err(refuse("the kernel read another one"));
    }
    let data = Target {
        kind: "crypt",
        sectors: volume.data_sectors(),
        parameters: crypt_table(&integrity.device(), &keys),
    };
    let crypt = Device::open_writable(&format!("volume-{name}-crypt"), &data)
        .map_err(device("open dm-crypt of"))?;

    let source = format!("/mnt/volume-{name}");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::fs::mkdir(&*source, Mode::RWXU)
        .and_then(|()| {
            mount(
                &*crypt.node(),
                &*source,
                "ext4",
                flags,
                Some(c"errors=remount-ro"),
            )
        })
        .map_err(failed(Code::VolumeIntegrity, "mount"))?;
    console::progress(format_args!("volumes: {name} mounted"));
    Ok(Volume {
        source,
        target: description.mount.clone(),
        devices: [crypt, integrity, disk],
    })
}

fn target(kind: &'static str, sectors: u64, parameters: String) -> Target {
    Target {
        kind,
        sectors,
        parameters: Zeroizing::new(parameters),
    }
}

/// Header and superblock, in one read.
fn read_start(node: &str) -> io::Result<[u8; 2 * BLOCK_SIZE]> {
    let mut start = [0; 2 * BLOCK_SIZE];
    let device = rustix::fs::open(node, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    match io::read(device, &mut start[..])? {
        length if length == start.len() => Ok(start),
        _ => Err(Errno::IO),
    }
}

impl Volumes {
    /// Where each is mounted in init's tree, and where it belongs in the container's.
    pub fn mounts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|volume| (&*volume.source, &*volume.target))
    }

    /// Writes everything out, after the last process that could write has ended.
    ///
    /// # Errors
    /// `E_VOLUME_CLOSE`.
    pub fn close(self) -> Result<(), BootError> {
        for volume in self.0 {
            unmount(&*volume.source, UnmountFlags::empty())
                .and_then(|()| volume.devices.into_iter().try_for_each(Device::remove))
                .map_err(|errno| {
                    let action = format_args!("close {}", volume.source);
                    BootError::new(Code::VolumeClose, STEP, action, errno)
                })?;
        }
        Ok(())
    }
}
