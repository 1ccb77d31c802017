//! The KBS protocol's `snp` evidence.

#[cfg(feature = "std")]
mod received;

use alloc::vec::Vec;

#[cfg(feature = "std")]
pub use self::received::Error;

/// Bytes of an attestation report of versions 2 to 5 (SEV-SNP Firmware ABI
/// 56860, table "ATTESTATION_REPORT Structure").
pub const REPORT_LEN: usize = 1184;

/// A report and what the host offered to verify it; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpEvidence {
    /// The report, as the secure processor gave it.
    pub report: [u8; REPORT_LEN],
    /// Certificates from the host's table; none where it has none.
    pub certificates: Vec<Certificate>,
}

/// One entry of the certificate table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What it claims to be.
    pub kind: CertificateKind,
    /// DER.
    pub der: Vec<u8>,
}

/// The kinds that verifiers use (GHCB Standardization 56421, section 4.1.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub enum CertificateKind {
    Ark,
    Ask,
    Asvk,
    Vcek,
    Vlek,
}
