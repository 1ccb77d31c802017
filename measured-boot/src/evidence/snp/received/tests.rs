//! Reports of real processors through Trustee's JSON and back.

use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

use super::{CertificateKind, Error, SnpEvidence};

const REPORTS: [&str; 9] = [
    "genoa-v3-routex",
    "genoa-v5-routex",
    "milan-v2-enarx2022",
    "milan-v2-google",
    "milan-v2-trustee",
    "milan-v2-virtee",
    "milan-v3-routex",
    "turin-v5-routex",
    "vlek-v3-trustee",
];

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/vectors/snp/{name}")).unwrap()
}

/// As Trustee's client writes it: the crate `sev` reads the report, serde
/// writes the structure.
fn json_of(name: &str) -> Value {
    let report = AttestationReport::from_bytes(&vector(&format!("{name}.bin"))).unwrap();
    json!({ "attestation_report": report, "cert_chain": null })
}

fn parse(json: &Value) -> Result<SnpEvidence, Error> {
    SnpEvidence::parse(json.to_string().as_bytes())
}

#[test]
fn gives_back_the_very_bytes_of_reports_that_trustees_client_wrote() {
    for name in REPORTS {
        let evidence = parse(&json_of(name)).unwrap();
        assert_eq!(
            evidence.report[..],
            vector(&format!("{name}.bin")),
            "{name}"
        );
        assert!(evidence.certificates.is_empty());
    }
}

#[test]
fn a_changed_number_is_refused_or_changes_the_bytes() {
    let mut refused = 0;
    let mut changed = 0;
    for name in ["milan-v2-virtee", "genoa-v3-routex", "turin-v5-routex"] {
        let json = json_of(name);
        let original = parse(&json).unwrap().report;
        for pointer in leaves(&json["attestation_report"], "/attestation_report") {
            for other in [
                json!(null),
                json!(-1),
                json!(1.5),
                json!("1"),
                json!(u64::MAX),
            ] {
                let mut json = json.clone();
                let leaf = json.pointer_mut(&pointer).unwrap();
                if *leaf == other {
                    continue;
                }
                *leaf = other;
                match parse(&json) {
                    Err(_) => refused += 1,
                    Ok(evidence) => {
                        changed += 1;
                        assert_ne!(evidence.report, original, "{name} {pointer}");
                    }
                }
            }
            let mut json = json.clone();
            let leaf = json.pointer_mut(&pointer).unwrap();
            let Some(number) = leaf.as_u64() else {
                continue;
            };
            *leaf = json!(number ^ 1);
            if let Ok(evidence) = parse(&json) {
                changed += 1;
                assert_ne!(evidence.report, original, "{name} {pointer}");
            }
        }
    }
    assert!(refused > 5_000 && changed > 1_000, "{refused}, {changed}");
}

#[test]
fn a_member_left_out_added_or_repeated_is_refused_or_absent_anyway() {
    for name in ["milan-v2-virtee", "genoa-v5-routex", "turin-v5-routex"] {
        let json = json_of(name);
        let original = parse(&json).unwrap();
        for member in json["attestation_report"].as_object().unwrap().keys() {
            let mut without = json.clone();
            let report = without["attestation_report"].as_object_mut().unwrap();
            let null = report.remove(member).unwrap().is_null();
            match parse(&without) {
                Ok(evidence) => assert!(null && evidence == original, "{name} {member}"),
                Err(error) => assert!(!null, "{name} {member}: {error}"),
            }
            let text = json.to_string();
            let from = format!("\"{member}\":");
            let twice = text.replacen(&from, &format!("\"{member}\":0,\"{member}\":"), 1);
            assert!(SnpEvidence::parse(twice.as_bytes()).is_err(), "{member}");
        }
        for pointer in ["", "/attestation_report", "/attestation_report/current_tcb"] {
            let mut with = json.clone();
            with.pointer_mut(pointer).unwrap()["extra"] = json!(0);
            assert!(parse(&with).is_err(), "{pointer}");
        }
    }
}

#[test]
fn byte_strings_have_their_length() {
    let json = json_of("genoa-v3-routex");
    for member in ["chip_id", "report_data", "host_data", "measurement"] {
        let pointer = format!("/attestation_report/{member}");
        let mut longer = json.clone();
        longer
            .pointer_mut(&pointer)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .push(json!(0));
        assert!(parse(&longer).is_err(), "{member}");
        let mut shorter = json.clone();
        shorter
            .pointer_mut(&pointer)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .pop();
        assert!(parse(&shorter).is_err(), "{member}");
    }
}

#[test]
fn members_go_with_the_version() {
    let with = |name: &str, member: &str, value: Value| {
        let mut json = json_of(name);
        json["attestation_report"][member] = value;
        parse(&json).unwrap_err()
    };
    let error = with("milan-v2-virtee", "cpuid_step", json!(0));
    assert_eq!(error, Error::Version(2, "cpuid_fam_id"));
    let error = with("genoa-v3-routex", "launch_mit_vector", json!(0));
    assert_eq!(error, Error::Version(3, "launch_mit_vector"));
    let error = with("genoa-v5-routex", "current_mit_vector", json!(null));
    assert_eq!(error, Error::Version(5, "launch_mit_vector"));
    let mut json = json_of("turin-v5-routex");
    json["attestation_report"]["launch_tcb"]["fmc"] = json!(null);
    assert_eq!(parse(&json), Err(Error::Fmc));
}

#[test]
fn takes_the_certificates_that_verifiers_use() {
    let chain = |entries: Value| {
        let mut json = json_of("genoa-v3-routex");
        json["cert_chain"] = entries;
        parse(&json)
    };
    let vcek = vector("genoa-v3-routex.vcek.der");
    let evidence = chain(json!([
        { "cert_type": "VCEK", "data": vcek },
        { "cert_type": "ARK", "data": [1, 2] },
        { "cert_type": "CRL", "data": [3] },
        { "cert_type": { "OTHER": "92f81bc3-5811-4d3d-97ff-d19f88dc67ea" }, "data": [4] },
        { "cert_type": "Empty", "data": [] },
    ]))
    .unwrap();
    let kinds: Vec<_> = evidence.certificates.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [CertificateKind::Vcek, CertificateKind::Ark]);
    assert_eq!(evidence.certificates[0].der, vcek);

    let entry = json!({ "cert_type": "VCEK", "data": [0] });
    assert_eq!(chain(json!(vec![&entry; 17])), Err(Error::Certificates(17)));
    assert!(chain(json!(vec![&entry; 16])).is_ok());
    let long = json!([{ "cert_type": "VCEK", "data": vec![0; 16 * 1024 + 1] }]);
    assert_eq!(chain(long), Err(Error::CertificateLength(16 * 1024 + 1)));
    // What nobody uses may be as long as the body allows.
    for unused in [json!({ "OTHER": "guid" }), json!("CRL")] {
        let long = json!([{ "cert_type": unused, "data": vec![0; 16 * 1024 + 1] }]);
        assert!(chain(long).unwrap().certificates.is_empty());
    }
    assert!(chain(json!([{ "cert_type": "vcek", "data": [0] }])).is_err());
    assert!(chain(json!([{ "cert_type": "VCEK", "data": [256] }])).is_err());
    assert!(chain(json!([{ "cert_type": "VCEK", "data": [0], "x": 0 }])).is_err());

    let mut absent = json_of("genoa-v3-routex");
    absent.as_object_mut().unwrap().remove("cert_chain");
    assert!(parse(&absent).unwrap().certificates.is_empty());
    assert!(chain(json!([])).unwrap().certificates.is_empty());
}

/// JSON pointers of everything that is neither an object nor an array.
fn leaves(value: &Value, at: &str) -> Vec<String> {
    let inner = |(key, value): (String, &Value)| leaves(value, &format!("{at}/{key}"));
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| (key.clone(), value));
            members.flat_map(inner).collect()
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items
                .map(|(i, value)| (i.to_string(), value))
                .flat_map(inner)
                .collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![at.to_owned()],
    }
}
