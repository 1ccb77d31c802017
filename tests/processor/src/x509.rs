//! Certificates and revocation lists with the extensions a caller says.

use core::str::FromStr;
use core::time::Duration;

use anyhow::{Context, Result};
use rsa::pss;
use sha2::Sha384;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder, CrlBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::crl::RevokedCert;
use x509_cert::der::asn1::{GeneralizedTime, ObjectIdentifier, OctetString, Uint, UtcTime};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, CrlNumber, KeyUsage, KeyUsages, SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

use crate::{NOT_AFTER, NOT_BEFORE};

/// What signs: AMD's keys are RSA, Intel's are of P-256.
#[derive(Debug)]
pub(crate) enum Signer {
    RsaPss(Box<pss::SigningKey<Sha384>>),
    P256(p256::ecdsa::SigningKey),
}

/// What a certificate says.
pub(crate) struct Subject<'a> {
    /// RFC 4514.
    pub(crate) name: &'a str,
    pub(crate) serial: &'a [u8],
    /// DER.
    pub(crate) public_key: &'a [u8],
    /// Besides those of [`Role`].
    pub(crate) extensions: Vec<Extension>,
    pub(crate) role: Role,
}

/// Which of the standard extensions a certificate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Authority,
    Signer,
    /// None: as AMD's VEKs.
    Plain,
}

/// An extension that is not critical, its value as given.
pub(crate) fn extension(id: &str, value: &[u8]) -> Result<Extension> {
    Ok(Extension {
        extn_id: ObjectIdentifier::new(id)?,
        critical: false,
        extn_value: OctetString::new(value)?,
    })
}

impl Signer {
    /// Signs a certificate, DER.
    pub(crate) fn certificate(&self, issuer: &str, subject: Subject<'_>) -> Result<Vec<u8>> {
        let profile = Profile {
            issuer: Name::from_str(issuer)?,
            subject: Name::from_str(subject.name)?,
            role: subject.role,
            extensions: subject.extensions,
        };
        let builder = CertificateBuilder::new(
            profile,
            SerialNumber::new(subject.serial)?,
            Validity::new(time(NOT_BEFORE)?, time(NOT_AFTER)?),
            SubjectPublicKeyInfo::from_der(subject.public_key)?,
        )?;
        let certificate = match self {
            Self::RsaPss(key) => builder.build::<_, pss::Signature>(key.as_ref()),
            Self::P256(key) => builder.build::<_, p256::ecdsa::DerSignature>(key),
        };
        let certificate = certificate.with_context(|| format!("cannot sign {}", subject.name))?;
        Ok(certificate.to_der()?)
    }

    /// Signs a list of serial numbers, DER, that is valid until `next_update`.
    pub(crate) fn crl(
        &self,
        issuer: &[u8],
        revoked: &[&[u8]],
        [this_update, next_update]: [u64; 2],
    ) -> Result<Vec<u8>> {
        let issuer = x509_cert::Certificate::from_der(issuer)?;
        let number = CrlNumber(Uint::new(&[1])?);
        let mut builder = <CrlBuilder>::new_with_this_update(&issuer, number, time(this_update)?)?
            .with_next_update(Some(time(next_update)?));
        // An empty list is left out (RFC 5280 section 5.1.2.6).
        if !revoked.is_empty() {
            let revoked: Result<Vec<_>> = revoked
                .iter()
                .map(|serial| {
                    Ok(RevokedCert {
                        serial_number: SerialNumber::new(serial)?,
                        revocation_date: time(NOT_BEFORE)?,
                        crl_entry_extensions: None,
                    })
                })
                .collect();
            builder = builder.with_certificates(revoked?.into_iter());
        }
        let list = match self {
            Self::RsaPss(key) => builder.build::<_, pss::Signature>(key.as_ref()),
            Self::P256(key) => builder.build::<_, p256::ecdsa::DerSignature>(key),
        };
        Ok(list.context("cannot sign a CRL")?.to_der()?)
    }
}

/// UTC time, as RFC 5280 section 4.1.2.5 wants it through 2049.
fn time(seconds: u64) -> Result<Time> {
    let duration = Duration::from_secs(seconds);
    Ok(match UtcTime::from_unix_duration(duration) {
        Ok(time) => Time::UtcTime(time),
        Err(_) => Time::GeneralTime(GeneralizedTime::from_unix_duration(duration)?),
    })
}

struct Profile {
    issuer: Name,
    subject: Name,
    role: Role,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        key: SubjectPublicKeyInfoRef<'_>,
        issuer_key: SubjectPublicKeyInfoRef<'_>,
        _tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let mut extensions = self.extensions.clone();
        let usages = match self.role {
            Role::Authority => KeyUsages::KeyCertSign | KeyUsages::CRLSign,
            Role::Signer => KeyUsages::DigitalSignature | KeyUsages::NonRepudiation,
            Role::Plain => return Ok(extensions),
        };
        let constraints = BasicConstraints {
            ca: self.role == Role::Authority,
            path_len_constraint: None,
        };
        extensions.push(standard(true, &KeyUsage(usages))?);
        extensions.push(standard(true, &constraints)?);
        extensions.push(standard(false, &SubjectKeyIdentifier::try_from(key)?)?);
        let issuer = AuthorityKeyIdentifier::try_from(issuer_key)?;
        extensions.push(standard(false, &issuer)?);
        Ok(extensions)
    }
}

fn standard<T>(critical: bool, value: &T) -> x509_cert::der::Result<Extension>
where
    T: x509_cert::der::oid::AssociatedOid + Encode,
{
    Ok(Extension {
        extn_id: T::OID,
        critical,
        extn_value: OctetString::new(value.to_der()?)?,
    })
}
