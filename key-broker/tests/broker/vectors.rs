//! Handshakes recorded from Trustee's KBS (see tests/vectors/README.md).

use key_broker::jwe::TeeKey;
use key_broker::protocol::Jwk;
use measured_boot::base16;
use p256::pkcs8::DecodePrivateKey;
use rsa::Oaep;
use serde_json::Value;
use sha2::Sha256;

use crate::guest::{member, open, unwrap};

pub(crate) fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/rcar-vectors.json")).unwrap()
}

pub(crate) fn text<'a>(handshake: &'a Value, name: &str) -> &'a str {
    handshake[name].as_str().unwrap()
}

/// The content key of a JWE, by the private key it was made for.
pub(crate) fn content_key(handshake: &Value, jwe: &Value) -> Vec<u8> {
    let pem = text(handshake, "private_key_pkcs8_pem");
    let wrapped = member(jwe, "encrypted_key");
    let header: Value = serde_json::from_slice(&member(jwe, "protected")).unwrap();
    let point = |epk: &Value| [&[4], &*member(epk, "x"), &*member(epk, "y")].concat();
    match text(handshake, "kind") {
        "P-256" => {
            let key = p256::SecretKey::from_pkcs8_pem(pem).unwrap();
            let epk = p256::PublicKey::from_sec1_bytes(&point(&header["epk"])).unwrap();
            unwrap(key.diffie_hellman(&epk).raw_secret_bytes(), &wrapped)
        }
        "P-521" => {
            let key = p521::SecretKey::from_pkcs8_pem(pem).unwrap();
            let epk = p521::PublicKey::from_sec1_bytes(&point(&header["epk"])).unwrap();
            unwrap(key.diffie_hellman(&epk).raw_secret_bytes(), &wrapped)
        }
        "RSA-OAEP-256" => {
            let key = rsa::PrivateKey::from_pkcs8_pem(pem).unwrap();
            key.decrypt(Oaep::<Sha256>::new(), &wrapped).unwrap()
        }
        kind => panic!("{kind}"),
    }
}

#[test]
fn bound_json_and_digest_match_trustee() {
    for handshake in vectors()["handshakes"].as_array().unwrap() {
        let request: Value = serde_json::from_str(text(handshake, "attest_request")).unwrap();
        let runtime = &request["runtime-data"];
        let jwk: Jwk = serde_json::from_value(runtime["tee-pubkey"].clone()).unwrap();
        let jcs = text(handshake, "runtime_data_jcs");
        let canonical = jwk.canonical().unwrap();
        assert!(
            jcs.ends_with(&format!("\"tee-pubkey\":{canonical}}}")),
            "{jcs}"
        );
        let bound = jwk.bind(runtime["nonce"].as_str().unwrap()).unwrap();
        assert_eq!(
            base16::encode(&bound.0),
            text(handshake, "runtime_data_sha384_hex")
        );
    }
}

#[test]
fn our_jwe_is_read_as_trustees_is() {
    let vectors = vectors();
    let plaintext = text(&vectors, "plaintext_utf8").as_bytes();
    let handshakes = vectors["handshakes"].as_array().unwrap();
    let mut kinds = Vec::new();
    for handshake in handshakes.iter().filter(|h| h["kind"] != "RSA1_5") {
        let theirs: Value = serde_json::from_str(text(handshake, "resource_response")).unwrap();
        assert_eq!(open(&theirs, &content_key(handshake, &theirs)), plaintext);

        let request: Value = serde_json::from_str(text(handshake, "attest_request")).unwrap();
        let jwk = request["runtime-data"]["tee-pubkey"].clone();
        let key = TeeKey::from_jwk(&serde_json::from_value(jwk).unwrap()).unwrap();
        let ours = serde_json::to_value(key.encrypt(plaintext).unwrap()).unwrap();
        assert_eq!(open(&ours, &content_key(handshake, &ours)), plaintext);

        // Same members of the same lengths, in the JWE and in its header.
        let shape = |jwe: &Value| -> Vec<_> {
            let members = jwe.as_object().unwrap().iter();
            members
                .map(|(k, v)| (k.clone(), v.as_str().map(str::len)))
                .collect()
        };
        assert_eq!(shape(&ours), shape(&theirs));
        let header = |jwe| String::from_utf8(member(jwe, "protected")).unwrap();
        let start = |text: String| text.split("\"x\":").next().unwrap().to_owned();
        assert_eq!(start(header(&ours)), start(header(&theirs)));
        kinds.push(text(handshake, "kind"));
    }
    assert_eq!(kinds, ["P-256", "P-256", "P-521", "RSA-OAEP-256"]);
}

#[test]
fn rejects_the_padding_that_makes_an_oracle() {
    let vectors = vectors();
    let handshake = vectors["handshakes"].as_array().unwrap().last().unwrap();
    let request: Value = serde_json::from_str(text(handshake, "attest_request")).unwrap();
    let jwk = request["runtime-data"]["tee-pubkey"].clone();
    assert_eq!(jwk["alg"], "RSA1_5");
    let error = TeeKey::from_jwk(&serde_json::from_value(jwk).unwrap()).unwrap_err();
    assert!(error.to_string().contains("RSA1_5"), "{error}");
}
