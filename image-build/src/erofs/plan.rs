//! Decides where everything goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::{BLOCK_SIZE, directory, inode, xattr};
use crate::tree::{Content, Directory, Entry, Leaf, Metadata, Tree};

/// Everything that will be written, in order.
pub(super) struct Plan<'a> {
    /// The root first, then each directory before what is in it.
    pub(super) inodes: Vec<Inode<'a>>,
    /// Blocks of the whole image.
    pub(super) blocks: u64,
}

/// One inode and its place.
pub(super) struct Inode<'a> {
    pub(super) node: Node<'a>,
    /// Index of the directory it is in; the root is in itself.
    pub(super) parent: usize,
    /// Names and inodes of a directory, sorted, without `.` and `..`.
    pub(super) children: Vec<(&'a [u8], usize)>,
    pub(super) number: u32,
    pub(super) links: u32,
    /// Attributes as they are stored.
    pub(super) xattrs: Vec<u8>,
    /// Bytes of data.
    pub(super) size: u64,
    /// How many of them, from the end, are stored beside the inode.
    pub(super) tail: u64,
    /// Where the inode is, in bytes.
    pub(super) offset: u64,
    /// Where its whole blocks are.
    pub(super) data_block: u64,
}

/// What an inode is of.
#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    Directory(&'a Directory),
    Leaf(&'a Leaf),
}

impl<'a> Node<'a> {
    pub(super) fn metadata(self) -> &'a Metadata {
        match self {
            Self::Directory(directory) => &directory.metadata,
            Self::Leaf(leaf) => &leaf.metadata,
        }
    }
}

impl Inode<'_> {
    /// The number by which directories name an inode: its place in slots.
    pub(super) fn nid(&self) -> u64 {
        self.offset / inode::SLOT
    }

    pub(super) fn whole_blocks(&self) -> u64 {
        self.size.saturating_sub(self.tail).div_ceil(BLOCK_SIZE)
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(tree: &'a Tree) -> Result<Self> {
        let mut collector = Collector {
            inodes: Vec::new(),
            shared: BTreeMap::new(),
        };
        collector.directory(&tree.root, 0)?;
        let mut inodes = collector.inodes;

        let mut cursor = BLOCK_SIZE;
        for inode in &mut inodes {
            inode.place(&mut cursor);
        }
        let mut block = cursor.div_ceil(BLOCK_SIZE);
        for inode in &mut inodes {
            inode.data_block = block;
            block = block.saturating_add(inode.whole_blocks());
        }
        u32::try_from(block).context("image is over 16 TiB, the bound of EROFS")?;
        Ok(Self {
            inodes,
            blocks: block,
        })
    }
}

impl Inode<'_> {
    /// Takes the next place. Inode, attributes and tail must share a block,
    /// which is what the kernel asks of FLAT_INLINE.
    fn place(&mut self, cursor: &mut u64) {
        let header = inode::SIZE.saturating_add(length(&self.xattrs));
        let tail = self.size % BLOCK_SIZE;
        self.tail = if header.saturating_add(tail) <= BLOCK_SIZE {
            tail
        } else {
            0
        };
        let whole = header.saturating_add(self.tail);
        // Attributes over a block may cross into the next one, the inode not.
        let together = if whole <= BLOCK_SIZE {
            whole
        } else {
            inode::SIZE
        };
        let room = BLOCK_SIZE.saturating_sub(*cursor % BLOCK_SIZE);
        if together > room {
            *cursor = cursor.next_multiple_of(BLOCK_SIZE);
        }
        self.offset = *cursor;
        *cursor = cursor.saturating_add(whole).next_multiple_of(inode::SLOT);
    }
}

struct Collector<'a> {
    inodes: Vec<Inode<'a>>,
    /// Inodes of leaves that have several names, by their address in memory.
    shared: BTreeMap<usize, usize>,
}

impl<'a> Collector<'a> {
    fn directory(&mut self, directory: &'a Directory, parent: usize) -> Result<usize> {
        let index = self.add(Node::Directory(directory), parent)?;
        let mut children = Vec::with_capacity(directory.entries().len());
        let mut links = 2u32;
        for (name, entry) in directory.entries() {
            let child = match entry {
                Entry::Directory(below) => {
                    links = links.saturating_add(1);
                    self.directory(below, index)?
                }
                Entry::Leaf(leaf) => self.leaf(leaf, index)?,
            };
            children.push((name, child));
        }
        if let Some(inode) = self.inodes.get_mut(index) {
            inode.size = directory::size(&children)?;
            inode.children = children;
            inode.links = links;
        }
        Ok(index)
    }

    fn leaf(&mut self, leaf: &'a Arc<Leaf>, parent: usize) -> Result<usize> {
        let address = Arc::as_ptr(leaf).addr();
        if let Some(index) = self.shared.get(&address)
            && let Some(inode) = self.inodes.get_mut(*index)
        {
            inode.links = inode.links.saturating_add(1);
            return Ok(*index);
        }
        let index = self.add(Node::Leaf(leaf), parent)?;
        if Arc::strong_count(leaf) > 1 {
            self.shared.insert(address, index);
        }
        Ok(index)
    }

    fn add(&mut self, node: Node<'a>, parent: usize) -> Result<usize> {
        let index = self.inodes.len();
        let size = match node {
            Node::Directory(_) => 0,
            Node::Leaf(leaf) => match &leaf.content {
                Content::File(extent) => extent.size,
                Content::Symlink(target) => length(target),
            },
        };
        self.inodes.push(Inode {
            node,
            parent,
            children: Vec::new(),
            number: u32::try_from(index.saturating_add(1)).context("too many files")?,
            links: 1,
            xattrs: xattr::encode(&node.metadata().xattrs)?,
            size,
            tail: 0,
            offset: 0,
            data_block: 0,
        });
        Ok(index)
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
