//! The judgement of evidence, in two parts that are kept apart.
//!
//! [`snp::verify`], [`tdx::verify`], [`azure::verify`] and [`tpm_quote`] *verify*:
//! a key that was trusted before signed exactly this. [`validate`] and
//! [`appraise()`] compare what was verified with policy and reference values,
//! and tell every comparison.
//!
//! No clock is read here: whoever calls says what time it is.

pub mod azure;
pub mod snp;
pub mod tdx;
pub mod tpm;
pub mod validate;

mod appraise;
mod certificate;
mod roots;
mod table;

#[cfg(test)]
mod tests;

use rsa::PublicKey;
use rsa::pkcs1v15::{Signature, VerifyingKey};
use rsa::pkcs8::DecodePublicKey;
use rsa::signature::Verifier;
use rsa::traits::PublicKeyParts;
use sha2::Sha256;

use crate::evidence::{ReportData, TpmEvidence};
use crate::tpm::{ALL_PCRS, Attest, Malformed, Pcrs, pcr_digest, rsassa_signature};

pub use self::appraise::{Check, appraise};
pub use self::roots::Roots;
pub use self::table::{Refused, Table};

/// Smallest key whose signature counts: the size of our template.
const MIN_KEY_BITS: u32 = 2048;

/// Why a quote does not verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as verify::Error"
)]
pub enum Error {
    /// Evidence of another key than the enrolled one.
    #[error("cannot verify quote: got another attestation key than the enrolled one")]
    OtherKey,
    /// The enrolled key is no RSA key, or a short one.
    #[error("cannot verify quote: enrolled key is not an RSA key of at least {MIN_KEY_BITS} bits")]
    Key,
    /// The signature is not RSASSA with SHA-256, or not by this key over this message.
    #[error("cannot verify quote: signature does not verify: {0}")]
    Signature(Malformed),
    /// What was signed is not a quote.
    #[error("cannot verify quote: {0}")]
    Message(Malformed),
    /// Not exactly all registers of the SHA-256 bank, once.
    #[error("cannot verify quote: got another selection than PCR 0 to 23 of the SHA-256 bank")]
    Selection,
    /// The quote is of another session or another public key.
    #[error("cannot verify quote: qualifying data is not this session's report data")]
    ReportData,
    /// The registers beside the quote are not those that were signed.
    #[error("cannot verify quote: digest in the quote is not that of the PCRs beside it")]
    PcrDigest,
}

/// Register values that a trusted TPM signed for one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPcrs(Pcrs);

impl VerifiedPcrs {
    /// The values, for [`appraise()`].
    pub fn pcrs(&self) -> &Pcrs {
        &self.0
    }
}

/// Verifies `evidence` against the attestation key that was enrolled, and the
/// report data of this session. No field is believed before the signature is.
///
/// # Errors
/// The first check that fails.
pub fn tpm_quote(
    evidence: &TpmEvidence,
    enrolled_ak: &[u8],
    expected: &ReportData,
) -> Result<VerifiedPcrs, Error> {
    tpm_quote_over(evidence, enrolled_ak, expected.qualifying_data())
}

/// As [`tpm_quote`], for a quote whose qualifying data is other than the KBS
/// protocol's.
///
/// # Errors
/// The first check that fails.
pub fn tpm_quote_over(
    evidence: &TpmEvidence,
    enrolled_ak: &[u8],
    qualifying_data: &[u8],
) -> Result<VerifiedPcrs, Error> {
    let quote = &evidence.quote;
    if evidence.ak_public != enrolled_ak {
        return Err(Error::OtherKey);
    }
    let signature = rsassa_signature(&quote.signature).map_err(Error::Signature)?;
    verify_signature(enrolled_ak, &quote.message, signature)?;
    let attest = Attest::parse(&quote.message).map_err(Error::Message)?;
    if attest.selection != [ALL_PCRS] {
        return Err(Error::Selection);
    }
    if attest.extra_data != qualifying_data {
        return Err(Error::ReportData);
    }
    if attest.pcr_digest != pcr_digest(&quote.pcrs) {
        return Err(Error::PcrDigest);
    }
    Ok(VerifiedPcrs(quote.pcrs))
}

fn verify_signature(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), Error> {
    let mismatch = |_| Error::Signature(Malformed("not by this key over this message"));
    let key = PublicKey::from_public_key_der(key).map_err(|_| Error::Key)?;
    if key.n().bit_width() < MIN_KEY_BITS {
        return Err(Error::Key);
    }
    let signature = Signature::try_from(signature).map_err(mismatch)?;
    VerifyingKey::<Sha256>::new(key)
        .verify(message, &signature)
        .map_err(mismatch)
}
