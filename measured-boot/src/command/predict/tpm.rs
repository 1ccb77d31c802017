//! `predict --tee tpm`: the PCRs.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use measured_boot::base16;
use measured_boot::manifest::Hex32;
use measured_boot::predict::{self, LowMemory, known_firmware};
use measured_boot::reference_values::{Register, TpmValues};
use sha2::{Digest as _, Sha256};

use super::super::image::{self, Image};

pub(super) fn values(
    image: &Image,
    firmware: Option<&PathBuf>,
    memory: LowMemory,
) -> Result<TpmValues> {
    let mut profiles = known_firmware()?;
    if let Some(path) = firmware {
        let digest = Hex32(Sha256::digest(image::read(path)?).into());
        profiles.retain(|profile| profile.sha256 == digest);
        ensure!(
            !profiles.is_empty(),
            "cannot predict for firmware {}: its registers are pinned from logs, and none of sha256 {} is recorded",
            path.display(),
            base16::encode(&digest.0)
        );
    }
    Ok(predict::tpm(&image.payload()?, memory, profiles)?)
}

pub(super) fn print(
    out: &mut impl Write,
    image: &Image,
    values: &TpmValues,
    memory: LowMemory,
) -> Result<()> {
    writeln!(out, "PCRs of {} (SHA-256 bank)", image.name)?;
    writeln!(out, "\nassumed, since no file tells it:")?;
    writeln!(out, "  a q35 machine of QEMU with OVMF, Secure Boot off")?;
    if image.uki.is_some() {
        writeln!(
            out,
            "  the UKI is the boot loader of a disk; nothing lies beside it"
        )?;
    } else {
        writeln!(
            out,
            "  \"initrd=initrd\" stands after the command line (OVMF 2022.11 to 2025.02) or before it (2026.08)"
        )?;
        writeln!(
            out,
            "  the kernel is the file as it is, or has its setup header filled for {memory} of memory below 4 GiB"
        )?;
    }
    writeln!(out)?;
    for (pcr, register) in &values.pcrs {
        match register {
            Register::Predicted { values, covers } => {
                writeln!(out, "PCR {pcr}: predicted: {covers}")?;
                for value in values {
                    writeln!(out, "  {}", base16::encode(&value.0))?;
                }
            }
            Register::Pinned { covers } => writeln!(out, "PCR {pcr}: pinned: {covers}")?,
            Register::Ignored { reason } => writeln!(out, "PCR {pcr}: ignored: {reason}")?,
        }
    }
    writeln!(out, "\npinned to one of:")?;
    for profile in &values.firmware {
        writeln!(out, "  {}", profile.name)?;
    }
    Ok(())
}
