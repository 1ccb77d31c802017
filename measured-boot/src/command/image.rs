//! An image folder, as `image-build build` writes it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use measured_boot::predict::Payload;
use measured_boot::reference_values::ReferenceValues;

const KERNEL: &str = "bzImage";
const KERNEL_CONFIG: &str = "kernel.config";
const INITRD: &str = "initrd.cpio";
const CMDLINE: &str = "cmdline";
const UKI: &str = "image.efi";
const REFERENCE_VALUES: &str = "reference-values.json";
const ROOTFS: &str = "rootfs.img";

/// What a direct boot of the image is given.
pub(crate) struct Image {
    folder: PathBuf,
    /// As the user wrote it.
    pub(crate) name: String,
    pub(crate) kernel: Vec<u8>,
    pub(crate) initrd: Vec<u8>,
    /// Without what a loader appends.
    pub(crate) cmdline: Vec<u8>,
    /// The unified kernel image, when it is started as one file.
    pub(crate) uki: Option<Vec<u8>>,
}

impl Image {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            name: folder.display().to_string(),
            kernel: read(&folder.join(KERNEL))?,
            initrd: read(&folder.join(INITRD))?,
            cmdline: read(&folder.join(CMDLINE))?,
            uki: match fs::exists(folder.join(UKI)) {
                Ok(false) => None,
                _ => Some(read(&folder.join(UKI))?),
            },
            folder: folder.to_owned(),
        })
    }

    /// What the firmware is given to start.
    pub(crate) fn payload(&self) -> Result<Payload<'_>> {
        if let Some(uki) = &self.uki {
            return Ok(Payload::Uki(uki));
        }
        let cmdline = std::str::from_utf8(&self.cmdline);
        Ok(Payload::Direct {
            kernel: &self.kernel,
            initrd: &self.initrd,
            cmdline: cmdline.context("cannot use cmdline: not printable ASCII")?,
        })
    }

    /// What the builder wrote of it.
    pub(crate) fn reference_values(&self) -> Result<ReferenceValues> {
        let path = self.folder.join(REFERENCE_VALUES);
        let values = ReferenceValues::parse(&read(&path)?);
        values.with_context(|| path.display().to_string())
    }

    pub(crate) fn rootfs(&self) -> Result<Vec<u8>> {
        read(&self.folder.join(ROOTFS))
    }

    /// The kernel's configuration, where it was kept.
    pub(crate) fn kernel_config(&self) -> Result<Option<Vec<u8>>> {
        let path = self.folder.join(KERNEL_CONFIG);
        match fs::exists(&path) {
            Ok(false) => Ok(None),
            _ => read(&path).map(Some),
        }
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
