//! TDX: keys in Intel's hierarchy, the collateral they sign, and quotes.

mod collateral;
mod pck;
mod quote;

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a failure here is a failed test"
)]
mod tests;

use anyhow::{Context, Result};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::EncodePublicKey;
use sha2::{Digest, Sha256};

pub use self::collateral::Collateral;
pub use self::quote::Td;

use crate::Keys;
use crate::x509::{Role, Signer, Subject};

const ROOT: &str = "CN=Intel SGX Root CA,O=Intel Corporation,L=Santa Clara,ST=CA,C=US";
const PLATFORM_CA: &str =
    "CN=Intel SGX PCK Platform CA,O=Intel Corporation,L=Santa Clara,ST=CA,C=US";
const TCB_SIGNING: &str = "CN=Intel SGX TCB Signing,O=Intel Corporation,L=Santa Clara,ST=CA,C=US";
const PCK: &str = "CN=Intel SGX PCK Certificate,O=Intel Corporation,L=Santa Clara,ST=CA,C=US";

const ROOT_SERIAL: [u8; 1] = [1];
const PLATFORM_CA_SERIAL: [u8; 1] = [2];
const TCB_SIGNING_SERIAL: [u8; 1] = [3];
const PCK_SERIAL: [u8; 1] = [4];

/// Intel's keys, and those of one platform.
///
/// Names and extensions are Intel's; the keys follow from their names.
#[derive(Debug)]
pub struct Authority {
    root_key: Signer,
    platform_ca_key: Signer,
    tcb_key: SigningKey,
    pck_key: SigningKey,
    attestation_key: SigningKey,
    root: Vec<u8>,
    platform_ca: Vec<u8>,
    tcb_signing: Vec<u8>,
    pck: Vec<u8>,
}

impl Authority {
    /// The keys of `keys`.
    ///
    /// # Errors
    /// A key does not sign.
    pub fn new(keys: Keys) -> Result<Self> {
        let root_key = key(keys, "root")?;
        let platform_ca_key = key(keys, "platform CA")?;
        let tcb_key = key(keys, "TCB signing")?;
        let pck_key = key(keys, "PCK")?;
        let attestation_key = key(keys, "attestation")?;
        let [root_public, platform_ca_public, tcb_public, pck_public] =
            [&root_key, &platform_ca_key, &tcb_key, &pck_key].map(public_key);
        let root_key = Signer::P256(root_key);
        let platform_ca_key = Signer::P256(platform_ca_key);
        let issued = |name: &'static str, serial: &'static [u8], role: Role, public: &[u8]| {
            let subject = Subject {
                name,
                serial,
                public_key: public,
                extensions: Vec::new(),
                role,
            };
            root_key.certificate(ROOT, subject)
        };
        let root = issued(ROOT, &ROOT_SERIAL, Role::Authority, &root_public?)?;
        let platform_ca = issued(
            PLATFORM_CA,
            &PLATFORM_CA_SERIAL,
            Role::Authority,
            &platform_ca_public?,
        )?;
        let tcb_signing = issued(TCB_SIGNING, &TCB_SIGNING_SERIAL, Role::Signer, &tcb_public?)?;
        let subject = Subject {
            name: PCK,
            serial: &PCK_SERIAL,
            public_key: &pck_public?,
            extensions: vec![pck::extension()?],
            role: Role::Signer,
        };
        let pck = platform_ca_key.certificate(PLATFORM_CA, subject)?;
        Ok(Self {
            root_key,
            platform_ca_key,
            tcb_key,
            pck_key,
            attestation_key,
            root,
            platform_ca,
            tcb_signing,
            pck,
        })
    }

    /// The root's certificate, DER.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// PCK certificate, platform CA and root, PEM.
    pub fn pck_chain(&self) -> Result<String> {
        pem_chain(&[&self.pck, &self.platform_ca, &self.root])
    }
}

fn key(keys: Keys, name: &str) -> Result<SigningKey> {
    let seed = Sha256::digest(format!("{} {name}", keys.name()));
    SigningKey::from_slice(&seed).with_context(|| format!("cannot derive the key {name}"))
}

fn public_key(key: &SigningKey) -> Result<Vec<u8>> {
    Ok(key.verifying_key().to_public_key_der()?.into_vec())
}

/// ECDSA P-256 with SHA-256, as quotes and collateral have it: two numbers of
/// 32 bytes.
fn raw_signature(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: p256::ecdsa::Signature = key.sign(message);
    signature.to_bytes().into()
}

fn pem_chain(certificates: &[&[u8]]) -> Result<String> {
    use x509_cert::der::pem::{LineEnding, encode_string};
    let pem = |der: &&[u8]| encode_string("CERTIFICATE", LineEnding::LF, der);
    let pems: Result<Vec<_>, _> = certificates.iter().map(pem).collect();
    Ok(pems.map_err(|error| anyhow::anyhow!("{error}"))?.concat())
}
