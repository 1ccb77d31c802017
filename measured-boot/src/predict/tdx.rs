//! The registers of a TD: MRTD from the firmware, RTMRs from the boot.
//!
//! | register | PCRs | what is in it |
//! |---|---|---|
//! | MRTD | – | the pages of the firmware, by the VMM |
//! | RTMR0 | 1, 7 | the machine as OVMF found it: hand-off blocks, variables, ACPI tables, boot order |
//! | RTMR1 | 2 to 6 | kernel or UKI, and that it was started |
//! | RTMR2 | 8 to 15 | command line and initrd |
//! | RTMR3 | – | nothing before init's latch |

mod metadata;
mod mrtd;

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod tests;

use sha2::{Digest, Sha256, Sha384};

use super::boot::{Event, Measurer, replay};
use super::{Error, LowMemory, Payload, boot};
use crate::manifest::Hex32;
use crate::reference_values::{Hex48, Register, TdxLog, TdxValues};

pub use self::mrtd::PageOrder;

/// What a TD runs on.
#[derive(Clone, Copy, Debug)]
pub struct Td<'a> {
    /// The firmware file that QEMU is given by `-bios`: variables and code.
    pub firmware: &'a [u8],
    /// How the VMM puts it there.
    pub order: PageOrder,
    /// Memory below 4 GiB.
    pub memory: LowMemory,
}

/// MRTD alone.
///
/// # Errors
/// The firmware has no TDX metadata, or other than is known.
pub fn mrtd(firmware: &[u8], order: PageOrder) -> Result<[u8; 48], Error> {
    let sections = metadata::sections(firmware)?;
    Ok(mrtd::mrtd(firmware, &sections, order))
}

/// SHA-384 of the firmware's variables, which OVMF measures into RTMR0.
///
/// # Errors
/// As [`mrtd()`]; `None` when the firmware has no such section.
pub fn variables_digest(firmware: &[u8]) -> Result<Option<[u8; 48]>, Error> {
    let sections = metadata::sections(firmware)?;
    let cfv = sections.iter().find(|s| s.kind == metadata::Kind::Cfv);
    let data = cfv.and_then(|cfv| firmware.get(cfv.data.clone()));
    Ok(data.map(|data| Sha384::digest(data).into()))
}

/// Predicts every register of a TD at its start. RTMR0 is pinned to the logs
/// when there are any.
///
/// # Errors
/// See [`Error`].
pub fn tdx(payload: &Payload<'_>, td: &Td<'_>, logs: Vec<TdxLog>) -> Result<TdxValues, Error> {
    let ((mrtd, digest), boots) = rayon::join(
        || {
            rayon::join(
                || mrtd(td.firmware, td.order),
                || Sha256::digest(td.firmware),
            )
        },
        || boot::boots::<Sha384>(payload, td.memory),
    );
    let (mrtd, boots) = (mrtd?, boots?);
    let rtmr1 = boots.iter().flat_map(|events| {
        [true, false].map(|separator| {
            let counts = |event: &&Event<Sha384>| {
                is_in_rtmr1(event) && (separator || event.by != Measurer::Separator)
            };
            replay(events.iter().filter(counts)).into()
        })
    });
    let rtmr2 = boots
        .iter()
        .map(|events| replay(events.iter().filter(is_in_rtmr2)).into());
    Ok(TdxValues {
        assumptions: assumptions(payload, td),
        firmware: Hex32(digest.into()),
        mrtd: predicted([mrtd], "firmware, as the VMM adds its pages"),
        rtmrs: [
            rtmr0(&logs),
            predicted(rtmr1, what_starts(payload)),
            predicted(rtmr2, "command line, initrd"),
            predicted([[0; 48]], "latch, open: no keys released yet"),
        ],
        logs,
    })
}

/// The digests that go into RTMR1 and RTMR2, in order, when the kernel is given
/// as the file is and OVMF measures its separator there: the first of the values
/// that [`tdx()`] predicts.
///
/// # Errors
/// See [`Error`].
pub fn td_events(payload: &Payload<'_>, memory: LowMemory) -> Result<[Vec<[u8; 48]>; 2], Error> {
    let boots = boot::boots::<Sha384>(payload, memory)?;
    let events = boots.first().map(Vec::as_slice).unwrap_or_default();
    let digests = |counts: fn(&&Event<Sha384>) -> bool| {
        let counted = events.iter().filter(counts);
        counted.map(|event| event.digest.into()).collect()
    };
    Ok([digests(is_in_rtmr1), digests(is_in_rtmr2)])
}

fn is_in_rtmr1(event: &&Event<Sha384>) -> bool {
    (2..=6).contains(&event.pcr)
}

/// The known versions of systemd-stub do not measure on TDX.
fn is_in_rtmr2(event: &&Event<Sha384>) -> bool {
    (8..=15).contains(&event.pcr) && event.by != Measurer::Stub
}

fn rtmr0(logs: &[TdxLog]) -> Register<Hex48> {
    if logs.is_empty() {
        Register::Ignored {
            reason:
                "hand-off blocks, ACPI tables and boot order differ with memory, vCPUs, devices \
                     and the VMM's version; no log of this machine is given"
                    .to_owned(),
        }
    } else {
        Register::Pinned {
            covers: "hand-off blocks, variables, ACPI tables, boot order of the machine in the log"
                .to_owned(),
        }
    }
}

fn what_starts(payload: &Payload<'_>) -> &'static str {
    match payload {
        Payload::Direct { .. } => {
            "kernel, at each memory size and as the file is, with and without OVMF's separator; \
             end of boot services"
        }
        Payload::Uki(_) => {
            "UKI and the kernel in it, with and without OVMF's separator; end of boot services"
        }
    }
}

fn assumptions(payload: &Payload<'_>, td: &Td<'_>) -> Vec<String> {
    let mut all = vec![
        match td.order {
            PageOrder::EachPage => {
                "MRTD: each page is extended when it was added (Linux 6.16 and later)"
            }
            PageOrder::EachSection => {
                "MRTD: the pages of a section are added, then extended (patches before Linux 6.16)"
            }
        }
        .to_owned(),
        "MRTD: sections are added in the order of the firmware's metadata".to_owned(),
        "RTMR1: OVMF measures its separator here (later versions) or into RTMR0; both are \
         predicted"
            .to_owned(),
        "RTMR0: hand-off blocks, ACPI tables, boot order are not predicted".to_owned(),
    ];
    all.extend(match payload {
        Payload::Direct { .. } => vec![
            format!(
                "RTMR1: the kernel is the file as it is (QEMU 10.2 and later), or has its setup \
                 header filled for {} of memory below 4 GiB",
                td.memory
            ),
            "RTMR2: \"initrd=initrd\" stands after the command line (OVMF 2022.11 to 2025.02) or before it \
             (2026.08); both are predicted"
                .to_owned(),
        ],
        Payload::Uki(_) => vec![
            "RTMR1: the UKI is started from a disk without GPT, which would be measured".to_owned(),
            "RTMR1: Secure Boot is off, so the firmware measures the kernel in the UKI".to_owned(),
            "RTMR2: systemd-stub 252 measures nothing on TDX, the kernel's EFI stub does"
                .to_owned(),
        ],
    });
    all
}

fn predicted(values: impl IntoIterator<Item = [u8; 48]>, covers: &str) -> Register<Hex48> {
    let mut distinct = Vec::new();
    for value in values.into_iter().map(Hex48) {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    Register::Predicted {
        values: distinct,
        covers: covers.to_owned(),
    }
}
