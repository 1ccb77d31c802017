//! Resources encrypted for one guest's key: flattened JWE (RFC 7516 section
//! 7.2.2) with A256GCM, as Trustee's client reads it.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use aes_kw::KwAes256;
use base64ct::{Base64UrlUnpadded, Encoding};
use p256::elliptic_curve::sec1::ToSec1Point;
use rsa::{BoxedUint, Oaep};
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::protocol::{Jwk, base64url};

const ECDH: &str = "ECDH-ES+A256KW";
const OAEP: &str = "RSA-OAEP-256";
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// A checked public key: on its curve, or a modulus of sound size.
///
/// Of what Trustee takes, `RSA1_5` is left out (its padding lets a decrypting
/// guest be used as an oracle) and so is its experimental ML-KEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeeKey {
    /// What our init and Trustee's client make.
    P256(p256::PublicKey),
    /// Also taken by Trustee.
    P521(Box<p521::PublicKey>),
    /// Trustee's client makes one when told to.
    Rsa(rsa::PublicKey),
}

/// A flattened JWE.
#[derive(Debug, Serialize)]
pub struct Jwe {
    /// The header, base64url; also the additional authenticated data.
    pub protected: String,
    /// The content key, for the guest.
    pub encrypted_key: String,
    /// 96 bits.
    pub iv: String,
    /// As long as the resource.
    pub ciphertext: String,
    /// 128 bits.
    pub tag: String,
}

/// Why a key is not taken or nothing was encrypted.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as jwe::Error"
)]
pub enum Error {
    /// Another kind of key.
    #[error(
        "got tee-pubkey kty {kty}, alg {alg}, crv {crv}, expected EC P-256 or P-521 with \
         ECDH-ES+A256KW, or RSA with RSA-OAEP-256"
    )]
    Kind {
        /// As sent.
        kty: String,
        /// As sent.
        alg: String,
        /// As sent.
        crv: String,
    },
    /// A member is missing or not base64url of the right length.
    #[error("got tee-pubkey without a well-formed {0}")]
    Member(&'static str),
    /// Not a public key of that kind.
    #[error(
        "got a tee-pubkey that is not on its curve, or a modulus that is not of 2048 to 4096 bits"
    )]
    Key,
    /// The operating system gave no random bytes, or a cipher refused.
    #[error("cannot encrypt the resource")]
    Encrypt,
}

impl TeeKey {
    /// Checks a key as it was sent.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, Error> {
        match (jwk.kty.as_str(), jwk.alg.as_str(), jwk.crv.as_deref()) {
            ("EC", ECDH, Some("P-256")) => {
                let point = uncompressed(jwk, 32)?;
                let key = p256::PublicKey::from_sec1_bytes(&point).map_err(|_| Error::Key)?;
                Ok(Self::P256(key))
            }
            ("EC", ECDH, Some("P-521")) => {
                let point = uncompressed(jwk, 66)?;
                let key = p521::PublicKey::from_sec1_bytes(&point).map_err(|_| Error::Key)?;
                Ok(Self::P521(Box::new(key)))
            }
            ("RSA", OAEP, _) => {
                let number = |name, text: &Option<String>| {
                    let bytes = decode(name, text)?;
                    Ok(BoxedUint::from_be_slice_vartime(&bytes))
                };
                let (n, e) = (number("n", &jwk.n)?, number("e", &jwk.e)?);
                let key =
                    rsa::PublicKey::new_with_size_limits(n, e, RSA_BITS).map_err(|_| Error::Key)?;
                Ok(Self::Rsa(key))
            }
            (kty, alg, crv) => Err(Error::Kind {
                kty: crate::log::bounded(kty),
                alg: crate::log::bounded(alg),
                crv: crate::log::bounded(crv.unwrap_or("(none)")),
            }),
        }
    }

    /// Encrypts `resource` under a fresh content key.
    ///
    /// # Errors
    /// [`Error::Encrypt`].
    pub fn encrypt(&self, resource: &[u8]) -> Result<Jwe, Error> {
        let mut content_key = Zeroizing::new([0; 32]);
        random(&mut *content_key)?;
        let (header, encrypted_key) = self.wrap(&content_key)?;
        let protected = base64url(header.as_bytes());

        let mut iv = [0; 12];
        random(&mut iv)?;
        let mut text = Zeroizing::new(resource.to_vec());
        let cipher =
            Aes256Gcm::new_from_slice(content_key.as_slice()).map_err(|_| Error::Encrypt)?;
        let tag: Tag = cipher
            .encrypt_inout_detached(
                &Nonce::from(iv),
                protected.as_bytes(),
                text.as_mut_slice().into(),
            )
            .map_err(|_| Error::Encrypt)?;
        Ok(Jwe {
            protected,
            encrypted_key: base64url(&encrypted_key),
            iv: base64url(&iv),
            ciphertext: base64url(&text),
            tag: base64url(&tag),
        })
    }

    /// The JWE header and the wrapped content key.
    fn wrap(&self, content_key: &[u8; 32]) -> Result<(String, Vec<u8>), Error> {
        match self {
            Self::P256(key) => {
                let ours = random_scalar(|b: &[u8; 32]| p256::SecretKey::from_slice(b).ok())?;
                let z = ours.diffie_hellman(key);
                let point = ours.public_key().to_sec1_point(false);
                let header = epk_header("P-256", point.as_bytes())?;
                Ok((header, wrap_key(z.raw_secret_bytes(), content_key)?))
            }
            Self::P521(key) => {
                let ours = random_scalar(|b: &[u8; 66]| {
                    let mut bytes = Zeroizing::new(*b);
                    // 521 bits: seven of the first byte's bits are always zero.
                    let [first, ..] = &mut *bytes;
                    *first &= 1;
                    p521::SecretKey::from_slice(&*bytes).ok()
                })?;
                let z = ours.diffie_hellman(key);
                let point = ours.public_key().to_sec1_point(false);
                let header = epk_header("P-521", point.as_bytes())?;
                Ok((header, wrap_key(z.raw_secret_bytes(), content_key)?))
            }
            Self::Rsa(key) => {
                let wrapped = key
                    .encrypt(&mut getrandom::SysRng, Oaep::<Sha256>::new(), content_key)
                    .map_err(|_| Error::Encrypt)?;
                Ok((
                    format!("{{\"alg\":\"{OAEP}\",\"enc\":\"A256GCM\"}}"),
                    wrapped,
                ))
            }
        }
    }
}

/// `04 || x || y` (SEC 1 section 2.3.3).
fn uncompressed(jwk: &Jwk, length: usize) -> Result<Vec<u8>, Error> {
    let (x, y) = (decode("x", &jwk.x)?, decode("y", &jwk.y)?);
    if x.len() != length {
        return Err(Error::Member("x"));
    }
    if y.len() != length {
        return Err(Error::Member("y"));
    }
    Ok([&[4], x.as_slice(), y.as_slice()].concat())
}

fn decode(name: &'static str, text: &Option<String>) -> Result<Vec<u8>, Error> {
    text.as_deref()
        .and_then(|text| Base64UrlUnpadded::decode_vec(text).ok())
        .ok_or(Error::Member(name))
}

fn epk_header(curve: &str, point: &[u8]) -> Result<String, Error> {
    let (_, xy) = point.split_first().ok_or(Error::Encrypt)?;
    let (x, y) = xy.split_at_checked(xy.len() / 2).ok_or(Error::Encrypt)?;
    Ok(format!(
        "{{\"alg\":\"{ECDH}\",\"enc\":\"A256GCM\",\"epk\":{{\"crv\":\"{curve}\",\"kty\":\"EC\",\
         \"x\":\"{}\",\"y\":\"{}\"}}}}",
        base64url(x),
        base64url(y)
    ))
}

/// Concat KDF (RFC 7518 section 4.6.2, no party info), then RFC 3394 key wrap.
fn wrap_key(z: &[u8], content_key: &[u8; 32]) -> Result<Vec<u8>, Error> {
    let mut hash = Sha256::new();
    hash.update([0, 0, 0, 1]);
    hash.update(z);
    hash.update([0, 0, 0, 14]);
    hash.update(ECDH);
    hash.update([0; 8]);
    hash.update([0, 0, 1, 0]);
    let wrapping_key = Zeroizing::new(<[u8; 32]>::from(hash.finalize()));
    let cipher = KwAes256::new_from_slice(wrapping_key.as_slice()).map_err(|_| Error::Encrypt)?;
    let mut wrapped = vec![0; 40];
    cipher
        .wrap_key(content_key, &mut wrapped)
        .map_err(|_| Error::Encrypt)?;
    Ok(wrapped)
}

/// Draws until the bytes are a private key; all but always the first time.
fn random_scalar<const N: usize, K>(read: impl Fn(&[u8; N]) -> Option<K>) -> Result<K, Error> {
    let mut bytes = Zeroizing::new([0; N]);
    for _ in 0..64 {
        random(&mut *bytes)?;
        if let Some(key) = read(&bytes) {
            return Ok(key);
        }
    }
    Err(Error::Encrypt)
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|_| Error::Encrypt)
}
