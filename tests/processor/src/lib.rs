//! Stands in for the secure processors of SEV-SNP and TDX, so that the product
//! can be tested to its end on any machine.
//!
//! Reports, quotes, certificates and revocation lists have the real formats and
//! real signatures, by keys that anybody has: they are in this folder or follow
//! from names. Nothing outside tests may depend on this crate, and nothing may
//! trust what it signs but a verifier that a test gave the roots of
//! [`snp::Authority`] or [`tdx::Authority`].
//!
//! * [`snp`]: ARK, ASK, ASVK, VCEKs, VLEKs, CRLs and reports.
//! * [`tdx`]: root, platform CA, PCK, CRLs, collateral and quotes.

pub mod snp;
pub mod tdx;

mod x509;

/// When everything that does not say otherwise becomes valid: 2024-01-01.
pub const NOT_BEFORE: u64 = 1_704_067_200;
/// The end of that: 2044-01-01.
pub const NOT_AFTER: u64 = 2_335_219_200;

/// Whose keys sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// The ones that tests make a verifier trust.
    Test,
    /// Others, under the same names.
    Foreign,
}

impl Keys {
    fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Foreign => "foreign",
        }
    }
}
