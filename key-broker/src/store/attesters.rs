//! Attestation keys the broker believes: enrolled one by one, or certified by
//! an enrolled CA. There is no third way, and no trust on first use.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use rsa::pkcs8::DecodePublicKey;
use rsa::traits::PublicKeyParts;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{Error, Store, file::read_input};

const ATTESTERS: &str = "attesters";
const AUTHORITIES: &str = "ak-authorities";
/// tcg-kp-AIKCertificate, 2.23.133.8.3 (TCG EK and AK credential profiles). A
/// certificate for another purpose, of the same CA, must not speak for a TPM.
const AIK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x03];
const MAX_CHAIN: usize = 4;

/// SHA-256 of an attestation key's `SubjectPublicKeyInfo`, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AkId(String);

impl AkId {
    /// Of a key.
    pub fn of(spki: &[u8]) -> Self {
        Self(base16::encode(&Sha256::digest(spki)))
    }

    /// Reads 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        base16::decode::<32>(text).map(|id| Self(base16::encode(&id)))
    }
}

impl fmt::Display for AkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a key came to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Given by the administrator.
    Given,
    /// Read from a TPM by the administrator.
    Tpm,
    /// By a certificate of an enrolled CA, as long as that holds.
    Certified,
}

/// One enrolled attestation key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attester {
    /// The key, DER `SubjectPublicKeyInfo`, base64.
    pub ak: String,
    /// How it came here.
    pub origin: Origin,
    /// Leaf first, DER, base64; empty unless certified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<String>,
}

impl Store {
    /// Enrols the key in `path`: `SubjectPublicKeyInfo`, PEM or DER.
    ///
    /// # Errors
    /// Not a public key a TPM of ours has.
    pub fn enroll_ak_file(&self, path: &Path) -> Result<AkId, Error> {
        let bytes = read_input(path)?;
        let spki = match SubjectPublicKeyInfoDer::from_pem_slice(&bytes) {
            Ok(spki) => spki.to_vec(),
            Err(_) => bytes,
        };
        self.enroll_ak(&spki, Origin::Given)
    }

    /// Enrols a key by its DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// Not a public key a TPM of ours has.
    pub fn enroll_ak(&self, spki: &[u8], origin: Origin) -> Result<AkId, Error> {
        self.write_attester(spki, origin, &[])
    }

    /// Enrols the key of a certificate (PEM, or one in DER), whose chain must
    /// end at an enrolled CA.
    ///
    /// # Errors
    /// The chain does not hold, or the key is not one a TPM of ours has.
    pub fn enroll_ak_certificate(&self, path: &Path) -> Result<AkId, Error> {
        let bytes = read_input(path)?;
        let chain = certificates(&bytes).map_err(|e| Error::invalid("read", path, e))?;
        let spki = self
            .certified_key(&chain)?
            .map_err(|cause| Error::invalid("enroll", path, cause))?;
        self.write_attester(&spki, Origin::Certified, &chain)
    }

    fn write_attester(
        &self,
        spki: &[u8],
        origin: Origin,
        chain: &[CertificateDer<'_>],
    ) -> Result<AkId, Error> {
        let _lock = self.lock()?;
        let id = AkId::of(spki);
        attestation_key(spki).map_err(|cause| Error::refused("enroll key", &id, cause))?;
        let attester = Attester {
            ak: Base64::encode_string(spki),
            origin,
            certificates: chain.iter().map(|c| Base64::encode_string(c)).collect(),
        };
        self.write_json(&format!("{ATTESTERS}/{id}.json"), &attester)?;
        Ok(id)
    }

    /// No longer believes a key.
    ///
    /// # Errors
    /// It is not enrolled.
    pub fn remove_ak(&self, id: &AkId) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.remove_file(&format!("{ATTESTERS}/{id}.json"))? {
            return Ok(());
        }
        Err(Error::refused("remove key", id, "it is not enrolled"))
    }

    /// Believes the keys that a CA certifies for attestation.
    ///
    /// # Errors
    /// Not one certificate.
    pub fn trust_ak_ca(&self, path: &Path) -> Result<AkId, Error> {
        let _lock = self.lock()?;
        let bytes = read_input(path)?;
        let chain = certificates(&bytes).map_err(|e| Error::invalid("read", path, e))?;
        let [ca] = chain.as_slice() else {
            let cause = format!("got {} certificates, expected 1", chain.len());
            return Err(Error::invalid("trust", path, cause));
        };
        anchor_from_trusted_cert(ca).map_err(|e| Error::invalid("trust", path, e))?;
        let id = AkId::of(ca);
        self.write(&format!("{AUTHORITIES}/{id}.der"), ca)?;
        Ok(id)
    }

    /// All enrolled keys.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn attesters(&self) -> Result<Vec<(AkId, Origin)>, Error> {
        let mut all = Vec::new();
        for name in self.names(ATTESTERS)? {
            let Some(id) = name.strip_suffix(".json").and_then(AkId::parse) else {
                continue;
            };
            if let Some(attester) = self.attester(&id)? {
                all.push((id, attester.origin));
            }
        }
        Ok(all)
    }

    /// Whether the key is in the store at this moment.
    pub(crate) fn is_enrolled(&self, id: &AkId) -> Result<bool, Error> {
        Ok(self.attester(id)?.is_some())
    }

    fn attester(&self, id: &AkId) -> Result<Option<Attester>, Error> {
        self.read_json(&format!("{ATTESTERS}/{id}.json"))
    }

    /// Whether the broker believes this key now: it is enrolled and, if by a
    /// certificate, that still holds. Otherwise why not.
    pub(crate) fn believes(&self, spki: &[u8]) -> Result<Result<Origin, String>, Error> {
        let Some(attester) = self.attester(&AkId::of(spki))? else {
            return Ok(Err("not enrolled".into()));
        };
        if attester.ak != Base64::encode_string(spki) {
            return Ok(Err("not enrolled".into()));
        }
        if attester.origin != Origin::Certified {
            return Ok(Ok(attester.origin));
        }
        let decoded: Result<Vec<_>, _> = attester
            .certificates
            .iter()
            .map(|text| Base64::decode_vec(text).map(CertificateDer::from))
            .collect();
        let Ok(chain) = decoded else {
            return Ok(Err("its certificate is not base64".into()));
        };
        let held = self.certified_key(&chain)?;
        Ok(held.and_then(|certified| {
            let same = certified == spki;
            let cause = || "its certificate is for another key".into();
            same.then_some(Origin::Certified).ok_or_else(cause)
        }))
    }

    /// The key of the first certificate, if the chain ends at an enrolled CA.
    ///
    /// Revocation is not asked about: take the key or the CA out of the store.
    fn certified_key(
        &self,
        chain: &[CertificateDer<'_>],
    ) -> Result<Result<Vec<u8>, String>, Error> {
        let mut authorities = Vec::new();
        for name in self.names(AUTHORITIES)? {
            if let Some(der) = self.read(&format!("{AUTHORITIES}/{name}"))? {
                authorities.push(CertificateDer::from(der.to_vec()));
            }
        }
        Ok(verify_chain(chain, &authorities))
    }
}

fn verify_chain(
    chain: &[CertificateDer<'_>],
    authorities: &[CertificateDer<'_>],
) -> Result<Vec<u8>, String> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err("expected a certificate".into());
    };
    if intermediates.len() > MAX_CHAIN {
        return Err(format!("got a chain longer than {MAX_CHAIN} intermediates"));
    }
    let anchors: Vec<_> = authorities
        .iter()
        .filter_map(|der| anchor_from_trusted_cert(der).ok())
        .collect();
    let leaf = EndEntityCert::try_from(leaf).map_err(|e| e.to_string())?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|e| e.to_string())?;
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        intermediates,
        UnixTime::since_unix_epoch(now),
        KeyUsage::required(AIK_CERTIFICATE),
        None,
        None,
    )
    .map_err(|e| format!("its chain does not hold: {e}"))?;
    Ok(leaf.subject_public_key_info().to_vec())
}

/// One or more certificates in PEM, or one in DER.
fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match pem {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Ok(vec![CertificateDer::from(bytes.to_vec())]),
        Err(e) => Err(e.to_string()),
    }
}

/// Reads an attestation key: RSA, 2048 to 4096 bits, and nothing after it.
fn attestation_key(spki: &[u8]) -> Result<rsa::PublicKey, String> {
    let key = rsa::PublicKey::from_public_key_der(spki)
        .map_err(|e| format!("expected an RSA SubjectPublicKeyInfo: {e}"))?;
    let bits = key.n().bit_width();
    if !(2048..=4096).contains(&bits) {
        return Err(format!("got RSA of {bits} bits, expected 2048 to 4096"));
    }
    Ok(key)
}
