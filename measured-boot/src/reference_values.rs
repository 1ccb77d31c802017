//! `reference-values.json`: what an image's evidence is compared with.
//!
//! Written by the builder, read by the broker and by auditors. Every register
//! is marked predicted, pinned or ignored, with the reason.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base16;
use crate::manifest::{Hex32, Image, Resource};

/// The only version of the format.
pub const VERSION: u32 = 1;
/// Number of registers in a TPM's PCR bank.
pub const PCR_COUNT: u8 = 24;

/// Everything about one image that a verifier or an auditor needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    /// Always [`VERSION`].
    pub version: u32,
    /// Name and version of the image.
    pub image: Image,
    /// The kernel command line, without what the loader appends.
    pub cmdline: String,
    /// SHA-256 of each file the loader is given, by file name.
    pub files: BTreeMap<String, Hex32>,
    /// The rootfs, as `veritysetup` needs it.
    pub rootfs: VerityValues,
    /// The encrypted boot filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootValues>,
    /// What a TPM's quote must show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmValues>,
    /// What a SEV-SNP report must show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<SnpValues>,
    /// What a TDX quote must show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxValues>,
}

/// A dm-verity device: SHA-256, 4096-byte blocks, hash type 1, no superblock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerityValues {
    /// Top of the hash tree.
    pub root_hash: Hex32,
    /// Data blocks of 4096 bytes.
    pub data_blocks: u64,
    /// Offset of the hash tree in bytes.
    pub hash_offset: u64,
}

/// The encrypted boot filesystem. The salt is derived from the key, so that the
/// root hash confirms no guess of the contents, and is not told here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootValues {
    /// dm-verity over the decrypted device.
    pub verity: VerityValues,
    /// dm-crypt cipher.
    pub cipher: String,
    /// dm-crypt key size in bits.
    pub key_bits: u32,
    /// dm-crypt sector size in bytes.
    pub sector_size: u32,
    /// Context of the derived keys.
    pub content_id: Hex32,
    /// Where the broker keeps the master key.
    pub key: Resource,
}

/// PCRs of the SHA-256 bank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmValues {
    /// Every PCR, 0 to 23, exactly once.
    pub pcrs: BTreeMap<u8, Register>,
    /// The firmware builds whose logs are pinned; one of them must match in
    /// all its registers at once.
    pub firmware: Vec<FirmwareProfile>,
}

/// The launch digest of a SEV-SNP guest, by what the host may choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpValues {
    /// What the prediction takes for granted, for people.
    pub assumptions: Vec<String>,
    /// SHA-256 of the firmware file.
    pub firmware: Hex32,
    /// The digest of each number of vCPUs.
    pub launch_digests: BTreeMap<u32, Hex48>,
}

/// MRTD and RTMR0 to RTMR3 of a TD, SHA-384.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxValues {
    /// What the prediction takes for granted, for people.
    pub assumptions: Vec<String>,
    /// SHA-256 of the firmware file that was measured into MRTD.
    pub firmware: Hex32,
    /// The pages the VMM added before the TD ran.
    pub mrtd: Register<Hex48>,
    /// RTMR0 to RTMR3, as a guest finds them at its start.
    pub rtmrs: [Register<Hex48>; 4],
    /// Values of the pinned registers, each list from one boot's event log; one
    /// of them must match in all its registers at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<TdxLog>,
}

/// Runtime registers recorded from one boot of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxLog {
    /// For people: which machine.
    pub name: String,
    /// The pinned registers, by number.
    pub rtmrs: BTreeMap<u8, Hex48>,
}

/// 48 bytes, lower-case hexadecimal in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex48(pub [u8; 48]);

impl Serialize for Hex48 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base16::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex48 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = base16::decode(&text).map(Self);
        bytes.ok_or_else(|| D::Error::custom("expected 96 lower-case hexadecimal digits"))
    }
}

/// How one register is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase", deny_unknown_fields)]
pub enum Register<V = Hex32> {
    /// Must have one of these values, computed from the image.
    Predicted {
        /// Accepted values.
        values: Vec<V>,
        /// What the register covers.
        covers: String,
    },
    /// Must have the value of one [`FirmwareProfile`].
    Pinned {
        /// What the register covers.
        covers: String,
    },
    /// Not judged.
    Ignored {
        /// Why that is safe.
        reason: String,
    },
}

/// Registers of one firmware build, recorded from a boot of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareProfile {
    /// For people: distribution, version, file.
    pub name: String,
    /// SHA-256 of the firmware file.
    pub sha256: Hex32,
    /// The pinned registers.
    pub pcrs: BTreeMap<u8, Hex32>,
}

impl ReferenceValues {
    /// Reads and checks a `reference-values.json`.
    ///
    /// # Errors
    /// The JSON error, another version, or a PCR that is missing or unknown.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let values: Self = serde_json::from_slice(json).map_err(Error::Json)?;
        if values.version != VERSION {
            return Err(Error::Version {
                got: values.version,
            });
        }
        if let Some(tpm) = &values.tpm {
            if !tpm.pcrs.keys().copied().eq(0..PCR_COUNT) {
                return Err(Error::Pcrs);
            }
            let pinned = |pcr: &u8| matches!(tpm.pcrs.get(pcr), Some(Register::Pinned { .. }));
            let all_pinned = tpm.pcrs.keys().copied().filter(|pcr| pinned(pcr));
            if let Some(profile) = tpm
                .firmware
                .iter()
                .find(|p| !p.pcrs.keys().copied().eq(all_pinned.clone()))
            {
                return Err(Error::Firmware {
                    name: profile.name.clone(),
                });
            }
        }
        if let Some(tdx) = &values.tdx {
            tdx.check()?;
        }
        Ok(values)
    }

    /// Writes the file: indented, members in order, a final newline.
    ///
    /// # Errors
    /// Never for values of these types; the serializer's error otherwise.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut json = serde_json::to_vec_pretty(self).map_err(Error::Json)?;
        json.push(b'\n');
        Ok(json)
    }
}

impl TdxValues {
    /// Every log gives exactly the pinned registers, and MRTD is not pinned.
    fn check(&self) -> Result<(), Error> {
        if matches!(self.mrtd, Register::Pinned { .. }) {
            return Err(Error::Mrtd);
        }
        let pinned = (0u8..).zip(&self.rtmrs);
        let pinned = pinned.filter(|(_, register)| matches!(register, Register::Pinned { .. }));
        let pinned: Vec<_> = pinned.map(|(rtmr, _)| rtmr).collect();
        let exact = |log: &&TdxLog| !log.rtmrs.keys().eq(&pinned);
        match self.logs.iter().find(exact) {
            Some(log) => Err(Error::Log {
                name: log.name.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Why reference values are refused.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as reference_values::Error"
)]
pub enum Error {
    /// Not the JSON of reference values.
    #[error("cannot read reference values: {0}")]
    Json(serde_json::Error),
    /// Another version of the format.
    #[error("cannot read reference values: got version {got}, expected {VERSION}")]
    Version {
        /// The version in the file.
        got: u32,
    },
    /// The PCRs are not exactly 0 to 23.
    #[error("cannot read reference values: tpm.pcrs must have each of 0 to 23 once")]
    Pcrs,
    /// A firmware profile does not pin exactly the pinned registers.
    #[error("cannot read reference values: firmware {name} must give exactly the pinned PCRs")]
    Firmware {
        /// The profile.
        name: String,
    },
    /// MRTD is pinned, where only a log of runtime registers could give it.
    #[error("cannot read reference values: tdx.mrtd must be predicted or ignored, got pinned")]
    Mrtd,
    /// A log does not give exactly the pinned registers.
    #[error("cannot read reference values: log {name} must give exactly the pinned RTMRs")]
    Log {
        /// The log.
        name: String,
    },
}
