//! Which machine, firmware or files give an observed launch digest.
//!
//! Candidates differ from the prediction in the files, the firmware build, the
//! VMM with its vCPU type, the guest features and the number of vCPUs. The
//! digest is a chain in just that order ([`crate::predict::snp`]), so the search
//! is a tree: what candidates have in common is hashed once, and the vCPU counts
//! come out of one walk along the chain.

use rayon::prelude::*;

use super::files::{self, Candidate, Release};
use super::{Answer, Change, Level};
use crate::predict::snp::{
    CpuType, Error, Firmware, GUEST_FEATURES, GuestFeatures, LaunchDigest, Machine, Vmm,
};

/// The vCPU counts that are tried: 1 to this.
pub const VCPUS_TRIED: u32 = 512;
/// The most changes that are tried at once.
pub const MOST_CHANGES: usize = 3;

/// A firmware build, and what it is called.
#[derive(Clone, Debug)]
pub struct Build {
    /// For people.
    pub name: String,
    /// The build.
    pub firmware: Firmware,
}

/// What was predicted for, and what else may have been.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The machine predicted for.
    pub machine: Machine,
    /// The firmware predicted for, then the others to try.
    pub firmware: &'a [Build],
    /// The image predicted for, then the others to try.
    pub releases: &'a [Release<'a>],
    /// Stop at so many changes; at most [`MOST_CHANGES`].
    pub most_changes: usize,
}

/// An alternative, and the change that it is; none for what was predicted.
type Alternative<T> = (T, Option<Change>);

impl Question<'_> {
    /// Searches for what gives `observed`.
    ///
    /// # Errors
    /// The predicted firmware would not check the image's kernel.
    pub fn explain(&self, observed: LaunchDigest) -> Result<Answer, Error> {
        let most = self.most_changes.min(MOST_CHANGES);
        let files = files::candidates(self.releases, most);
        if let (Some(build), Some(first)) = (self.firmware.first(), files.first()) {
            build
                .firmware
                .launch(first.table.as_ref(), self.machine.vmm)?;
        }
        let space = Space {
            machine: self.machine,
            firmware: self.firmware_builds(),
            vmms: vmms(self.machine.vmm),
            features: features(self.machine.features),
            files,
        };
        let mut answer = Answer {
            causes: Vec::new(),
            levels: Vec::new(),
            alternatives: space.alternatives(),
        };
        for changes in 0..=most {
            let (candidates, causes) = space.search(changes, observed);
            let level = Level {
                changes,
                candidates,
            };
            answer.levels.push(level);
            if !causes.is_empty() {
                answer.causes = causes;
                break;
            }
        }
        Ok(answer)
    }

    fn firmware_builds(&self) -> Vec<Alternative<&Firmware>> {
        let Some((predicted, others)) = self.firmware.split_first() else {
            return Vec::new();
        };
        let mut builds = vec![(&predicted.firmware, None)];
        for build in others {
            let digest = build.firmware.digest();
            if builds.iter().all(|(other, _)| other.digest() != digest) {
                let name = build.name.clone();
                builds.push((&build.firmware, Some(Change::Firmware { name })));
            }
        }
        builds
    }
}

fn vmms(from: Vmm) -> Vec<Alternative<Vmm>> {
    let others = [Vmm::Ec2, Vmm::Ec2RdxZero, Vmm::Gce, Vmm::Krun];
    let all = CpuType::distinct().map(Vmm::Qemu).chain(others);
    let others = all
        .filter(|to| *to != from)
        .map(|to| (to, Some(Change::Vmm { from, to })));
    std::iter::once((from, None)).chain(others).collect()
}

/// Up to two of the named bits inverted: what another kernel or another option
/// of the VMM turns on or off.
fn features(from: GuestFeatures) -> Vec<Alternative<GuestFeatures>> {
    let mut all = vec![(from, None)];
    let bits = || {
        GUEST_FEATURES
            .iter()
            .map(|(bit, _)| *bit)
            .filter(|bit| *bit != 0)
    };
    for first in bits() {
        let to = from.toggled(first);
        all.push((to, Some(Change::Features { from, to })));
        for second in bits().filter(|second| *second > first) {
            let to = from.toggled(first).toggled(second);
            all.push((to, Some(Change::Features { from, to })));
        }
    }
    all
}

struct Space<'a> {
    machine: Machine,
    firmware: Vec<Alternative<&'a Firmware>>,
    vmms: Vec<Alternative<Vmm>>,
    features: Vec<Alternative<GuestFeatures>>,
    files: Vec<Candidate>,
}

/// What has the same pages up to the first VMSA.
struct Branch<'s> {
    firmware: &'s Alternative<&'s Firmware>,
    files: &'s Candidate,
    vmm: &'s Alternative<Vmm>,
    /// Changes left for features and vCPUs.
    left: usize,
}

impl Space<'_> {
    fn alternatives(&self) -> Vec<(&'static str, usize)> {
        let other = |length: usize| length.saturating_sub(1);
        let single = |candidate: &&Candidate| candidate.changes.len() == 1;
        let vcpus = usize::try_from(VCPUS_TRIED).unwrap_or(0);
        vec![
            ("vCPU counts", other(vcpus)),
            ("guest features", other(self.features.len())),
            ("VMMs and vCPU types", other(self.vmms.len())),
            ("firmware builds", other(self.firmware.len())),
            (
                "ways of measuring kernel, initrd and command line",
                self.files.iter().filter(single).count(),
            ),
        ]
    }

    /// Tries every candidate with exactly so many changes.
    fn search(&self, changes: usize, observed: LaunchDigest) -> (u64, Vec<Vec<Change>>) {
        let mut branches = Vec::new();
        for firmware in &self.firmware {
            for files in &self.files {
                for vmm in &self.vmms {
                    let used = [firmware.1.is_some(), vmm.1.is_some()];
                    let used = used.into_iter().filter(|changed| *changed).count();
                    let used = used.saturating_add(files.changes.len());
                    if let Some(left @ 0..=2) = changes.checked_sub(used) {
                        branches.push(Branch {
                            firmware,
                            files,
                            vmm,
                            left,
                        });
                    }
                }
            }
        }
        branches
            .par_iter()
            .map(|branch| self.follow(branch, observed))
            .reduce(Default::default, |(a, mut causes), (b, more)| {
                causes.extend(more);
                (a.saturating_add(b), causes)
            })
    }

    fn follow(&self, branch: &Branch<'_>, observed: LaunchDigest) -> (u64, Vec<Vec<Change>>) {
        let (mut tried, mut causes) = (0u64, Vec::new());
        let (firmware, table) = (branch.firmware.0, branch.files.table.as_ref());
        // A build that would not check the kernel is no candidate with one.
        let Ok(launch) = firmware.launch(table, branch.vmm.0) else {
            return (0, causes);
        };
        let from = self.machine.vcpus();
        for (features, changed) in &self.features {
            let left = branch.left.checked_sub(usize::from(changed.is_some()));
            let (first, last) = match left {
                Some(0) => (from, from),
                Some(1) => (1, VCPUS_TRIED),
                _ => continue,
            };
            for (to, digest) in (1..=last).zip(launch.digests(*features)) {
                if to < first || (left == Some(1) && to == from) {
                    continue;
                }
                tried = tried.saturating_add(1);
                if digest == observed {
                    let mut cause = branch.files.changes.clone();
                    cause.extend(branch.firmware.1.clone());
                    cause.extend(branch.vmm.1.clone());
                    cause.extend(changed.clone());
                    cause.extend((to != from).then_some(Change::Vcpus { from, to }));
                    causes.push(cause);
                }
            }
        }
        (tried, causes)
    }
}
