//! `struct erofs_inode_extended`: the form with 64-bit sizes and 32-bit owners.

use anyhow::{Context as _, Result};

use super::plan::{Inode, Node};
use super::xattr;
use crate::tree::Content;

/// Bytes of an extended inode.
pub(super) const SIZE: u64 = 64;
/// Unit in which inodes are numbered (`EROFS_ISLOTBITS`).
pub(super) const SLOT: u64 = 32;

/// `i_format`, bit 0: extended; bits 1 to 3: data layout.
const FLAT_PLAIN: u16 = 1;
const FLAT_INLINE: u16 = 1 | 2 << 1;

const S_IFREG: u16 = 0o100_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFLNK: u16 = 0o120_000;

/// Directory entry types (`EROFS_FT_*`, as in `linux/fs_types.h`).
const FT_REG_FILE: u8 = 1;
const FT_DIR: u8 = 2;
const FT_SYMLINK: u8 = 7;

/// The 64 bytes of an inode.
pub(super) fn header(inode: &Inode<'_>) -> Result<Vec<u8>> {
    let metadata = inode.node.metadata();
    let format = match inode.tail {
        0 => FLAT_PLAIN,
        _ => FLAT_INLINE,
    };
    let (file_type, _) = types(&inode.node);
    let data_block = match inode.whole_blocks() {
        0 => 0,
        _ => u32::try_from(inode.data_block).context("image is over 16 TiB")?,
    };
    let mut bytes = Vec::new();
    bytes.extend(format.to_le_bytes());
    bytes.extend(xattr::count(&inode.xattrs)?.to_le_bytes());
    bytes.extend((file_type | metadata.mode).to_le_bytes());
    bytes.extend([0; 2]); // i_reserved
    bytes.extend(inode.size.to_le_bytes());
    bytes.extend(data_block.to_le_bytes());
    bytes.extend(inode.number.to_le_bytes());
    bytes.extend(metadata.uid.to_le_bytes());
    bytes.extend(metadata.gid.to_le_bytes());
    bytes.extend([0; 12]); // i_mtime, i_mtime_nsec
    bytes.extend(inode.links.to_le_bytes());
    bytes.extend([0; 16]); // i_reserved2
    Ok(bytes)
}

/// What a directory says of an inode's type.
pub(super) fn entry_type(node: &Node<'_>) -> u8 {
    types(node).1
}

fn types(node: &Node<'_>) -> (u16, u8) {
    match node {
        Node::Directory(_) => (S_IFDIR, FT_DIR),
        Node::Leaf(leaf) => match leaf.content {
            Content::File(_) => (S_IFREG, FT_REG_FILE),
            Content::Symlink(_) => (S_IFLNK, FT_SYMLINK),
        },
    }
}
