//! The encrypted boot filesystem: `[EROFS][hash tree]`, the whole encrypted as
//! dm-crypt `aes-xts-plain64` does with 4096-byte sectors, without a header.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use aes::Aes256;
use aes::cipher::{Array, KeyInit as _};
use anyhow::{Context as _, Result};
use measured_boot::hash_tree::HashTree;
use measured_boot::keys::{BootKey, ContentId};
use measured_boot::verity::{BLOCK_SIZE, Geometry};
use rayon::prelude::*;
use xts_mode::Xts128;
use zeroize::Zeroizing;

const SECTOR: usize = 4096;
/// dm-crypt counts the IV in 512-byte units unless told otherwise
/// (`dm-crypt.rst`, `iv_large_sectors`).
const IV_PER_SECTOR: u64 = 8;
const SECTORS_PER_PART: u64 = 256;
const XTS_KEY: usize = 32;

/// An encrypted boot filesystem, and what opens it again besides the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Context of the derived keys.
    pub content_id: ContentId,
    /// Hash tree over the plain blocks, salted.
    pub tree: HashTree,
}

/// Encrypts `blocks` blocks of EROFS in `plain` into `output`.
///
/// # Errors
/// Reading or writing fails.
pub fn seal(key: BootKey, plain: &mut File, blocks: u64, output: &File) -> Result<Sealed> {
    let geometry = Geometry::new(blocks).context("boot filesystem is empty or over 16 TiB")?;
    let content_id = content_id(&key, plain).context("cannot read boot filesystem")?;
    let keys = key.boot_filesystem(&content_id);
    let plain = &*plain;
    let tree = HashTree::build(geometry, &*keys.salt, |buffer, offset| {
        plain.read_exact_at(buffer, offset)
    })
    .context("cannot hash boot filesystem")?;
    let xts = cipher(&keys.volume_key).context("key of another length")?;
    let data_length = blocks.saturating_mul(BLOCK_SIZE);
    output
        .set_len(geometry.total_blocks().saturating_mul(BLOCK_SIZE))
        .context("cannot write boot filesystem")?;
    encrypt(&xts, 0, blocks, output, |buffer, offset| {
        plain.read_exact_at(buffer, offset)
    })?;
    encrypt(
        &xts,
        blocks,
        geometry.hash_blocks(),
        output,
        |buffer, offset| {
            let start =
                usize::try_from(offset.saturating_sub(data_length)).map_err(io::Error::other)?;
            let end = start.saturating_add(buffer.len());
            let part = tree.bytes.get(start..end);
            buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        },
    )?;
    Ok(Sealed { content_id, tree })
}

fn content_id(key: &BootKey, plain: &mut File) -> io::Result<ContentId> {
    let mut builder = key.content_id();
    let mut buffer = Zeroizing::new(vec![0; 1 << 20]);
    plain.seek(SeekFrom::Start(0))?;
    loop {
        match plain.read(&mut buffer)? {
            0 => return Ok(builder.finish()),
            read => builder.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

pub(crate) fn cipher(key: &[u8; 2 * XTS_KEY]) -> Option<Xts128<Aes256>> {
    let (data, tweak) = key.split_at_checked(XTS_KEY)?;
    let cipher = |key: &[u8]| Aes256::new_from_slice(key).ok();
    Some(Xts128::new(cipher(data)?, cipher(tweak)?))
}

/// Encrypts `count` sectors from sector `first` on, each core its own part.
fn encrypt<F>(xts: &Xts128<Aes256>, first: u64, count: u64, output: &File, read: F) -> Result<()>
where
    F: Fn(&mut [u8], u64) -> io::Result<()> + Sync,
{
    (0..count.div_ceil(SECTORS_PER_PART))
        .into_par_iter()
        .try_for_each(|part| {
            let skipped = part.saturating_mul(SECTORS_PER_PART);
            let sectors = count.saturating_sub(skipped).min(SECTORS_PER_PART);
            let start = first.saturating_add(skipped);
            let length = usize::try_from(sectors.saturating_mul(BLOCK_SIZE));
            let mut data = vec![0; length.map_err(io::Error::other)?];
            let offset = start.saturating_mul(BLOCK_SIZE);
            read(&mut data, offset)?;
            for (sector, number) in data.chunks_exact_mut(SECTOR).zip(start..) {
                xts.encrypt_sector(sector, tweak(number));
            }
            output.write_all_at(&data, offset)
        })
        .context("cannot encrypt boot filesystem")
}

/// The IV of a sector of 4096 bytes: its number in units of 512, little-endian
/// (`plain64`).
pub(crate) fn tweak<N>(sector: u64) -> Array<u8, N>
where
    N: aes::cipher::array::ArraySize,
{
    let mut tweak = Array::default();
    let number = sector.saturating_mul(IV_PER_SECTOR).to_le_bytes();
    for (byte, from) in tweak.iter_mut().zip(number) {
        *byte = from;
    }
    tweak
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod tests;
