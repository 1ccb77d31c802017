//! What a guest sends to the broker, and the data its TEE binds it to.
//!
//! The KBS protocol's report data: SHA-384 over the canonical JSON (RFC 8785)
//! of nonce, public key and additional evidence. The broker computes it again
//! from what it received.

pub mod snp;
pub mod tdx;
pub mod tpm;

use alloc::format;
use alloc::string::String;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;
use sha2::{Digest, Sha384};

use crate::manifest::Tee;

pub use self::snp::SnpEvidence;
pub use self::tdx::TdxEvidence;
pub use self::tpm::TpmEvidence;

/// The JWE key-agreement algorithm of every key we make (RFC 7518 section 4.6).
pub const KEY_ALGORITHM: &str = "ECDH-ES+A256KW";

/// A P-256 public key as the two coordinates of a JWK (RFC 7518 section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TeePublicKey {
    /// Big-endian x coordinate.
    pub x: [u8; 32],
    /// Big-endian y coordinate.
    pub y: [u8; 32],
}

impl TeePublicKey {
    /// The JWK with exactly the members the broker hashes, sorted.
    pub fn to_jwk(&self) -> String {
        let x = Base64UrlUnpadded::encode_string(&self.x);
        let y = Base64UrlUnpadded::encode_string(&self.y);
        format!(
            "{{\"alg\":\"{KEY_ALGORITHM}\",\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}"
        )
    }
}

/// The 48 bytes that bind evidence to one session and one key. A TPM takes the
/// first 32 as qualifying data; SNP and TDX pad to 64 with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportData(pub [u8; 48]);

impl ReportData {
    /// Binds the broker's nonce, exactly as received, and our public key.
    pub fn bind(nonce: &str, key: &TeePublicKey) -> Self {
        let nonce = canonical_string(nonce);
        let jwk = key.to_jwk();
        let json =
            format!("{{\"additional-evidence\":\"\",\"nonce\":{nonce},\"tee-pubkey\":{jwk}}}");
        Self(Sha384::digest(json.as_bytes()).into())
    }

    /// What a TPM quote carries as `qualifyingData`.
    pub fn qualifying_data(&self) -> &[u8; 32] {
        let (first, _) = self.0.split_first_chunk().unwrap_or((&[0; 32], &[]));
        first
    }
}

/// A string as RFC 8785 section 3.2.2.2 writes it, with the shortest escapes and
/// nothing escaped that need not be: the form in which serde_json writes strings.
pub fn canonical_string(text: &str) -> String {
    format!("{}", Value::from(text))
}

/// Evidence of one TEE over one [`ReportData`], as JSON (`primary_evidence`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Which verifier it is for.
    pub tee: Tee,
    /// The JSON object.
    pub json: String,
}

#[cfg(test)]
mod tests {
    use super::canonical_string;

    #[test]
    fn strings_have_the_escapes_of_rfc_8785() {
        let text = "\u{0}\u{8}\t\n\u{b}\u{c}\r\u{1f} \"\\/\u{7f}\u{80}\u{2028}\u{20ac}";
        let expected =
            "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f \\\"\\\\/\u{7f}\u{80}\u{2028}\u{20ac}\"";
        assert_eq!(canonical_string(text), expected);
    }
}
