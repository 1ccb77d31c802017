//! Extended attributes, stored beside their inode: `struct
//! erofs_xattr_ibody_header`, then `struct erofs_xattr_entry` each with name and
//! value, padded to 4 bytes. Nothing is shared between inodes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::tree::show;

const HEADER: usize = 12;
const ALIGNMENT: usize = 4;
/// Namespaces have numbers (`EROFS_XATTR_INDEX_*`).
const NAMESPACES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];

/// The bytes beside the inode; none without attributes.
pub(super) fn encode(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<u8>> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; HEADER];
    for (full_name, value) in xattrs {
        let what = || format!("cannot store attribute {}", show(full_name));
        let (name, namespace) = NAMESPACES
            .iter()
            .find_map(|(prefix, index)| Some((full_name.strip_prefix(*prefix)?, *index)))
            .with_context(what)?;
        bytes.push(u8::try_from(name.len()).with_context(what)?);
        bytes.push(namespace);
        bytes.extend(u16::try_from(value.len()).with_context(what)?.to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
    Ok(bytes)
}

/// `i_xattr_icount`: 0 without attributes, else the length in units of 4 bytes,
/// of which the header counts as one.
pub(super) fn count(bytes: &[u8]) -> Result<u16> {
    match bytes.len().checked_sub(HEADER) {
        None => Ok(0),
        Some(entries) => u16::try_from((entries / ALIGNMENT).saturating_add(1))
            .context("a file has over 256 KiB of attributes"),
    }
}
