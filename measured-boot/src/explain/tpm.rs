//! Which files give an observed PCR 4 or 9, and which firmware an observed PCR 0.
//!
//! Registers of a direct boot, as [`crate::predict::tpm`] has them. PCR 4 covers
//! the kernel alone and PCR 9 initrd and command line, so each is explained by
//! itself.

use std::collections::BTreeMap;

use super::files::{Release, SUFFIX};
use super::{Answer, Change, Level};
use crate::predict::{self, linux};
use crate::reference_values::FirmwareProfile;

/// One register's value, and what makes it.
struct Candidate {
    value: [u8; 32],
    changes: Vec<Change>,
}

/// Explains one register: 0, 4 or 9. `None` for the others, which no
/// prediction of ours has alternatives to.
pub fn explain(
    pcr: u8,
    observed: &[u8; 32],
    releases: &[Release<'_>],
    firmware: &[FirmwareProfile],
) -> Option<Answer> {
    let (what, mut candidates) = match pcr {
        0 => (
            "recorded firmware builds and machine shapes",
            pcr0(firmware),
        ),
        4 => ("kernels and setup headers", pcr4(releases)),
        9 => ("initrds and command lines", pcr9(releases)),
        _ => return None,
    };
    candidates.sort_by_key(|candidate| candidate.changes.len());
    let mut levels: BTreeMap<usize, u64> = BTreeMap::new();
    let mut causes: Vec<Vec<Change>> = Vec::new();
    for candidate in &candidates {
        let changes = candidate.changes.len();
        if causes.first().is_some_and(|cause| cause.len() < changes) {
            break;
        }
        let tried = levels.entry(changes).or_default();
        *tried = tried.saturating_add(1);
        if candidate.value == *observed && !causes.contains(&candidate.changes) {
            causes.push(candidate.changes.clone());
        }
    }
    let levels = levels.into_iter().map(|(changes, candidates)| Level {
        changes,
        candidates,
    });
    Some(Answer {
        causes,
        levels: levels.collect(),
        alternatives: vec![(what, candidates.len())],
    })
}

fn pcr0(firmware: &[FirmwareProfile]) -> Vec<Candidate> {
    let value = |profile: &FirmwareProfile| {
        let name = profile.name.clone();
        Some(Candidate {
            value: profile.pcrs.get(&0)?.0,
            changes: vec![Change::Firmware { name }],
        })
    };
    firmware.iter().filter_map(value).collect()
}

fn pcr4(releases: &[Release<'_>]) -> Vec<Candidate> {
    let first = releases.first().map(|release| release.kernel);
    let mut candidates = Vec::new();
    for (index, release) in releases.iter().enumerate() {
        if index > 0 && first == Some(release.kernel) {
            continue;
        }
        let mut add = |image: &[u8], changes: [Option<Change>; 2]| {
            if let Ok(value) = predict::pcr4(image) {
                let other = (index > 0).then(|| Change::File {
                    file: "kernel",
                    release: release.name.to_owned(),
                });
                let changes = other.into_iter().chain(changes.into_iter().flatten());
                let changes = changes.collect();
                candidates.push(Candidate { value, changes });
            }
        };
        add(release.kernel, [None, None]);
        for memory_mib in linux::LOW_MEMORY_MIB {
            let size = Some(release.initrd.len());
            if let Ok(image) = linux::rewritten(release.kernel, size, memory_mib) {
                let memory_mib = Some(memory_mib);
                add(&image, [Some(Change::SetupHeader { memory_mib }), None]);
            }
        }
        if let Ok(image) = linux::rewritten(release.kernel, None, 0) {
            let memory_mib = None;
            let header = Some(Change::SetupHeader { memory_mib });
            add(&image, [header, Some(Change::NoInitrd)]);
        }
    }
    candidates
}

fn pcr9(releases: &[Release<'_>]) -> Vec<Candidate> {
    let Some(first) = releases.first() else {
        return Vec::new();
    };
    let mut candidates = Vec::new();
    for (cmdline_of, by_cmdline) in releases.iter().enumerate() {
        for (initrd_of, by_initrd) in releases.iter().enumerate() {
            let (line, initrd) = (by_cmdline.cmdline, by_initrd.initrd);
            let repeats = (cmdline_of > 0 && line == first.cmdline)
                || (initrd_of > 0 && initrd == first.initrd);
            if repeats {
                continue;
            }
            let sources = sources((cmdline_of, by_cmdline), (initrd_of, by_initrd));
            for bits in 0..8u8 {
                let [no_initrd, no_suffix, no_nul] = [1, 2, 4].map(|bit| bits & bit != 0);
                // Without an initrd there is none to choose.
                if no_initrd && initrd_of > 0 {
                    continue;
                }
                let suffix = if no_suffix { b"" } else { SUFFIX };
                let nul: &[u8] = if no_nul { b"" } else { &[0] };
                let line = [line, suffix, nul].concat();
                let initrd = (!no_initrd).then_some(initrd);
                let mut changes = sources.clone();
                changes.extend(no_initrd.then_some(Change::NoInitrd));
                changes.extend(no_suffix.then_some(Change::Suffix { present: false }));
                changes.extend(no_nul.then_some(Change::NoNul));
                candidates.push(Candidate {
                    value: predict::pcr9(&line, initrd),
                    changes,
                });
            }
        }
    }
    candidates
}

fn sources(cmdline: (usize, &Release<'_>), initrd: (usize, &Release<'_>)) -> Vec<Change> {
    let file = |file, (index, release): (usize, &Release<'_>)| {
        let release = release.name.to_owned();
        (index > 0).then_some(Change::File { file, release })
    };
    if cmdline.0 > 0 && cmdline.0 == initrd.0 {
        return vec![Change::Release {
            release: cmdline.1.name.to_owned(),
            differing: vec!["initrd", "command line"],
        }];
    }
    let files = [file("command line", cmdline), file("initrd", initrd)];
    files.into_iter().flatten().collect()
}
