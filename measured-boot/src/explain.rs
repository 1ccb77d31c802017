//! Why an observed measurement is not the predicted one.
//!
//! A wrong digest tells nothing of its cause. But causes are few, and each can
//! be tried: the space of what hosts, versions and people commonly do otherwise
//! is searched, fewest changes first, for what reproduces the observed value.
//! What is found is a cause that fits, not a judgement: whether such a machine
//! may have the keys is still [`crate::verify`]'s to say.

pub mod files;
pub mod log;
mod single;
pub mod snp;
pub mod tdx;
pub mod tpm;

#[cfg(test)]
mod tests;

use core::fmt;

use crate::predict::PageOrder;
use crate::predict::snp::{GuestFeatures, Vmm};

/// Something that is otherwise than it was predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All files are those of another release.
    Release {
        /// Its name.
        release: String,
        /// Which of its files differ from the predicted release's.
        differing: Vec<&'static str>,
    },
    /// One file is that of another release, the others are not.
    File {
        /// Which file.
        file: &'static str,
        /// Name of the release.
        release: String,
    },
    /// QEMU wrote into the kernel's setup header before it was measured.
    SetupHeader {
        /// Memory below 4 GiB, which decides where the initrd lies; `None`
        /// without an initrd, when it makes no difference.
        memory_mib: Option<u32>,
    },
    /// There was no initrd.
    NoInitrd,
    /// The command line was hashed with, or without, ` initrd=initrd`.
    Suffix {
        /// Whether the observed one has it.
        present: bool,
    },
    /// The command line was hashed without its trailing NUL.
    NoNul,
    /// Kernel, initrd and command line were not measured.
    NoKernelHashes,
    /// Another firmware build.
    Firmware {
        /// Its name.
        name: String,
    },
    /// The VMM adds the firmware's pages in another order.
    PageOrder {
        /// Reproduces the observed value.
        to: PageOrder,
    },
    /// Another VMM, or another vCPU type of the same.
    Vmm {
        /// Predicted for.
        from: Vmm,
        /// Reproduces the observed value.
        to: Vmm,
    },
    /// Other guest features.
    Features {
        /// Predicted for.
        from: GuestFeatures,
        /// Reproduces the observed value.
        to: GuestFeatures,
    },
    /// Another number of vCPUs.
    Vcpus {
        /// Predicted for.
        from: u32,
        /// Reproduces the observed value.
        to: u32,
    },
}

impl Change {
    /// What is changed, in a word that stays the same between versions.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Release { .. } => "release",
            Self::File { .. } => "file",
            Self::SetupHeader { .. } => "setup-header",
            Self::NoInitrd => "no-initrd",
            Self::Suffix { .. } => "cmdline-suffix",
            Self::NoNul => "cmdline-nul",
            Self::NoKernelHashes => "no-kernel-hashes",
            Self::Firmware { .. } => "firmware",
            Self::PageOrder { .. } => "page-order",
            Self::Vmm { .. } => "vmm",
            Self::Features { .. } => "guest-features",
            Self::Vcpus { .. } => "vcpus",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { release, differing } => {
                let differing = differing.join(", ");
                write!(f, "the files are those of {release} (differing: {differing})")
            }
            Self::File { file, release } => {
                write!(f, "the {file} is that of {release}, the other files are not")
            }
            Self::SetupHeader {
                memory_mib: Some(mib),
            } => write!(
                f,
                "QEMU rewrote the kernel's setup header, for {mib} MiB of memory below 4 GiB"
            ),
            Self::SetupHeader { memory_mib: None } => {
                f.write_str("QEMU rewrote the kernel's setup header")
            }
            Self::NoInitrd => f.write_str("no initrd was given"),
            Self::Suffix { present: true } => {
                f.write_str("the measured command line ends in \" initrd=initrd\"")
            }
            Self::Suffix { present: false } => {
                f.write_str("the measured command line does not end in \" initrd=initrd\"")
            }
            Self::NoNul => {
                f.write_str("the command line was measured without its trailing NUL")
            }
            Self::NoKernelHashes => f.write_str(
                "kernel, initrd and command line were not measured (QEMU: kernel-hashes=off, or a boot from disk)",
            ),
            Self::Firmware { name } => write!(f, "the firmware is {name}"),
            Self::PageOrder {
                to: PageOrder::EachPage,
            } => f.write_str("each page of the firmware is extended when it was added"),
            Self::PageOrder {
                to: PageOrder::EachSection,
            } => f.write_str("the firmware's pages are extended after all of a section are added"),
            Self::Vmm { from, to } => write!(f, "the VMM is {to}, not {from}"),
            Self::Features { from, to } => write!(f, "the guest features are {to}, not {from}"),
            Self::Vcpus { from, to } => write!(f, "the number of vCPUs is {to}, not {from}"),
        }
    }
}

/// What was tried with so many changes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Number of changes.
    pub changes: usize,
    /// Number of candidates.
    pub candidates: u64,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Every set of changes that reproduces the observed value, of the smallest
    /// size that does. One empty set: it is the predicted value.
    pub causes: Vec<Vec<Change>>,
    /// What was tried, fewest changes first.
    pub levels: Vec<Level>,
    /// Number of alternatives to what was predicted, by what they change.
    pub alternatives: Vec<(&'static str, usize)>,
}

impl Answer {
    /// Number of candidates that were tried.
    pub fn candidates(&self) -> u64 {
        self.levels.iter().map(|level| level.candidates).sum()
    }
}
