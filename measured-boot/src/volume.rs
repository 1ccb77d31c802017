//! The layout of a persistent encrypted volume: a header of our own, and after
//! it a dm-integrity device that holds the tags of dm-crypt's authenticated
//! encryption (Linux 6.12 `drivers/md/dm-integrity.c`, `drivers/md/dm-crypt.c`).
//!
//! Every byte of the header and of dm-integrity's superblock follows from the
//! manifest and the released key, so the guest compares and never parses.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::base16;
use crate::keys::VolumeKeys;
use crate::verity::SECTOR_SIZE;

/// Longest name: `volume-NAME` must fit into the 20 bytes of a virtio serial.
pub const MAX_NAME: usize = 12;
/// Bytes of the header and of dm-integrity's superblock, each.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes of an authentication tag: HMAC-SHA256.
pub const TAG_SIZE: u64 = 32;
/// Sectors of 512 bytes in a block, in the header and in the superblock.
pub const SECTORS_PER_BLOCK: u64 = 8;
/// Data sectors between two areas of tags, a power of two.
pub const INTERLEAVE: u64 = 1 << 15;
/// Sectors in an area of tags: one for every block of [`INTERLEAVE`].
pub const TAG_AREA: u64 = INTERLEAVE / SECTORS_PER_BLOCK * TAG_SIZE / SECTOR_SIZE;
/// Sectors in a section of the journal: 8 of entries, 4 entries in each, and one
/// block of data for every entry.
pub const JOURNAL_SECTION: u64 = 8 + 8 * 4 * SECTORS_PER_BLOCK;

/// 16 MiB, the least that holds an ext4 with a journal.
const MIN_DATA_BLOCKS: u64 = 1 << 12;
/// 1 TiB, far from any overflow.
const MAX_DATA_BLOCKS: u64 = 1 << 28;
/// Sections in the largest journal, of 16 MiB.
const MAX_SECTIONS: u64 = 124;
/// Ends with the version of the layout.
const MAGIC: &[u8; 16] = b"anchorhold/vol/1";
/// The header's fields; integers are little-endian.
const FIELDS: &[(&str, Range<usize>)] = &[
    ("magic", 0..16),
    ("name", 16..48),
    ("instance", 48..80),
    ("size", 80..88),
    ("epoch", 88..96),
    ("authentication", 96..128),
    ("padding", 128..BLOCK_SIZE),
];

/// What a volume's header and keys are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    name: [u8; 32],
    instance: [u8; 32],
    data_blocks: u64,
    epoch: u64,
}

/// The first field of a header that differs from what it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch(&'static str);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} differs from what manifest and key say", self.0)
    }
}

impl Volume {
    /// The volume of this name, size in blocks and epoch, of the instance zero.
    pub fn new(name: &str, data_blocks: u64, epoch: u64) -> Option<Self> {
        let char_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let name_ok = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(char_ok);
        let size_ok = (MIN_DATA_BLOCKS..=MAX_DATA_BLOCKS).contains(&data_blocks);
        let mut padded = [0; 32];
        padded
            .get_mut(..name.len())
            .filter(|_| name_ok && size_ok)?
            .copy_from_slice(name.as_bytes());
        Some(Self {
            name: padded,
            instance: [0; 32],
            data_blocks,
            epoch,
        })
    }

    /// Name, instance, size and epoch as they are in the header: the context of
    /// the volume's keys.
    pub fn identity(&self) -> Vec<u8> {
        [
            &self.name[..],
            &self.instance[..],
            &self.data_blocks.to_le_bytes(),
            &self.epoch.to_le_bytes(),
        ]
        .concat()
    }

    /// Blocks of data.
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Length of the opened volume in sectors.
    pub fn data_sectors(&self) -> u64 {
        self.data_blocks.saturating_mul(SECTORS_PER_BLOCK)
    }

    /// Sections of the journal: a 128th of the data, and at least two.
    pub fn journal_sections(&self) -> u64 {
        (self.data_sectors() / 128 / JOURNAL_SECTION).clamp(2, MAX_SECTIONS)
    }

    /// Where the first area of tags starts on the disk, in sectors: after the
    /// header, the superblock and the journal.
    pub fn first_area(&self) -> u64 {
        let journal = self.journal_sections().saturating_mul(JOURNAL_SECTION);
        journal.saturating_add(2 * SECTORS_PER_BLOCK)
    }

    /// Length of the disk in sectors. As the kernel counts, the last area ends
    /// with the data.
    pub fn disk_sectors(&self) -> u64 {
        let areas = self.data_sectors().div_ceil(INTERLEAVE);
        self.first_area()
            .saturating_add(areas.saturating_mul(TAG_AREA))
            .saturating_add(self.data_sectors())
    }

    /// The only header this volume can have.
    pub fn header(&self, keys: &VolumeKeys) -> Vec<u8> {
        let mut header = [&MAGIC[..], &self.identity()].concat();
        let mut hmac = <Hmac<Sha256> as KeyInit>::new(&(*keys.header).into());
        hmac.update(&header);
        header.extend_from_slice(&hmac.finalize().into_bytes());
        header.resize(BLOCK_SIZE, 0);
        header
    }

    /// Compares a block of the disk with [`Self::header`]. Not in constant time:
    /// the only code that passes is the one the owner wrote to that disk.
    ///
    /// # Errors
    /// Which field differs first.
    pub fn check_header(&self, block: &[u8], keys: &VolumeKeys) -> Result<(), Mismatch> {
        let header = self.header(keys);
        let differs = |range: &Range<usize>| block.get(range.clone()) != header.get(range.clone());
        match FIELDS.iter().find(|(_, range)| differs(range)) {
            Some((name, _)) => Err(Mismatch(name)),
            None => Ok(()),
        }
    }

    /// The only superblock (`struct superblock`, version 1) that dm-integrity can
    /// have here, and the one it would write itself. It never changes.
    pub fn superblock(&self) -> Vec<u8> {
        /// `log2_blocks_per_bitmap_bit` as the kernel sets it; unused without a bitmap.
        const BITMAP: u8 = 12;
        let sections = u32::try_from(self.journal_sections()).unwrap_or(u32::MAX);
        let log2 = |number: u64| number.trailing_zeros().to_le_bytes()[0];
        let mut block = Vec::with_capacity(BLOCK_SIZE);
        block.extend_from_slice(b"integrt\0");
        block.extend_from_slice(&[1, log2(INTERLEAVE)]);
        block.extend_from_slice(&[TAG_SIZE.to_le_bytes()[0], 0]);
        block.extend_from_slice(&sections.to_le_bytes());
        block.extend_from_slice(&self.data_sectors().to_le_bytes());
        // No flags: no recalculation, no bitmap, no padding of another kind.
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&[log2(SECTORS_PER_BLOCK), BITMAP]);
        block.resize(BLOCK_SIZE, 0);
        block
    }

    /// dm-integrity's table over the whole disk, given as `major:minor`, with
    /// every parameter that the kernel would otherwise take from the superblock
    /// or choose. The kernel reads it back in the same words.
    pub fn integrity_table(&self, device: &str) -> String {
        let journal = self.journal_sections().saturating_mul(JOURNAL_SECTION);
        format!(
            "{device} {SECTORS_PER_BLOCK} {TAG_SIZE} J 6 block_size:{BLOCK_SIZE} \
             journal_sectors:{journal} interleave_sectors:{INTERLEAVE} buffer_sectors:128 \
             journal_watermark:50 commit_time:10000"
        )
    }
}

/// dm-crypt's table over a dm-integrity device, given as `major:minor`.
pub fn crypt_table(device: &str, keys: &VolumeKeys) -> Zeroizing<String> {
    let key = Zeroizing::new(base16::encode(&*keys.data));
    Zeroizing::new(format!(
        "capi:authenc(hmac(sha256),xts(aes))-plain64 {} 0 {device} 0 2 \
         integrity:{TAG_SIZE}:aead sector_size:{BLOCK_SIZE}",
        *key
    ))
}

#[cfg(test)]
mod tests;
