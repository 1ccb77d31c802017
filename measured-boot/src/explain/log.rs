//! Which event of a log is the first that was not predicted, and what it is.
//!
//! A register tells only that something differs. A log tells which event, so it
//! is compared event by event with what the image would measure, and what is
//! found in its place is looked up among all that is known of the images: their
//! kernels with every setup header, initrds and forms of the command line.

use std::collections::BTreeMap;

use sha2::digest::Output;
use sha2::{Digest, Sha256, Sha384};

use super::files::{Release, SUFFIX};
use crate::event_log::{Algorithm, Event, EventLog, Tcb};
use crate::predict::{
    Error, LOW_MEMORY_MIB, LowMemory, Measured, Payload, kernel_digest, linux, measured,
};

/// The first event of a register that is not the predicted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// PCR or RTMR.
    pub register: String,
    /// Which of the register's events, from 1.
    pub position: usize,
    /// Where the event is in the log, its type and what the log says of it;
    /// nothing when the log has no further event of the register.
    pub event: Option<(usize, String)>,
    /// What the event's digest is of, if it is of anything known.
    pub got: Option<String>,
    /// What was predicted; nothing when no further event was.
    pub expected: Option<String>,
}

/// How a log compares with what the first image would measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Whose registers the log is of.
    pub tcb: Tcb,
    /// Events that are as predicted.
    pub matching: usize,
    /// The first other event of each register, in the order of the log.
    pub divergences: Vec<Divergence>,
}

/// Why a log cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The image itself cannot be predicted.
    #[error(transparent)]
    Predict(#[from] Error),
    /// No image, or one whose command line is not text.
    #[error("cannot compare event log: the image's command line is not UTF-8")]
    Cmdline,
    /// No bank of the log is predicted for.
    #[error("cannot compare event log: it has neither SHA-256 nor SHA-384 digests")]
    Bank,
}

/// Compares a log of a direct boot with the first of `releases`. A log with
/// SHA-256 digests is taken to be of a TPM, one with SHA-384 alone of a TD.
///
/// # Errors
/// See [`LogError`].
pub fn compare(log: &EventLog<'_>, releases: &[Release<'_>]) -> Result<Compared, LogError> {
    let has = |bank| {
        log.algorithms
            .iter()
            .any(|(algorithm, _)| *algorithm == bank)
    };
    if has(Algorithm::Sha256) {
        compare_bank::<Sha256>(log, releases, Tcb::Tpm, Algorithm::Sha256)
    } else if has(Algorithm::Sha384) {
        compare_bank::<Sha384>(log, releases, Tcb::Tdx, Algorithm::Sha384)
    } else {
        Err(LogError::Bank)
    }
}

/// The registers that the files determine, and the PCRs whose events are theirs.
fn predicted_registers(tcb: Tcb) -> [(u32, core::ops::RangeInclusive<u8>); 2] {
    match tcb {
        Tcb::Tpm => [(4, 4..=4), (9, 9..=9)],
        Tcb::Tdx => [(2, 2..=6), (3, 8..=15)],
    }
}

fn compare_bank<D: Digest>(
    log: &EventLog<'_>,
    releases: &[Release<'_>],
    tcb: Tcb,
    algorithm: Algorithm,
) -> Result<Compared, LogError>
where
    Output<D>: Send + Clone,
{
    let first = releases.first().ok_or(LogError::Cmdline)?;
    let cmdline = core::str::from_utf8(first.cmdline).map_err(|_| LogError::Cmdline)?;
    let payload = Payload::Direct {
        kernel: first.kernel,
        initrd: first.initrd,
        cmdline,
    };
    let boots = measured::<D>(&payload, LowMemory::Usual)?;
    let known = known::<D>(releases);
    let mut compared = Compared {
        tcb,
        matching: 0,
        divergences: Vec::new(),
    };
    for (register, pcrs) in predicted_registers(tcb) {
        let events: Vec<_> = log
            .extended()
            .filter(|event| event.register == register)
            .collect();
        let of_boot = |boot: &Vec<Measured>| {
            let expected: Vec<_> = boot
                .iter()
                .filter(|event| pcrs.contains(&event.pcr))
                .cloned()
                .collect();
            Comparison::new(expected, &events, algorithm, tcb)
        };
        // Which machine it was is not known: the one that fits longest, and of
        // those the first, with the kernel as the file is.
        let boots = boots.iter().rev().map(of_boot);
        let Some(best) = boots.max_by_key(|one| one.matching) else {
            continue;
        };
        compared.matching = compared.matching.saturating_add(best.matching);
        compared.divergences.extend(best.divergence(
            &events,
            algorithm,
            tcb.register_name(register),
            &known,
        ));
    }
    let offset = |one: &Divergence| one.event.as_ref().map_or(usize::MAX, |(at, _)| *at);
    compared.divergences.sort_by_key(offset);
    Ok(compared)
}

/// One register's events beside those of one boot.
struct Comparison {
    expected: Vec<Measured>,
    /// Events that are as expected, from the start.
    matching: usize,
    /// Expected events up to the first other one.
    reached: usize,
}

impl Comparison {
    fn new(expected: Vec<Measured>, events: &[&Event<'_>], algorithm: Algorithm, tcb: Tcb) -> Self {
        let (mut matching, mut reached) = (0usize, 0usize);
        while let Some(next) = expected.get(reached) {
            let digest = events
                .get(matching)
                .and_then(|event| event.digest(algorithm));
            if digest == Some(&next.digest) {
                matching = matching.saturating_add(1);
            } else if !(tcb == Tcb::Tdx && next.is_separator) {
                break;
            }
            reached = reached.saturating_add(1);
        }
        Self {
            expected,
            matching,
            reached,
        }
    }

    fn divergence(
        &self,
        events: &[&Event<'_>],
        algorithm: Algorithm,
        register: String,
        known: &BTreeMap<Vec<u8>, String>,
    ) -> Option<Divergence> {
        let event = events.get(self.matching);
        let expected = self.expected.get(self.reached);
        if event.is_none() && expected.is_none() {
            return None;
        }
        let digest = event.and_then(|event| event.digest(algorithm));
        let unnamed = || "another measurement".to_owned();
        Some(Divergence {
            register,
            position: self.matching.saturating_add(1),
            event: event.map(|event| {
                let text = format!("{} {:?}", event.kind, event.description());
                (event.offset, text)
            }),
            got: digest.and_then(|digest| known.get(digest).cloned()),
            expected: expected
                .map(|event| known.get(&event.digest).cloned().unwrap_or_else(unnamed)),
        })
    }
}

/// Everything whose digest can be told, by its digest.
fn known<D: Digest>(releases: &[Release<'_>]) -> BTreeMap<Vec<u8>, String> {
    let mut known = BTreeMap::new();
    let mut tell = |digest: Vec<u8>, what: String| {
        known.entry(digest).or_insert(what);
    };
    let hash = |bytes: &[u8]| D::digest(bytes).to_vec();
    for text in [
        "Calling EFI Application from Boot Option",
        "Returning from EFI Application from Boot Option",
        "Exit Boot Services Invocation",
        "Exit Boot Services Returned with Success",
    ] {
        tell(hash(text.as_bytes()), format!("the action {text:?}"));
    }
    tell(hash(&[0; 4]), "a separator".into());
    for release in releases {
        let name = release.name;
        if let Ok(digest) = kernel_digest::<D>(release.kernel) {
            tell(digest, format!("the kernel of {name}, as the file is"));
        }
        let sizes = LOW_MEMORY_MIB.map(|mib| (Some(release.initrd.len()), mib));
        for (initrd, mib) in sizes.into_iter().chain([(None, 0)]) {
            let image = linux::rewritten(release.kernel, initrd, mib);
            let Ok(digest) = image.and_then(|image| kernel_digest::<D>(&image)) else {
                continue;
            };
            let machine = match initrd {
                Some(_) => format!("for {mib} MiB of memory below 4 GiB"),
                None => "without an initrd".to_owned(),
            };
            tell(
                digest,
                format!("the kernel of {name}, with its setup header rewritten {machine}"),
            );
        }
        tell(hash(release.initrd), format!("the initrd of {name}"));
        for (suffix, with) in [(SUFFIX, "with"), (b"", "without")] {
            for (nul, and) in [(&b"\0"[..], "and"), (b"", "but not")] {
                let line = [release.cmdline, suffix, nul].concat();
                let wide: Vec<u8> = line.iter().flat_map(|byte| [*byte, 0]).collect();
                let what = format!(
                    "the command line of {name}, {with} \" initrd=initrd\" {and} a trailing NUL"
                );
                tell(hash(&wide), what);
            }
        }
    }
    known
}
