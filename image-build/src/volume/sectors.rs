//! The data of a volume as dm-crypt encrypts and authenticates it, where
//! dm-integrity keeps it (Linux 6.12 `crypt_convert_block_aead`,
//! `get_metadata_sector_and_offset`, `get_data_sector`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use aes::Aes256;
use anyhow::{Context as _, Result, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use measured_boot::keys::VolumeKeys;
use measured_boot::verity::SECTOR_SIZE;
use measured_boot::volume::{
    BLOCK_SIZE, INTERLEAVE, SECTORS_PER_BLOCK, TAG_AREA, TAG_SIZE, Volume,
};
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use sha2::Sha256;
use xts_mode::Xts128;

use crate::boot_filesystem::{cipher, tweak};

const TAG: usize = 32;
const BLOCK: u64 = 4096;
const BLOCKS_PER_AREA: u64 = INTERLEAVE / SECTORS_PER_BLOCK;
/// Blocks that are read, encrypted and written together; divides an area.
const PART: u64 = 256;

/// Reads and writes the blocks of one volume.
pub(super) struct Sectors {
    xts: Xts128<Aes256>,
    mac: Hmac<Sha256>,
    first_area: u64,
    blocks: u64,
}

impl Sectors {
    pub(super) fn new(volume: &Volume, keys: &VolumeKeys) -> Result<Self> {
        let length = "key of another length";
        let (encryption, authentication) = keys.data.split_first_chunk().context(length)?;
        Ok(Self {
            xts: cipher(encryption).context(length)?,
            mac: Hmac::new_from_slice(authentication).context(length)?,
            first_area: volume.first_area(),
            blocks: volume.data_blocks(),
        })
    }

    /// Encrypts the blocks of `extents` from `plain` to `disk`.
    pub(super) fn write(&self, plain: &File, disk: &File, extents: &[Range<u64>]) -> Result<()> {
        let parts: Vec<_> = extents.iter().cloned().flat_map(parts).collect();
        parts.into_par_iter().try_for_each(|part| {
            let mut data = buffer(&part, BLOCK)?;
            plain.read_exact_at(&mut data, part.start.saturating_mul(BLOCK))?;
            let mut tags = Vec::new();
            for (block, number) in data.chunks_exact_mut(BLOCK_SIZE).zip(part.clone()) {
                self.xts.encrypt_sector(block, tweak(number));
                tags.extend_from_slice(&self.authenticate(number, block));
            }
            let (tag, place) = self.places(part.start);
            disk.write_all_at(&data, place)?;
            disk.write_all_at(&tags, tag)?;
            Ok(())
        })
    }

    /// Checks and decrypts every block that was ever written.
    pub(super) fn read(&self, disk: &File, plain: &File) -> Result<()> {
        let parts: Vec<_> = parts(0..self.blocks).collect();
        parts.into_par_iter().try_for_each(|part| {
            let mut data = buffer(&part, BLOCK)?;
            let mut tags = buffer(&part, TAG_SIZE)?;
            let (tag, place) = self.places(part.start);
            disk.read_exact_at(&mut data, place)?;
            disk.read_exact_at(&mut tags, tag)?;
            let blocks = data
                .chunks_exact_mut(BLOCK_SIZE)
                .zip(tags.chunks_exact(TAG));
            for ((block, tag), number) in blocks.zip(part) {
                if block.iter().chain(tag).all(|byte| *byte == 0) {
                    continue;
                }
                ensure!(
                    self.authenticate(number, block) == tag,
                    "block {number} was altered"
                );
                self.xts.decrypt_sector(block, tweak(number));
                plain.write_all_at(block, number.saturating_mul(BLOCK))?;
            }
            Ok(())
        })
    }

    /// HMAC over the number of the first sector, the IV (the same number again,
    /// padded to 16 bytes), and the ciphertext.
    fn authenticate(&self, number: u64, block: &[u8]) -> [u8; TAG] {
        let sector = number.saturating_mul(SECTORS_PER_BLOCK).to_le_bytes();
        let mut mac = self.mac.clone();
        for part in [&sector[..], &sector, &[0; 8], block] {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Where tag and data of a block are on the disk, in bytes.
    pub(super) fn places(&self, number: u64) -> (u64, u64) {
        let before = (number / BLOCKS_PER_AREA).saturating_mul(TAG_AREA.saturating_add(INTERLEAVE));
        let area = self.first_area.saturating_add(before);
        let within = number % BLOCKS_PER_AREA;
        let place = |sector: u64, unit: u64| {
            let start = sector.saturating_mul(SECTOR_SIZE);
            start.saturating_add(within.saturating_mul(unit))
        };
        (
            place(area, TAG_SIZE),
            place(area.saturating_add(TAG_AREA), BLOCK),
        )
    }
}

/// Cuts blocks at multiples of [`PART`].
fn parts(blocks: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let last = blocks.end.div_ceil(PART);
    (blocks.start / PART..last).map(move |part| {
        let start = part.saturating_mul(PART);
        start.max(blocks.start)..start.saturating_add(PART).min(blocks.end)
    })
}

fn buffer(part: &Range<u64>, unit: u64) -> io::Result<Vec<u8>> {
    let count = part.end.saturating_sub(part.start);
    let length = usize::try_from(count.saturating_mul(unit));
    Ok(vec![0; length.map_err(io::Error::other)?])
}
