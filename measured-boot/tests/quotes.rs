//! Quotes that were not made by this project.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise; clippy exempts only the test functions themselves"
)]

use std::fs;
use std::path::Path;

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use measured_boot::evidence::{ReportData, TpmEvidence};
use measured_boot::tpm::{ALG_SHA256, Attest, Pcrs, QuoteParts, Selection};
use measured_boot::verify::{self, tpm_quote};

#[test]
fn a_quote_of_tpm2_tools_in_a_guest_verifies() {
    let pem = String::from_utf8(vector("ak_rsa.pem")).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let ak_public = Base64::decode_vec(&base64).unwrap();
    let quote = QuoteParts {
        message: vector("quote_rsa.msg"),
        signature: vector("quote_rsa.sig"),
        pcrs: recorded_pcrs(),
    };
    let evidence = TpmEvidence {
        quote,
        ak_public: ak_public.clone(),
    };
    let mut report_data = ReportData([0; 48]);
    report_data.0[..32].copy_from_slice(b"kbs report data sha384 truncated");
    let verified = tpm_quote(&evidence, &ak_public, &report_data).unwrap();
    assert_eq!(verified.pcrs(), &evidence.quote.pcrs);

    report_data.0[31] ^= 1;
    let stale = tpm_quote(&evidence, &ak_public, &report_data);
    assert_eq!(stale, Err(verify::Error::ReportData));
}

#[test]
fn a_quote_with_padded_report_data_fails_only_for_that() {
    let evidence = TpmEvidence::parse(&vector("trustee-tpm_evidence.json")).unwrap();
    let attest = Attest::parse(&evidence.quote.message).unwrap();
    assert_eq!(attest.extra_data.len(), 64);
    let report_data = ReportData(attest.extra_data[..48].try_into().unwrap());
    let verdict = tpm_quote(&evidence, &evidence.ak_public, &report_data);
    assert_eq!(verdict, Err(verify::Error::ReportData));
}

#[test]
fn quotes_of_other_tpms_parse() {
    let azure = vector("azure-quote.msg");
    let azure = Attest::parse(&azure).unwrap();
    let platform = Selection {
        bank: ALG_SHA256,
        mask: 0xff | 1 << 14,
    };
    assert_eq!(
        (azure.extra_data, azure.selection),
        (&b"challenge"[..], vec![platform])
    );
    let keylime = vector("keylime-quote.out");
    let keylime = Attest::parse(&keylime).unwrap();
    let some = Selection {
        bank: ALG_SHA256,
        mask: 1 << 15 | 1 << 16 | 1 << 22,
    };
    assert_eq!(keylime.selection, [some]);
    assert_eq!(keylime.extra_data.len(), 20);
}

fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines of `sha256 <PCR> <hex>`, among those of other banks.
fn recorded_pcrs() -> Pcrs {
    let text = String::from_utf8(vector("pcrs.txt")).unwrap();
    let mut pcrs = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        if words[0] == "sha256" {
            assert_eq!(words[1], pcrs.len().to_string());
            pcrs.push(base16::decode(&words[2].to_lowercase()).unwrap());
        }
    }
    pcrs.try_into().unwrap()
}
