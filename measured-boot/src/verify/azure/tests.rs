//! Evidence of real VMs on Azure.

use super::{AzureEvidence, HEADER_LEN, verify};
use crate::verify::snp::{Product, Revocation};
use crate::verify::validate::Freshness;
use crate::verify::{Refused, Table};

/// 2025-12-01: the VCEKs are valid.
const NOW: u64 = 1_764_547_200;

fn evidence(name: &str) -> AzureEvidence {
    let json = std::fs::read(format!("tests/vectors/azure/{name}.json")).unwrap();
    AzureEvidence::parse(&json, &mut Table::default()).unwrap()
}

fn judge(evidence: &AzureEvidence, nonce: &[u8]) -> Result<super::VerifiedAzure, Refused> {
    let mut table = Table::default();
    let freshness = Freshness::ReportData(nonce.to_vec());
    let verdict = verify(
        evidence,
        Revocation::InsecureUnchecked,
        &freshness,
        NOW,
        &mut table,
    );
    assert_eq!(verdict.is_ok(), table.holds());
    verdict
}

#[test]
fn accepts_the_evidence_of_real_machines() {
    let v2 = crate::base16::decode::<48>(
        "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef",
    );
    let genoa = crate::base16::decode::<48>(
        "0218488bae25d2509232bf676f1a66a30d7372add909109b36016ef136f2938ca05475f8b46094de6b64270ea35d950f",
    );
    for (name, nonce, product) in [
        ("evidence-v0", &b"challenge"[..], Product::Milan),
        ("evidence-v1", b"challenge", Product::Milan),
        ("evidence-v2", &v2.unwrap(), Product::Milan),
        ("evidence-genoa", &genoa.unwrap(), Product::Genoa),
    ] {
        let evidence = evidence(name);
        let verified = judge(&evidence, nonce).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(verified.report().product(), product);
        assert_eq!(verified.report().report().policy, 0x3_001f);
        assert_eq!(verified.pcrs().pcrs(), &evidence.pcrs);
        assert_eq!(
            judge(&evidence, b"other").unwrap_err().name,
            "qualifying data"
        );
    }
}

#[test]
fn rejects_one_byte_changed_in_each_part() {
    let good = evidence("evidence-v1");
    let claims = super::CLAIMS_HEADER + super::CLAIMS_HEADER_LEN;
    for (offset, name) in [
        (0, "paravisor report signature"),
        (HEADER_LEN + 0x90, "report signature"),
        (super::CLAIMS_HEADER + 8, "paravisor report type"),
        (super::CLAIMS_HEADER + 12, "claims hash type"),
        (super::CLAIMS_HEADER + 16, "bytes after the claims"),
        (super::CLAIMS_HEADER + 19, "paravisor report length"),
        (claims, "claims digest"),
        (claims + 200, "claims digest"),
        (2599, "bytes after the claims"),
    ] {
        let mut altered = good.clone();
        altered.hcl_report[offset] ^= 0x40;
        let refused = judge(&altered, b"challenge").unwrap_err();
        // The claims' last byte is beyond or before the size that was changed.
        let shorter = name == "bytes after the claims" && refused.name == "claims digest";
        assert!(
            refused.name == name || shorter,
            "offset {offset:#x}: {refused}"
        );
    }
    let mut altered = good.clone();
    altered.message[50] ^= 1;
    assert_eq!(
        judge(&altered, b"challenge").unwrap_err().name,
        "quote signature"
    );
    let mut altered = good.clone();
    altered.signature[0] ^= 1;
    assert_eq!(
        judge(&altered, b"challenge").unwrap_err().name,
        "quote signature"
    );
    let mut altered = good.clone();
    altered.pcrs[4][0] ^= 1;
    assert_eq!(
        judge(&altered, b"challenge").unwrap_err().name,
        "PCR digest"
    );
    let mut altered = good.clone();
    altered.vcek[100] ^= 1;
    assert!(judge(&altered, b"challenge").is_err());
    let mut truncated = good;
    truncated.hcl_report.truncate(1000);
    assert!(judge(&truncated, b"challenge").is_err());
}

#[test]
fn rejects_the_quote_of_another_machine() {
    let mut relayed = evidence("evidence-v1");
    let other = evidence("evidence-v2");
    relayed.message = other.message;
    relayed.signature = other.signature;
    relayed.pcrs = other.pcrs;
    assert_eq!(
        judge(&relayed, b"challenge").unwrap_err().name,
        "quote signature"
    );
}

#[test]
fn rejects_what_is_not_such_evidence() {
    let json = std::fs::read("tests/vectors/azure/evidence-v1.json").unwrap();
    let json = String::from_utf8(json).unwrap();
    for (from, to) in [
        ("\"version\": 1", "\"version\": 3"),
        ("\"ff544347", "\"FF544347"),
        ("\"pcrs\"", "\"pcr\""),
        ("{", "["),
    ] {
        let changed = json.replacen(from, to, 1);
        assert_ne!(changed, json, "{from}");
        let refused = AzureEvidence::parse(changed.as_bytes(), &mut Table::default()).unwrap_err();
        assert_eq!(refused.name, "evidence format");
    }
}
