//! A filesystem in memory, without the data of its files.
//!
//! Directories own their entries, sorted by name. Everything else is a leaf
//! that several names may share: those are hardlinks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use crate::spool::Extent;

pub mod layer;
pub mod source;

/// Longest name of one entry, as in Linux (`NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Longest path, as in Linux (`PATH_MAX`).
pub const MAX_PATH: usize = 4096;
const MAX_DEPTH: usize = 256;
const MAX_LINKS: usize = 40;

/// Names from the root down, each plain: no `.`, no `..`, no link among them.
pub type RealPath = Vec<Vec<u8>>;

/// Owner, permissions and attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Metadata {
    /// Owned by root, without attributes.
    pub fn root(mode: u16) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}

/// A directory and what is in it.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Its own.
    pub metadata: Metadata,
    entries: BTreeMap<Vec<u8>, Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    /// The layer that wrote it last.
    layer: usize,
    entry: Entry,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A directory.
    Directory(Directory),
    /// Anything else.
    Leaf(Arc<Leaf>),
}

/// A file or a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its own.
    pub metadata: Metadata,
    /// What it holds.
    pub content: Content,
}

/// What a leaf holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file's data, in the spool.
    File(Extent),
    /// A link's target.
    Symlink(Vec<u8>),
}

/// Whether a link at the end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It is, as `stat` does.
    Follow,
    /// It is not, as `lstat` does.
    Keep,
}

impl Directory {
    /// An empty directory.
    pub fn new(metadata: Metadata) -> Self {
        Self {
            metadata,
            entries: BTreeMap::new(),
        }
    }

    /// The entries, sorted by the bytes of their names.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], &Entry)> {
        self.entries
            .iter()
            .map(|(name, slot)| (name.as_slice(), &slot.entry))
    }

    /// Puts an entry in place of whatever has the name.
    pub fn insert(&mut self, name: impl Into<Vec<u8>>, entry: Entry) {
        let slot = Slot { layer: 0, entry };
        self.entries.insert(name.into(), slot);
    }

    fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.entries.get(name).map(|slot| &slot.entry)
    }

    /// The directory with this name, made if nothing has it.
    fn enter(&mut self, name: &[u8], layer: usize) -> Option<&mut Self> {
        let slot = self.entries.entry(name.to_vec()).or_insert_with(|| Slot {
            layer,
            entry: Entry::Directory(Self::new(Metadata::root(0o755))),
        });
        slot.layer = layer;
        match &mut slot.entry {
            Entry::Directory(directory) => Some(directory),
            Entry::Leaf(_) => None,
        }
    }
}

/// A whole filesystem.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Its root.
    pub root: Directory,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Directory::new(Metadata::root(0o755)),
        }
    }
}

impl Tree {
    /// Follows a path inside this root, links included, as the kernel does after
    /// a `chroot`. What does not exist is taken as it is written.
    ///
    /// # Errors
    /// A loop of links, or a path that is too long.
    pub fn resolve(&self, path: &[u8], last: Last) -> Result<RealPath> {
        let split = |path: &[u8]| -> VecDeque<Vec<u8>> {
            path.split(|byte| *byte == b'/').map(Vec::from).collect()
        };
        let shown = show(path);
        let mut todo = split(path);
        let mut real = RealPath::new();
        let mut links = 0usize;
        while let Some(name) = todo.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    real.pop();
                    continue;
                }
                _ => real.push(name),
            }
            ensure!(
                real.len() <= MAX_DEPTH,
                "{shown}: more than {MAX_DEPTH} directories deep"
            );
            let Some(Entry::Leaf(leaf)) = self.entry(&real) else {
                continue;
            };
            let Content::Symlink(target) = &leaf.content else {
                continue;
            };
            let at_end = todo.iter().all(|name| name.is_empty());
            if at_end && last == Last::Keep {
                continue;
            }
            links = links.saturating_add(1);
            ensure!(
                links <= MAX_LINKS,
                "{shown}: more than {MAX_LINKS} symbolic links"
            );
            real.pop();
            if target.starts_with(b"/") {
                real.clear();
            }
            for name in split(target).into_iter().rev() {
                todo.push_front(name);
            }
        }
        Ok(real)
    }

    /// What is at a resolved path. The root is no entry of anything.
    pub fn entry(&self, path: &[Vec<u8>]) -> Option<&Entry> {
        let (name, parent) = path.split_last()?;
        self.directory(parent)?.get(name)
    }

    /// The directory at a resolved path.
    pub fn directory(&self, path: &[Vec<u8>]) -> Option<&Directory> {
        let mut directory = &self.root;
        for name in path {
            match directory.get(name)? {
                Entry::Directory(below) => directory = below,
                Entry::Leaf(_) => return None,
            }
        }
        Some(directory)
    }

    /// The leaf a path leads to, links followed.
    ///
    /// # Errors
    /// Nothing is there, or a directory, or the path does not end.
    pub fn leaf(&self, path: &[u8]) -> Result<&Leaf> {
        let real = self.resolve(path, Last::Follow)?;
        match self.entry(&real) {
            Some(Entry::Leaf(leaf)) => Ok(leaf),
            Some(Entry::Directory(_)) => bail!("{}: is a directory", show(path)),
            None if real.is_empty() => bail!("{}: is a directory", show(path)),
            None => bail!("{}: not in the image", show(path)),
        }
    }

    /// The directory at a resolved path; what is missing is made, owned by root.
    ///
    /// # Errors
    /// Something else is in the way.
    pub fn make_directory(&mut self, path: &[Vec<u8>], layer: usize) -> Result<&mut Directory> {
        let mut directory = &mut self.root;
        for (index, name) in path.iter().enumerate() {
            directory = directory.enter(name, layer).with_context(|| {
                let upto = path.get(..=index).unwrap_or(path);
                format!("{}: is not a directory", show_real(upto))
            })?;
        }
        Ok(directory)
    }
}

/// Splits a name from an archive into its parts, without `.` and empty ones.
///
/// # Errors
/// An absolute name, `..`, a NUL byte, or parts that are too long.
pub fn plain_components(name: &[u8]) -> Result<RealPath> {
    let shown = show(name);
    ensure!(!name.starts_with(b"/"), "{shown}: absolute name");
    ensure!(
        name.len() <= MAX_PATH,
        "{shown}: name of more than {MAX_PATH} bytes"
    );
    ensure!(!name.contains(&0), "{shown}: name with a NUL byte");
    let parts = name
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    let mut path = RealPath::new();
    for part in parts {
        ensure!(part != b"..", "{shown}: name with '..'");
        ensure!(
            part.len() <= MAX_NAME,
            "{shown}: part of more than {MAX_NAME} bytes"
        );
        path.push(part.to_vec());
    }
    ensure!(
        path.len() <= MAX_DEPTH,
        "{shown}: more than {MAX_DEPTH} directories deep"
    );
    Ok(path)
}

/// A path for people: printable, and bounded.
pub fn show(path: &[u8]) -> String {
    let text = path.escape_ascii().to_string();
    match text.char_indices().nth(200) {
        None => text,
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}

/// A resolved path for people.
pub fn show_real(path: &[Vec<u8>]) -> String {
    show(&[b"/", path.join(&b'/').as_slice()].concat())
}

#[cfg(test)]
mod tests;
