//! Register values of a direct boot, computed from the files before any boot.
//!
//! The machine is QEMU's q35 with OVMF, given kernel, initrd and command line
//! as files. Who measures what, in the order of the event log:
//!
//! | PCR | event | by |
//! |---|---|---|
//! | 4 | the kernel, `EV_EFI_BOOT_SERVICES_APPLICATION`, Authenticode digest | firmware |
//! | 4 | `Calling EFI Application from Boot Option`, `EV_EFI_ACTION` | firmware |
//! | 4 | four zero bytes, `EV_SEPARATOR` | firmware |
//! | 9 | the command line in UTF-16LE with its NUL, `EV_EVENT_TAG` | kernel's EFI stub |
//! | 9 | the initrd, `EV_EVENT_TAG` | kernel's EFI stub |

mod authenticode;
mod firmware;
pub(crate) mod linux;
pub mod snp;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::manifest::Hex32;
use crate::reference_values::{FirmwareProfile, PCR_COUNT, Register, TpmValues};
use crate::tpm::extended;

pub use self::firmware::known_firmware;
pub use self::linux::LOW_MEMORY_MIB;

/// What OVMF appends to the command line when there is an initrd: the kernel
/// opens it by this name.
const LOADER_SUFFIX: &str = " initrd=initrd";
const BOOT_ACTION: &[u8] = b"Calling EFI Application from Boot Option";
const SEPARATOR: [u8; 4] = [0; 4];

/// Why nothing can be predicted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as predict::Error"
)]
pub enum Error {
    /// The kernel is not a PE image that firmware would start.
    #[error("cannot predict PCR 4: kernel at offset {offset:#x}: {cause}")]
    Kernel {
        /// Where in the file.
        offset: usize,
        /// Got and expected.
        cause: String,
    },
    /// The initrd leaves no room below the end of the smallest machine's memory.
    #[error("cannot predict PCR 4: initrd of {size} bytes does not fit {memory_mib} MiB of memory")]
    Initrd {
        /// Its size.
        size: usize,
        /// The machine's memory.
        memory_mib: u32,
    },
    /// The loader would not pass the command line on as it is.
    #[error("cannot predict PCR 9: command line {cause}")]
    Cmdline {
        /// What is wrong.
        cause: &'static str,
    },
    /// A committed firmware profile is not what this version reads.
    #[error("cannot read firmware profile: {cause}")]
    Firmware {
        /// The JSON error.
        cause: String,
    },
}

/// Predicts every PCR of the SHA-256 bank, as a guest finds them at its start.
///
/// # Errors
/// See [`Error`].
pub fn tpm(
    kernel: &[u8],
    initrd: &[u8],
    cmdline: &str,
    firmware: Vec<FirmwareProfile>,
) -> Result<TpmValues, Error> {
    let digests = linux::measured_kernels(kernel, initrd.len())?;
    let pcr4: Vec<_> = digests.into_iter().map(pcr4_of_digest).collect();
    let pcr9 = replay(&[sha256(&load_options(cmdline)?), sha256(initrd)]);
    let zero = |covers: &str| predicted(vec![[0; 32]], covers);

    let pcrs = (0..PCR_COUNT).map(|pcr| {
        (
            pcr,
            match pcr {
                0 => pinned("firmware code, and what it noted of memory size and vCPU count"),
                1 => ignored("machine configuration and boot order; nothing of ours reads them"),
                2 => pinned("option ROMs: none"),
                3 => pinned("option ROM configuration: none"),
                4 => predicted(
                    pcr4.clone(),
                    "kernel, at each memory size and as the file is",
                ),
                5 => ignored(
                    "partition tables and the time boot services ended; no partition is used",
                ),
                6 => pinned("host platform events: none"),
                7 => pinned("Secure Boot variables"),
                9 => predicted(vec![pcr9], "command line, initrd"),
                15 => zero("latch, open: no keys released yet"),
                // PC Client Platform TPM Profile section 4.6: set by a DRTM launch
                // alone, which leaves other values than all ones.
                17..=22 => predicted(vec![[0xff; 32]], "dynamic launch: none"),
                _ => zero("nothing"),
            },
        )
    });
    Ok(TpmValues {
        pcrs: pcrs.collect::<BTreeMap<_, _>>(),
        firmware,
    })
}

/// PCR 4 of a direct boot that starts this kernel image.
pub(crate) fn pcr4(image: &[u8]) -> Result<[u8; 32], Error> {
    authenticode::digest(image).map(pcr4_of_digest)
}

fn pcr4_of_digest(kernel: [u8; 32]) -> [u8; 32] {
    replay(&[kernel, sha256(BOOT_ACTION), sha256(&SEPARATOR)])
}

/// PCR 9 of a direct boot whose load options are these ASCII bytes, of which
/// the NUL is the last.
pub(crate) fn pcr9(load_options: &[u8], initrd: Option<&[u8]>) -> [u8; 32] {
    let wide: Vec<u8> = load_options.iter().flat_map(|byte| [*byte, 0]).collect();
    let events: Vec<_> = std::iter::once(wide.as_slice())
        .chain(initrd)
        .map(sha256)
        .collect();
    replay(&events)
}

/// The kernel's load options, as the EFI stub measures them.
fn load_options(cmdline: &str) -> Result<Vec<u8>, Error> {
    // OVMF widens byte by byte; QEMU reads "vga=" and changes the kernel by it.
    if !cmdline.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(Error::Cmdline {
            cause: "is not printable ASCII",
        });
    }
    if cmdline.contains("vga=") {
        return Err(Error::Cmdline {
            cause: "contains vga=, which the loader acts on",
        });
    }
    let text = [cmdline, LOADER_SUFFIX, "\0"].concat();
    Ok(text.encode_utf16().flat_map(u16::to_le_bytes).collect())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The register after `events`, from zero.
fn replay(events: &[[u8; 32]]) -> [u8; 32] {
    events
        .iter()
        .fold([0; 32], |register, event| extended(&register, event))
}

fn predicted(values: Vec<[u8; 32]>, covers: &str) -> Register {
    Register::Predicted {
        values: values.into_iter().map(Hex32).collect(),
        covers: covers.to_owned(),
    }
}

fn pinned(covers: &str) -> Register {
    Register::Pinned {
        covers: covers.to_owned(),
    }
}

fn ignored(reason: &str) -> Register {
    Register::Ignored {
        reason: reason.to_owned(),
    }
}
