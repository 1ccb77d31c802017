//! The shape of a dm-verity device: SHA-256, 4096-byte blocks, hash type 1, no
//! superblock (Linux `Documentation/admin-guide/device-mapper/verity.rst`).
//!
//! The data blocks are followed at once by the hash tree, top level first.
//! Every number comes from a measured place (command line or manifest), never
//! from the disk itself.

use alloc::format;
use alloc::string::String;

use crate::base16::{self, Hex32};

/// Bytes in a data block and in a hash block.
pub const BLOCK_SIZE: u64 = 4096;
/// Digests that fit into one hash block (4096 / 32).
pub const DIGESTS_PER_BLOCK: u64 = 128;
/// Bytes in a sector, the unit of every device-mapper table.
pub const SECTOR_SIZE: u64 = 512;
/// Largest number of data blocks accepted: 16 TiB, far from any overflow.
pub const MAX_DATA_BLOCKS: u64 = 1 << 32;

const SECTORS_PER_BLOCK: u64 = BLOCK_SIZE / SECTOR_SIZE;

/// A number of data blocks between 1 and [`MAX_DATA_BLOCKS`], from which every
/// other size of the device follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    data_blocks: u64,
}

impl Geometry {
    /// Accepts 1 to [`MAX_DATA_BLOCKS`] blocks.
    pub fn new(data_blocks: u64) -> Option<Self> {
        (1..=MAX_DATA_BLOCKS)
            .contains(&data_blocks)
            .then_some(Self { data_blocks })
    }

    /// Blocks of data, of [`BLOCK_SIZE`] bytes each.
    pub fn data_blocks(self) -> u64 {
        self.data_blocks
    }

    /// Blocks of each level of the hash tree, the lowest level first. A device
    /// of one block has no level: its root hash is the digest of that block.
    pub fn levels(self) -> impl Iterator<Item = u64> {
        let above = |below: u64| (below > 1).then(|| below.div_ceil(DIGESTS_PER_BLOCK));
        core::iter::successors(above(self.data_blocks), move |level| above(*level))
    }

    /// Blocks of the whole hash tree.
    pub fn hash_blocks(self) -> u64 {
        self.levels().fold(0, u64::saturating_add)
    }

    /// Blocks the disk must have at least: data and hash tree.
    pub fn total_blocks(self) -> u64 {
        self.data_blocks.saturating_add(self.hash_blocks())
    }

    /// Length of the opened device in sectors of [`SECTOR_SIZE`] bytes.
    pub fn data_sectors(self) -> u64 {
        self.data_blocks.saturating_mul(SECTORS_PER_BLOCK)
    }

    /// Length of data and hash tree in sectors of [`SECTOR_SIZE`] bytes.
    pub fn total_sectors(self) -> u64 {
        self.total_blocks().saturating_mul(SECTORS_PER_BLOCK)
    }
}

/// What dm-verity does when a block does not match its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCorruption {
    /// The read fails, so that init can say in its own words what was altered.
    FailRead,
    /// The kernel panics: used once the container can be the reader, since a
    /// failed read is an answer it could be steered with.
    Panic,
}

/// The target's parameters in a device-mapper table (verity.rst, "Construction
/// Parameters"). `device` is given as `major:minor`; the salt may be empty.
pub fn table(
    device: &str,
    geometry: Geometry,
    root_hash: &Hex32,
    salt: &[u8],
    on_corruption: OnCorruption,
) -> String {
    let blocks = geometry.data_blocks;
    let salt = if salt.is_empty() {
        String::from("-")
    } else {
        base16::encode(salt)
    };
    let options = match on_corruption {
        OnCorruption::FailRead => "",
        OnCorruption::Panic => " 2 panic_on_corruption panic_on_error",
    };
    format!("1 {device} {device} 4096 4096 {blocks} {blocks} sha256 {root_hash} {salt}{options}")
}

#[cfg(test)]
mod tests {
    use super::{Geometry, Hex32, MAX_DATA_BLOCKS, OnCorruption, table};

    #[test]
    fn levels_match_the_kernels_layout() {
        let levels = |n| Geometry::new(n).unwrap().levels().collect::<Vec<_>>();
        assert!(levels(1).is_empty());
        assert_eq!(levels(2), [1]);
        assert_eq!(levels(128), [1]);
        assert_eq!(levels(129), [2, 1]);
        assert_eq!(levels(16385), [129, 2, 1]);
        assert_eq!(Geometry::new(16385).unwrap().total_blocks(), 16385 + 132);
    }

    #[test]
    fn rejects_empty_and_absurd_devices() {
        assert_eq!(Geometry::new(0), None);
        assert_eq!(Geometry::new(MAX_DATA_BLOCKS + 1), None);
        assert!(Geometry::new(MAX_DATA_BLOCKS).is_some());
    }

    #[test]
    fn table_has_no_superblock_and_names_the_tree_after_the_data() {
        let geometry = Geometry::new(9).unwrap();
        let hash = Hex32([0xab; 32]);
        let hex = "ab".repeat(32);
        assert_eq!(
            table("254:0", geometry, &hash, &[], OnCorruption::FailRead),
            format!("1 254:0 254:0 4096 4096 9 9 sha256 {hex} -")
        );
        assert_eq!(
            table("254:0", geometry, &hash, &[1, 2], OnCorruption::Panic),
            format!(
                "1 254:0 254:0 4096 4096 9 9 sha256 {hex} 0102 2 panic_on_corruption panic_on_error"
            )
        );
    }
}
