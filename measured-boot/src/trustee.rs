//! Reference values and policies for a stock Trustee.
//!
//! The message goes to `POST /kbs/v0/reference-value`, the policies to
//! `attestation-policy` (as `default_cpu`) and `resource-policy`. Trustee keeps
//! one value for each name, so the values of one image replace another's.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};

use crate::manifest::Hex32;
use crate::reference_values::{FirmwareProfile, Hex48, ReferenceValues, Register};

/// Policy that turns evidence and reference values into trust claims.
pub const ATTESTATION_POLICY: &str = include_str!("../trustee/attestation-policy.rego");
/// Policy that gives resources to affirmed evidence.
pub const RESOURCE_POLICY: &str = include_str!("../trustee/resource-policy.rego");

/// What the message carries: the values by the names that the policy asks for.
pub fn values(reference: &ReferenceValues) -> BTreeMap<&'static str, Value> {
    let mut values = BTreeMap::new();
    if let Some(snp) = &reference.snp {
        let digests: Vec<_> = snp.launch_digests.values().collect();
        values.insert("snp_launch_measurement", json!(digests));
    }
    if let Some(tdx) = &reference.tdx {
        let of_logs = |rtmr: u8| {
            let values = tdx.logs.iter().filter_map(|log| log.rtmrs.get(&rtmr));
            values.copied().collect()
        };
        values.insert("mr_td", judged(&tdx.mrtd, Vec::new()));
        let names = ["rtmr_0", "rtmr_1", "rtmr_2", "rtmr_3"];
        for ((index, name), register) in (0..).zip(names).zip(&tdx.rtmrs) {
            values.insert(name, judged(register, of_logs(index)));
        }
    }
    if let Some(tpm) = &reference.tpm {
        let predicted = |(pcr, register): (&u8, &Register)| match register {
            Register::Predicted { values, .. } => Some((name(*pcr), values.clone())),
            Register::Pinned { .. } | Register::Ignored { .. } => None,
        };
        let registers: BTreeMap<String, Vec<Hex32>> =
            tpm.pcrs.iter().filter_map(predicted).collect();
        let build = |profile: &FirmwareProfile| {
            let pcrs = profile.pcrs.iter();
            pcrs.map(|(pcr, value)| (name(*pcr), *value)).collect()
        };
        let builds: Vec<BTreeMap<String, Hex32>> = tpm.firmware.iter().map(build).collect();
        values.insert("tpm_registers", json!(registers));
        values.insert("tpm_firmware", json!(builds));
    }
    values
}

/// The message for the reference value service, of its unsigned type `sample`.
///
/// # Errors
/// Never for values of these types; the serializer's error otherwise.
pub fn rvps_message(reference: &ReferenceValues) -> Result<String, serde_json::Error> {
    let payload = serde_json::to_vec(&values(reference))?;
    let message = json!({
        "version": "0.1.0",
        "type": "sample",
        "payload": Base64::encode_string(&payload),
    });
    serde_json::to_string(&message)
}

/// Accepted values, or the word by which the policy knows that there are none.
fn judged(register: &Register<Hex48>, pinned: Vec<Hex48>) -> Value {
    match register {
        Register::Predicted { values, .. } => json!(values),
        Register::Pinned { .. } => json!(pinned),
        Register::Ignored { .. } => json!("ignored"),
    }
}

/// A PCR as Trustee's claims name it.
fn name(pcr: u8) -> String {
    format!("pcr{pcr:02}")
}
