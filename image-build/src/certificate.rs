//! Reads the certificate authority that the guest will trust.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
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
        let not_before = certificate.validity().not_before.timestamp();
        Ok(Self {
            not_before: u64::try_from(not_before).context("valid since before 1970")?,
            der: block.contents.clone(),
        })
    }
}
