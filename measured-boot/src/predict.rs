//! Register values of a boot, computed from the files before any boot.
//!
//! The machine is QEMU's q35 with OVMF, given kernel, initrd and command line
//! as files, or a disk with a unified kernel image. Who measures what, byte by
//! byte, is in `docs/measurements.md`.

mod authenticode;
mod boot;
mod firmware;
pub(crate) mod linux;
pub mod snp;
mod tdx;
mod uki;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use sha2::digest::Output;
use sha2::{Digest, Sha256, Sha384};

use self::boot::{Event, replay};
use crate::manifest::Hex32;
use crate::reference_values::{FirmwareProfile, PCR_COUNT, Register, TpmValues};

pub use self::firmware::known_firmware;
pub use self::linux::{LOW_MEMORY_MIB, LowMemory, rewritten};
pub use self::tdx::{PageOrder, Td, mrtd, td_events, tdx, variables_digest};

/// What the firmware is given to start.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Three files, by QEMU's `-kernel`, `-initrd` and `-append`.
    Direct {
        /// A bzImage.
        kernel: &'a [u8],
        /// The initrd.
        initrd: &'a [u8],
        /// The command line, without what the loader appends.
        cmdline: &'a str,
    },
    /// A unified kernel image, as the boot loader of a disk.
    Uki(&'a [u8]),
}

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
    /// The firmware does not say which pages a VMM puts into a TD, or says it in
    /// a way that is not known.
    #[error("cannot predict MRTD: {field} at offset {offset:#x}: got {got}, expected {expected}")]
    Tdvf {
        /// What it is.
        field: &'static str,
        /// Where in the file.
        offset: usize,
        /// What is there.
        got: String,
        /// What should be.
        expected: String,
    },
    /// The UKI is not one that the stub in it would start.
    #[error(
        "cannot predict for UKI: {field} at offset {offset:#x}: got {got}, expected {expected}"
    )]
    Uki {
        /// What it is.
        field: &'static str,
        /// Where in the file.
        offset: usize,
        /// What is there.
        got: String,
        /// What should be.
        expected: String,
    },
    /// A stub whose measurements are not known.
    #[error("cannot predict PCR 11: got systemd-stub {got}, expected version {expected}")]
    Stub {
        /// Its version.
        got: String,
        /// Those that are known.
        expected: String,
    },
    /// A committed firmware profile is not what this version reads.
    #[error("cannot read firmware profile: {cause}")]
    Firmware {
        /// The JSON error.
        cause: String,
    },
}

impl Error {
    /// The same, about a UKI instead of a kernel.
    fn of_uki(self) -> Self {
        match self {
            Self::Kernel { offset, cause } => Self::Uki {
                field: "PE header",
                offset,
                got: cause.strip_prefix("got ").unwrap_or(&cause).to_owned(),
                expected: "a PE32+ image".to_owned(),
            },
            other @ (Self::Initrd { .. }
            | Self::Cmdline { .. }
            | Self::Tdvf { .. }
            | Self::Uki { .. }
            | Self::Stub { .. }
            | Self::Firmware { .. }) => other,
        }
    }
}

/// Predicts every PCR of the SHA-256 bank, as a guest finds them at its start.
///
/// # Errors
/// See [`Error`].
pub fn tpm(
    payload: &Payload<'_>,
    memory: LowMemory,
    firmware: Vec<FirmwareProfile>,
) -> Result<TpmValues, Error> {
    let boots = boot::boots::<Sha256>(payload, memory)?;
    let values = |pcr: u8| {
        let of_pcr = |events: &Vec<Event<Sha256>>| {
            let mut events = events.iter().filter(|event| event.pcr == pcr).peekable();
            events.peek()?;
            Some(replay(events).into())
        };
        let mut distinct: Vec<[u8; 32]> = Vec::new();
        for value in boots.iter().filter_map(of_pcr) {
            if !distinct.contains(&value) {
                distinct.push(value);
            }
        }
        distinct
    };
    let zero = |covers: &str| predicted(vec![[0; 32]], covers);
    let is_uki = matches!(payload, Payload::Uki(_));

    let pcrs = (0..PCR_COUNT).map(|pcr| {
        (
            pcr,
            match pcr {
                0 => pinned("firmware code, and what it noted of memory size and vCPU count"),
                1 => ignored("machine configuration and boot order; nothing of ours reads them"),
                2 => pinned("option ROMs: none"),
                3 => pinned("option ROM configuration: none"),
                4 if is_uki => predicted(values(4), "UKI, and the kernel in it"),
                4 => predicted(values(4), "kernel, at each memory size and as the file is"),
                5 => ignored(
                    "partition tables and the time boot services ended; no partition is used",
                ),
                6 => pinned("host platform events: none"),
                7 => pinned("Secure Boot variables"),
                9 => predicted(values(9), "command line, initrd"),
                11 if is_uki => predicted(values(11), "sections of the UKI"),
                12 if is_uki => zero("command line and credentials from beside the UKI: none"),
                13 if is_uki => zero("system extensions from beside the UKI: none"),
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

/// One event that a boot is expected to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) pcr: u8,
    /// Measured by later versions of OVMF into another RTMR.
    pub(crate) is_separator: bool,
    pub(crate) digest: Vec<u8>,
}

/// The events of each boot that is possible, in order.
pub(crate) fn measured<D: Digest>(
    payload: &Payload<'_>,
    memory: LowMemory,
) -> Result<Vec<Vec<Measured>>, Error>
where
    Output<D>: Send + Clone,
{
    let measured = |event: Event<D>| Measured {
        pcr: event.pcr,
        is_separator: event.by == boot::Measurer::Separator,
        digest: event.digest.to_vec(),
    };
    let boots = boot::boots::<D>(payload, memory)?.into_iter();
    Ok(boots
        .map(|events| events.into_iter().map(measured).collect())
        .collect())
}

/// The digest by which firmware measures a kernel that it starts.
pub(crate) fn kernel_digest<D: Digest>(image: &[u8]) -> Result<Vec<u8>, Error> {
    authenticode::digest::<D>(image).map(|digest| digest.to_vec())
}

/// PCR 4 of a direct boot that starts this kernel image.
pub(crate) fn pcr4(image: &[u8]) -> Result<[u8; 32], Error> {
    let kernel = authenticode::digest::<Sha256>(image)?;
    let events = boot::direct::<Sha256>(kernel, Sha256::digest([]), Sha256::digest([]));
    Ok(replay(events.iter().filter(|event| event.pcr == 4)).into())
}

/// PCR 9 of a direct boot whose load options are these ASCII bytes, of which
/// the NUL is the last.
pub(crate) fn pcr9(load_options: &[u8], initrd: Option<&[u8]>) -> [u8; 32] {
    let wide: Vec<u8> = load_options.iter().flat_map(|byte| [*byte, 0]).collect();
    let measured = std::iter::once(wide.as_slice()).chain(initrd);
    let events: Vec<_> = measured.map(boot::by_kernel::<Sha256>).collect();
    replay(&events).into()
}

/// RTMR1 of a direct boot that starts this kernel image, with OVMF's separator
/// or without.
pub(crate) fn rtmr1(image: &[u8], separator: bool) -> Result<[u8; 48], Error> {
    let kernel = authenticode::digest::<Sha384>(image)?;
    let events = boot::direct::<Sha384>(kernel, Sha384::digest([]), Sha384::digest([]));
    let counts = |event: &&Event<Sha384>| {
        (2..=6).contains(&event.pcr) && (separator || event.by != boot::Measurer::Separator)
    };
    Ok(replay(events.iter().filter(counts)).into())
}

/// RTMR2 of a direct boot, as [`pcr9`].
pub(crate) fn rtmr2(load_options: &[u8], initrd: Option<&[u8]>) -> [u8; 48] {
    let wide: Vec<u8> = load_options.iter().flat_map(|byte| [*byte, 0]).collect();
    let measured = std::iter::once(wide.as_slice()).chain(initrd);
    let events: Vec<_> = measured.map(boot::by_kernel::<Sha384>).collect();
    replay(&events).into()
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
