//! Builds dm-verity hash trees, to the byte as `veritysetup format
//! --no-superblock` does (Linux `verity.rst`, "Hash Tree"; hash type 1: the salt
//! goes before the block).
//!
//! Blocks are asked for by offset, so that every core reads and hashes its own
//! part and only the digests are held: 32 bytes for each 4096 of data.

use std::io;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::base16::Hex32;
use crate::verity::{BLOCK_SIZE, Geometry};

const BLOCK: usize = 4096;
const DIGEST: usize = 32;
/// Small enough to stay in a core's second-level cache between read and hash.
const BLOCKS_PER_READ: u64 = 16;

const _: () = assert!(BLOCK as u64 == BLOCK_SIZE);

/// A hash tree and its top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashTree {
    /// Top of the tree.
    pub root_hash: Hex32,
    /// Shape of the device.
    pub geometry: Geometry,
    /// The tree as it follows the data on disk: whole blocks, top level first.
    pub bytes: Vec<u8>,
}

impl HashTree {
    /// Hashes `geometry.data_blocks()` blocks. `read_exact_at` fills its buffer
    /// with the data at a byte offset; it is called from many threads at once.
    ///
    /// # Errors
    /// The first error of `read_exact_at`.
    pub fn build<F>(geometry: Geometry, salt: &[u8], read_exact_at: F) -> io::Result<Self>
    where
        F: Fn(&mut [u8], u64) -> io::Result<()> + Sync,
    {
        let salted = Sha256::new_with_prefix(salt);
        let digests = data_digests(geometry, &salted, &read_exact_at)?;
        Ok(Self::above(geometry, &salted, digests))
    }

    /// Hashes data in memory. `None` when it is not whole blocks, or none.
    pub fn of_bytes(data: &[u8], salt: &[u8]) -> Option<Self> {
        let blocks = u64::try_from(data.len().checked_div(BLOCK)?).ok()?;
        let geometry = Geometry::new(blocks).filter(|_| data.len().is_multiple_of(BLOCK))?;
        let salted = Sha256::new_with_prefix(salt);
        let digests = block_digests(&salted, data);
        Some(Self::above(geometry, &salted, digests))
    }

    /// The levels over the digests of the data blocks.
    fn above(geometry: Geometry, salted: &Sha256, mut level: Vec<u8>) -> Self {
        let mut levels = Vec::new();
        while level.len() > DIGEST {
            level.resize(level.len().next_multiple_of(BLOCK), 0);
            let above = block_digests(salted, &level);
            levels.push(std::mem::replace(&mut level, above));
        }
        let mut root_hash = [0; DIGEST];
        root_hash.copy_from_slice(&level);
        levels.reverse();
        Self {
            root_hash: Hex32(root_hash),
            geometry,
            bytes: levels.concat(),
        }
    }
}

/// The digests of all data blocks, one after the other.
fn data_digests<F>(geometry: Geometry, salted: &Sha256, read_exact_at: &F) -> io::Result<Vec<u8>>
where
    F: Fn(&mut [u8], u64) -> io::Result<()> + Sync,
{
    let blocks = geometry.data_blocks();
    let reads = blocks.div_ceil(BLOCKS_PER_READ);
    let parts = (0..reads)
        .into_par_iter()
        // A buffer for each run of reads: fresh ones would cost as many page faults.
        .map_init(Vec::new, |data, read| {
            let first = read.saturating_mul(BLOCKS_PER_READ);
            let count = blocks.saturating_sub(first).min(BLOCKS_PER_READ);
            let length = usize::try_from(count.saturating_mul(BLOCK_SIZE));
            data.resize(length.map_err(io::Error::other)?, 0);
            read_exact_at(data, first.saturating_mul(BLOCK_SIZE))?;
            let blocks = data.chunks_exact(BLOCK);
            Ok(blocks.flat_map(|block| digest(salted, block)).collect())
        })
        .collect::<io::Result<Vec<Vec<u8>>>>()?;
    Ok(parts.concat())
}

fn block_digests(salted: &Sha256, blocks: &[u8]) -> Vec<u8> {
    blocks
        .par_chunks_exact(BLOCK)
        .flat_map_iter(|block| digest(salted, block))
        .collect()
}

fn digest(salted: &Sha256, block: &[u8]) -> [u8; DIGEST] {
    salted.clone().chain_update(block).finalize().into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::{BLOCK, HashTree};
    use crate::base16;
    use crate::verity::Geometry;

    fn data(blocks: usize) -> Vec<u8> {
        let mut state = 1u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        };
        let length = blocks.checked_mul(BLOCK).unwrap();
        std::iter::repeat_with(next).take(length).collect()
    }

    /// `veritysetup verify` on plain files, which needs neither root nor device-mapper.
    fn veritysetup_accepts(data: &[u8], tree: &HashTree, salt: &[u8]) -> bool {
        let file = |bytes: &[u8]| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        let (data_file, hash_file) = (file(data), file(&tree.bytes));
        let salt = if salt.is_empty() {
            "-".into()
        } else {
            base16::encode(salt)
        };
        Command::new("veritysetup")
            .args(["verify", "--no-superblock", "--hash=sha256"])
            .args(["--data-block-size=4096", "--hash-block-size=4096"])
            .arg(format!("--data-blocks={}", tree.geometry.data_blocks()))
            .arg(format!("--salt={salt}"))
            .args([data_file.path(), hash_file.path()])
            .arg(tree.root_hash.to_string())
            .status()
            .unwrap()
            .success()
    }

    #[test]
    fn trees_match_veritysetup() {
        for blocks in [1, 2, 127, 128, 129, 16384, 16385] {
            for salt in [&[][..], &[0xa5; 32]] {
                let data = data(blocks);
                let tree = HashTree::of_bytes(&data, salt).unwrap();
                let expected = tree.geometry.hash_blocks() * 4096;
                assert_eq!(tree.bytes.len() as u64, expected);
                if blocks > 1 {
                    assert!(
                        veritysetup_accepts(&data, &tree, salt),
                        "{blocks} blocks, salt {salt:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn veritysetup_rejects_an_altered_block() {
        let mut data = data(300);
        let tree = HashTree::of_bytes(&data, &[]).unwrap();
        data[299 * BLOCK] ^= 1;
        assert!(!veritysetup_accepts(&data, &tree, &[]));
    }

    #[test]
    fn rejects_partial_blocks_and_reports_read_errors() {
        assert_eq!(HashTree::of_bytes(&[], &[]), None);
        assert_eq!(HashTree::of_bytes(&[0; 4097], &[]), None);
        let fail = |_: &mut [u8], _| Err(std::io::ErrorKind::Other.into());
        assert!(HashTree::build(Geometry::new(9).unwrap(), &[], fail).is_err());
    }
}
