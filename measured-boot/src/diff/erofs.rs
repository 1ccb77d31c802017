//! Reads an uncompressed EROFS as `image-build` writes it (Linux
//! `fs/erofs/erofs_fs.h`): 4096-byte blocks, extended inodes, data flat or with
//! its tail beside the inode, no shared attributes.
//!
//! The image is taken to be hostile: every offset is checked, and no directory
//! is entered twice.

use std::collections::{BTreeMap, BTreeSet};

use super::FormatError;

const BLOCK: usize = 4096;
const SUPERBLOCK: usize = 1024;
const MAGIC: [u8; 4] = 0xe0f5_e1e2u32.to_le_bytes();
const BLOCK_SIZE_BITS: u8 = 12;
const SLOT: usize = 32;
const INODE: usize = 64;
const ENTRY: usize = 12;
/// `i_format`: an extended inode, flat or with its tail inline.
const FLAT_PLAIN: u16 = 1;
const FLAT_INLINE: u16 = 5;
const TYPE_MASK: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;

/// A file, a folder or a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// Type and permissions.
    pub mode: u16,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes as they are stored.
    pub xattrs: &'a [u8],
    /// Contents, or a link's target: the whole blocks and the tail. Both empty
    /// for a folder.
    pub data: [&'a [u8]; 2],
}

impl Node<'_> {
    /// Contents, or a link's target.
    pub fn contents(&self) -> Vec<u8> {
        self.data.concat()
    }

    /// Length of the contents.
    pub fn size(&self) -> usize {
        let [blocks, tail] = self.data;
        blocks.len().saturating_add(tail.len())
    }
}

/// Every path, without a leading slash; the root is the empty path.
pub type Listing<'a> = BTreeMap<Vec<u8>, Node<'a>>;

/// Lists everything in an image.
///
/// # Errors
/// The first field that is not as the builder writes it.
pub fn list(image: &[u8]) -> Result<Listing<'_>, FormatError> {
    let reader = Reader { image };
    let magic: [u8; 4] = reader.array(SUPERBLOCK, "superblock")?;
    if magic != MAGIC {
        let (got, expected) = (hex(&magic), hex(&MAGIC));
        return Err(error(SUPERBLOCK, "magic", got, expected));
    }
    let at = SUPERBLOCK.saturating_add(12);
    let [bits, _, low, high] = reader.array(at, "superblock")?;
    if bits != BLOCK_SIZE_BITS {
        return Err(error(at, "block size bits", bits, BLOCK_SIZE_BITS));
    }
    let mut listing = Listing::new();
    let mut entered = BTreeSet::new();
    let root = u64::from(u16::from_le_bytes([low, high]));
    let mut folders = vec![(Vec::new(), root, at)];
    while let Some((path, number, named_at)) = folders.pop() {
        let (node, data) = reader.node(number, named_at)?;
        if node.mode & TYPE_MASK == DIRECTORY {
            if !entered.insert(number) {
                let got = format!("{number} twice");
                let expected = "each folder once";
                return Err(error(named_at, "inode of a folder", got, expected));
            }
            for (name, child, at) in reader.entries(data)? {
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                folders.push((path, child, at));
            }
        }
        if listing.insert(path, node).is_some() {
            let expected = "each name once in a folder";
            return Err(error(named_at, "name", "one twice", expected));
        }
    }
    Ok(listing)
}

struct Reader<'a> {
    image: &'a [u8],
}

/// A name, its inode and where the entry is.
type Entry<'a> = (&'a [u8], u64, usize);

impl<'a> Reader<'a> {
    fn slice(
        &self,
        offset: usize,
        size: usize,
        field: &'static str,
    ) -> Result<&'a [u8], FormatError> {
        let end = offset.checked_add(size);
        end.and_then(|end| self.image.get(offset..end))
            .ok_or_else(|| {
                let expected = format!("to end in the image of {} bytes", self.image.len());
                error(offset, field, format!("{size} bytes"), expected)
            })
    }

    fn array<const N: usize>(
        &self,
        offset: usize,
        field: &'static str,
    ) -> Result<[u8; N], FormatError> {
        let bytes = self.slice(offset, N, field)?;
        Ok(bytes.first_chunk().copied().unwrap_or([0; N]))
    }

    /// An inode, and the data of a folder.
    fn node(&self, number: u64, named_at: usize) -> Result<(Node<'a>, [&'a [u8]; 2]), FormatError> {
        let offset = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_mul(SLOT))
            .ok_or_else(|| error(named_at, "inode", number, "one in the image"))?;
        let header: [u8; INODE] = self.array(offset, "inode")?;
        let u16_at = |at: usize| {
            let bytes = header.get(at..).and_then(<[u8]>::first_chunk);
            u16::from_le_bytes(*bytes.unwrap_or(&[0; 2]))
        };
        let u32_at = |at: usize| {
            let bytes = header.get(at..).and_then(<[u8]>::first_chunk);
            u32::from_le_bytes(*bytes.unwrap_or(&[0; 4]))
        };
        let size_bytes = header.get(8..).and_then(<[u8]>::first_chunk);
        let size = u64::from_le_bytes(*size_bytes.unwrap_or(&[0; 8]));
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size <= self.image.len())
            .ok_or_else(|| {
                let expected = format!("at most {}", self.image.len());
                error(offset.saturating_add(8), "size", size, expected)
            })?;
        let format = u16_at(0);
        if format != FLAT_PLAIN && format != FLAT_INLINE {
            let expected = "1 (extended, plain) or 5 (extended, inline)";
            return Err(error(offset, "format of an inode", format, expected));
        }
        let xattrs_at = offset.saturating_add(INODE);
        let xattrs = self.slice(xattrs_at, xattr_size(u16_at(2)), "attributes")?;
        let tail_size = if format == FLAT_INLINE {
            size % BLOCK
        } else {
            0
        };
        let tail_at = xattrs_at.saturating_add(xattrs.len());
        let tail = self.slice(tail_at, tail_size, "inline data")?;
        let block = usize::try_from(u32_at(16)).unwrap_or(usize::MAX);
        let blocks_at = block.saturating_mul(BLOCK);
        let blocks = match size.saturating_sub(tail_size) {
            0 => &[][..],
            whole => self.slice(blocks_at, whole, "data")?,
        };
        let mode = u16_at(4);
        let data = [blocks, tail];
        let is_folder = mode & TYPE_MASK == DIRECTORY;
        let node = Node {
            mode,
            uid: u32_at(24),
            gid: u32_at(28),
            xattrs,
            data: if is_folder { [&[], &[]] } else { data },
        };
        Ok((node, data))
    }

    /// The entries of a folder but `.` and `..`. Whole blocks and the tail are
    /// blocks of entries alike.
    fn entries(&self, data: [&'a [u8]; 2]) -> Result<Vec<Entry<'a>>, FormatError> {
        let mut entries = Vec::new();
        let blocks = data.into_iter().flat_map(|part| part.chunks(BLOCK));
        for block in blocks {
            let start = block.as_ptr().addr();
            let start = start.saturating_sub(self.image.as_ptr().addr());
            let first = name_offset(block, 0).unwrap_or(0);
            if first == 0 || !first.is_multiple_of(ENTRY) || first > block.len() {
                let expected = format!("a multiple of {ENTRY}, at most {}", block.len());
                return Err(error(start, "first name offset", first, expected));
            }
            let number = first / ENTRY;
            for index in 0..number {
                let at = index.saturating_mul(ENTRY);
                let from = name_offset(block, index);
                let to = match index.saturating_add(1) {
                    next if next < number => name_offset(block, next),
                    _ => Some(block.len()),
                };
                let name = from.zip(to).and_then(|(from, to)| block.get(from..to));
                // The last name of a block may be followed by zeros.
                let name = name.map(|name| name.split(|byte| *byte == 0).next().unwrap_or(name));
                let inode = block.get(at..).and_then(<[u8]>::first_chunk);
                let (Some(name), Some(inode)) = (name, inode) else {
                    let got = format!("{from:?} to {to:?}");
                    let at = start.saturating_add(at);
                    return Err(error(at, "name of an entry", got, "to lie in its block"));
                };
                if name.is_empty() || name.contains(&b'/') {
                    let at = start.saturating_add(at);
                    let expected = "a name without '/'";
                    return Err(error(at, "name of an entry", hex(name), expected));
                }
                if name != b"." && name != b".." {
                    let inode = u64::from_le_bytes(*inode);
                    entries.push((name, inode, start.saturating_add(at)));
                }
            }
        }
        Ok(entries)
    }
}

fn name_offset(block: &[u8], index: usize) -> Option<usize> {
    let at = index.checked_mul(ENTRY)?.checked_add(8)?;
    let bytes = block.get(at..)?.first_chunk()?;
    Some(usize::from(u16::from_le_bytes(*bytes)))
}

/// From `i_xattr_icount`: a header of 12 bytes counts as one, the rest in units
/// of 4 bytes.
fn xattr_size(count: u16) -> usize {
    match usize::from(count).checked_sub(1) {
        None => 0,
        Some(units) => units.saturating_mul(4).saturating_add(12),
    }
}

fn hex(bytes: &[u8]) -> String {
    crate::base16::encode(bytes)
}

fn error(
    offset: usize,
    field: &'static str,
    got: impl ToString,
    expected: impl ToString,
) -> FormatError {
    FormatError {
        part: "rootfs",
        offset,
        field,
        got: got.to_string(),
        expected: expected.to_string(),
    }
}
