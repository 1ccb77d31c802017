//! Versions of the firmware that a report's key was derived for.

use serde::{Deserialize, Serialize};

use super::Product;
use crate::verify::certificate::Certificate;

/// Extensions of a VEK's certificate (VCEK specification 57230).
const OID_BOOTLOADER: &str = "1.3.6.1.4.1.3704.1.3.1";
const OID_TEE: &str = "1.3.6.1.4.1.3704.1.3.2";
const OID_SNP: &str = "1.3.6.1.4.1.3704.1.3.3";
const OID_MICROCODE: &str = "1.3.6.1.4.1.3704.1.3.8";
const OID_FMC: &str = "1.3.6.1.4.1.3704.1.3.9";

/// `TCB_VERSION` (SEV-SNP Firmware ABI 56860, section 2.2). All of its parts
/// are ordered; there is no order of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcb {
    /// First mutable code; zero before Turin.
    #[serde(default)]
    pub fmc: u8,
    /// Secure processor's bootloader.
    pub bootloader: u8,
    /// Secure processor's operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Lowest patch level of all cores.
    pub microcode: u8,
}

impl Tcb {
    /// Reads the eight bytes of a report; nothing if a reserved one is not zero.
    pub(super) fn from_bytes(product: Product, bytes: [u8; 8]) -> Option<Self> {
        match (product, bytes) {
            (Product::Milan | Product::Genoa, [bootloader, tee, 0, 0, 0, 0, snp, microcode]) => {
                Some(Self {
                    fmc: 0,
                    bootloader,
                    tee,
                    snp,
                    microcode,
                })
            }
            (Product::Turin, [fmc, bootloader, tee, snp, 0, 0, 0, microcode]) => Some(Self {
                fmc,
                bootloader,
                tee,
                snp,
                microcode,
            }),
            (Product::Milan | Product::Genoa | Product::Turin, _) => None,
        }
    }

    pub(super) fn from_certificate(product: Product, vek: &Certificate) -> Option<Self> {
        let part = |id| vek.extension(id).and_then(small_integer);
        Some(Self {
            fmc: match product {
                Product::Milan | Product::Genoa => 0,
                Product::Turin => part(OID_FMC)?,
            },
            bootloader: part(OID_BOOTLOADER)?,
            tee: part(OID_TEE)?,
            snp: part(OID_SNP)?,
            microcode: part(OID_MICROCODE)?,
        })
    }

    /// Whether every part is at least that of `minimum`.
    pub fn is_at_least(self, minimum: Self) -> bool {
        self.fmc >= minimum.fmc
            && self.bootloader >= minimum.bootloader
            && self.tee >= minimum.tee
            && self.snp >= minimum.snp
            && self.microcode >= minimum.microcode
    }
}

impl core::fmt::Display for Tcb {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            fmc,
            bootloader,
            tee,
            snp,
            microcode,
        } = self;
        write!(
            f,
            "fmc {fmc}, bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}"
        )
    }
}

/// A DER `INTEGER` from 0 to 255.
fn small_integer(der: &[u8]) -> Option<u8> {
    match der {
        [0x02, 0x01, value @ 0..=0x7f] | [0x02, 0x02, 0x00, value @ 0x80..=0xff] => Some(*value),
        _ => None,
    }
}

/// A short DER `IA5String`.
pub(super) fn ia5_string(der: &[u8]) -> Option<&str> {
    let (tag, rest) = der.split_first()?;
    let (length, text) = rest.split_first()?;
    let whole = *tag == 0x16 && usize::from(*length) == text.len();
    core::str::from_utf8(text)
        .ok()
        .filter(|text| whole && text.is_ascii())
}
