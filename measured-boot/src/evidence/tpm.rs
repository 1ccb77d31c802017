//! The KBS protocol's `tpm` evidence.

#[cfg(feature = "std")]
mod received;

use alloc::format;
use alloc::vec::Vec;

use base64ct::{Base64, Encoding};

use crate::base16;
use crate::manifest::Tee;
use crate::tpm::QuoteParts;

use super::Evidence;

#[cfg(feature = "std")]
pub use self::received::Error;

/// What a TPM sends, decoded; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmEvidence {
    /// The quote and the registers claimed to be under it.
    pub quote: QuoteParts,
    /// The attestation key, DER `SubjectPublicKeyInfo`, as the guest claims it.
    pub ak_public: Vec<u8>,
}

impl TpmEvidence {
    /// The JSON that goes into `primary_evidence`.
    pub fn to_evidence(&self) -> Evidence {
        let [signature, message, ak_public] =
            [&self.quote.signature, &self.quote.message, &self.ak_public]
                .map(|bytes| Base64::encode_string(bytes));
        let pcrs = self
            .quote
            .pcrs
            .map(|pcr| base16::encode(&pcr))
            .join("\",\"");
        let json = format!(
            "{{\"tpm_quote\":{{\"signature\":\"{signature}\",\"message\":\"{message}\",\
             \"pcrs\":[\"{pcrs}\"]}},\"ak_public\":\"{ak_public}\"}}"
        );
        Evidence {
            tee: Tee::Tpm,
            json,
        }
    }
}
