//! Decrypts a resource: flattened JSON JWE (RFC 7516 section 7.2.2) with
//! ECDH-ES+A256KW over P-256 and A256GCM, the only algorithms there are here.

use alloc::format;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use aes_kw::KwAes256;
use base64ct::{Base64UrlUnpadded, Encoding};
use measured_boot::code::Code;
use measured_boot::evidence::KEY_ALGORITHM;
use p256::elliptic_curve::sec1::FromSec1Point;
use p256::{PublicKey, Sec1Point, SecretKey};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{Failure, printable};
use crate::secret::SecretBytes;

const CONTENT_ALGORITHM: &str = "A256GCM";

/// The members KBS sends. `aad`, `header` and `unprotected` would change the
/// meaning, so they are unknown members like any other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwe<'a> {
    protected: &'a str,
    encrypted_key: &'a str,
    iv: &'a str,
    ciphertext: &'a str,
    tag: &'a str,
}

/// Of the protected header only what decides; members without a meaning here
/// are allowed (RFC 7516 section 4), those that change what is done are not.
#[derive(Deserialize)]
struct Header<'a> {
    alg: &'a str,
    enc: &'a str,
    epk: Option<EphemeralKey<'a>>,
    crit: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
    apu: Option<IgnoredAny>,
    apv: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct EphemeralKey<'a> {
    kty: &'a str,
    crv: &'a str,
    x: &'a str,
    y: &'a str,
}

/// Decrypts `json` with the session's key.
///
/// # Errors
/// `E_BROKER_PROTOCOL` when it is not JSON of that form, `E_JWE_ALGORITHM`,
/// `E_JWE_DECRYPT` for everything behind that.
pub(super) fn decrypt(json: &[u8], key: &SecretKey) -> Result<SecretBytes, Failure> {
    let jwe: Jwe<'_> = super::parse("resource", json)?;
    let protected = Base64UrlUnpadded::decode_vec(jwe.protected)
        .map_err(|_| failed("the protected header is not base64url"))?;
    let header: Header<'_> = serde_json::from_slice(&protected)
        .map_err(|_| failed("the protected header is malformed"))?;
    let peer = check(&header)?;

    let wrapped: [u8; 40] = decode(jwe.encrypted_key, "encrypted_key is not 40 bytes")?;
    let iv: [u8; 12] = decode(jwe.iv, "iv is not 12 bytes")?;
    let tag: [u8; 16] = decode(jwe.tag, "tag is not 16 bytes")?;
    let mut text = Zeroizing::new(
        Base64UrlUnpadded::decode_vec(jwe.ciphertext)
            .map_err(|_| failed("ciphertext is not base64url"))?,
    );

    let key_encryption_key = derive(key, &peer);
    let mut content_key = Zeroizing::new([0; 32]);
    KwAes256::new((&*key_encryption_key).into())
        .unwrap_key(&wrapped, &mut *content_key)
        .map_err(|_| failed("encrypted_key does not unwrap"))?;
    // RFC 7516 section 5.1 step 14: the protected member as received.
    Aes256Gcm::new((&*content_key).into())
        .decrypt_inout_detached(
            &Nonce::from(iv),
            jwe.protected.as_bytes(),
            text.as_mut_slice().into(),
            &Tag::from(tag),
        )
        .map_err(|_| failed("the tag does not match"))?;
    Ok(SecretBytes::new(core::mem::take(&mut *text)))
}

fn failed(cause: &str) -> Failure {
    Failure::new(Code::JweDecrypt, cause)
}

/// The sender's key, if the header asks for exactly what is built in.
fn check(header: &Header<'_>) -> Result<PublicKey, Failure> {
    for (member, got, expected) in [
        ("alg", header.alg, KEY_ALGORITHM),
        ("enc", header.enc, CONTENT_ALGORITHM),
    ] {
        if got != expected {
            let cause = format!("{member} is {}, expected {expected}", printable(got));
            return Err(Failure::new(Code::JweAlgorithm, cause));
        }
    }
    if header.crit.is_some() || header.zip.is_some() {
        return Err(Failure::new(Code::JweAlgorithm, "crit or zip is present"));
    }
    if header.apu.is_some() || header.apv.is_some() {
        return Err(failed("apu or apv is present"));
    }
    let bad_key = "epk is not a point of P-256";
    let epk = header
        .epk
        .as_ref()
        .filter(|epk| (epk.kty, epk.crv) == ("EC", "P-256"));
    let epk = epk.ok_or_else(|| failed(bad_key))?;
    let (x, y): ([u8; 32], [u8; 32]) = (decode(epk.x, bad_key)?, decode(epk.y, bad_key)?);
    let point = Sec1Point::from_affine_coordinates(&x.into(), &y.into(), false);
    // Not on the curve is `None`; infinity has no affine coordinates.
    Option::from(PublicKey::from_sec1_point(&point)).ok_or_else(|| failed(bad_key))
}

/// The key encryption key: one round of Concat KDF (RFC 7518 section 4.6.2).
fn derive(key: &SecretKey, peer: &PublicKey) -> Zeroizing<[u8; 32]> {
    let shared = key.diffie_hellman(peer);
    let mut hash = Sha256::new();
    hash.update(1_u32.to_be_bytes());
    hash.update(shared.raw_secret_bytes());
    // AlgorithmID with its length, apu and apv empty, the key's length in bits.
    hash.update([0, 0, 0, 14]);
    const { assert!(KEY_ALGORITHM.len() == 14) };
    hash.update(KEY_ALGORITHM);
    hash.update([0; 8]);
    hash.update(256_u32.to_be_bytes());
    let mut output = Zeroizing::new([0; 32]);
    hash.finalize_into((&mut *output).into());
    output
}

/// Exactly `N` bytes of base64url without padding.
fn decode<const N: usize>(text: &str, cause: &str) -> Result<[u8; N], Failure> {
    let bytes = Base64UrlUnpadded::decode_vec(text).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| failed(cause))
}

#[cfg(test)]
pub(crate) mod tests;
