//! Right attestations of SNP and TDX with one field made wrong: as
//! `single_field`, for the evidence of emulated processors.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use serde_json::Value;

use crate::fields::{mutants, mutants_at};
use crate::guest::{Guest, SECRET, peer};
use crate::hardware::{Hardware, SNP_KEY, TDX_KEY};
use crate::secrets::gives_away;

const NONCE: &str = "/runtime-data/nonce";
const X: &str = "/runtime-data/tee-pubkey/x";
const Y: &str = "/runtime-data/tee-pubkey/y";
const EVIDENCE: &str = "/tee-evidence/primary_evidence";

/// Sends every mutant of a right message in a session of its own. `of_session`
/// is where messages of two sessions differ.
fn walk(
    site: &Hardware,
    key: &str,
    of_session: &[String],
    right: &dyn Fn() -> (Guest, Value),
) -> BTreeMap<String, usize> {
    let (_, template) = right();
    let text_at = |message: &Value, at: &String| message.pointer(at).unwrap().to_string();
    let mut counts = BTreeMap::new();
    for mutant in mutants(&template) {
        let (guest, message) = right();
        let touched = of_session.iter().find(|at| mutant.what.starts_with(*at));
        let own = touched.and_then(|at| {
            let mut all = mutants_at(&message, at).into_iter();
            all.find(|own| own.what == mutant.what)
        });
        let text = own.map_or_else(
            || {
                of_session.iter().fold(mutant.text.clone(), |text, at| {
                    text.replace(&text_at(&template, at), &text_at(&message, at))
                })
            },
            |own| own.text,
        );
        site.lines.take();
        let reply = site.broker.attest(peer(), Some(&guest.id), text.as_bytes());
        let lines = site.lines.take();
        let what = format!("{}\n{lines}", mutant.what);
        let line: Value = serde_json::from_str(&lines).expect("one line");
        let granted = reply.status == 200;
        if granted {
            let same = meaning(text.as_bytes()) == meaning(message.to_string().as_bytes());
            assert!(same, "{what}");
        } else {
            let code = line["code"].as_str().unwrap();
            let body = String::from_utf8(reply.body).unwrap();
            assert!(body.contains(&format!("{code}:")), "{what}");
            assert_ne!(code, "R_INTERNAL", "{what}");
        }
        let fetched = site.fetch(&guest, key);
        assert_eq!(fetched.status == 200, granted, "{what}");
        if granted {
            assert_eq!(guest.decrypt(&fetched.body), SECRET, "{what}");
        }
        assert!(!gives_away(lines.as_bytes(), SECRET), "{what}");
        let code = line["code"].as_str().unwrap_or("granted").to_owned();
        *counts.entry(code).or_default() += 1;
    }
    eprintln!(
        "{key}: {counts:?}, {} in all",
        counts.values().sum::<usize>()
    );
    counts
}

/// As in `bodies`. In evidence, null is as good as nothing; of certificates the
/// first is used, and a TDX quote does not sign its chain (Intel's DCAP quoting
/// library API, appendix A.3), so any that verifies is as good.
fn meaning(body: &[u8]) -> Option<Vec<Value>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let additional = "/tee-evidence/additional_evidence";
    let key = "/runtime-data/tee-pubkey";
    let mut evidence = without_null(body.pointer(EVIDENCE)?);
    if let Some(Value::Array(chain)) = evidence.get_mut("cert_chain") {
        chain.truncate(1);
    }
    if let Some(quote) = evidence.get_mut("quote") {
        let bytes = Base64::decode_vec(quote.as_str()?).ok()?;
        let chain = bytes.windows(10).position(|w| w == b"-----BEGIN")?;
        *quote = Base64::encode_string(&bytes[..chain]).into();
    }
    let mut meaning = vec![evidence];
    for pointer in [NONCE, additional, X, Y] {
        meaning.push(body.pointer(pointer)?.clone());
    }
    for name in ["kty", "crv", "alg"] {
        meaning.push(body.pointer(key)?.get(name)?.clone());
    }
    body.get("init-data")
        .is_none_or(Value::is_null)
        .then_some(meaning)
}

fn without_null(value: &Value) -> Value {
    let Some(members) = value.as_object() else {
        return value.clone();
    };
    let some = members.iter().filter(|(_, value)| !value.is_null());
    some.map(|(name, value)| (name.clone(), without_null(value)))
        .collect()
}

#[test]
fn no_single_field_of_an_snp_attestation_grants_more() {
    let site = Hardware::new();
    let vek = site
        .report(&site.guest("snp"), |_| {})
        .vek(&site.snp)
        .unwrap();
    let report = format!("{EVIDENCE}/attestation_report");
    let of_session = [
        NONCE.into(),
        X.into(),
        Y.into(),
        format!("{report}/report_data"),
        format!("{report}/report_id"),
        format!("{report}/signature/r"),
        format!("{report}/signature/s"),
    ];
    let counts = walk(&site, SNP_KEY, &of_session, &|| {
        let guest = site.guest("snp");
        let report = site.report(&guest, |_| {}).sign(&site.snp).unwrap();
        let body = site.snp_body(&guest, report, Some(vek.clone()));
        (guest, body)
    });
    assert!(counts.values().sum::<usize>() > 3_000);
    for code in [
        "granted",
        "R_REQUEST",
        "R_NONCE",
        "R_TEE_KEY",
        "R_EVIDENCE",
        "R_SIGNATURE",
    ] {
        assert!(counts.contains_key(code), "{code} was never met");
    }
}

#[test]
fn no_single_field_of_a_tdx_attestation_grants_more() {
    let site = Hardware::new();
    let of_session = [
        NONCE.into(),
        X.into(),
        Y.into(),
        format!("{EVIDENCE}/quote"),
    ];
    let counts = walk(&site, TDX_KEY, &of_session, &|| {
        let guest = site.guest("tdx");
        let quote = site.tdx.quote(&site.td(&guest, |_| {})).unwrap();
        let event_log = None;
        let evidence = measured_boot::evidence::TdxEvidence { quote, event_log };
        let body = guest.body_of(&evidence.to_evidence().json);
        (guest, body)
    });
    assert!(counts.values().sum::<usize>() > 600);
    for code in ["granted", "R_REQUEST", "R_NONCE", "R_TEE_KEY", "R_EVIDENCE"] {
        assert!(counts.contains_key(code), "{code} was never met");
    }
}
