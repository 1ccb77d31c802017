//! Bodies of requests: which are the same to the broker, and the mutants of an
//! attestation in any session.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::wire::Message;
use crate::{fields, heads};

pub(crate) fn attest_mutants(message: &Message) -> Vec<(String, Message)> {
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    let with = |mutant: fields::Mutant| {
        let mut message = message.clone();
        message.body = mutant.text.into_bytes();
        (mutant.what, message)
    };
    let bodies = fields::mutants(&body).into_iter().map(with);
    bodies.chain(heads::mutants(message)).collect()
}

/// The mutant of `template`, as one of another session's message. Making all
/// mutants of each session's message would take minutes.
pub(crate) fn transplant(
    what: &str,
    mutant: Message,
    template: &Message,
    message: &Message,
) -> Option<Message> {
    if template.body == message.body {
        return Some(mutant);
    }
    let of_session = [
        "nonce",
        "tpm_quote/message",
        "tpm_quote/signature",
        "tee-pubkey/x",
        "tee-pubkey/y",
        "Cookie",
    ];
    if of_session.iter().any(|field| what.contains(field)) {
        let mut all = attest_mutants(message).into_iter();
        return all
            .find(|(other, _)| other == what)
            .map(|(_, mutant)| mutant);
    }
    let mut mutant = mutant;
    let mut body = String::from_utf8(mutant.body).unwrap();
    for (old, new) in session_texts(template).iter().zip(session_texts(message)) {
        body = body.replace(old, &new);
        for (_, value) in &mut mutant.headers {
            *value = value.replace(old, &new);
        }
    }
    mutant.body = body.into_bytes();
    Some(mutant)
}

/// Where messages of two sessions of one guest differ.
fn session_texts(message: &Message) -> Vec<String> {
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    let evidence = &body["tee-evidence"]["primary_evidence"]["tpm_quote"];
    let key = &body["runtime-data"]["tee-pubkey"];
    let nonce = &body["runtime-data"]["nonce"];
    let mut texts: Vec<String> = [
        nonce,
        &key["x"],
        &key["y"],
        &evidence["message"],
        &evidence["signature"],
    ]
    .iter()
    .map(|text| text.as_str().unwrap().to_owned())
    .collect();
    texts.extend(message.headers.last().map(|(_, cookie)| cookie.clone()));
    texts
}

/// Version and TEE; that the parameters are there, not what they are.
pub(crate) fn auth_meaning(body: &[u8]) -> Option<[String; 2]> {
    let body: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body).ok()?;
    body.get("extra-params")?;
    let text = |name| serde_json::from_str(body.get(name)?.get()).ok();
    Some([text("version")?, text("tee")?])
}

/// Members that the protocol does not know are ignored where Trustee ignores
/// them, which is not in evidence; absent init-data may be null.
pub(crate) fn same_body(one: &[u8], other: &[u8]) -> bool {
    attest_meaning(one).is_some_and(|meaning| Some(meaning) == attest_meaning(other))
}

fn attest_meaning(body: &[u8]) -> Option<Vec<Value>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let pointers = [
        "/runtime-data/nonce",
        "/runtime-data/tee-pubkey/kty",
        "/runtime-data/tee-pubkey/crv",
        "/runtime-data/tee-pubkey/alg",
        "/runtime-data/tee-pubkey/x",
        "/runtime-data/tee-pubkey/y",
        "/tee-evidence/primary_evidence",
        "/tee-evidence/additional_evidence",
    ];
    let known = |pointer: &&str| body.pointer(pointer).cloned();
    let meaning: Vec<_> = pointers.iter().filter_map(known).collect();
    let no_init_data = body.get("init-data").is_none_or(Value::is_null);
    (meaning.len() == pointers.len() && no_init_data).then_some(meaning)
}
