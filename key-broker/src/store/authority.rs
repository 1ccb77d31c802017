//! The broker's own CA, its server certificate and the token key.

use measured_boot::base16;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use super::{Error, Store};

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server-key.pem";
const TOKEN_KEY: &str = "token-key.pem";
/// A CA is pinned in measured images, which outlive server certificates.
const CA_DAYS: i64 = 3653;

/// Choices for a new store.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// DNS names and IP addresses under which guests reach the broker.
    pub names: Vec<String>,
    /// From when the certificates are valid. A guest's clock never reads
    /// earlier than its CA's.
    pub not_before: OffsetDateTime,
    /// For how long the server's certificate is valid.
    pub valid_days: u32,
    /// Whether roots of tests may be trusted; nothing else differs.
    pub development: bool,
}

impl InitOptions {
    /// Valid from an hour ago, for machines whose clocks differ a little.
    pub fn new(names: Vec<String>, valid_days: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            names,
            not_before: now.saturating_sub(Duration::hours(1)),
            valid_days,
            development: false,
        }
    }
}

impl Store {
    pub(super) fn create_authority(&self, options: &InitOptions) -> Result<(), Error> {
        let failed = |e: rcgen::Error| Error::invalid("create CA in", &self.dir, e);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        // A name of its own: with one name for all, a client that holds another
        // store's CA would report a bad signature, not an unknown issuer.
        let key_id = base16::encode(&Sha256::digest(key.subject_public_key_info()));
        let key_id = key_id.get(..16).unwrap_or_default();
        params.distinguished_name.push(
            DnType::CommonName,
            format!("Anchorhold key broker CA {key_id}"),
        );
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = options.not_before;
        params.not_after = options.not_before.saturating_add(Duration::days(CA_DAYS));
        let ca = params.self_signed(&key).map_err(failed)?;
        self.write(CA_KEY, key.serialize_pem().as_bytes())?;
        self.write(CA, ca.pem().as_bytes())?;
        self.issue(options)?;

        let token_key = random_p256()
            .ok_or_else(|| Error::invalid("create token key in", &self.dir, "no random bytes"))?;
        let pem = token_key
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|e| Error::invalid("create token key in", &self.dir, e))?;
        self.write(TOKEN_KEY, pem.as_bytes())
    }

    /// Issues another server certificate under the same CA.
    ///
    /// # Errors
    /// A name that is none, or the CA's files are missing or broken.
    pub fn renew(&self, options: &InitOptions) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.issue(options)
    }

    fn issue(&self, options: &InitOptions) -> Result<(), Error> {
        let object = options.names.join(", ");
        let failed = |e: rcgen::Error| Error::refused("issue certificate for", &object, e);
        if options.names.is_empty() || options.valid_days == 0 {
            let cause = "expected at least one name and one day";
            return Err(Error::refused("issue certificate for", &object, cause));
        }
        if let Some(name) = options.names.iter().find(|name| !name_ok(name)) {
            let cause = "expected a DNS name or an IP address, without scheme or port";
            return Err(Error::refused("issue certificate for", name, cause));
        }
        let ca_key = KeyPair::from_pem(&self.read_text(CA_KEY)?).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&self.read_text(CA)?, ca_key).map_err(failed)?;

        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new(options.names.clone()).map_err(failed)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "Anchorhold key broker");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = options.not_before;
        params.not_after = options
            .not_before
            .saturating_add(Duration::days(i64::from(options.valid_days)));
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        self.write(SERVER_KEY, key.serialize_pem().as_bytes())?;
        self.write(SERVER, certificate.pem().as_bytes())
    }

    /// What the TLS server shows and signs with.
    pub(crate) fn server_identity(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let broken = |name: &str, e| Error::invalid("read", &self.path(name), e);
        let chain = CertificateDer::pem_slice_iter(self.read_text(SERVER)?.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| broken(SERVER, e))?;
        let key = PrivateKeyDer::from_pem_slice(self.read_text(SERVER_KEY)?.as_bytes())
            .map_err(|e| broken(SERVER_KEY, e))?;
        Ok((chain, key))
    }

    /// Signs attestation tokens.
    pub(crate) fn token_key(&self) -> Result<p256::SecretKey, Error> {
        p256::SecretKey::from_pkcs8_pem(&self.read_text(TOKEN_KEY)?)
            .map_err(|e| Error::invalid("read", &self.path(TOKEN_KEY), e))
    }
}

/// rcgen takes any text as a DNS name.
fn name_ok(name: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.parse::<std::net::IpAddr>().is_ok() || name.len() <= 253 && name.split('.').all(label_ok)
}

fn random_p256() -> Option<p256::SecretKey> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    for _ in 0..64 {
        getrandom::fill(&mut *bytes).ok()?;
        if let Ok(key) = p256::SecretKey::from_slice(&*bytes) {
            return Some(key);
        }
    }
    None
}
