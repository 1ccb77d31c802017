//! The attestation token: an ES256 JWT in the shape of Trustee's EAR
//! (draft-ietf-rats-ear). Our guests need not read it, and here it is only as
//! good as the session it was given to.

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use measured_boot::evidence::ReportData;
use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::manifest::Image;
use measured_boot::verify::snp::VerifiedReport;
use measured_boot::verify::tdx::VerifiedQuote;
use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::sec1::ToSec1Point;
use serde_json::{Map, Value, json};

use crate::appraise::Verified;
use crate::protocol::{Jwk, base64url};

/// What a token says.
#[derive(Debug)]
pub(crate) struct Claims<'a> {
    /// Seconds since 1970.
    pub(crate) issued: i64,
    /// Seconds since 1970.
    pub(crate) expires: i64,
    pub(crate) image: &'a Image,
    pub(crate) verified: &'a Verified,
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
    let tee_pubkey: Value = serde_json::from_str(&claims.key.canonical()?).ok()?;
    let runtime_data = json!({
        "tee-pubkey": tee_pubkey,
        "nonce": claims.nonce,
        "additional-evidence": "",
    });
    let mut evidence = annotated(claims);
    evidence.insert("runtime_data_claims".into(), runtime_data);
    // AR4SI: 2 is affirming, 0 makes no claim. A TPM says nothing about the
    // processor's isolation.
    let hardware = match claims.verified {
        Verified::Tpm(_) => 0,
        Verified::Snp(_) | Verified::Tdx(_) => 2,
    };
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
            "ear.trustworthiness-vector": {
                "configuration": 2, "executables": 2, "hardware": hardware,
            },
            "ear.appraisal-policy-id": format!("{}/{}", claims.image.name, claims.image.version),
            "ear.veraison.annotated-evidence": evidence,
        }},
    }))
}

/// The evidence as Trustee's verifiers name it: the claims of the TEE, beside
/// them its report data and, where the TEE has a field for it, init-data.
fn annotated(claims: &Claims<'_>) -> Map<String, Value> {
    let (name, tee, report_data, init_data) = match claims.verified {
        Verified::Tpm(evidence) => {
            let bound = base16::encode(claims.report_data.qualifying_data());
            ("tpm", tpm(evidence), bound, None)
        }
        Verified::Snp(verified) => {
            let report = verified.report();
            let bound = base16::encode(&report.report_data);
            let host_data = base16::encode(&report.host_data);
            ("snp", snp(verified), bound, Some(host_data))
        }
        Verified::Tdx(verified) => {
            let td = verified.td();
            let bound = base16::encode(&td.report_data);
            let config = base16::encode(&td.mr_config_id);
            ("tdx", tdx(verified), bound, Some(config))
        }
    };
    let mut all = Map::new();
    all.insert(name.into(), tee);
    all.insert("report_data".into(), report_data.into());
    if let Some(init_data) = init_data {
        all.insert("init_data".into(), init_data.into());
    }
    all
}

fn tpm(evidence: &TpmEvidence) -> Value {
    let mut tpm = Map::new();
    for (number, value) in evidence.quote.pcrs.iter().enumerate() {
        tpm.insert(format!("pcr{number:02}"), base16::encode(value).into());
    }
    let ak = Base64::encode_string(&evidence.ak_public);
    tpm.insert("ak_public".into(), ak.into());
    tpm.into()
}

/// Bits of `POLICY` (SEV-SNP Firmware ABI 56860, section 4.3) and of
/// `PLATFORM_INFO` (section 7.3, table "PLATFORM_INFO Field").
fn snp(verified: &VerifiedReport) -> Value {
    let (report, tcb) = (verified.report(), verified.reported_tcb());
    let bit = |word: u64, number: u32| word >> number & 1;
    let policy = report.policy;
    json!({
        "policy_abi_minor": policy & 0xff,
        "policy_abi_major": policy >> 8 & 0xff,
        "policy_smt_allowed": bit(policy, 16),
        "policy_migrate_ma": bit(policy, 18),
        "policy_debug_allowed": bit(policy, 19),
        "policy_single_socket": bit(policy, 20),
        "platform_smt_enabled": bit(report.platform_info, 0),
        "platform_tsme_enabled": bit(report.platform_info, 1),
        "reported_tcb_bootloader": tcb.bootloader,
        "reported_tcb_tee": tcb.tee,
        "reported_tcb_snp": tcb.snp,
        "reported_tcb_microcode": tcb.microcode,
        "measurement": base16::encode(&report.measurement),
        "chip_id": base16::encode(&report.chip_id),
    })
}

/// Bits of `ATTRIBUTES` (Intel TDX Module ABI).
fn tdx(verified: &VerifiedQuote) -> Value {
    let td = verified.td();
    let set = |bit: u32| td.td_attributes >> bit & 1 == 1;
    let hex = |bytes: &[u8]| base16::encode(bytes);
    let [rtmr_0, rtmr_1, rtmr_2, rtmr_3] = td.rtmrs.each_ref().map(|rtmr| hex(rtmr));
    json!({
        "quote": {"body": {
            "mrsigner_seam": hex(&td.mr_signer_seam),
            "seam_attributes": hex(&td.seam_attributes),
            "td_attributes": hex(&td.td_attributes.to_le_bytes()),
            "xfam": hex(&td.xfam.to_le_bytes()),
            "mr_td": hex(&td.mrtd),
            "mr_config_id": hex(&td.mr_config_id),
            "mr_owner": hex(&td.mr_owner),
            "mr_owner_config": hex(&td.mr_owner_config),
            "rtmr_0": rtmr_0,
            "rtmr_1": rtmr_1,
            "rtmr_2": rtmr_2,
            "rtmr_3": rtmr_3,
            "report_data": hex(&td.report_data),
        }},
        "td_attributes": {
            "debug": set(0),
            "septve_disable": set(28),
            "protection_keys": set(30),
            "key_locker": set(31),
            "perfmon": set(63),
        },
        "tcb_status": verified.tcb_status(),
        "advisory_ids": verified.advisory_ids(),
    })
}
