//! One case per way to be refused, each beside its control.

use std::time::Duration;

use key_broker::Refusal;
use key_broker::log::Log;
use key_broker::store::attesters::{AkId, Origin};
use measured_boot::base16;
use measured_boot::manifest::Tee;
use serde_json::{Value, json};

use crate::guest::{
    Guest, KEY, Lines, SECRET, Site, auth_body, body, pcrs, peer, put, reference_values,
};
use crate::soft_tpm::SoftTpm;

fn tpm() -> SoftTpm {
    SoftTpm::new(0, pcrs(2), 1)
}

#[test]
fn releases_a_bound_resource_to_an_enrolled_image() {
    let site = Site::new();
    let guest = site.attested(1);
    let line = site.lines.last();
    assert_eq!(
        (&line["image"], &line["version"]),
        (&json!("demo"), &json!(2))
    );
    assert!(
        line["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|c| c["ok"] == true)
    );
    // nonce, ak, signature, selection, report data, digest, 24 PCRs, boot
    assert_eq!(line["checks"].as_array().unwrap().len(), 31);

    let reply = site.fetch(&guest, KEY);
    assert_eq!(reply.status, 200, "{}", site.lines.text());
    assert_eq!(guest.decrypt(&reply.body), SECRET);
    // The same session may ask again: guests fetch several resources.
    assert_eq!(site.fetch(&guest, KEY).status, 200);
    assert_eq!(site.lines.last()["decision"], "grant");
}

#[test]
fn a_token_stands_for_its_session() {
    let site = Site::new();
    let guest = site.guest();
    let reply = site.attest(&guest, &tpm());
    let token = body(&reply.body)["token"].as_str().unwrap().to_owned();
    let reply = site.broker.resource(peer(), None, Some(&token), KEY);
    assert_eq!(guest.decrypt(&reply.body), SECRET);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let altered = format!("{signed}.{other}{}", &signature[1..]);
    let reply = site.broker.resource(peer(), None, Some(&altered), KEY);
    site.refused(&reply, "R_TOKEN_MISSING");

    let claims = token.split('.').nth(1).unwrap();
    let claims: Value =
        serde_json::from_slice(&crate::guest::member(&json!({ "c": claims }), "c")).unwrap();
    let pointer = "/submods/cpu0/ear.veraison.annotated-evidence/runtime_data_claims/tee-pubkey";
    let jwk: Value = serde_json::from_str(&guest.key().to_jwk()).unwrap();
    assert_eq!(claims.pointer(pointer), Some(&jwk));
}

#[test]
fn rejects_other_versions_and_tees_at_once() {
    let site = Site::new();
    let refuse = |body: &[u8], code| site.refused(&site.broker.auth(peer(), body), code);
    refuse(
        br#"{"version":"0.3.0","tee":"tpm","extra-params":""}"#,
        "R_VERSION",
    );
    refuse(br#"{"version":"0.4.0","tee":"tpm"}"#, "R_REQUEST");
    refuse(&auth_body("sample"), "R_TEE_SAMPLE");
    refuse(&auth_body("sampledevice"), "R_TEE_SAMPLE");
    refuse(&auth_body("sgx"), "R_TEE_UNSUPPORTED");
    refuse(&auth_body("az-snp-vtpm"), "R_TEE_UNSUPPORTED");
    refuse(&auth_body("TPM"), "R_REQUEST");
    assert_eq!(site.broker.auth(peer(), &auth_body("tpm")).status, 200);
}

#[test]
fn rejects_another_sessions_nonce_and_replayed_evidence() {
    let site = Site::new();
    let (old, new) = (site.guest(), site.guest());
    let evidence = tpm().quote(old.report_data().qualifying_data());

    let mut body = new.attest_body(&evidence);
    body["runtime-data"]["nonce"] = json!(old.nonce);
    site.refused(&site.send(&new, &body), "R_NONCE");

    // Old evidence under the new nonce, with the old key.
    let new = Guest::new(&site.guest().id, "unused");
    let replay = old.attest_body(&evidence);
    site.refused(&site.send(&new, &replay), "R_NONCE");

    let new = site.guest();
    let reply = site.send(&new, &new.attest_body(&evidence));
    site.refused(&reply, "R_REPORT_DATA");
    assert_eq!(site.send(&old, &old.attest_body(&evidence)).status, 200);
}

#[test]
fn rejects_a_swapped_key() {
    let site = Site::new();
    let guest = site.guest();
    let evidence = tpm().quote(guest.report_data().qualifying_data());
    let thief = Guest::new(&guest.id, &guest.nonce);
    site.refused(
        &site.send(&thief, &thief.attest_body(&evidence)),
        "R_REPORT_DATA",
    );
}

#[test]
fn rejects_a_second_attestation_after_success_and_after_failure() {
    let site = Site::new();
    let guest = site.attested(1);
    site.refused(&site.attest(&guest, &tpm()), "R_SESSION_USED");
    assert_eq!(site.fetch(&guest, KEY).status, 200);

    let guest = site.guest();
    site.refused(
        &site.attest(&guest, &SoftTpm::new(1, pcrs(2), 1)),
        "R_AK_UNKNOWN",
    );
    site.refused(&site.attest(&guest, &tpm()), "R_SESSION_USED");
}

#[test]
fn rejects_missing_unknown_and_expired_sessions() {
    let site = Site::with_sessions(Duration::from_millis(300));
    let guest = site.guest();
    let evidence = tpm().quote(guest.report_data().qualifying_data());
    let bytes = serde_json::to_vec(&guest.attest_body(&evidence)).unwrap();
    site.refused(
        &site.broker.attest(peer(), None, &bytes),
        "R_SESSION_MISSING",
    );
    let reply = site.broker.attest(peer(), Some("00"), &bytes);
    site.refused(&reply, "R_SESSION_UNKNOWN");
    let attested = site.attested(1);
    std::thread::sleep(Duration::from_millis(350));
    site.refused(
        &site.send(&guest, &guest.attest_body(&evidence)),
        "R_SESSION_EXPIRED",
    );
    site.refused(&site.fetch(&attested, KEY), "R_TOKEN_MISSING");
}

#[test]
fn rejects_a_key_nobody_enrolled_whatever_it_says() {
    let site = Site::new();
    let other = SoftTpm::new(1, pcrs(2), 1);
    site.refused(&site.attest(&site.guest(), &other), "R_AK_UNKNOWN");
    // Asking does not enrol.
    site.refused(&site.attest(&site.guest(), &other), "R_AK_UNKNOWN");

    // The enrolled key's name under the other key's signature.
    let guest = site.guest();
    let mut evidence = other.quote(guest.report_data().qualifying_data());
    evidence.ak_public = tpm().ak();
    site.refused(
        &site.send(&guest, &guest.attest_body(&evidence)),
        "R_SIGNATURE",
    );

    site.store.enroll_ak(&other.ak(), Origin::Given).unwrap();
    assert_eq!(site.attest(&site.guest(), &other).status, 200);
}

#[test]
fn a_key_taken_out_loses_its_sessions_too() {
    let site = Site::new();
    let guest = site.attested(1);
    site.store.remove_ak(&AkId::of(&tpm().ak())).unwrap();
    site.refused(&site.fetch(&guest, KEY), "R_AK_UNKNOWN");
}

#[test]
fn rejects_what_is_not_a_quote_over_everything() {
    let site = Site::new();
    let refuse = |change: &dyn Fn(&mut SoftTpm), code: &str| {
        let mut tpm = tpm();
        change(&mut tpm);
        site.refused(&site.attest(&site.guest(), &tpm), code);
    };
    refuse(&|t| t.selection[3] = 0xfe, "R_PCR_SELECTION");
    refuse(&|t| t.selection[1] = 0x04, "R_PCR_SELECTION");
    refuse(
        &|t| t.selection = vec![0, 11, 3, 255, 255, 255, 0, 4, 3, 1, 0, 0],
        "R_PCR_SELECTION",
    );
    refuse(&|t| t.selection = vec![], "R_PCR_SELECTION");
    refuse(&|t| t.magic = 0, "R_QUOTE");
    refuse(&|t| t.kind = 0x8017, "R_QUOTE");
    refuse(&|t| t.trailing = vec![0], "R_QUOTE");

    let guest = site.guest();
    let mut evidence = tpm().quote(guest.report_data().qualifying_data());
    evidence.quote.pcrs[9] = pcrs(1)[9];
    site.refused(
        &site.send(&guest, &guest.attest_body(&evidence)),
        "R_PCR_DIGEST",
    );
}

#[test]
fn rejects_registers_of_no_enrolled_image() {
    let site = Site::new();
    let with = |number: usize, value: u8| {
        let mut tpm = tpm();
        tpm.pcrs[number] = [value; 32];
        site.attest(&site.guest(), &tpm)
    };
    for number in (2..24).filter(|n| *n != 15) {
        site.refused(&with(number, 0xaa), "R_IMAGE_UNKNOWN");
        let detail = site.lines.last()["detail"].as_str().unwrap().to_owned();
        assert!(detail.ends_with(&format!(": PCR {number}")), "{detail}");
    }
    site.refused(&with(0, 0xaa), "R_IMAGE_UNKNOWN");
    site.refused(&with(15, 0xaa), "R_BOOT_LATCHED");
    // An ignored register, and the other pinned firmware.
    assert_eq!(with(1, 0xaa).status, 200);
    assert_eq!(with(0, 0xee).status, 200);
}

#[test]
fn rejects_a_retired_version_at_attestation_and_at_release() {
    let site = Site::new();
    let old = SoftTpm::new(0, pcrs(1), 1);
    let guest = site.guest();
    assert_eq!(site.attest(&guest, &old).status, 200);
    site.store.retire("demo", 2).unwrap();
    site.refused(&site.fetch(&guest, KEY), "R_IMAGE_RETIRED");
    site.refused(&site.attest(&site.guest(), &old), "R_IMAGE_RETIRED");
    assert_eq!(site.fetch(&site.attested(1), KEY).status, 200);

    assert!(site.store.retire("demo", 1).is_err());
    let values = reference_values("demo", 1, &pcrs(1)).to_json().unwrap();
    assert!(site.store.enroll(&values, true).is_err());
}

#[test]
fn rejects_resources_bound_to_others() {
    let site = Site::new();
    put(&site.store, "demo/other/image", "other", Tee::Tpm);
    put(&site.store, "demo/other/tee", "demo", Tee::Snp);
    let guest = site.attested(1);
    site.refused(&site.fetch(&guest, "demo/other/image"), "R_RESOURCE_IMAGE");
    site.refused(&site.fetch(&guest, "demo/other/tee"), "R_RESOURCE_TEE");
    site.refused(&site.fetch(&guest, "demo/other/none"), "R_RESOURCE_UNKNOWN");
    for path in [
        "demo/boot",
        "demo/boot/key/x",
        "../../ca-key",
        "demo/boot/.key",
        "demo//key",
    ] {
        site.refused(&site.fetch(&guest, path), "R_RESOURCE_PATH");
    }
    let unattested = site.guest();
    site.refused(&site.fetch(&unattested, KEY), "R_TOKEN_MISSING");
    // None of these used up the boot's right.
    assert_eq!(site.fetch(&guest, KEY).status, 200);
}

#[test]
fn one_boot_gets_resources_in_one_session() {
    let site = Site::new();
    // Two sessions of one boot attest; the first to fetch has them.
    let (first, second) = (site.attested(7), site.attested(7));
    assert_eq!(site.fetch(&first, KEY).status, 200);
    site.refused(&site.fetch(&second, KEY), "R_BOOT_LATCHED");
    // A third does not even attest, nor does an earlier boot.
    for count in [7, 6] {
        let tpm = SoftTpm::new(0, pcrs(2), count);
        site.refused(&site.attest(&site.guest(), &tpm), "R_BOOT_LATCHED");
    }
    assert_eq!(site.fetch(&first, KEY).status, 200);
    // The next boot.
    let next = site.attested(8);
    assert_eq!(site.fetch(&next, KEY).status, 200);
    site.refused(&site.fetch(&first, KEY), "R_BOOT_LATCHED");

    site.store.forget_boots(&AkId::of(&tpm().ak())).unwrap();
    assert_eq!(site.fetch(&site.attested(1), KEY).status, 200);
}

#[test]
fn rejects_what_it_would_not_verify() {
    let site = Site::new();
    let refuse = |change: &dyn Fn(&mut Value), code: &str| {
        let guest = site.guest();
        let evidence = tpm().quote(guest.report_data().qualifying_data());
        let mut body = guest.attest_body(&evidence);
        change(&mut body);
        site.refused(&site.send(&guest, &body), code);
    };
    refuse(
        &|b| b["init-data"] = json!({"format": "toml", "body": ""}),
        "R_INIT_DATA",
    );
    refuse(
        &|b| b["tee-evidence"]["additional_evidence"] = json!("{}"),
        "R_ADDITIONAL_EVIDENCE",
    );
    refuse(
        &|b| b["tee-evidence"]["primary_evidence"]["extra"] = json!(1),
        "R_EVIDENCE",
    );
    refuse(
        &|b| b["tee-evidence"]["primary_evidence"] = json!({"svn": "1", "report_data": ""}),
        "R_EVIDENCE",
    );
    let key = |member: &'static str, value: Value| {
        move |b: &mut Value| b["runtime-data"]["tee-pubkey"][member] = value.clone()
    };
    refuse(&key("crv", json!("P-384")), "R_TEE_KEY");
    refuse(&key("alg", json!("ECDH-ES")), "R_TEE_KEY");
    refuse(&key("kty", json!("OKP")), "R_TEE_KEY");
    refuse(&key("x", json!("AAAA")), "R_TEE_KEY");
    // On no curve.
    refuse(&key("x", json!("A".repeat(43))), "R_TEE_KEY");
    for (n, e) in [("", ""), ("AA", "Aw"), ("_w", "Aw")] {
        let jwk = json!({"kty": "RSA", "alg": "RSA-OAEP-256", "n": n, "e": e});
        refuse(
            &|b| b["runtime-data"]["tee-pubkey"] = jwk.clone(),
            "R_TEE_KEY",
        );
    }
    for last in ["_w", "_g"] {
        // 2048 bits, and as an exponent nothing sound.
        let n = format!("{}{last}", "_".repeat(340));
        for e in ["", "AA", "Ag", "AQ"] {
            let jwk = json!({"kty": "RSA", "alg": "RSA-OAEP-256", "n": n, "e": e});
            refuse(
                &|b| b["runtime-data"]["tee-pubkey"] = jwk.clone(),
                "R_TEE_KEY",
            );
        }
    }
    let null_init_data = |b: &mut Value| b["init-data"] = Value::Null;
    let guest = site.guest();
    let evidence = tpm().quote(guest.report_data().qualifying_data());
    let mut body = guest.attest_body(&evidence);
    null_init_data(&mut body);
    assert_eq!(site.send(&guest, &body).status, 200);
}

#[test]
fn grants_nothing_that_cannot_be_logged() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let site = Site::new();
    let lifetime = Duration::from_secs(60);
    let new = |log| key_broker::broker::Broker::new(site.store.clone(), lifetime, 8, log).unwrap();
    let reply = new(Log::writer(Full)).auth(peer(), &auth_body("tpm"));
    assert_eq!(reply.status, Refusal::Internal.status());
    assert_eq!(
        new(Log::writer(Lines::default()))
            .auth(peer(), &auth_body("tpm"))
            .status,
        200
    );
}

#[test]
fn no_secret_reaches_the_log() {
    let site = Site::new();
    let guest = site.attested(1);
    let reply = site.fetch(&guest, KEY);
    assert_eq!(guest.decrypt(&reply.body), SECRET);
    let token = body(&site.attest(&guest, &tpm()).body).to_string();
    let text = site.lines.text();
    for secret in [SECRET, guest.id.as_bytes(), token.as_bytes()] {
        for form in encodings(secret) {
            assert!(!contains(text.as_bytes(), &form));
        }
    }
    // The search finds what is there.
    let nonce = guest.nonce.as_bytes();
    assert!(
        encodings(nonce)
            .iter()
            .any(|form| contains(text.as_bytes(), form))
    );
}

/// Raw, hexadecimal, base64 at each alignment, UTF-16.
pub(crate) fn encodings(secret: &[u8]) -> Vec<Vec<u8>> {
    use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};
    let hex = base16::encode(secret);
    let mut forms = vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
    ];
    for skip in 0..3 {
        let aligned = &secret[skip..skip + (secret.len() - skip) / 3 * 3];
        forms.push(Base64Unpadded::encode_string(aligned).into_bytes());
        forms.push(Base64UrlUnpadded::encode_string(aligned).into_bytes());
    }
    forms.push(secret.iter().flat_map(|byte| [*byte, 0]).collect());
    forms
}

pub(crate) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
