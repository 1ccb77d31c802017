//! The attestation token: an ES256 JWT in the shape of Trustee's EAR
//! (draft-ietf-rats-ear). Our guests need not read it, and here it is only as
//! good as the session it was given to.

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use measured_boot::evidence::ReportData;
use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::manifest::Image;
use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::sec1::ToSec1Point;
use serde_json::{Map, Value, json};

use crate::protocol::{Jwk, base64url};

/// What a token says.
#[derive(Debug)]
pub(crate) struct Claims<'a> {
    /// Seconds since 1970.
    pub(crate) issued: i64,
    /// Seconds since 1970.
    pub(crate) expires: i64,
    pub(crate) image: &'a Image,
    pub(crate) evidence: &'a TpmEvidence,
    pub(crate) report_data: &'a ReportData,
    pub(crate) nonce: &'a str,
    pub(crate) key: &'a Jwk,
}

/// Signs a token.
pub(crate) fn sign(key: &SecretKey, claims: &Claims<'_>) -> Option<String> {
    let point = key.public_key().to_sec1_point(false);
    let (x, y) = (point.x()?, point.y()?);
    let header = json!({
        "typ": "JWT",
        "alg": "ES256",
        "jwk": {"kty": "EC", "crv": "P-256", "alg": "ES256", "x": base64url(x), "y": base64url(y)},
    });
    let message = format!(
        "{}.{}",
        base64url(header.to_string().as_bytes()),
        base64url(body(claims)?.to_string().as_bytes())
    );
    let signature: Signature = SigningKey::from(key).try_sign(message.as_bytes()).ok()?;
    Some(format!("{message}.{}", base64url(&signature.to_bytes())))
}

fn body(claims: &Claims<'_>) -> Option<Value> {
    let mut tpm = Map::new();
    for (number, value) in claims.evidence.quote.pcrs.iter().enumerate() {
        tpm.insert(format!("pcr{number:02}"), base16::encode(value).into());
    }
    let ak = Base64::encode_string(&claims.evidence.ak_public);
    tpm.insert("ak_public".into(), ak.into());
    let tee_pubkey: Value = serde_json::from_str(&claims.key.canonical()?).ok()?;
    Some(json!({
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iss": "anchorhold-key-broker",
        "iat": claims.issued,
        "exp": claims.expires,
        "ear.verifier-id": {
            "build": concat!("key-broker ", env!("CARGO_PKG_VERSION")),
            "developer": env!("CARGO_PKG_REPOSITORY"),
        },
        "submods": {"cpu0": {
            "ear.status": "affirming",
            // AR4SI: 2 is affirming, 0 makes no claim. A TPM says nothing about
            // the processor's isolation.
            "ear.trustworthiness-vector": {"configuration": 2, "executables": 2, "hardware": 0},
            "ear.appraisal-policy-id": format!("{}/{}", claims.image.name, claims.image.version),
            "ear.veraison.annotated-evidence": {
                "tpm": tpm,
                "report_data": base16::encode(claims.report_data.qualifying_data()),
                "runtime_data_claims": {
                    "tee-pubkey": tee_pubkey,
                    "nonce": claims.nonce,
                    "additional-evidence": "",
                },
            },
        }},
    }))
}
