//! The options that describe a SEV-SNP machine. None has a default: each changes
//! the launch digest, and none can be read from the image.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use measured_boot::predict::snp::{CpuType, Firmware, GuestFeatures, LaunchDigest, Machine, Vmm};
use sha2::{Digest as _, Sha256};

use super::image;

/// Options of `--tee snp`; all of them are needed.
#[derive(clap::Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct Options {
    /// Who launches the guest: for SNP qemu, ec2, ec2-rdx-zero (EC2 as older tools have it), gce, krun; for TDX qemu, qemu-two-pass.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) vmm: Option<String>,
    /// Number of vCPUs: 4, or a range such as 1-8.
    #[arg(long, value_name = "N")]
    vcpus: Option<String>,
    /// QEMU's -cpu model such as EPYC-Milan, or the CPUID signature (leaf 1, EAX) as 0xa00f11. With
    /// --vmm qemu only: the others' registers do not tell the type.
    #[arg(long, value_name = "TYPE")]
    vcpu_type: Option<CpuType>,
    /// SEV_FEATURES of the guest: 0x1 is SNPActive alone, 0x21 is with DebugSwap, which some hosts turn on.
    #[arg(long, value_name = "BITS")]
    guest_features: Option<String>,
    /// The firmware file.
    #[arg(long, value_name = "FILE")]
    pub(crate) firmware: Option<PathBuf>,
    /// Launch digest after the firmware's pages, computed before; then only the metadata of --firmware counts.
    #[arg(long, value_name = "HEX", requires = "firmware")]
    firmware_digest: Option<String>,
}

/// What the options say.
pub(crate) struct Described {
    pub(crate) vmm: Vmm,
    pub(crate) features: GuestFeatures,
    pub(crate) vcpus: RangeInclusive<u32>,
    pub(crate) firmware: Firmware,
    pub(crate) firmware_name: String,
    pub(crate) firmware_sha256: [u8; 32],
    pub(crate) firmware_digest_given: bool,
}

impl Options {
    /// The firmware file, where one is given.
    pub(crate) fn firmware(&self) -> Option<&Path> {
        self.firmware.as_deref()
    }

    pub(crate) fn describe(&self) -> Result<Described> {
        let name = needed(self.vmm.as_ref(), "--vmm")?;
        let vmm = Vmm::from_name(name, self.vcpu_type)?;
        let vcpus = vcpu_range(needed(self.vcpus.as_ref(), "--vcpus")?)?;
        let bits = needed(self.guest_features.as_ref(), "--guest-features")?;
        let features = GuestFeatures::new(number(bits)?)?;
        let path = needed(self.firmware.as_ref(), "--firmware")?;
        let file = image::read(path)?;
        let shown = path.display().to_string();
        let digest = self.firmware_digest.as_deref();
        let digest = digest
            .map(|hex| {
                LaunchDigest::from_hex(hex)
                    .with_context(|| format!("cannot use --firmware-digest {hex}: expected 96 hexadecimal digits in lower case"))
            })
            .transpose()?;
        let read = || match digest {
            Some(digest) => Firmware::with_digest(&file, digest),
            None => Firmware::read(&file),
        };
        let (firmware, firmware_sha256) = rayon::join(read, || Sha256::digest(&file).into());
        let firmware = firmware.with_context(|| shown.clone())?;
        // Every count in the range can be a machine.
        Machine::new(vmm, *vcpus.start(), features)?;
        Machine::new(vmm, *vcpus.end(), features)?;
        Ok(Described {
            vmm,
            features,
            vcpus,
            firmware,
            firmware_name: shown,
            firmware_sha256,
            firmware_digest_given: digest.is_some(),
        })
    }
}

fn needed<'a, T>(option: Option<&'a T>, name: &str) -> Result<&'a T> {
    option.with_context(|| {
        format!("cannot predict a launch digest without {name}: it changes the digest, and the image does not tell it")
    })
}

fn vcpu_range(text: &str) -> Result<RangeInclusive<u32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let parse = |digits: &str| {
        digits.parse().with_context(|| {
            format!("cannot use --vcpus {text}: expected a number or a range such as 1-8")
        })
    };
    let (first, last) = (parse(first)?, parse(last)?);
    ensure!(
        first <= last,
        "cannot use --vcpus {text}: the range is empty"
    );
    Ok(first..=last)
}

fn number(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.with_context(|| {
        format!("cannot use --guest-features {text}: expected a number such as 0x1")
    })
}
