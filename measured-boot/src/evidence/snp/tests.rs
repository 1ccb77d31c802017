use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use sev::parser::ByteParser as _;

use super::{CertificateKind, REPORT_LEN, SnpEvidence};

const REPORTS: [&str; 4] = [
    "milan-v3-routex",
    "genoa-v3-routex",
    "genoa-v5-routex",
    "turin-v5-routex",
];

fn report(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/vectors/snp/{name}.bin")).unwrap()
}

fn json(report: &[u8], table: &[u8]) -> Value {
    let evidence = SnpEvidence::from_device(report, table).unwrap();
    serde_json::from_str(&evidence.to_evidence().json).unwrap()
}

#[test]
fn json_matches_what_the_crate_of_trustees_verifier_writes() {
    for name in REPORTS {
        let bytes = report(name);
        let parsed = AttestationReport::from_bytes(&bytes).unwrap();
        let expected = json!({ "attestation_report": parsed, "cert_chain": null });
        assert_eq!(json(&bytes, &[]), expected, "{name}");
    }
}

#[test]
fn json_gives_back_the_signed_bytes() {
    for name in REPORTS {
        let bytes = report(name);
        let json = json(&bytes, &[])["attestation_report"].take();
        let parsed: AttestationReport = serde_json::from_value(json).unwrap();
        assert_eq!(parsed.to_bytes().unwrap().to_vec(), bytes, "{name}");
    }
}

/// Each byte changed in turn: the JSON changes with it, or there is none.
#[test]
fn no_byte_is_lost() {
    for name in REPORTS {
        let bytes: [u8; REPORT_LEN] = report(name).try_into().unwrap();
        let whole = json(&bytes, &[]);
        let mut refused = 0;
        for at in 0..bytes.len() {
            let mut changed = bytes;
            changed[at] ^= 0x80;
            match SnpEvidence::from_device(&changed, &[]) {
                Ok(_) => assert_ne!(json(&changed, &[]), whole, "{name}, byte {at:#x}"),
                Err(_) => refused += 1,
            }
        }
        assert!((548..700).contains(&refused), "{name}: {refused} refused");
    }
}

#[test]
fn rejects_other_versions_and_lengths() {
    for version in [0_u8, 1, 2, 6, 255] {
        let mut bytes = report("milan-v3-routex");
        bytes[0] = version;
        let error = SnpEvidence::from_device(&bytes, &[]).unwrap_err();
        assert!(error.contains("version 3 to 5"), "{error}");
    }
    for length in [0, REPORT_LEN - 1, REPORT_LEN + 1] {
        let mut bytes = report("milan-v3-routex");
        bytes.resize(length, 0);
        let error = SnpEvidence::from_device(&bytes, &[]).unwrap_err();
        assert_eq!(error, "the report does not have 1184 bytes");
    }
}

fn table(entries: &[(CertType, &[u8])]) -> Vec<u8> {
    let entry = |(kind, der): &(CertType, &[u8])| CertTableEntry::new(kind.clone(), der.to_vec());
    let entries: Vec<_> = entries.iter().map(entry).collect();
    CertTableEntry::cert_table_to_vec_bytes(&entries).unwrap()
}

#[test]
fn reads_the_table_that_the_crate_of_hosts_writes() {
    let entries: [(CertType, &[u8]); 4] = [
        (CertType::ARK, &[1; 900]),
        (CertType::VCEK, &[2; 1400]),
        (CertType::ASK, &[3; 1000]),
        (CertType::VLEK, &[4]),
    ];
    let evidence = SnpEvidence::from_device(&report("milan-v3-routex"), &table(&entries)).unwrap();
    let of = |kind| {
        let found = evidence.certificates.iter().find(|c| c.kind == kind);
        (found.unwrap().der[0], found.unwrap().der.len())
    };
    assert_eq!(evidence.certificates.len(), 4);
    assert_eq!(of(CertificateKind::Ark), (1, 900));
    assert_eq!(of(CertificateKind::Vcek), (2, 1400));
    assert_eq!(of(CertificateKind::Ask), (3, 1000));
    assert_eq!(of(CertificateKind::Vlek), (4, 1));
    // As the protocol has them.
    let json: Value = serde_json::from_str(&evidence.to_evidence().json).unwrap();
    let chain: Vec<CertTableEntry> = serde_json::from_value(json["cert_chain"].clone()).unwrap();
    let kinds: Vec<_> = chain.iter().map(|c| c.cert_type.clone()).collect();
    let given = CertTableEntry::vec_bytes_to_cert_table(&mut table(&entries)).unwrap();
    assert_eq!(
        kinds,
        given
            .iter()
            .map(|c| c.cert_type.clone())
            .collect::<Vec<_>>()
    );
    assert_eq!(json["cert_chain"], json!(given));
}

#[test]
fn skips_kinds_it_does_not_know() {
    let table = table(&[(CertType::CRL, &[1; 100]), (CertType::VCEK, &[2; 100])]);
    let evidence = SnpEvidence::from_device(&report("turin-v5-routex"), &table).unwrap();
    let [only] = &evidence.certificates[..] else {
        panic!("{:?}", evidence.certificates);
    };
    assert_eq!(only.kind, CertificateKind::Vcek);
}

#[test]
fn no_certificates_are_null_and_not_an_empty_list() {
    for table in [&[][..], &[0; 24], &[0; 4096]] {
        assert_eq!(
            json(&report("turin-v5-routex"), table)["cert_chain"],
            Value::Null
        );
    }
}

#[test]
fn rejects_tables_that_point_outside_or_do_not_end() {
    let good = table(&[(CertType::VCEK, &[7; 100])]);
    let with = |at: usize, value: u32| {
        let mut table = good.clone();
        table[at..at + 4].copy_from_slice(&value.to_le_bytes());
        table
    };
    let length = u32::try_from(good.len()).unwrap();
    let mut overlapping = table(&[(CertType::VCEK, &[7; 100]), (CertType::VLEK, &[8; 100])]);
    let whole = u32::try_from(overlapping.len()).unwrap().to_le_bytes();
    for entry in [0, 24] {
        overlapping[entry + 16..entry + 20].fill(0);
        overlapping[entry + 20..entry + 24].copy_from_slice(&whole);
    }
    for table in [
        with(16, length),
        with(16, u32::MAX),
        with(20, 101),
        with(20, u32::MAX),
        // Cut inside the first entry, and before the zeros.
        good[..23].to_vec(),
        good[..24].to_vec(),
        vec![0; 23],
        overlapping,
    ] {
        let error = SnpEvidence::from_device(&report("milan-v3-routex"), &table).unwrap_err();
        assert_eq!(error, "the certificate table is malformed");
    }
    assert!(SnpEvidence::from_device(&report("milan-v3-routex"), &good).is_ok());
}
