//! Messages of the KBS protocol, version 0.4.0, as Trustee speaks it.

use base64ct::{Base64UrlUnpadded, Encoding};
use measured_boot::evidence::{ReportData, canonical_string};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha384};

/// The only version a client may speak; Trustee demands it exactly, too.
pub const VERSION: &str = "0.4.0";
/// Name of the session cookie.
pub const COOKIE: &str = "kbs-session-id";
/// What the `type` of an error starts with.
pub const ERROR_TYPE: &str = "https://github.com/confidential-containers/kbs/errors/";

/// Body of `POST /kbs/v0/auth`. Members we do not know are ignored, as Trustee
/// does; none that we know may be missing or repeated.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// Version of the protocol.
    pub version: String,
    /// Kind of TEE.
    pub tee: String,
    /// Read by the verifier of IBM Secure Execution only.
    #[serde(rename = "extra-params")]
    pub extra_params: IgnoredAny,
}

/// Answer to [`Request`].
#[derive(Debug, Serialize)]
pub struct Challenge<'a> {
    /// 32 random bytes, standard base64. Bound as this very string.
    pub nonce: &'a str,
    /// Always empty.
    #[serde(rename = "extra-params")]
    pub extra_params: &'a str,
}

/// Body of `POST /kbs/v0/attest`.
#[derive(Debug, Deserialize)]
pub struct Attestation {
    /// Not supported here.
    #[serde(rename = "init-data", default)]
    pub init_data: Option<IgnoredAny>,
    /// Nonce and key.
    #[serde(rename = "runtime-data")]
    pub runtime_data: RuntimeData,
    /// The evidence.
    #[serde(rename = "tee-evidence")]
    pub tee_evidence: TeeEvidence,
}

/// What the evidence is bound to.
#[derive(Debug, Deserialize)]
pub struct RuntimeData {
    /// The challenge's nonce, as a string.
    pub nonce: String,
    /// For whom resources are encrypted.
    #[serde(rename = "tee-pubkey")]
    pub tee_pubkey: Jwk,
}

/// Evidence of the guest's TEE and of its devices.
#[derive(Debug, Deserialize)]
pub struct TeeEvidence {
    /// JSON of the TEE's own form. Kept as text, so that the TEE's reader sees
    /// repeated members.
    pub primary_evidence: Box<RawValue>,
    /// Empty, or the JSON of devices.
    pub additional_evidence: String,
}

/// A public key as it was sent. Members we do not know are dropped, as Trustee
/// does, and so are not bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Jwk {
    /// `EC` or `RSA`.
    pub kty: String,
    /// Algorithm of the JWE.
    pub alg: String,
    /// Curve of an `EC` key.
    pub crv: Option<String>,
    /// Coordinate of an `EC` key.
    pub x: Option<String>,
    /// Coordinate of an `EC` key.
    pub y: Option<String>,
    /// Modulus of an `RSA` key.
    pub n: Option<String>,
    /// Exponent of an `RSA` key.
    pub e: Option<String>,
}

impl Jwk {
    /// RFC 8785 form of the members that Trustee hashes for this kind of key;
    /// `None` when one is missing or the kind is unknown.
    pub fn canonical(&self) -> Option<String> {
        let text = canonical_string;
        let alg = text(&self.alg);
        match self.kty.as_str() {
            "EC" => Some(format!(
                "{{\"alg\":{alg},\"crv\":{},\"kty\":\"EC\",\"x\":{},\"y\":{}}}",
                text(self.crv.as_deref()?),
                text(self.x.as_deref()?),
                text(self.y.as_deref()?)
            )),
            "RSA" => Some(format!(
                "{{\"alg\":{alg},\"e\":{},\"kty\":\"RSA\",\"n\":{}}}",
                text(self.e.as_deref()?),
                text(self.n.as_deref()?)
            )),
            _ => None,
        }
    }

    /// Report data over this key, the nonce and no additional evidence.
    pub fn bind(&self, nonce: &str) -> Option<ReportData> {
        let json = format!(
            "{{\"additional-evidence\":\"\",\"nonce\":{},\"tee-pubkey\":{}}}",
            canonical_string(nonce),
            self.canonical()?
        );
        Some(ReportData(Sha384::digest(json.as_bytes()).into()))
    }
}

/// Unpadded base64url, the alphabet of JOSE.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// Body of every refusal.
#[derive(Debug, Serialize)]
pub struct ErrorInformation {
    /// [`ERROR_TYPE`] and the kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub detail: String,
}
