//! What a quote says, and who signed it: for the verifier.

use super::wire::{Malformed, Reader};

/// `TPM_ALG_SHA256`.
pub const ALG_SHA256: u16 = 0x000b;
const ALG_RSASSA: u16 = 0x0014;

/// All 24 registers of the SHA-256 bank: the only selection we quote or accept.
pub const ALL_PCRS: Selection = Selection {
    bank: ALG_SHA256,
    mask: 0x00ff_ffff,
};

/// Registers of one bank, bit n for PCR n (Part 2 section 10.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// `TPM_ALG_ID` of the bank.
    pub bank: u16,
    /// The selected registers; those above 31 are refused.
    pub mask: u32,
}

impl Selection {
    /// A whole `TPML_PCR_SELECTION` (Part 2 section 10.9.7).
    fn read_list(reader: &mut Reader<'_>) -> Result<Vec<Self>, Malformed> {
        let mut list = Vec::new();
        for _ in 0..reader.u32()? {
            let bank = reader.u16()?;
            let [size] = reader.array()?;
            let mut mask = 0;
            for (index, octet) in reader.bytes(size.into())?.iter().enumerate() {
                let octet = u32::from(*octet);
                match (index, octet) {
                    (0, _) => mask |= octet,
                    (1, _) => mask |= octet << 8,
                    (2, _) => mask |= octet << 16,
                    (3, _) => mask |= octet << 24,
                    (_, 0) => {}
                    _ => return Err(Malformed("got a selection of a PCR above 31")),
                }
            }
            list.push(Self { bank, mask });
        }
        Ok(list)
    }
}

/// `TPM_GENERATED_VALUE`: first in everything a TPM signs about itself, and
/// refused in what it signs for others (Part 2 section 6.2).
const GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const ST_ATTEST_QUOTE: u16 = 0x8018;

/// A `TPMS_ATTEST` of a quote (Part 2 sections 10.12.8 and 10.12.1). Holding
/// one says magic and type are right and nothing follows; nothing of who signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest<'a> {
    /// What the caller of `TPM2_Quote` gave as `qualifyingData`.
    pub extra_data: &'a [u8],
    /// The registers quoted.
    pub selection: Vec<Selection>,
    /// Digest over their values.
    pub pcr_digest: &'a [u8],
}

impl<'a> Attest<'a> {
    /// Parses the bytes that were signed.
    ///
    /// # Errors
    /// Another magic, another type, truncated, or followed by more.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(message);
        if reader.u32()? != GENERATED {
            return Err(Malformed("got a magic that is not TPM_GENERATED_VALUE"));
        }
        if reader.u16()? != ST_ATTEST_QUOTE {
            return Err(Malformed("got an attestation that is not a quote"));
        }
        let _qualified_signer = reader.sized()?;
        let extra_data = reader.sized()?;
        // TPMS_CLOCK_INFO (8 + 4 + 4 + 1) and firmwareVersion (8).
        let _clock_and_firmware = reader.bytes(25)?;
        let selection = Selection::read_list(&mut reader)?;
        let pcr_digest = reader.sized()?;
        reader.end()?;
        Ok(Self {
            extra_data,
            selection,
            pcr_digest,
        })
    }
}

/// The signature inside a `TPMT_SIGNATURE`, which must be RSASSA with SHA-256
/// (Part 2 section 11.3.4).
///
/// # Errors
/// Another scheme or hash, truncated, or followed by more.
pub fn rsassa_signature(signature: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader(signature);
    if (reader.u16()?, reader.u16()?) != (ALG_RSASSA, ALG_SHA256) {
        return Err(Malformed("got a signature that is not RSASSA with SHA-256"));
    }
    let bytes = reader.sized()?;
    reader.end()?;
    Ok(bytes)
}
