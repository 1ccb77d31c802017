//! What may have been measured in place of the image's files.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::Change;
use crate::predict::linux::{LOW_MEMORY_MIB, rewritten};
use crate::predict::snp::HashTable;

/// The files of one image, and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// For people.
    pub name: &'a str,
    /// The kernel file.
    pub kernel: &'a [u8],
    /// The initrd.
    pub initrd: &'a [u8],
    /// The command line, without what a loader appends.
    pub cmdline: &'a [u8],
}

pub(super) const SUFFIX: &[u8] = b" initrd=initrd";

/// Which release each file is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    kernel: usize,
    initrd: usize,
    cmdline: usize,
}

/// One way of measuring files.
#[derive(Clone, Copy)]
struct Variant {
    source: Source,
    /// Memory size in MiB for which the header is rewritten.
    header: Option<u32>,
    initrd: bool,
    suffix: bool,
    nul: bool,
}

/// A hash table, and what makes it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// `None`: kernel, initrd and command line are not measured.
    pub(super) table: Option<HashTable>,
    pub(super) changes: Vec<Change>,
}

/// Every hash table that up to `most` changes of `releases` make, each once,
/// fewest changes first. The first is the predicted one, of the first release.
pub(super) fn candidates(releases: &[Release<'_>], most: usize) -> Vec<Candidate> {
    let mut variants: Vec<(Variant, Vec<Change>)> = Vec::new();
    for (source, changed) in sources(releases) {
        for header in std::iter::once(None).chain(LOW_MEMORY_MIB.map(Some)) {
            for bits in 0..8u8 {
                let variant = Variant {
                    source,
                    header,
                    initrd: bits & 1 == 0,
                    suffix: bits & 2 != 0,
                    nul: bits & 4 == 0,
                };
                let mut changes: Vec<Change> = changed.iter().cloned().collect();
                changes.extend(variant.changes());
                if changes.len() <= most {
                    variants.push((variant, changes));
                }
            }
        }
    }
    variants.sort_by_key(|(_, changes)| changes.len());

    let hashes = Hashes::new(releases, &variants);
    let mut seen = BTreeSet::new();
    let mut candidates = Vec::new();
    for (variant, changes) in variants {
        let Some(table) = hashes.table(&variant) else {
            continue;
        };
        if seen.insert((table.kernel, table.initrd, table.cmdline)) {
            let table = Some(table);
            candidates.push(Candidate { table, changes });
        }
    }
    if most > 0 {
        candidates.push(Candidate {
            table: None,
            changes: vec![Change::NoKernelHashes],
        });
    }
    candidates
}

/// Where the files may be from: all of one release, or one of another.
fn sources(releases: &[Release<'_>]) -> Vec<(Source, Option<Change>)> {
    let base = Source {
        kernel: 0,
        initrd: 0,
        cmdline: 0,
    };
    let mut sources = vec![(base, None)];
    let Some(first) = releases.first() else {
        return sources;
    };
    for (index, release) in releases.iter().enumerate().skip(1) {
        let files = [
            ("kernel", first.kernel != release.kernel),
            ("initrd", first.initrd != release.initrd),
            ("command line", first.cmdline != release.cmdline),
        ];
        let differing: Vec<_> = (files.iter())
            .filter_map(|(file, differs)| differs.then_some(*file))
            .collect();
        if differing.is_empty() {
            continue;
        }
        let whole = Source {
            kernel: index,
            initrd: index,
            cmdline: index,
        };
        let name = release.name.to_owned();
        let release = name.clone();
        let several = differing.len() > 1;
        let parts = differing.clone();
        sources.push((whole, Some(Change::Release { release, differing })));
        for file in parts.into_iter().filter(|_| several) {
            let mut part = base;
            match file {
                "kernel" => part.kernel = index,
                "initrd" => part.initrd = index,
                _ => part.cmdline = index,
            }
            let release = name.clone();
            sources.push((part, Some(Change::File { file, release })));
        }
    }
    sources
}

impl Variant {
    fn changes(&self) -> impl Iterator<Item = Change> {
        let memory_mib = self.header.filter(|_| self.initrd);
        let header = self.header.map(|_| Change::SetupHeader { memory_mib });
        let initrd = (!self.initrd).then_some(Change::NoInitrd);
        let suffix = self.suffix.then_some(Change::Suffix { present: true });
        let nul = (!self.nul).then_some(Change::NoNul);
        [header, initrd, suffix, nul].into_iter().flatten()
    }

    /// What decides the kernel's bytes. Where the initrd lies depends on its
    /// size, hence on its release.
    fn kernel_key(&self) -> KernelKey {
        let initrd = self.header.filter(|_| self.initrd);
        let initrd = initrd.map(|_| self.source.initrd);
        (self.source.kernel, self.header, initrd)
    }
}

type KernelKey = (usize, Option<u32>, Option<usize>);

/// Each file hashed once.
struct Hashes<'a> {
    releases: &'a [Release<'a>],
    kernels: BTreeMap<KernelKey, Option<[u8; 32]>>,
    initrds: Vec<[u8; 32]>,
}

impl<'a> Hashes<'a> {
    fn new(releases: &'a [Release<'a>], variants: &[(Variant, Vec<Change>)]) -> Self {
        let keys: BTreeSet<_> = (variants.iter())
            .map(|(variant, _)| variant.kernel_key())
            .collect();
        let kernels = keys
            .into_par_iter()
            .map(|key| (key, kernel_hash(releases, key)))
            .collect();
        let initrds = releases
            .par_iter()
            .map(|release| sha256(release.initrd))
            .collect();
        Self {
            releases,
            kernels,
            initrds,
        }
    }

    /// `None` for a kernel whose header no QEMU would rewrite.
    fn table(&self, variant: &Variant) -> Option<HashTable> {
        let cmdline = self.releases.get(variant.source.cmdline)?.cmdline;
        let suffix = if variant.suffix { SUFFIX } else { b"" };
        let nul: &[u8] = if variant.nul { &[0] } else { b"" };
        let initrd = match variant.initrd {
            true => *self.initrds.get(variant.source.initrd)?,
            false => sha256(b""),
        };
        Some(HashTable {
            kernel: (*self.kernels.get(&variant.kernel_key())?)?,
            initrd,
            cmdline: Sha256::new()
                .chain_update(cmdline)
                .chain_update(suffix)
                .chain_update(nul)
                .finalize()
                .into(),
        })
    }
}

fn kernel_hash(releases: &[Release<'_>], key: KernelKey) -> Option<[u8; 32]> {
    let (kernel, header, initrd) = key;
    let kernel = releases.get(kernel)?.kernel;
    let Some(memory_mib) = header else {
        return Some(sha256(kernel));
    };
    let initrd_size = match initrd {
        Some(release) => Some(releases.get(release)?.initrd.len()),
        None => None,
    };
    let image = rewritten(kernel, initrd_size, memory_mib).ok()?;
    Some(sha256(&image))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
