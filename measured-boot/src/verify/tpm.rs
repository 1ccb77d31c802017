//! TPM quotes as rows of a table.

use super::validate::Freshness;
use super::{Error, Refused, Table, VerifiedPcrs, tpm_quote_over};
use crate::base16;
use crate::evidence::TpmEvidence;
use crate::tpm::Attest;

/// The checks of [`tpm_quote_over`], in its order.
const CHECKS: [(&str, &str); 6] = [
    (
        "attestation key",
        "the enrolled one, RSA of at least 2048 bits",
    ),
    (
        "quote signature",
        "RSASSA with SHA-256 by the attestation key",
    ),
    ("quote", "a TPMS_ATTEST of a quote"),
    ("PCR selection", "PCR 0 to 23 of the SHA-256 bank"),
    ("qualifying data", "this session's"),
    ("PCR digest", "that of the PCRs beside the quote"),
];

/// Verifies `evidence` against the attestation key that is trusted.
///
/// # Errors
/// The first check that fails; it is also the last row of `table`.
pub fn verify(
    evidence: &TpmEvidence,
    trusted_ak: &[u8],
    freshness: &Freshness,
    table: &mut Table,
) -> Result<VerifiedPcrs, Refused> {
    let attest = Attest::parse(&evidence.quote.message);
    let extra_data = attest
        .map(|attest| attest.extra_data.to_vec())
        .unwrap_or_default();
    let verdict = match freshness {
        Freshness::ReportData(expected) => tpm_quote_over(evidence, trusted_ak, expected),
        Freshness::InsecureAny => tpm_quote_over(evidence, trusted_ak, &extra_data),
    };
    let failed = verdict.as_ref().err().map(|error| match error {
        Error::OtherKey | Error::Key => 0,
        Error::Signature(_) => 1,
        Error::Message(_) => 2,
        Error::Selection => 3,
        Error::ReportData => 4,
        Error::PcrDigest => 5,
    });
    for (row, (name, mut expected)) in CHECKS.into_iter().enumerate() {
        let mut got = "good".to_owned();
        let session;
        if row == 4 {
            got = base16::encode(&extra_data);
            session = match freshness {
                Freshness::ReportData(data) => base16::encode(data),
                Freshness::InsecureAny => "any value: freshness is not checked".to_owned(),
            };
            expected = &session;
        } else if let (Err(error), true) = (&verdict, failed == Some(row)) {
            got = error.to_string();
        }
        table.require(name, got, expected, failed != Some(row))?;
    }
    verdict.map_err(|error| Refused {
        name: "quote".to_owned(),
        got: error.to_string(),
        expected: "a quote that verifies".to_owned(),
    })
}
