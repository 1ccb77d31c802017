//! Azure's confidential VMs on SNP: a report of the paravisor, whose report
//! data is the hash of claims, which hold the key of a virtual TPM.
//!
//! The paravisor runs inside the VM at VMPL 0 and keeps the TPM from the host;
//! the launch digest is that of Microsoft's paravisor, not of the image, which
//! the TPM's registers show. The form is that of Trustee's `az-snp-vtpm`.

mod evidence;

#[cfg(test)]
mod tests;

use base64ct::{Base64UrlUnpadded, Encoding};
use rsa::pkcs8::EncodePublicKey;
use rsa::{BoxedUint, PublicKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub use self::evidence::AzureEvidence;

use super::snp::{self, Endorsements, REPORT_LEN, Revocation, VerifiedReport};
use super::validate::Freshness;
use super::{Refused, Roots, Table, VerifiedPcrs};
use crate::base16;
use crate::evidence::TpmEvidence;
use crate::tpm::{ALG_SHA256, QuoteParts};

/// `TPM_ALG_RSASSA`.
const ALG_RSASSA: u16 = 0x0014;
/// `HCL_REPORT_SIGNATURE`: first in the paravisor's report.
const SIGNATURE: &[u8; 4] = b"HCLA";
/// Bytes before the SNP report.
const HEADER_LEN: usize = 0x20;
/// Where the claims' header begins, and its length.
const CLAIMS_HEADER: usize = HEADER_LEN + REPORT_LEN;
const CLAIMS_HEADER_LEN: usize = 20;
/// `IGVM_REQUEST_DATA.ReportType`: SNP.
const REPORT_TYPE_SNP: u32 = 2;
/// `ReportDataHashType`: SHA-256.
const HASH_SHA256: u32 = 1;
/// The claims' name of the TPM's attestation key.
const AK: &str = "HCLAkPub";

/// A report of the paravisor and the registers of its TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedAzure {
    report: VerifiedReport,
    claims_digest: [u8; 32],
    pcrs: VerifiedPcrs,
}

impl VerifiedAzure {
    /// The SNP report; its report data is [`Self::claims_digest`] and zeros.
    pub fn report(&self) -> &VerifiedReport {
        &self.report
    }

    /// SHA-256 of the claims.
    pub fn claims_digest(&self) -> &[u8; 32] {
        &self.claims_digest
    }

    /// The TPM's registers.
    pub fn pcrs(&self) -> &VerifiedPcrs {
        &self.pcrs
    }
}

/// Verifies the SNP report, that it is of these claims, and that the TPM whose
/// key they hold quoted these registers for this session.
///
/// # Errors
/// The first check that fails; it is also in `table`.
pub fn verify(
    evidence: &AzureEvidence,
    revocation: Revocation<'_>,
    freshness: &Freshness,
    now: u64,
    table: &mut Table,
) -> Result<VerifiedAzure, Refused> {
    let (report, claims) = split(&evidence.hcl_report, table)?;
    let vek = &evidence.vcek;
    let endorsements = Endorsements {
        vek,
        revocation,
        roots: Roots::BUILT_IN,
    };
    let report = snp::verify(report, &endorsements, now, table)?;
    let claims_digest: [u8; 32] = Sha256::digest(claims).into();
    let (bound, rest) = report.report().report_data.split_at(claims_digest.len());
    let ok = bound == claims_digest && rest.iter().all(|byte| *byte == 0);
    let expected = format!("{} and zeros (REPORT_DATA)", base16::encode(bound));
    table.require(
        "claims digest",
        base16::encode(&claims_digest),
        expected,
        ok,
    )?;
    let ak_public = attestation_key(claims, table)?;
    let size = u16::try_from(evidence.signature.len()).unwrap_or(u16::MAX);
    let header = [ALG_RSASSA, ALG_SHA256, size]
        .map(u16::to_be_bytes)
        .concat();
    let quoted = TpmEvidence {
        quote: QuoteParts {
            message: evidence.message.clone(),
            signature: [header, evidence.signature.clone()].concat(),
            pcrs: evidence.pcrs,
        },
        ak_public: ak_public.clone(),
    };
    let pcrs = super::tpm::verify(&quoted, &ak_public, freshness, table)?;
    Ok(VerifiedAzure {
        report,
        claims_digest,
        pcrs,
    })
}

/// The SNP report, and the claims behind it.
fn split<'a>(hcl: &'a [u8], table: &mut Table) -> Result<(&'a [u8], &'a [u8]), Refused> {
    let signature = hcl.first_chunk::<4>().copied().unwrap_or_default();
    let got = base16::encode(&signature);
    let ok = signature == *SIGNATURE;
    table.require(
        "paravisor report signature",
        got,
        base16::encode(SIGNATURE),
        ok,
    )?;
    let number = |offset: usize| {
        let at = CLAIMS_HEADER.saturating_add(offset);
        let field = hcl.get(at..).and_then(|rest| rest.first_chunk());
        u32::from_le_bytes(field.copied().unwrap_or_default())
    };
    let (kind, hash, size) = (number(8), number(12), number(16));
    table.require(
        "paravisor report type",
        kind,
        "2 (SNP)",
        kind == REPORT_TYPE_SNP,
    )?;
    table.require("claims hash type", hash, "1 (SHA-256)", hash == HASH_SHA256)?;
    let report = hcl.get(HEADER_LEN..CLAIMS_HEADER);
    let from = CLAIMS_HEADER.saturating_add(CLAIMS_HEADER_LEN);
    let to = from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
    let (Some(report), Some(claims)) = (report, hcl.get(from..to)) else {
        let got = format!("{} bytes", hcl.len());
        return table.refuse(
            "paravisor report length",
            got,
            format!("at least {to} bytes"),
        );
    };
    let rest = hcl.get(to..).unwrap_or_default();
    let zero = rest.iter().all(|byte| *byte == 0);
    let got = format!("{} bytes after offset {to:#x}", rest.len());
    table.require("bytes after the claims", got, "none but zeros", zero)?;
    Ok((report, claims))
}

#[derive(Deserialize)]
struct Claims {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    n: String,
    e: String,
}

/// The TPM's key, DER `SubjectPublicKeyInfo`, from the claims' key set.
fn attestation_key(claims: &[u8], table: &mut Table) -> Result<Vec<u8>, Refused> {
    let name = "attestation key in the claims";
    let expected = "one RSA key HCLAkPub";
    let claims: Claims = match serde_json::from_slice(claims) {
        Ok(claims) => claims,
        Err(error) => return table.refuse(name, error, expected),
    };
    let mut keys = claims
        .keys
        .iter()
        .filter(|key| key.kid == AK && key.kty == "RSA");
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return table.refuse(name, "none or several", expected);
    };
    let integer = |text: &str| Base64UrlUnpadded::decode_vec(text).ok();
    let (Some(n), Some(e)) = (integer(&key.n), integer(&key.e)) else {
        return table.refuse(name, "numbers that are not base64url", expected);
    };
    let number = |bytes: &[u8]| BoxedUint::from_be_slice_vartime(bytes);
    let public = PublicKey::new(number(&n), number(&e)).ok();
    let der = public.and_then(|key| key.to_public_key_der().ok());
    match der {
        Some(der) => {
            table.require(name, "one", expected, true)?;
            Ok(der.into_vec())
        }
        None => table.refuse(name, "numbers that are no RSA key", expected),
    }
}
