//! Which registers a verifier will see.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use measured_boot::base16;
use measured_boot::manifest::{Hex32, Manifest, Tee};
use measured_boot::predict::{self, LowMemory, Payload, known_firmware};
use measured_boot::reference_values::{FirmwareProfile, TpmValues};
use sha2::{Digest as _, Sha256};

/// The TPM's registers, for an image that presents a TPM's evidence.
///
/// # Errors
/// The kernel is no EFI program, or a firmware is unknown.
pub fn tpm(
    manifest: &Manifest,
    payload: &Payload<'_>,
    firmware: &[PathBuf],
) -> Result<Option<TpmValues>> {
    if manifest.attestation.tee != [Tee::Tpm] {
        ensure!(
            firmware.is_empty(),
            "cannot use --firmware: attestation.tee is not [\"tpm\"]"
        );
        return Ok(None);
    }
    let profiles = profiles(firmware)?;
    Ok(Some(predict::tpm(payload, LowMemory::Usual, profiles)?))
}

/// The profiles of these firmware files; all known ones without any.
fn profiles(firmware: &[PathBuf]) -> Result<Vec<FirmwareProfile>> {
    let known = known_firmware()?;
    if firmware.is_empty() {
        return Ok(known);
    }
    let mut chosen = Vec::new();
    for path in firmware {
        let shown = path.display();
        let bytes = fs::read(path).with_context(|| format!("cannot read firmware {shown}"))?;
        let digest = Hex32(Sha256::digest(&bytes).into());
        // One build may be recorded in several machine shapes.
        let before = chosen.len();
        chosen.extend(known.iter().filter(|p| p.sha256 == digest).cloned());
        ensure!(
            chosen.len() > before,
            "cannot predict for firmware {shown}: sha256 {} is not one of {}",
            base16::encode(&digest.0),
            known
                .iter()
                .map(|p| p.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    Ok(chosen)
}
