//! Registers that depend on few inputs, so that each has few candidates.

use std::collections::BTreeMap;

use super::files::{Release, SUFFIX};
use super::{Answer, Change, Level};
use crate::predict::linux;

/// One value, and what makes it.
pub(super) struct Candidate<V> {
    pub(super) value: V,
    pub(super) changes: Vec<Change>,
}

impl<V> Candidate<V> {
    /// The same changes with what they lead to.
    pub(super) fn with<W>(&self, value: W) -> Candidate<W> {
        Candidate {
            value,
            changes: self.changes.clone(),
        }
    }
}

/// Finds the candidates with the fewest changes that have the observed value.
pub(super) fn pick<V: PartialEq>(
    what: &'static str,
    mut candidates: Vec<Candidate<V>>,
    observed: &V,
) -> Answer {
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
    Answer {
        causes,
        levels: levels.collect(),
        alternatives: vec![(what, candidates.len())],
    }
}

/// Every kernel image that may have been started.
pub(super) fn kernels(releases: &[Release<'_>]) -> Vec<Candidate<Vec<u8>>> {
    let first = releases.first().map(|release| release.kernel);
    let mut candidates = Vec::new();
    for (index, release) in releases.iter().enumerate() {
        if index > 0 && first == Some(release.kernel) {
            continue;
        }
        let mut add = |value: Vec<u8>, changes: [Option<Change>; 2]| {
            let other = (index > 0).then(|| Change::File {
                file: "kernel",
                release: release.name.to_owned(),
            });
            let changes = other.into_iter().chain(changes.into_iter().flatten());
            let changes = changes.collect();
            candidates.push(Candidate { value, changes });
        };
        add(release.kernel.to_vec(), [None, None]);
        for memory_mib in linux::LOW_MEMORY_MIB {
            let size = Some(release.initrd.len());
            if let Ok(image) = linux::rewritten(release.kernel, size, memory_mib) {
                let memory_mib = Some(memory_mib);
                add(image, [Some(Change::SetupHeader { memory_mib }), None]);
            }
        }
        if let Ok(image) = linux::rewritten(release.kernel, None, 0) {
            let memory_mib = None;
            let header = Some(Change::SetupHeader { memory_mib });
            add(image, [header, Some(Change::NoInitrd)]);
        }
    }
    candidates
}

/// A command line as it is measured but not yet widened, and an initrd.
type LoadOptions<'a> = (Vec<u8>, Option<&'a [u8]>);

/// The load options and the initrd of every way in which they may have been
/// given.
pub(super) fn load_options<'a>(releases: &[Release<'a>]) -> Vec<Candidate<LoadOptions<'a>>> {
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
                    value: (line, initrd),
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
