//! Writes EROFS images (Linux `fs/erofs/erofs_fs.h`, `Documentation/filesystems/
//! erofs.rst`): uncompressed, 4096-byte blocks, one device.
//!
//! ```text
//! block 0         superblock at byte 1024
//! block 1...      inodes, each with its attributes and, if it fits, its last
//!                 partial block of data (FLAT_INLINE)
//! after them      whole blocks of data, file by file (FLAT_PLAIN)
//! ```
//!
//! Only the tree decides the bits: no time, no identifier, no order of anyone's
//! directory. The image is planned first and then written from front to back.

use std::io::{self, BufWriter, Write};

use anyhow::{Context as _, Result};

use crate::spool::Spool;
use crate::tree::{Content, Tree};

mod directory;
mod inode;
mod plan;
mod superblock;
mod xattr;

use plan::{Inode, Node, Plan};

/// Bytes in a block.
pub const BLOCK_SIZE: u64 = 4096;

/// Writes `tree` as an EROFS image and tells its length in blocks.
///
/// # Errors
/// The tree exceeds a bound of the format, or reading or writing fails.
pub fn write(tree: &Tree, spool: &Spool, output: impl Write) -> Result<u64> {
    let plan = Plan::new(tree)?;
    let mut output = Output {
        inner: BufWriter::with_capacity(1 << 20, output),
        position: 0,
    };
    output.write_all(&superblock::first_block(&plan)?)?;
    for inode in &plan.inodes {
        output.pad_to(inode.offset)?;
        output.write_all(&inode::header(inode)?)?;
        output.write_all(&inode.xattrs)?;
        write_data(&plan, inode, spool, &mut output, Part::Tail)?;
    }
    for inode in &plan.inodes {
        if inode.whole_blocks() > 0 {
            output.pad_to(inode.data_block.saturating_mul(BLOCK_SIZE))?;
            write_data(&plan, inode, spool, &mut output, Part::Blocks)?;
        }
    }
    output.pad_to(plan.blocks.saturating_mul(BLOCK_SIZE))?;
    output.flush()?;
    Ok(plan.blocks)
}

/// Which part of an inode's data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Blocks,
    Tail,
}

fn write_data<W: Write>(
    plan: &Plan<'_>,
    inode: &Inode<'_>,
    spool: &Spool,
    output: &mut Output<W>,
    part: Part,
) -> Result<()> {
    let blocks = inode.size.saturating_sub(inode.tail);
    let (start, length) = match part {
        Part::Blocks => (0, blocks),
        Part::Tail => (blocks, inode.tail),
    };
    if length == 0 {
        return Ok(());
    }
    let generated;
    let bytes = match &inode.node {
        Node::Directory(_) => {
            generated = directory::data(plan, inode)?;
            &generated
        }
        Node::Leaf(leaf) => match &leaf.content {
            Content::Symlink(target) => target,
            Content::File(extent) => {
                let mut part = *extent;
                part.offset = part.offset.saturating_add(start);
                part.size = length;
                io::copy(&mut spool.read(part), output).context("cannot copy file data")?;
                return Ok(());
            }
        },
    };
    let start = usize::try_from(start)?;
    let end = start.saturating_add(usize::try_from(length)?);
    output.write_all(bytes.get(start..end).context("data shorter than planned")?)?;
    Ok(())
}

/// Writes forward and knows where it is.
struct Output<W: Write> {
    inner: BufWriter<W>,
    position: u64,
}

impl<W: Write> Output<W> {
    fn pad_to(&mut self, position: u64) -> io::Result<()> {
        let gap = position
            .checked_sub(self.position)
            .ok_or_else(|| io::Error::other("image parts overlap"))?;
        io::copy(&mut io::Read::take(io::repeat(0), gap), self).map(drop)
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        let count = u64::try_from(written).map_err(io::Error::other)?;
        self.position = self.position.saturating_add(count);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod tests;
