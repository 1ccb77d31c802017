//! Which firmware gives an observed MRTD, and which files RTMR1 and RTMR2.
//!
//! As [`super::tpm`]: MRTD covers the firmware, RTMR1 the kernel, RTMR2 initrd and
//! command line. RTMR0 is of the machine, of which no prediction has
//! alternatives; a log tells what is in it.

use super::files::Release;
use super::single::{self, Candidate};
use super::{Answer, Change};
use crate::predict::{self, PageOrder};

/// A register that is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The firmware.
    Mrtd,
    /// The kernel.
    Rtmr1,
    /// Command line and initrd.
    Rtmr2,
}

/// Explains one register. `firmware` are names and files; the first is the
/// predicted one, with the pages extended as they are added.
pub fn explain(
    register: Register,
    observed: &[u8; 48],
    releases: &[Release<'_>],
    firmware: &[(String, Vec<u8>)],
) -> Answer {
    let (what, candidates) = match register {
        Register::Mrtd => ("firmware builds and page orders", mrtd(firmware)),
        Register::Rtmr1 => ("kernels, setup headers and separators", rtmr1(releases)),
        Register::Rtmr2 => ("initrds and command lines", rtmr2(releases)),
    };
    single::pick(what, candidates, observed)
}

fn mrtd(firmware: &[(String, Vec<u8>)]) -> Vec<Candidate<[u8; 48]>> {
    let mut candidates = Vec::new();
    for (index, (name, file)) in firmware.iter().enumerate() {
        for order in [PageOrder::EachPage, PageOrder::EachSection] {
            let name = name.clone();
            let build = (index > 0).then_some(Change::Firmware { name });
            let to = (order != PageOrder::EachPage).then_some(Change::PageOrder { to: order });
            if let Ok(value) = predict::mrtd(file, order) {
                let changes = build.into_iter().chain(to).collect();
                candidates.push(Candidate { value, changes });
            }
        }
    }
    candidates
}

fn rtmr1(releases: &[Release<'_>]) -> Vec<Candidate<[u8; 48]>> {
    let mut candidates = Vec::new();
    for kernel in single::kernels(releases) {
        for separator in [true, false] {
            if let Ok(value) = predict::rtmr1(&kernel.value, separator) {
                candidates.push(kernel.with(value));
            }
        }
    }
    candidates
}

fn rtmr2(releases: &[Release<'_>]) -> Vec<Candidate<[u8; 48]>> {
    let inputs = single::load_options(releases).into_iter();
    inputs
        .map(|input| {
            let (line, initrd) = &input.value;
            let value = predict::rtmr2(line, *initrd);
            input.with(value)
        })
        .collect()
}
