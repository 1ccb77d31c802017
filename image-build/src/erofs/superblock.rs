//! `struct erofs_super_block`, 128 bytes at byte 1024 of the first block.

use anyhow::{Context as _, Result};

use super::plan::Plan;

const OFFSET: usize = 1024;
const BLOCK: usize = 4096;
const CHECKSUM: std::ops::Range<usize> = 1028..1032;
const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const BLOCK_SIZE_BITS: u8 = 12;

/// The first block of an image.
pub(super) fn first_block(plan: &Plan<'_>) -> Result<Vec<u8>> {
    let root = plan.inodes.first().context("tree without a root")?;
    let mut block = vec![0; OFFSET];
    block.extend(MAGIC.to_le_bytes());
    block.extend([0; 4]); // checksum
    block.extend((COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
    block.extend([BLOCK_SIZE_BITS, 0]); // blkszbits, sb_extslots
    block.extend(u16::try_from(root.nid())?.to_le_bytes());
    block.extend(u64::try_from(plan.inodes.len())?.to_le_bytes());
    block.extend([0; 12]); // build_time, build_time_nsec
    block.extend(u32::try_from(plan.blocks)?.to_le_bytes());
    // Inodes are numbered from byte 0 of the image, and there is no shared
    // attribute, no identifier, no label and no incompatible feature.
    block.resize(BLOCK, 0);
    // CRC-32C of the rest of the block, without the usual final inversion.
    let checksum = !crc32c::crc32c(block.get(OFFSET..).unwrap_or_default());
    if let Some(field) = block.get_mut(CHECKSUM) {
        field.copy_from_slice(&checksum.to_le_bytes());
    }
    Ok(block)
}
