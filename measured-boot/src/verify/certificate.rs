//! X.509 as AMD issues it: RSA-PSS with SHA-384, serial numbers of zero.
//!
//! Parsing is by `x509-cert`, which takes a serial number of zero (AMD numbers
//! every VCEK so; RFC 5280 section 4.1.2.2 asks verifiers to handle it). The
//! clock is the caller's.

use rsa::pkcs8::DecodePublicKey;
use rsa::signature::Verifier;
use rsa::{PublicKey, pss};
use sha2::Sha384;
use x509_cert::crl::{CertificateList, TbsCertList};
use x509_cert::der::asn1::{BitString, ObjectIdentifier};
use x509_cert::der::{Decode, Encode};
use x509_cert::time::Time;

use super::{Refused, Table};

/// `id-RSASSA-PSS` (RFC 8017 appendix A.2.3).
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// A certificate that is exactly one DER encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) name: String,
    inner: x509_cert::Certificate,
}

impl Certificate {
    /// Reads DER. `name` is for the table.
    pub(super) fn parse(name: &str, der: &[u8], table: &mut Table) -> Result<Self, Refused> {
        let check = format!("{name} format");
        let expected = "one X.509 certificate in DER";
        let inner = match x509_cert::Certificate::from_der(der) {
            Ok(certificate) => certificate,
            Err(error) => return table.refuse(&check, error, expected),
        };
        // Only what is written back byte for byte is signed as it was read.
        if inner.to_der().as_deref() != Ok(der) {
            return table.refuse(&check, "an encoding that is not DER", expected);
        }
        let name = name.to_owned();
        Ok(Self { name, inner })
    }

    pub(super) fn subject(&self) -> String {
        common_name(self.inner.tbs_certificate().subject())
    }

    pub(super) fn issuer(&self) -> String {
        common_name(self.inner.tbs_certificate().issuer())
    }

    /// The serial number, big-endian without leading zeros.
    pub(super) fn serial_number(&self) -> &[u8] {
        self.inner.tbs_certificate().serial_number().as_bytes()
    }

    /// The subject's key, DER `SubjectPublicKeyInfo`.
    pub(super) fn public_key(&self) -> Vec<u8> {
        let key = self.inner.tbs_certificate().subject_public_key_info();
        key.to_der().unwrap_or_default()
    }

    /// The value of the one extension with this identifier.
    pub(super) fn extension(&self, id: &str) -> Option<&[u8]> {
        let extensions = self.inner.tbs_certificate().extensions()?;
        let mut found = extensions
            .iter()
            .filter(|extension| extension.extn_id.to_string() == id);
        let value = found.next()?.extn_value.as_bytes();
        found.next().is_none().then_some(value)
    }

    /// Whether `now`, in seconds since 1970, is inside its validity.
    pub(super) fn check_validity(&self, now: u64, table: &mut Table) -> Result<(), Refused> {
        let validity = self.inner.tbs_certificate().validity();
        let (from, to) = (seconds(validity.not_before), seconds(validity.not_after));
        table.require(
            &format!("{} validity", self.name),
            format!("{} to {}", validity.not_before, validity.not_after),
            format!("a time that includes {}", time(now)),
            (from..=to).contains(&now),
        )
    }

    /// Whether `issuer` signed it.
    pub(super) fn check_signature(&self, issuer: &Self, table: &mut Table) -> Result<(), Refused> {
        let name = format!("{} signature", self.name);
        let tbs = self.inner.tbs_certificate();
        let same_algorithm = tbs.signature() == self.inner.signature_algorithm();
        let same_name = tbs.issuer() == issuer.inner.tbs_certificate().subject();
        let algorithm = self.inner.signature_algorithm().oid;
        let good = same_algorithm
            && same_name
            && tbs
                .to_der()
                .is_ok_and(|signed| issuer.signed(&signed, algorithm, self.inner.signature()));
        let got = if good { "good" } else { "does not verify" };
        let expected = format!("RSA-PSS with SHA-384 by {}", issuer.subject());
        table.require(
            &name,
            format!("{got}, of {}", self.subject()),
            expected,
            good,
        )
    }

    /// PSS with SHA-384, MGF1 of it, and a salt of 48 bytes: nothing else.
    fn signed(&self, message: &[u8], algorithm: ObjectIdentifier, signature: &BitString) -> bool {
        let key = PublicKey::from_public_key_der(&self.public_key());
        let signature = signature.as_bytes().map(pss::Signature::try_from);
        let (Ok(key), Some(Ok(signature))) = (key, signature) else {
            return false;
        };
        let verifying = pss::VerifyingKey::<Sha384>::new(key);
        algorithm == RSASSA_PSS && verifying.verify(message, &signature).is_ok()
    }

    /// The CRL of `self` that was made last, of those valid at `now`. One that is
    /// not, or that `self` did not sign, is chosen only where there is no other,
    /// to be refused by name.
    pub(super) fn newest_crl<'a>(&self, lists: &'a [Vec<u8>], now: u64) -> Option<&'a Vec<u8>> {
        let subject = self.inner.tbs_certificate().subject();
        let of_self = lists.iter().filter_map(|der| {
            let crl = <CertificateList>::from_der(der).ok()?;
            let list = &crl.tbs_cert_list;
            let current = is_current(list, now);
            let order = (self.signed_crl(&crl), current, seconds(list.this_update));
            (list.issuer == *subject).then_some((order, der))
        });
        let (_, der) = of_self.max_by_key(|(order, _)| *order)?;
        Some(der)
    }

    /// Whether any CRL of `self`, however old, takes `certificate` back: AMD has
    /// two of each product, at different addresses, and none gives a key back.
    pub(super) fn check_lists(
        &self,
        lists: &[Vec<u8>],
        certificate: &Self,
        table: &mut Table,
    ) -> Result<(), Refused> {
        let subject = self.inner.tbs_certificate().subject();
        let takes_back = |der: &Vec<u8>| {
            <CertificateList>::from_der(der).is_ok_and(|crl| {
                let list = &crl.tbs_cert_list;
                list.issuer == *subject && certificate.is_in(list) && self.signed_crl(&crl)
            })
        };
        if !lists.iter().any(takes_back) {
            return Ok(());
        }
        let serial = crate::base16::encode(certificate.serial_number());
        table.refuse(
            &format!("{} revocation", certificate.name),
            format!("revoked: serial number {serial}"),
            format!("not revoked by {}", self.subject()),
        )
    }

    fn is_in(&self, list: &TbsCertList) -> bool {
        let serial = self.serial_number();
        let mut revoked = list.revoked_certificates.iter().flatten();
        revoked.any(|entry| entry.serial_number.as_bytes() == serial)
    }

    /// Whether `self` signed a CRL, DER.
    pub(super) fn signed_crl_der(&self, der: &[u8]) -> bool {
        let subject = self.inner.tbs_certificate().subject();
        let list = <CertificateList>::from_der(der);
        list.is_ok_and(|list| {
            list.to_der().as_deref() == Ok(der)
                && list.tbs_cert_list.issuer == *subject
                && self.signed_crl(&list)
        })
    }

    fn signed_crl(&self, crl: &CertificateList) -> bool {
        let list = &crl.tbs_cert_list;
        let algorithm = crl.signature_algorithm.oid;
        list.signature == crl.signature_algorithm
            && list
                .to_der()
                .is_ok_and(|signed| self.signed(&signed, algorithm, &crl.signature))
    }

    /// Whether a CRL of `self`, valid at `now`, leaves `certificate` standing.
    pub(super) fn check_revocation(
        &self,
        crl: &[u8],
        certificate: &Self,
        now: u64,
        table: &mut Table,
    ) -> Result<(), Refused> {
        let issuer = self.subject();
        let crl = match <CertificateList>::from_der(crl) {
            Ok(list) if list.to_der().as_deref() == Ok(crl) => list,
            Ok(_) => {
                return table.refuse("CRL format", "an encoding that is not DER", "a CRL in DER");
            }
            Err(error) => return table.refuse("CRL format", error, "a CRL in DER"),
        };
        let list = &crl.tbs_cert_list;
        // A critical extension would change what the list says (RFC 5280 section 5.2).
        let extensions = list.crl_extensions.iter().flatten();
        let critical = extensions.clone().any(|extension| extension.critical);
        table.require(
            "CRL extensions",
            format!("critical: {critical}"),
            "critical: false",
            !critical,
        )?;
        let same_name = list.issuer == *self.inner.tbs_certificate().subject();
        let good = same_name && self.signed_crl(&crl);
        let got = if good { "good" } else { "does not verify" };
        let expected = format!("RSA-PSS with SHA-384 by {issuer}");
        table.require(
            "CRL signature",
            format!("{got}, of a CRL of {}", common_name(&list.issuer)),
            expected,
            good,
        )?;
        let (from, to) = (list.this_update, list.next_update);
        let current = is_current(list, now);
        let to = to.map_or_else(|| "no next update".to_owned(), |to| to.to_string());
        table.require(
            "CRL validity",
            format!("{from} to {to}"),
            format!("a time that includes {}", time(now)),
            current,
        )?;
        let serial = certificate.serial_number();
        let is_revoked = certificate.is_in(list);
        let word = if is_revoked { "revoked" } else { "not revoked" };
        table.require(
            &format!("{} revocation", certificate.name),
            format!("{word}: serial number {}", crate::base16::encode(serial)),
            format!("not revoked by {issuer}"),
            !is_revoked,
        )
    }
}

fn common_name(name: &x509_cert::name::Name) -> String {
    let common_name = name.common_name().ok().flatten();
    common_name.map_or_else(|| name.to_string(), |name| name.value().into_owned())
}

/// Issuer, beginning and end of a CRL, DER; nothing in it is verified.
pub(super) fn crl_outline(der: &[u8]) -> Option<(String, String, String)> {
    let list = <CertificateList>::from_der(der).ok()?.tbs_cert_list;
    let end = list.next_update?.to_string();
    Some((common_name(&list.issuer), list.this_update.to_string(), end))
}

/// Beginning and end of a CRL, DER, in seconds since 1970; nothing in it is verified.
pub(super) fn crl_times(der: &[u8]) -> Option<(u64, u64)> {
    let list = <CertificateList>::from_der(der).ok()?.tbs_cert_list;
    Some((seconds(list.this_update), seconds(list.next_update?)))
}

fn is_current(list: &TbsCertList, now: u64) -> bool {
    seconds(list.this_update) <= now && list.next_update.is_some_and(|to| now <= seconds(to))
}

fn seconds(time: Time) -> u64 {
    time.to_unix_duration().as_secs()
}

/// Seconds since 1970 as people read them.
pub(super) fn time(now: u64) -> String {
    let date = x509_cert::der::DateTime::from_unix_duration(core::time::Duration::from_secs(now));
    date.map_or_else(
        |_| format!("{now} seconds after 1970"),
        |date| date.to_string(),
    )
}
