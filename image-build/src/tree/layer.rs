//! Applies layers (OCI image specification, "Layer Filesystem Changeset").

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Content, Directory, Entry, Last, Leaf, Metadata, RealPath, Slot, Tree, plain_components, show,
    show_real,
};
use crate::archive::{Archive, Kind, Member};
use crate::notes::Notes;
use crate::spool::Spool;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names of this form are private to AUFS.
const AUFS: &[u8] = b".wh..wh.";
/// What the tree may take in memory, so that an archive of a few megabytes
/// cannot ask for all of it.
const MAX_TREE_BYTES: usize = 1 << 30;
const ENTRY_BYTES: usize = 512;

/// Applies layers one after the other to a tree.
#[derive(Debug)]
pub struct Layers<'a> {
    /// The result so far.
    pub tree: Tree,
    spool: &'a mut Spool,
    notes: &'a mut Notes,
    layer: usize,
    tree_bytes: usize,
}

impl<'a> Layers<'a> {
    /// Starts with an empty root.
    pub fn new(spool: &'a mut Spool, notes: &'a mut Notes) -> Self {
        Self {
            tree: Tree::default(),
            spool,
            notes,
            layer: 0,
            tree_bytes: 0,
        }
    }

    /// Applies one layer and reads its input to the end.
    ///
    /// # Errors
    /// The member that cannot be applied, and why.
    pub fn apply(&mut self, input: impl Read) -> Result<()> {
        self.layer = self.layer.saturating_add(1);
        let mut archive = Archive::new(input);
        while let Some(member) = archive.next_member()? {
            let name = show(&member.name);
            self.member(member, &mut archive)
                .with_context(|| format!("cannot apply {name}"))?;
        }
        archive.drain()?;
        Ok(())
    }

    fn member<R: Read>(&mut self, member: Member, archive: &mut Archive<R>) -> Result<()> {
        self.account(&member)?;
        let path = plain_components(&member.name)?;
        let Some((name, parent)) = path.split_last() else {
            ensure!(member.kind == Kind::Directory, "the root is a directory");
            self.tree.root.metadata = self.metadata(&member)?;
            return Ok(());
        };
        let parent = self.tree.resolve(&parent.join(&b'/'), Last::Follow)?;
        if name.starts_with(WHITEOUT) {
            self.whiteout(&parent, name);
            return Ok(());
        }
        let content = match &member.kind {
            Kind::Directory => {
                let metadata = self.metadata(&member)?;
                return self.directory(&parent, name, metadata);
            }
            Kind::File => Content::File(self.spool.append(archive, member.size)?),
            Kind::Symlink(target) => {
                ensure!(
                    (1..=super::MAX_PATH).contains(&target.len()) && !target.contains(&0),
                    "malformed target of a symbolic link"
                );
                Content::Symlink(target.clone())
            }
            Kind::Hardlink(target) => {
                let leaf = self.hardlink(target)?;
                return self.leaf(&parent, name, leaf);
            }
            Kind::Special => {
                let path = show(&member.name);
                self.notes.add(format!(
                    "left out {path}: a device or FIFO has no place in an image"
                ));
                return Ok(());
            }
        };
        let metadata = self.metadata(&member)?;
        self.leaf(&parent, name, Arc::new(Leaf { metadata, content }))
    }

    fn account(&mut self, member: &Member) -> Result<()> {
        let xattrs = member.xattrs.iter();
        let bytes = xattrs.fold(ENTRY_BYTES, |sum, (name, value)| {
            sum.saturating_add(name.len()).saturating_add(value.len())
        });
        self.tree_bytes = self
            .tree_bytes
            .saturating_add(bytes)
            .saturating_add(member.name.len());
        ensure!(
            self.tree_bytes <= MAX_TREE_BYTES,
            "the image has too many files"
        );
        Ok(())
    }

    fn metadata(&mut self, member: &Member) -> Result<Metadata> {
        let mut xattrs = BTreeMap::new();
        for (name, value) in &member.xattrs {
            let kept = name.starts_with(b"user.") || name == b"security.capability";
            if !kept {
                let name = show(name);
                self.notes.add(format!(
                    "left out attributes {name}: the guest does not use them"
                ));
                continue;
            }
            ensure!(
                name.len() <= 255 && value.len() <= 65535,
                "attribute {}: name over 255 or value over 65535 bytes",
                show(name)
            );
            xattrs.insert(name.clone(), value.clone());
        }
        Ok(Metadata {
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            xattrs,
        })
    }

    fn directory(&mut self, parent: &RealPath, name: &[u8], metadata: Metadata) -> Result<()> {
        let layer = self.layer;
        let entries = &mut self.tree.make_directory(parent, layer)?.entries;
        if let Some(slot) = entries.get_mut(name)
            && let Entry::Directory(directory) = &mut slot.entry
        {
            directory.metadata = metadata;
            slot.layer = layer;
            return Ok(());
        }
        let entry = Entry::Directory(Directory::new(metadata));
        entries.insert(name.to_vec(), Slot { layer, entry });
        Ok(())
    }

    fn leaf(&mut self, parent: &RealPath, name: &[u8], leaf: Arc<Leaf>) -> Result<()> {
        let layer = self.layer;
        let entry = Entry::Leaf(leaf);
        let directory = self.tree.make_directory(parent, layer)?;
        directory
            .entries
            .insert(name.to_vec(), Slot { layer, entry });
        Ok(())
    }

    fn hardlink(&self, target: &[u8]) -> Result<Arc<Leaf>> {
        // Archives made inside a root may name the target from its top.
        let plain = plain_components(target.strip_prefix(b"/").unwrap_or(target))?;
        let real = self.tree.resolve(&plain.join(&b'/'), Last::Keep)?;
        match self.tree.entry(&real) {
            Some(Entry::Leaf(leaf)) => Ok(Arc::clone(leaf)),
            Some(Entry::Directory(_)) => bail!("hardlink to directory {}", show(target)),
            None => bail!("hardlink to {}, which is not there", show_real(&real)),
        }
    }

    /// Removes what lower layers put there. What this layer put there stays,
    /// wherever in the archive the whiteout is.
    fn whiteout(&mut self, parent: &RealPath, name: &[u8]) {
        let mut directory = &mut self.tree.root;
        for name in parent {
            match directory.entries.get_mut(name).map(|slot| &mut slot.entry) {
                Some(Entry::Directory(below)) => directory = below,
                Some(Entry::Leaf(_)) | None => return,
            }
        }
        if name == OPAQUE {
            keep_layer(directory, self.layer);
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT)
            && !name.starts_with(AUFS)
            && let Some(slot) = directory.entries.get_mut(hidden)
        {
            match &mut slot.entry {
                Entry::Directory(below) if slot.layer == self.layer => {
                    keep_layer(below, self.layer);
                }
                Entry::Leaf(_) if slot.layer == self.layer => {}
                Entry::Directory(_) | Entry::Leaf(_) => {
                    directory.entries.remove(hidden);
                }
            }
        }
    }
}

fn keep_layer(directory: &mut Directory, layer: usize) {
    directory.entries.retain(|_, slot| slot.layer == layer);
    for slot in directory.entries.values_mut() {
        if let Entry::Directory(below) = &mut slot.entry {
            keep_layer(below, layer);
        }
    }
}
