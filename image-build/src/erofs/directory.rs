//! Directory data: blocks of `struct erofs_dirent` followed by the names they
//! point to, sorted by bytes over the whole directory, `.` and `..` among them.

use anyhow::{Context as _, Result};

use super::BLOCK_SIZE;
use super::inode;
use super::plan::{Inode, Plan};

const ENTRY: usize = 12;
const BLOCK: usize = 4096;

/// Bytes of a directory with these children.
pub(super) fn size(children: &[(&[u8], usize)]) -> Result<u64> {
    let names = sorted(children, 0, 0);
    let blocks = blocks(&names);
    let last = blocks.last().copied().unwrap_or_default();
    let whole = u64::try_from(blocks.len().saturating_sub(1))?;
    let last = u64::try_from(used(last))?;
    Ok(whole.saturating_mul(BLOCK_SIZE).saturating_add(last))
}

/// The data of a directory whose children have their places.
pub(super) fn data(plan: &Plan<'_>, directory: &Inode<'_>) -> Result<Vec<u8>> {
    let own = usize::try_from(directory.number.saturating_sub(1))?;
    let names = sorted(&directory.children, own, directory.parent);
    let blocks = blocks(&names);
    let mut data = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        data.resize(index.saturating_mul(BLOCK), 0);
        let mut name_offset = block.len().saturating_mul(ENTRY);
        for (name, child) in *block {
            let child = plan.inodes.get(*child).context("inode without a place")?;
            data.extend(child.nid().to_le_bytes());
            data.extend(u16::try_from(name_offset)?.to_le_bytes());
            data.extend([inode::entry_type(&child.node), 0]);
            name_offset = name_offset.saturating_add(name.len());
        }
        for (name, _) in *block {
            data.extend_from_slice(name);
        }
    }
    Ok(data)
}

type Name<'a> = (&'a [u8], usize);

fn sorted<'a>(children: &[Name<'a>], own: usize, parent: usize) -> Vec<Name<'a>> {
    let mut names: Vec<Name<'a>> = vec![(b".", own), (b"..", parent)];
    names.extend_from_slice(children);
    names.sort_unstable();
    names
}

/// Fills block after block, as many names as fit.
fn blocks<'a, 'n>(mut names: &'n [Name<'a>]) -> Vec<&'n [Name<'a>]> {
    let mut blocks = Vec::new();
    while !names.is_empty() {
        let mut bytes = 0usize;
        let fits = names.iter().take_while(|(name, _)| {
            bytes = bytes.saturating_add(ENTRY).saturating_add(name.len());
            bytes <= BLOCK
        });
        let (block, rest) = names.split_at(fits.count().max(1));
        blocks.push(block);
        names = rest;
    }
    blocks
}

fn used(block: &[Name<'_>]) -> usize {
    block.iter().fold(0, |sum, (name, _)| {
        sum.saturating_add(ENTRY).saturating_add(name.len())
    })
}
