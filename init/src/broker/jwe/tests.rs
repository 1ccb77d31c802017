use std::string::{String, ToString};
use std::vec::Vec;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_kw::KwAes256;
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use measured_boot::code::Code;
use p256::elliptic_curve::sec1::{FromSec1Point, ToSec1Point};
use p256::{PublicKey, Sec1Point, SecretKey};
use serde_json::{Value, json};

use super::{decode, decrypt, derive};
use crate::network::tests::mutate;
use crate::tls::secret_key;

const PLAINTEXT: &[u8] = b"correct horse battery staple";

pub(crate) fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/rcar-vectors.json")).unwrap()
}

/// The scalar of a P-256 key in PKCS #8 (RFC 5915 section 3).
pub(crate) fn private_key(pem: &str) -> SecretKey {
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = Base64::decode_vec(&base64).unwrap();
    let at = der.windows(5).position(|w| w == [2, 1, 1, 4, 32]).unwrap();
    SecretKey::from_slice(&der[at..][5..37]).unwrap()
}

/// The first recorded handshake: its key and its resource.
fn recorded() -> (SecretKey, Value) {
    let handshake = &vectors()["handshakes"][0];
    let key = private_key(handshake["private_key_pkcs8_pem"].as_str().unwrap());
    let jwe = serde_json::from_str(handshake["resource_response"].as_str().unwrap()).unwrap();
    (key, jwe)
}

/// What a KBS does with a resource: encrypts it to the JWK of `/attest`.
pub(crate) fn encrypt(plaintext: &[u8], jwk: &Value) -> String {
    let coordinate = |name: &str| {
        decode::<32>(jwk[name].as_str().unwrap(), name)
            .unwrap()
            .into()
    };
    let point = Sec1Point::from_affine_coordinates(&coordinate("x"), &coordinate("y"), false);
    let ephemeral = secret_key().unwrap();
    let public = ephemeral.public_key().to_sec1_point(false);
    let b64 = Base64UrlUnpadded::encode_string;
    let header = json!({
        "alg": "ECDH-ES+A256KW",
        "enc": "A256GCM",
        "epk": { "crv": "P-256", "kty": "EC", "x": b64(public.x().unwrap()), "y": b64(public.y().unwrap()) },
    });
    let protected = b64(header.to_string().as_bytes());
    let shared = derive(&ephemeral, &PublicKey::from_sec1_point(&point).unwrap());
    let mut wrapped = [0; 40];
    KwAes256::new(&(*shared).into())
        .wrap_key(&[9; 32], &mut wrapped)
        .unwrap();
    let mut text = plaintext.to_vec();
    let tag = Aes256Gcm::new(&[9; 32].into())
        .encrypt_inout_detached(
            &[7; 12].into(),
            protected.as_bytes(),
            text.as_mut_slice().into(),
        )
        .unwrap();
    json!({
        "protected": protected,
        "encrypted_key": b64(&wrapped),
        "iv": b64(&[7; 12]),
        "ciphertext": b64(&text),
        "tag": b64(&tag),
    })
    .to_string()
}

fn code(jwe: &Value, key: &SecretKey) -> Code {
    decrypt(jwe.to_string().as_bytes(), key).unwrap_err().code
}

#[test]
fn decrypts_what_a_stock_broker_sent() {
    let mut decrypted = 0;
    for handshake in vectors()["handshakes"].as_array().unwrap() {
        if handshake["kind"] == "P-256" {
            let key = private_key(handshake["private_key_pkcs8_pem"].as_str().unwrap());
            let jwe = handshake["resource_response"].as_str().unwrap();
            assert_eq!(decrypt(jwe.as_bytes(), &key).unwrap().expose(), PLAINTEXT);
            decrypted += 1;
        }
    }
    assert_eq!(decrypted, 2);
}

#[test]
fn rejects_the_other_algorithms_of_a_stock_broker() {
    let (key, _) = recorded();
    for (kind, expected) in [
        ("P-521", Code::JweDecrypt),
        ("RSA-OAEP-256", Code::JweAlgorithm),
        ("RSA1_5", Code::JweAlgorithm),
    ] {
        let all = vectors();
        let handshakes = all["handshakes"].as_array().unwrap();
        let handshake = handshakes.iter().find(|h| h["kind"] == kind).unwrap();
        let jwe = handshake["resource_response"].as_str().unwrap();
        assert_eq!(
            decrypt(jwe.as_bytes(), &key).unwrap_err().code,
            expected,
            "{kind}"
        );
    }
}

#[test]
fn rejects_other_headers() {
    let (key, jwe) = recorded();
    let protected = Base64UrlUnpadded::decode_vec(jwe["protected"].as_str().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&protected).unwrap();
    let x = header["epk"]["x"].as_str().unwrap();
    let zero = Base64UrlUnpadded::encode_string(&[0; 32]);
    let long = Base64UrlUnpadded::encode_string(&[0; 33]);
    for (pointer, value, expected) in [
        ("/alg", json!("ECDH-ES"), Code::JweAlgorithm),
        ("/alg", json!("dir"), Code::JweAlgorithm),
        ("/alg", json!(""), Code::JweAlgorithm),
        ("/enc", json!("A128GCM"), Code::JweAlgorithm),
        ("/enc", json!("A256CBC-HS512"), Code::JweAlgorithm),
        ("/crit", json!(["exp"]), Code::JweAlgorithm),
        ("/zip", json!("DEF"), Code::JweAlgorithm),
        ("/apu", json!("QQ"), Code::JweDecrypt),
        ("/apv", json!("QQ"), Code::JweDecrypt),
        // Means nothing, but the tag is over the header.
        ("/typ", json!("JOSE"), Code::JweDecrypt),
        ("/epk", json!(null), Code::JweDecrypt),
        ("/epk", json!([]), Code::JweDecrypt),
        ("/epk/crv", json!("P-384"), Code::JweDecrypt),
        ("/epk/kty", json!("OKP"), Code::JweDecrypt),
        ("/epk/y", json!(x), Code::JweDecrypt),
        ("/epk/y", json!(long), Code::JweDecrypt),
        ("/epk/y", json!(""), Code::JweDecrypt),
        (
            "/epk",
            json!({"kty": "EC", "crv": "P-256", "x": zero, "y": zero}),
            Code::JweDecrypt,
        ),
    ] {
        let mut header = header.clone();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        header.pointer_mut(parent).unwrap()[member] = value.clone();
        let mut jwe = jwe.clone();
        jwe["protected"] = Base64UrlUnpadded::encode_string(header.to_string().as_bytes()).into();
        assert_eq!(code(&jwe, &key), expected, "{pointer} {value}");
    }
}

#[test]
fn rejects_other_members() {
    let (key, jwe) = recorded();
    let cut = |name: &str| {
        let mut bytes = Base64UrlUnpadded::decode_vec(jwe[name].as_str().unwrap()).unwrap();
        bytes.pop();
        json!(Base64UrlUnpadded::encode_string(&bytes))
    };
    for (name, value, expected) in [
        ("protected", json!("!"), Code::JweDecrypt),
        ("protected", json!("e30"), Code::JweDecrypt),
        ("encrypted_key", cut("encrypted_key"), Code::JweDecrypt),
        ("iv", cut("iv"), Code::JweDecrypt),
        ("tag", cut("tag"), Code::JweDecrypt),
        ("ciphertext", cut("ciphertext"), Code::JweDecrypt),
        ("ciphertext", json!(""), Code::JweDecrypt),
        ("ciphertext", json!("===="), Code::JweDecrypt),
        ("tag", json!(7), Code::BrokerProtocol),
        ("aad", json!("QQ"), Code::BrokerProtocol),
        ("header", json!({}), Code::BrokerProtocol),
        ("unprotected", json!({}), Code::BrokerProtocol),
        ("recipients", json!([]), Code::BrokerProtocol),
    ] {
        let mut jwe = jwe.clone();
        jwe[name] = value.clone();
        assert_eq!(code(&jwe, &key), expected, "{name} {value}");
    }
    for name in ["protected", "encrypted_key", "iv", "ciphertext", "tag"] {
        let mut missing = jwe.clone();
        missing.as_object_mut().unwrap().remove(name);
        assert_eq!(code(&missing, &key), Code::BrokerProtocol, "{name}");
    }
    let twice = jwe.to_string().replacen('{', "{\"tag\":\"\",", 1);
    assert_eq!(
        decrypt(twice.as_bytes(), &key).unwrap_err().code,
        Code::BrokerProtocol
    );
}

#[test]
fn rejects_every_altered_byte_and_another_key() {
    let (key, jwe) = recorded();
    for name in ["encrypted_key", "iv", "ciphertext", "tag"] {
        let bytes = Base64UrlUnpadded::decode_vec(jwe[name].as_str().unwrap()).unwrap();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let mut jwe = jwe.clone();
            jwe[name] = Base64UrlUnpadded::encode_string(&bytes).into();
            assert_eq!(code(&jwe, &key), Code::JweDecrypt, "{name} {at}");
        }
    }
    assert_eq!(code(&jwe, &secret_key().unwrap()), Code::JweDecrypt);
}

#[test]
fn the_tag_covers_the_header_as_received() {
    let (key, jwe) = recorded();
    let protected = Base64UrlUnpadded::decode_vec(jwe["protected"].as_str().unwrap()).unwrap();
    // The same header, written in another way.
    let spaced = String::from_utf8(protected).unwrap().replacen(':', ": ", 1);
    let mut jwe = jwe.clone();
    jwe["protected"] = Base64UrlUnpadded::encode_string(spaced.as_bytes()).into();
    assert_eq!(code(&jwe, &key), Code::JweDecrypt);
}

#[test]
fn decrypts_resources_of_any_length() {
    let key = secret_key().unwrap();
    let public = super::super::public_key(&key).unwrap();
    let jwk: Value = serde_json::from_str(&public.to_jwk()).unwrap();
    for length in [0, 1, 32, 70_000] {
        let plaintext: Vec<u8> = std::vec![5; length];
        let jwe = encrypt(&plaintext, &jwk);
        assert_eq!(decrypt(jwe.as_bytes(), &key).unwrap().expose(), plaintext);
    }
}

#[test]
fn survives_mutations() {
    let (key, jwe) = recorded();
    let protected = Base64UrlUnpadded::decode_vec(jwe["protected"].as_str().unwrap()).unwrap();
    // Of the whole, and of the header inside.
    mutate(jwe.to_string().as_bytes(), 10_000, |mutant| {
        if let Ok(secret) = decrypt(mutant, &key) {
            assert_eq!(secret.expose(), PLAINTEXT);
        }
    });
    let mut behind_the_header = 0;
    mutate(&protected, 10_000, |mutant| {
        let mut jwe = jwe.clone();
        jwe["protected"] = Base64UrlUnpadded::encode_string(mutant).into();
        match decrypt(jwe.to_string().as_bytes(), &key) {
            Ok(secret) => assert_eq!(secret.expose(), PLAINTEXT),
            Err(error) => behind_the_header += i32::from(error.cause.contains("tag")),
        }
    });
    assert!(behind_the_header > 0, "{behind_the_header}");
}
