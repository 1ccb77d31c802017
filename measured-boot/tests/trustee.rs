//! The policies for Trustee, evaluated by the engine that Trustee evaluates
//! them with, over claims in its shape: good ones, and each made bad in one place.
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: a failure here is a failed test"
)]

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding as _};
use measured_boot::manifest::{Hex32, Image};
use measured_boot::reference_values::{
    FirmwareProfile, Hex48, ReferenceValues, Register, SnpValues, TdxLog, TdxValues, TpmValues,
    VerityValues,
};
use measured_boot::trustee::{ATTESTATION_POLICY, RESOURCE_POLICY, rvps_message};
use regorus::Engine;
use serde_json::{Value, json};

fn predicted<V>(values: Vec<V>) -> Register<V> {
    let covers = String::new();
    Register::Predicted { values, covers }
}

fn pinned<V>() -> Register<V> {
    let covers = String::new();
    Register::Pinned { covers }
}

fn ignored<V>() -> Register<V> {
    let reason = String::new();
    Register::Ignored { reason }
}

/// TPM: 0 and 7 pinned, 1 ignored, 4 and 9 predicted; TDX: RTMR0 as given.
fn reference(rtmr0: Register<Hex48>) -> ReferenceValues {
    let hex = |byte| Hex48([byte; 48]);
    let logs = matches!(rtmr0, Register::Pinned { .. }).then(|| TdxLog {
        name: "log".into(),
        rtmrs: [(0, hex(0x10))].into(),
    });
    let build = |byte| FirmwareProfile {
        name: "build".into(),
        sha256: Hex32([0; 32]),
        pcrs: [(0, Hex32([byte; 32])), (7, Hex32([byte; 32]))].into(),
    };
    ReferenceValues {
        version: 1,
        image: Image {
            name: "demo".into(),
            version: 1,
        },
        cmdline: String::new(),
        files: BTreeMap::new(),
        rootfs: VerityValues {
            root_hash: Hex32([0; 32]),
            data_blocks: 1,
            hash_offset: 4096,
        },
        boot: None,
        snp: Some(SnpValues {
            assumptions: Vec::new(),
            firmware: Hex32([0; 32]),
            launch_digests: [(1, hex(0x51)), (2, hex(0x52))].into(),
        }),
        tdx: Some(TdxValues {
            assumptions: Vec::new(),
            firmware: Hex32([0; 32]),
            mrtd: predicted(vec![hex(0xd0)]),
            rtmrs: [
                rtmr0,
                predicted(vec![hex(0x11), hex(0x21)]),
                predicted(vec![hex(0x12)]),
                predicted(vec![hex(0)]),
            ],
            logs: logs.into_iter().collect(),
        }),
        tpm: Some(TpmValues {
            pcrs: [
                (0, pinned()),
                (1, ignored()),
                (4, predicted(vec![Hex32([0x40; 32]), Hex32([0x41; 32])])),
                (7, pinned()),
                (9, predicted(vec![Hex32([0x90; 32])])),
            ]
            .into(),
            firmware: vec![build(0xa0), build(0xb0)],
        }),
    }
}

/// What the reference value service keeps: the message's payload, and what the
/// site sets itself.
fn service(reference: &ReferenceValues) -> BTreeMap<String, Value> {
    let message: Value = serde_json::from_str(&rvps_message(reference).unwrap()).unwrap();
    assert_eq!(message["version"], "0.1.0");
    assert_eq!(message["type"], "sample");
    let payload = Base64::decode_vec(message["payload"].as_str().unwrap()).unwrap();
    let mut values: BTreeMap<String, Value> = serde_json::from_slice(&payload).unwrap();
    for (name, value) in [
        ("snp_bootloader", json!([10])),
        ("snp_tee_svn", json!([0])),
        ("snp_snp_svn", json!([23])),
        ("snp_microcode", json!([25])),
        ("trusted_aks", json!(["the key"])),
    ] {
        values.insert(name.into(), value);
    }
    values
}

fn engine(policy: &str) -> Engine {
    let mut engine = Engine::new();
    engine
        .add_policy("policy.rego".into(), policy.into())
        .unwrap();
    engine
}

fn convert(value: &Value) -> regorus::Value {
    regorus::Value::from_json_str(&value.to_string()).unwrap()
}

/// Executables, hardware, configuration.
fn claims(service: &BTreeMap<String, Value>, input: &Value) -> [i64; 3] {
    let mut engine = engine(ATTESTATION_POLICY);
    let values: BTreeMap<String, Value> = service.clone();
    let query = move |arguments: Vec<regorus::Value>| {
        let name = arguments[0].as_string()?;
        let value = values.get(name.as_ref()).unwrap_or(&Value::Null);
        Ok(convert(value))
    };
    engine
        .add_extension("query_reference_value".into(), 1, Box::new(query))
        .unwrap();
    engine.set_input(convert(input));
    let claims = engine.eval_rule("data.policy.trust_claims".into()).unwrap();
    ["executables", "hardware", "configuration"].map(|name| {
        let claim = &claims[&regorus::Value::from(name)];
        claim.as_i64().unwrap()
    })
}

fn repeated(byte: &str, count: usize) -> String {
    byte.repeat(count)
}

fn snp() -> Value {
    json!({ "snp": {
        "measurement": repeated("52", 48),
        "reported_tcb_bootloader": 10, "reported_tcb_tee": 0,
        "reported_tcb_snp": 23, "reported_tcb_microcode": 25,
        "policy_debug_allowed": 0, "policy_migrate_ma": "0",
    }})
}

fn tdx() -> Value {
    json!({ "tdx": {
        "tcb_status": "UpToDate",
        "td_attributes": { "debug": false },
        "quote": { "body": {
            "mr_td": repeated("d0", 48), "rtmr_0": repeated("10", 48),
            "rtmr_1": repeated("21", 48), "rtmr_2": repeated("12", 48),
            "rtmr_3": repeated("00", 48),
        }},
    }})
}

fn tpm() -> Value {
    json!({ "tpm": {
        "ak_public": "the key",
        "pcr00": repeated("b0", 32), "pcr01": repeated("77", 32),
        "pcr04": repeated("41", 32), "pcr07": repeated("b0", 32),
        "pcr09": repeated("90", 32),
    }})
}

/// The claims that stop affirming when one value of the input is another.
fn affirmed_without(input: &Value, pointer: &str, other: Value) -> [bool; 3] {
    let service = service(&reference(pinned()));
    let mut input = input.clone();
    *input.pointer_mut(pointer).expect(pointer) = other;
    claims(&service, &input).map(|claim| (2..32).contains(&claim))
}

#[test]
fn affirms_evidence_that_is_the_predicted() {
    let service = service(&reference(pinned()));
    for input in [snp(), tdx(), tpm()] {
        assert_eq!(claims(&service, &input), [3, 2, 2], "{input}");
    }
}

#[test]
fn one_bad_claim_is_enough() {
    const EXECUTABLES: [bool; 3] = [false, true, true];
    const HARDWARE: [bool; 3] = [true, false, true];
    const CONFIGURATION: [bool; 3] = [true, true, false];
    let (long, short) = (json!(repeated("ee", 48)), json!(repeated("ee", 32)));
    let snp = snp();
    for (pointer, other, expected) in [
        ("/snp/measurement", &long, EXECUTABLES),
        ("/snp/reported_tcb_bootloader", &json!(9), HARDWARE),
        ("/snp/reported_tcb_tee", &json!(1), HARDWARE),
        ("/snp/reported_tcb_snp", &json!(22), HARDWARE),
        ("/snp/reported_tcb_microcode", &json!(null), HARDWARE),
        ("/snp/policy_debug_allowed", &json!(1), CONFIGURATION),
        ("/snp/policy_debug_allowed", &json!(true), CONFIGURATION),
        ("/snp/policy_migrate_ma", &json!("1"), CONFIGURATION),
    ] {
        let got = affirmed_without(&snp, pointer, other.clone());
        assert_eq!(got, expected, "{pointer}");
    }
    let tdx = tdx();
    for (pointer, other, expected) in [
        ("/tdx/quote/body/mr_td", &long, EXECUTABLES),
        ("/tdx/quote/body/rtmr_1", &long, EXECUTABLES),
        ("/tdx/quote/body/rtmr_2", &long, EXECUTABLES),
        ("/tdx/quote/body/rtmr_3", &long, EXECUTABLES),
        ("/tdx/quote/body/rtmr_0", &long, CONFIGURATION),
        ("/tdx/td_attributes/debug", &json!(true), CONFIGURATION),
        ("/tdx/tcb_status", &json!("OutOfDate"), HARDWARE),
    ] {
        let got = affirmed_without(&tdx, pointer, other.clone());
        assert_eq!(got, expected, "{pointer}");
    }
    let tpm = tpm();
    for (pointer, other, expected) in [
        ("/tpm/pcr04", &short, EXECUTABLES),
        ("/tpm/pcr09", &json!(null), EXECUTABLES),
        // Of the other build: no mixture of two.
        ("/tpm/pcr00", &json!(repeated("a0", 32)), CONFIGURATION),
        ("/tpm/pcr07", &short, CONFIGURATION),
        ("/tpm/ak_public", &json!("another key"), HARDWARE),
        ("/tpm/pcr01", &short, [true; 3]),
    ] {
        let got = affirmed_without(&tpm, pointer, other.clone());
        assert_eq!(got, expected, "{pointer}");
    }
}

#[test]
fn without_reference_values_nothing_is_affirmed() {
    for input in [
        snp(),
        tdx(),
        tpm(),
        json!({ "sample": { "svn": "1" } }),
        json!({}),
    ] {
        let [executables, _, _] = claims(&BTreeMap::new(), &input);
        assert_eq!(executables, 33, "{input}");
    }
    // What names alone the service holds does not matter, nor empty lists.
    let empty = [("tpm_registers", json!({})), ("tpm_firmware", json!([{}]))];
    let empty = empty.map(|(name, value)| (name.to_owned(), value)).into();
    assert_eq!(claims(&empty, &tpm()), [33, 97, 36]);
}

#[test]
fn an_ignored_register_is_not_judged_and_a_lost_one_is() {
    let mut other = tdx();
    other["tdx"]["quote"]["body"]["rtmr_0"] = json!(repeated("ee", 48));
    let mut service = service(&reference(ignored()));
    assert_eq!(claims(&service, &other), [3, 2, 2]);
    service.remove("rtmr_0");
    assert_eq!(claims(&service, &other), [3, 2, 36]);
}

fn allowed(input: &Value, data: &Value) -> bool {
    let mut engine = engine(RESOURCE_POLICY);
    engine.add_data(convert(data)).unwrap();
    engine.set_input(convert(input));
    engine
        .eval_bool_query("data.policy.allow".into(), false)
        .unwrap()
}

#[test]
fn resources_go_to_affirmed_evidence_of_a_real_tee_only() {
    let resource = json!({ "plugin": "resource", "resource-path": ["demo", "boot", "key"] });
    let token = |status: &str, evidence: Value| {
        json!({ "submods": { "cpu0": {
            "ear.status": status,
            "ear.veraison.annotated-evidence": evidence,
        }}})
    };
    assert!(allowed(&token("affirming", tpm()), &resource));
    assert!(allowed(&token("affirming", snp()), &resource));
    assert!(!allowed(&token("warning", tpm()), &resource));
    assert!(!allowed(
        &token("affirming", json!({ "sample": {} })),
        &resource
    ));
    assert!(!allowed(&token("affirming", json!({})), &resource));
    assert!(!allowed(&json!({ "submods": {} }), &resource));
    assert!(!allowed(&json!({}), &resource));
    let mut two = token("affirming", tpm());
    two["submods"]["gpu0"] = json!({ "ear.status": "contraindicated" });
    assert!(!allowed(&two, &resource));
    assert!(!allowed(
        &token("affirming", tpm()),
        &json!({ "plugin": "pkcs11" })
    ));
}
