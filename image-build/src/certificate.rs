//! Reads the certificate authority that the guest will trust.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::pem::Pem;

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// As DER.
    pub der: Vec<u8>,
    /// Start of its validity, seconds since 1970.
    pub not_before: u64,
}

impl Certificate {
    /// Reads a PEM file that holds exactly one CA certificate.
    ///
    /// # Errors
    /// It cannot be read, or holds anything else.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || format!("cannot read broker.ca {}", path.display());
        Self::parse(&fs::read(path).with_context(read)?).with_context(read)
    }

    fn parse(pem: &[u8]) -> Result<Self> {
        let blocks: Vec<_> = Pem::iter_from_buffer(pem).collect::<Result<_, _>>()?;
        let [block] = blocks.as_slice() else {
            anyhow::bail!("got {} PEM blocks, expected one certificate", blocks.len());
        };
        ensure!(
            block.label == "CERTIFICATE",
            "got PEM block {:?}, expected CERTIFICATE",
            block.label
        );
        let certificate = block.parse_x509().context("malformed certificate")?;
        ensure!(
            certificate.is_ca(),
            "not the certificate of an authority (CA)"
        );
        ensure!(
            has_p256_key(&certificate),
            "got a key of another kind than ECDSA P-256, the only one that the guest verifies with"
        );
        let not_before = certificate.validity().not_before.timestamp();
        Ok(Self {
            not_before: u64::try_from(not_before).context("valid since before 1970")?,
            der: block.contents.clone(),
        })
    }
}

/// RFC 5480 section 2.1.1: the curve is the algorithm's parameter.
fn has_p256_key(certificate: &X509Certificate<'_>) -> bool {
    let algorithm = &certificate.public_key().algorithm;
    let curve = algorithm.parameters.as_ref().map(|curve| curve.as_oid());
    algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(Ok(OID_EC_P256))
}

#[cfg(test)]
mod tests {
    use super::Certificate;

    #[test]
    fn accepts_an_authority_whose_signatures_the_guest_can_verify() {
        let ca = Certificate::parse(include_bytes!("build/ca.pem")).unwrap();
        assert_eq!(ca.not_before, 1_767_225_600);
    }

    #[test]
    fn refuses_an_authority_with_a_key_of_another_kind() {
        for other in [
            include_bytes!("build/ca-rsa.pem").as_slice(),
            include_bytes!("build/ca-p384.pem"),
        ] {
            let error = format!("{:#}", Certificate::parse(other).unwrap_err());
            assert!(error.contains("ECDSA P-256"), "{error}");
        }
    }
}
