//! Which files give an observed PCR 4 or 9, and which firmware an observed PCR 0.
//!
//! Registers of a direct boot, as [`crate::predict::tpm`] has them. PCR 4 covers
//! the kernel alone and PCR 9 initrd and command line, so each is explained by
//! itself.

use super::files::Release;
use super::single::{self, Candidate};
use super::{Answer, Change};
use crate::predict;
use crate::reference_values::FirmwareProfile;

/// Explains one register: 0, 4 or 9. `None` for the others, which no
/// prediction of ours has alternatives to.
pub fn explain(
    pcr: u8,
    observed: &[u8; 32],
    releases: &[Release<'_>],
    firmware: &[FirmwareProfile],
) -> Option<Answer> {
    let (what, candidates) = match pcr {
        0 => (
            "recorded firmware builds and machine shapes",
            pcr0(firmware),
        ),
        4 => ("kernels and setup headers", pcr4(releases)),
        9 => ("initrds and command lines", pcr9(releases)),
        _ => return None,
    };
    Some(single::pick(what, candidates, observed))
}

fn pcr0(firmware: &[FirmwareProfile]) -> Vec<Candidate<[u8; 32]>> {
    let value = |profile: &FirmwareProfile| {
        let name = profile.name.clone();
        Some(Candidate {
            value: profile.pcrs.get(&0)?.0,
            changes: vec![Change::Firmware { name }],
        })
    };
    firmware.iter().filter_map(value).collect()
}

fn pcr4(releases: &[Release<'_>]) -> Vec<Candidate<[u8; 32]>> {
    let kernels = single::kernels(releases).into_iter();
    kernels
        .filter_map(|kernel| {
            let value = predict::pcr4(&kernel.value).ok()?;
            Some(kernel.with(value))
        })
        .collect()
}

fn pcr9(releases: &[Release<'_>]) -> Vec<Candidate<[u8; 32]>> {
    let inputs = single::load_options(releases).into_iter();
    inputs
        .map(|input| {
            let (line, initrd) = &input.value;
            let value = predict::pcr9(line, *initrd);
            input.with(value)
        })
        .collect()
}
