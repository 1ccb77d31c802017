//! The algorithms: TLS_AES_128_GCM_SHA256, secp256r1, ecdsa_secp256r1_sha256.
//!
//! One of each is what TLS 1.3 makes mandatory but for RSA signatures (RFC 8446
//! section 9.1), so every server can offer them; the broker's certificate and
//! its CA must have P-256 keys.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{DerSignature, VerifyingKey};
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::{PublicKey, SecretKey};
use rustls::crypto::tls13::HkdfUsingHmac;
use rustls::crypto::{
    ActiveKeyExchange, CipherSuiteCommon, CryptoProvider, GetRandomFailed, KeyProvider,
    SecureRandom, SharedSecret, SupportedKxGroup, WebPkiSupportedAlgorithms,
};
use rustls::sign::SigningKey;
use rustls::{
    CipherSuite, Error, NamedGroup, PeerMisbehaved, SignatureScheme, SupportedCipherSuite,
    Tls13CipherSuite,
};
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm, alg_id,
};
use zeroize::Zeroizing;

use super::aead::Aes128GcmAead;
use super::hash::{Sha256Hash, Sha256Hmac};
use super::random;

/// Everything rustls may use.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![SupportedCipherSuite::Tls13(&TLS13_AES_128_GCM_SHA256)],
        kx_groups: vec![&P256],
        signature_verification_algorithms: WebPkiSupportedAlgorithms {
            all: &[&EcdsaP256Sha256],
            mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[&EcdsaP256Sha256])],
        },
        secure_random: &KernelRandom,
        key_provider: &NoPrivateKeys,
    }
}

static TLS13_AES_128_GCM_SHA256: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        hash_provider: &Sha256Hash,
        // The field's documentation: 2^24 full records for AES-GCM.
        confidentiality_limit: 1 << 24,
    },
    hkdf_provider: &HkdfUsingHmac(&Sha256Hmac),
    aead_alg: &Aes128GcmAead,
    quic: None,
};

#[derive(Debug)]
struct KernelRandom;

impl SecureRandom for KernelRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        random::fill(buffer).map_err(|_| GetRandomFailed)
    }
}

/// The guest has no certificate, so there is no private key to load.
#[derive(Debug)]
struct NoPrivateKeys;

impl KeyProvider for NoPrivateKeys {
    fn load_private_key(&self, _key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General(
            "client authentication is not built in".into(),
        ))
    }
}

/// ECDHE over secp256r1 (RFC 8446 section 4.2.8.2).
#[derive(Debug)]
struct P256;

impl SupportedKxGroup for P256 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = secret_key().map_err(|_| Error::FailedToGetRandomBytes)?;
        let public = secret.public_key().to_sec1_point(false).as_bytes().to_vec();
        Ok(Box::new(P256KeyExchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp256r1
    }
}

struct P256KeyExchange {
    secret: SecretKey,
    public: Vec<u8>,
}

impl ActiveKeyExchange for P256KeyExchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        // TLS allows only the uncompressed form, which is 65 bytes.
        let peer = (peer.len() == 65)
            .then(|| PublicKey::from_sec1_bytes(peer).ok())
            .flatten()
            .ok_or(PeerMisbehaved::InvalidKeyShare)?;
        let shared = self.secret.diffie_hellman(&peer);
        Ok(SharedSecret::from(shared.raw_secret_bytes().as_slice()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp256r1
    }
}

/// A fresh P-256 key.
///
/// # Errors
/// When the kernel gives no random bytes.
pub(crate) fn secret_key() -> Result<SecretKey, rustix::io::Errno> {
    let mut scalar = Zeroizing::new([0; 32]);
    random::fill(&mut *scalar)?;
    // Out of the scalar's range once in 2^32, which is no worse than no bytes.
    SecretKey::from_slice(&*scalar).map_err(|_| rustix::io::Errno::IO)
}

/// ECDSA over P-256 with SHA-256, for certificates and the handshake.
#[derive(Debug)]
struct EcdsaP256Sha256;

impl SignatureVerificationAlgorithm for EcdsaP256Sha256 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = DerSignature::from_bytes(signature).map_err(|_| InvalidSignature)?;
        key.verify(message, &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}
