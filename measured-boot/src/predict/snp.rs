//! The launch digest of a SEV-SNP guest, computed from the files before any launch.
//!
//! The AMD secure processor folds each page that the host gives it into the
//! digest, in the order in which they are given (SEV Secure Nested Paging
//! Firmware ABI Specification, 56860, section 8.17.2):
//!
//! | order | pages | contents hashed |
//! |---|---|---|
//! | 1 | the firmware, ending at 4 GiB | yes |
//! | 2 | the sections of the firmware's SEV metadata, in file order | zero, secrets and CPUID pages: no; kernel hashes: yes |
//! | 3 | one VMSA for each vCPU: its registers at reset | yes |
//!
//! What the host decides, and no file tells, is a [`Machine`]; it has no default,
//! because a guessed one gives a digest that looks as right as any other.
//!
//! The work is cut where candidates differ: [`Firmware`] holds the digest after
//! step 1, [`Launch`] after step 2, and [`Launch::digests`] yields that of each
//! vCPU count. So a search over machines hashes each page once.

mod chain;
mod firmware;
mod hash_table;
mod id_block;
mod legacy;
mod machine;
mod metadata;
mod table;
mod vmsa;

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod hostile;
#[cfg(test)]
mod tests;

use core::fmt;

use crate::base16;

pub use self::firmware::{Firmware, Launch};
pub use self::hash_table::HashTable;
pub use self::id_block::{EcdsaPublicKey, IdBlock, KeyError};
pub use self::legacy::{sev_digest, sev_es_digest};
pub use self::machine::{
    CPU_TYPES, CpuType, GUEST_FEATURES, GuestFeatures, MAX_VCPUS, Machine, MachineError, Vmm,
};
pub use self::metadata::{MAX_FIRMWARE, SectionKind};

/// Bytes of a page, the unit that is measured.
pub const PAGE: usize = 4096;

/// What the MEASUREMENT field of an attestation report holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaunchDigest(pub [u8; 48]);

impl LaunchDigest {
    /// Reads 96 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        base16::decode(text).map(Self)
    }
}

impl fmt::Display for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16::encode(&self.0))
    }
}

impl fmt::Debug for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaunchDigest({self})")
    }
}

/// Why no launch digest can be predicted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as snp::Error"
)]
pub enum Error {
    /// A field of the firmware file is not what it must be.
    #[error(
        "cannot predict launch digest: firmware at offset {offset:#x}: {field}: got {got}, expected {expected}"
    )]
    Firmware {
        /// Which field.
        field: &'static str,
        /// Where in the file.
        offset: usize,
        /// Its value.
        got: String,
        /// What it must be.
        expected: String,
    },
    /// The table at the end of the firmware lacks an entry.
    #[error("cannot predict launch digest: firmware has no {entry} entry in its GUIDed table")]
    MissingEntry {
        /// The entry's name in OVMF's sources.
        entry: &'static str,
    },
    /// A kernel is given, which this firmware would start unmeasured.
    #[error(
        "cannot predict launch digest: kernel given, but the firmware's SEV metadata has no {section} section: it would not check the kernel (an AmdSevX64 build of OVMF has the section)"
    )]
    MissingSection {
        /// The section's name in OVMF's sources.
        section: &'static str,
    },
}

impl Error {
    fn firmware(
        field: &'static str,
        offset: usize,
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self::Firmware {
            field,
            offset,
            got: got.to_string(),
            expected: expected.to_string(),
        }
    }
}
