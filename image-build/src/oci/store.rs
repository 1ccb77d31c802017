//! Named blobs: a directory of this machine, or the members of a tar archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::compression;
use super::digest::{Metered, Sha256Digest};
use crate::archive::{Archive, Kind};
use crate::spool::{Extent, Spool};
use crate::tree::{plain_components, show};

const MAX_MEMBERS: usize = 100_000;
const MAX_LINKS: usize = 8;

/// Where the blobs are.
#[derive(Debug)]
pub(super) enum Store {
    /// An OCI layout as a directory.
    Directory(PathBuf),
    /// An archive, plain by now.
    Archive {
        spool: Spool,
        members: BTreeMap<String, Place>,
    },
}

/// Where a member of an archive is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Data(Extent),
    /// `docker save` links layers that several images share.
    Link(String),
}

impl Store {
    pub(super) fn open(path: &Path, folder: &Path, limit: u64) -> Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Ok(Self::Directory(path.into()));
        }
        ensure!(file.metadata()?.is_file(), "neither a directory nor a file");
        let spool = if compression::is_compressed(&file)? {
            let mut spool = Spool::new(folder, limit)?;
            spool.append_all(&mut compression::decompress(file)?)?;
            spool
        } else {
            Spool::of_file(file)?
        };
        let whole = BufReader::with_capacity(1 << 16, spool.read(spool.whole()));
        let members = members(whole).context("not a directory, and not a tar archive")?;
        Ok(Self::Archive { spool, members })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(name).is_file(),
            Self::Archive { members, .. } => members.contains_key(name),
        }
    }

    /// A blob and its size. Names are joined to a path, so they must be plain.
    pub(super) fn read(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64)> {
        plain_components(name.as_bytes())?;
        match self {
            Self::Directory(path) => {
                let file = File::open(path.join(name))
                    .with_context(|| format!("cannot open blob {name}"))?;
                let size = file.metadata()?.len();
                Ok((Box::new(file), size))
            }
            Self::Archive { spool, members } => {
                let mut name = name;
                for _ in 0..MAX_LINKS {
                    match members.get(name) {
                        Some(Place::Data(extent)) => {
                            return Ok((Box::new(spool.read(*extent)), extent.size));
                        }
                        Some(Place::Link(target)) => name = target,
                        None => bail!("cannot open blob {name}: not in the archive"),
                    }
                }
                bail!("cannot open blob {name}: more than {MAX_LINKS} links")
            }
        }
    }

    /// Reads a blob through, to compare size and digest before it is parsed.
    pub(super) fn verify(&self, name: &str, digest: &Sha256Digest, size: u64) -> Result<()> {
        let (blob, got) = self.read(name)?;
        ensure!(got == size, "{name}: got {got} bytes, expected {size}");
        let mut metered = Metered::new(blob, size);
        let mut buffered = BufReader::with_capacity(1 << 18, &mut metered);
        io::copy(&mut buffered, &mut io::sink())?;
        let got = metered.finish();
        ensure!(
            got == *digest,
            "{name}: got digest {got}, expected {digest}"
        );
        Ok(())
    }
}

fn members(input: impl Read) -> Result<BTreeMap<String, Place>> {
    let mut archive = Archive::new(input);
    let mut members = BTreeMap::new();
    while let Some(member) = archive.next_member()? {
        ensure!(
            members.len() < MAX_MEMBERS,
            "more than {MAX_MEMBERS} members"
        );
        let parts = plain_components(&member.name)?;
        let name = text(&parts.join(&b'/'))?;
        let place = match member.kind {
            Kind::File => Place::Data(Extent {
                offset: archive.position(),
                size: member.size,
            }),
            Kind::Symlink(target) => Place::Link(relative(&parts, &target)?),
            Kind::Hardlink(target) => Place::Link(text(&target)?),
            Kind::Directory | Kind::Special => continue,
        };
        members.insert(name, place);
    }
    Ok(members)
}

/// The name a link's target has from the archive's top.
fn relative(link: &[Vec<u8>], target: &[u8]) -> Result<String> {
    let mut parts: Vec<&[u8]> = link.iter().map(Vec::as_slice).collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    text(&parts.join(&b'/'))
}

fn text(name: &[u8]) -> Result<String> {
    String::from_utf8(name.to_vec())
        .ok()
        .with_context(|| format!("{}: name is not UTF-8", show(name)))
}
