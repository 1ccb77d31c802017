//! The command `measured-boot verify` and `replay`, as an auditor runs them.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise; clippy exempts only the test functions themselves"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use measured_boot::evidence::TpmEvidence;
use measured_boot::manifest::{Hex32, Image};
use measured_boot::reference_values::{
    Hex48, ReferenceValues, Register, SnpValues, TdxLog, TdxValues, TpmValues, VERSION,
    VerityValues,
};
use measured_boot::tpm::{Pcrs, QuoteParts};
use serde_json::Value;
use sev::parser::ByteParser;

const DECEMBER_2025: &str = "1764547200";

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn vector(name: &str) -> Vec<u8> {
    fs::read(vectors().join(name)).unwrap()
}

fn at(bytes: &[u8], offset: usize) -> Hex48 {
    Hex48(bytes[offset..offset + 48].try_into().unwrap())
}

fn values() -> ReferenceValues {
    ReferenceValues {
        version: VERSION,
        image: Image {
            name: "shop".to_owned(),
            version: 4,
        },
        cmdline: String::new(),
        files: BTreeMap::new(),
        rootfs: VerityValues {
            root_hash: Hex32([0; 32]),
            data_blocks: 1,
            hash_offset: 4096,
        },
        boot: None,
        tpm: None,
        tdx: None,
        snp: None,
    }
}

fn snp_values(report: &[u8]) -> ReferenceValues {
    ReferenceValues {
        snp: Some(SnpValues {
            assumptions: Vec::new(),
            firmware: Hex32([0; 32]),
            launch_digests: [(4, at(report, 0x90))].into(),
        }),
        ..values()
    }
}

/// The command with `values` as its reference, and the folder that holds them.
struct Auditor(tempfile::TempDir);

impl Auditor {
    fn new(values: &ReferenceValues) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("reference.json"),
            values.to_json().unwrap(),
        )
        .unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn verify(&self, evidence: &str, options: &[&str]) -> Output {
        self.verify_file(&vectors().join(evidence), options)
    }

    fn verify_file(&self, evidence: &Path, options: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_measured-boot"))
            .arg("verify")
            .arg(evidence)
            .arg("--reference")
            .arg(self.0.path().join("reference.json"))
            .args(options)
            .current_dir(vectors())
            .output()
            .unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn failed(output: &Output) -> Vec<String> {
    let text = stdout(output);
    let lines = text.lines().filter_map(|line| line.strip_prefix("FAIL "));
    lines.map(str::to_owned).collect()
}

/// A folder with one certificate, since a report needs its own.
fn with_vek(auditor: &Auditor, name: &str) -> String {
    let folder = auditor.0.path().join("veks");
    fs::create_dir(&folder).unwrap();
    fs::copy(vectors().join("snp").join(name), folder.join(name)).unwrap();
    folder.display().to_string()
}

#[test]
fn accepts_a_report_with_everything_that_is_demanded() {
    let report = vector("snp/milan-v2-enarx2022.bin");
    let auditor = Auditor::new(&snp_values(&report));
    let veks = with_vek(&auditor, "milan-v2-enarx2022.vcek.der");
    let policy = auditor.write("policy.json", br#"{"snp": {"guest_policy": 196915}}"#);
    let policy = policy.display().to_string();
    let report_data = base16::encode(&report[0x50..0x90]);
    let host_data = base16::encode(&report[0xc0..0xe0]);
    let options = [
        "--certificates",
        &veks,
        "--policy",
        &policy,
        "--report-data",
        &report_data,
        "--crl",
        "snp/milan-ark-crl-20220509.der",
        "--time",
        "1665792000",
        "--instance",
        &host_data,
    ];
    let output = auditor.verify("snp/milan-v2-enarx2022.bin", &options);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.ends_with("checks hold\n"), "{text}");
    assert!(text.contains("ok   report signature\n"), "{text}");

    let json = auditor.verify(
        "snp/milan-v2-enarx2022.bin",
        &[&options[..], &["--json"]].concat(),
    );
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&json["ok"], &json["image"]["name"]),
        (&Value::from(true), &Value::from("shop"))
    );
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.len() > 20 && checks.iter().all(|check| check["ok"] == true));
}

#[test]
fn refuses_a_report_and_tells_all_that_is_wrong() {
    let mut values = snp_values(&vector("snp/genoa-v5-routex.bin"));
    let snp = values.snp.as_mut().unwrap();
    snp.launch_digests.get_mut(&4).unwrap().0[0] ^= 1;
    let auditor = Auditor::new(&values);
    let veks = with_vek(&auditor, "genoa-v5-routex.vcek.der");
    let policy = auditor.write(
        "policy.json",
        br#"{"snp": {"vmpl": 1, "products": ["Turin"]}}"#,
    );
    let policy = policy.display().to_string();
    let options = [
        "--certificates",
        &veks,
        "--policy",
        &policy,
        "--report-data",
        "00",
        "--insecure-no-crl",
        "--time",
        DECEMBER_2025,
    ];
    let output = auditor.verify("snp/genoa-v5-routex.bin", &options);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        failed(&output),
        ["launch digest", "report data", "VMPL", "product"]
    );
    assert!(stdout(&output).contains("REFUSED, 4 of "));
}

#[test]
fn finds_the_certificate_among_several() {
    let auditor = Auditor::new(&snp_values(&vector("snp/genoa-v5-routex.bin")));
    let rest = [
        "--insecure-any-report-data",
        "--insecure-no-crl",
        "--time",
        DECEMBER_2025,
    ];
    // All VEKs of the vectors, and what is no certificate of a VEK.
    let options = [&["--certificates", "snp"][..], &rest].concat();
    let output = auditor.verify("snp/genoa-v5-routex.bin", &options);
    assert!(output.status.success(), "{}", stdout(&output));
    let text = stdout(&output);
    assert!(
        text.contains("any value: freshness is not checked"),
        "{text}"
    );
    assert!(text.contains("none: revocation is not checked"), "{text}");
}

/// What a guest sends, with its certificate in it: no folder is needed.
#[test]
fn judges_the_json_that_guests_send() {
    let bytes = vector("snp/genoa-v5-routex.bin");
    let report = sev::firmware::guest::AttestationReport::from_bytes(&bytes).unwrap();
    let auditor = Auditor::new(&snp_values(&bytes));
    let rest = [
        "--insecure-any-report-data",
        "--insecure-no-crl",
        "--time",
        DECEMBER_2025,
    ];
    let of = |vek: &str| {
        let vek = vector(&format!("snp/{vek}"));
        let chain = serde_json::json!([{ "cert_type": "VCEK", "data": vek }]);
        serde_json::json!({ "attestation_report": report, "cert_chain": chain })
    };
    let right = of("genoa-v5-routex.vcek.der").to_string();
    let right = auditor.write("right.json", right.as_bytes());
    let output = auditor.verify_file(&right, &rest);
    assert!(output.status.success(), "{}", stdout(&output));
    // Another chip's certificate is refused, and one from the folder is used.
    let other = of("genoa-v3-routex.vcek.der").to_string();
    let other = auditor.write("other.json", other.as_bytes());
    let output = auditor.verify_file(&other, &rest);
    assert_eq!(output.status.code(), Some(1));
    assert!(failed(&output).contains(&"certificate HWID".to_owned()));
    let folder = [&rest[..], &["--certificates", "snp"]].concat();
    assert!(auditor.verify_file(&other, &folder).status.success());

    let quote = Base64::encode_string(&vector("tdx/google.quote-v5.dat"));
    let json = serde_json::json!({ "quote": quote, "cc_eventlog": null }).to_string();
    let quote = auditor.write("quote.json", json.as_bytes());
    let output = auditor.verify_file(&quote, &rest);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("say --collateral"), "{text}");
}

#[test]
fn says_what_was_not_given() {
    let auditor = Auditor::new(&values());
    for (evidence, options, expected) in [
        ("snp/genoa-v5-routex.bin", &[][..], "--report-data"),
        (
            "snp/genoa-v5-routex.bin",
            &["--report-data", "00"],
            "say --certificates",
        ),
        (
            "snp/genoa-v5-routex.bin",
            &["--report-data", "00", "--certificates", "snp"],
            "say --crl",
        ),
        (
            "snp/genoa-v5-routex.bin",
            &["--report-data", "0x00"],
            "lower-case hexadecimal",
        ),
        (
            "tdx/google.quote-v5.dat",
            &["--report-data", "00"],
            "say --collateral",
        ),
        (
            "trustee-tpm_evidence.json",
            &["--report-data", "00"],
            "say --ak",
        ),
        (
            "event-logs/expected-pcrs.json",
            &["--report-data", "00"],
            "neither of SNP or TDX nor of a TPM or an Azure VM",
        ),
        ("absent", &["--report-data", "00"], "cannot read"),
    ] {
        let output = auditor.verify(evidence, options);
        assert!(!output.status.success(), "{evidence} {options:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(expected), "{evidence} {options:?}: {text}");
    }
}

#[test]
fn judges_a_quote_of_a_td() {
    let quote = vector("tdx/google.quote-v5.dat");
    // Header, body type and size, then the TD report.
    let body = 48 + 6;
    let predicted = |offset| Register::Predicted {
        values: vec![at(&quote, body + offset)],
        covers: "the image".to_owned(),
    };
    let pinned = || Register::Pinned {
        covers: "the firmware".to_owned(),
    };
    let log = |name: &str, value| TdxLog {
        name: name.to_owned(),
        rtmrs: [(0, value)].into(),
    };
    let ignored = || Register::Ignored {
        reason: "not ours".to_owned(),
    };
    let reference = ReferenceValues {
        tdx: Some(TdxValues {
            assumptions: Vec::new(),
            firmware: Hex32([0; 32]),
            mrtd: predicted(136),
            rtmrs: [pinned(), predicted(376), predicted(424), ignored()],
            logs: vec![
                log("other", Hex48([1; 48])),
                log("this", at(&quote, body + 328)),
            ],
        }),
        ..values()
    };
    let report_data = base16::encode(&quote[body + 520..body + 584]);
    let collateral = "tdx/90c06f-mar2026.collateral.json";
    let options = [
        "--report-data",
        &report_data,
        "--collateral",
        collateral,
        "--time",
        "1776204369",
    ];
    let output = Auditor::new(&reference).verify("tdx/google.quote-v5.dat", &options);
    assert!(output.status.success(), "{}", stdout(&output));

    let mut other = reference;
    other.tdx.as_mut().unwrap().logs.pop();
    let auditor = Auditor::new(&other);
    let output = auditor.verify("tdx/google.quote-v5.dat", &options);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(failed(&output), ["RTMR0"]);
    let expired = [&options[..4], &["--time", "1900000000"]].concat();
    let output = auditor.verify("tdx/google.quote-v5.dat", &expired);
    assert_eq!(failed(&output), ["TCB info validity"]);
    let output = auditor.verify("tdx/sgx-phala.quote.dat", &options);
    assert_eq!(failed(&output), ["quote version"]);
}

fn recorded_pcrs() -> Pcrs {
    let text = String::from_utf8(vector("pcrs.txt")).unwrap();
    let values = text.lines().filter_map(|line| line.strip_prefix("sha256 "));
    let values = values.map(|line| line.split(' ').nth(1).unwrap().to_lowercase());
    let values: Vec<_> = values.map(|hex| base16::decode(&hex).unwrap()).collect();
    values.try_into().unwrap()
}

#[test]
fn judges_a_quote_of_a_tpm() {
    let pcrs = recorded_pcrs();
    let pem = String::from_utf8(vector("ak_rsa.pem")).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let evidence = TpmEvidence {
        quote: QuoteParts {
            message: vector("quote_rsa.msg"),
            signature: vector("quote_rsa.sig"),
            pcrs,
        },
        ak_public: Base64::decode_vec(&base64).unwrap(),
    };
    let register = |(pcr, value): (usize, &[u8; 32])| {
        let values = vec![Hex32(*value)];
        let covers = "recorded".to_owned();
        (
            u8::try_from(pcr).unwrap(),
            Register::Predicted { values, covers },
        )
    };
    let mut reference = ReferenceValues {
        tpm: Some(TpmValues {
            pcrs: pcrs.iter().enumerate().map(register).collect(),
            firmware: Vec::new(),
        }),
        ..values()
    };
    let report_data = base16::encode(b"kbs report data sha384 truncated");
    let options = ["--ak", "ak_rsa.pem", "--report-data", &report_data];
    let auditor = Auditor::new(&reference);
    let json = evidence.to_evidence().json;
    let path = auditor.write("evidence.json", json.as_bytes());
    let output = auditor.verify_file(&path, &options);
    assert!(output.status.success(), "{}", stdout(&output));
    let output = auditor.verify_file(&path, &["--ak", "ak_rsa.pem", "--report-data", "00"]);
    assert_eq!(failed(&output), ["qualifying data"]);
    let output = auditor.verify("trustee-tpm_evidence.json", &options);
    assert_eq!(failed(&output), ["attestation key"]);

    reference
        .tpm
        .as_mut()
        .unwrap()
        .pcrs
        .insert(9, register((9, &[0; 32])).1);
    let other = Auditor::new(&reference).verify_file(&path, &options);
    assert_eq!(other.status.code(), Some(1));
    assert_eq!(failed(&other), ["PCR 9: recorded"]);
}

#[test]
fn replays_logs_and_names_every_event() {
    let replay = |name: &str, options: &[&str]| {
        let path = vectors().join("event-logs").join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_measured-boot"));
        command
            .arg("replay")
            .arg(path)
            .args(options)
            .output()
            .unwrap()
    };
    let tpm = replay("uki-plain.bin", &[]);
    assert!(tpm.status.success());
    let text = stdout(&tpm);
    assert!(text.contains("PCR 4"), "{text}");
    assert!(text.contains("EV_EFI_BOOT_SERVICES_APPLICATION"), "{text}");
    let pcr_4 = base16::encode(&recorded_pcrs()[4]);
    assert!(text.contains(&format!("sha256 PCR 4: {pcr_4}\n")), "{text}");

    let td = replay("live-tdreport-pair.ccel.bin", &["--json"]);
    let json: Value = serde_json::from_slice(&td.stdout).unwrap();
    let report = vector("event-logs/live-tdreport-pair.tdreport.bin");
    let rtmr_0 = base16::encode(&report[720..768]);
    assert_eq!(json["tcb"], "TD");
    assert_eq!(json["registers"]["sha384"]["RTMR0"], rtmr_0.as_str());
    assert_eq!(json["events"].as_array().unwrap().len(), 20);

    let refused = replay("expected-pcrs.json", &[]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.contains("cannot read event log: at offset 0x"),
        "{text}"
    );
}
