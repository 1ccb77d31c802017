//! The digest by which firmware measures a PE image.
//!
//! "Windows Authenticode Portable Executable Signature Format", "Calculating
//! the PE Image Hash", in the order of its steps: all but the checksum, the
//! certificate table and its directory entry; sections by their file offset.

use sha2::{Digest, Sha256};

use super::Error;

/// Offsets from the PE signature, and sizes, of "PE Format" sections 2 to 4.
const NUMBER_OF_SECTIONS: usize = 6;
const SIZE_OF_OPTIONAL_HEADER: usize = 20;
const OPTIONAL_HEADER: usize = 24;
const SIZE_OF_HEADERS: usize = OPTIONAL_HEADER + 60;
const CHECKSUM: usize = OPTIONAL_HEADER + 64;
const PE32_PLUS: u16 = 0x20b;
const NUMBER_OF_DIRECTORIES: usize = OPTIONAL_HEADER + 108;
const CERTIFICATE_DIRECTORY: usize = OPTIONAL_HEADER + 112 + 4 * 8;
const SECTION_HEADER_SIZE: usize = 40;
const SIZE_OF_RAW_DATA: usize = 16;

/// Authenticode SHA-256 of a PE32+ image.
pub(super) fn digest(image: &[u8]) -> Result<[u8; 32], Error> {
    let image = Image(image);
    if image.bytes(0, 2)? != b"MZ" {
        return Err(refused(0, "got no MZ signature"));
    }
    let pe = image.u32(0x3c)?;
    if image.bytes(pe, 4)? != b"PE\0\0" {
        return Err(refused(pe, "got no PE signature"));
    }
    let at = |field: usize| pe.saturating_add(field);
    if image.u16(at(OPTIONAL_HEADER))? != PE32_PLUS {
        return Err(refused(
            at(OPTIONAL_HEADER),
            "got an optional header that is not PE32+",
        ));
    }
    if image.u32(at(NUMBER_OF_DIRECTORIES))? < 5 {
        return Err(refused(
            at(NUMBER_OF_DIRECTORIES),
            "got no certificate directory",
        ));
    }
    let headers = image.u32(at(SIZE_OF_HEADERS))?;
    let certificates = image.u32(at(CERTIFICATE_DIRECTORY + 4))?;

    let mut hash = Sha256::new();
    let after_checksum = at(CHECKSUM + 4);
    let after_entry = at(CERTIFICATE_DIRECTORY + 8);
    hash.update(image.bytes(0, at(CHECKSUM))?);
    hash.update(image.range(after_checksum, at(CERTIFICATE_DIRECTORY))?);
    hash.update(image.range(after_entry, headers)?);

    let mut hashed = headers;
    for (size, offset) in image.sections(pe)? {
        hash.update(image.bytes(offset, size)?);
        hashed = hashed.saturating_add(size);
    }
    // What no section covers, up to the certificates at the end.
    let end = image.0.len().checked_sub(certificates);
    let end = end.ok_or_else(|| {
        refused(
            at(CERTIFICATE_DIRECTORY + 4),
            "got more certificates than file",
        )
    })?;
    hash.update(image.range(hashed, end)?);
    Ok(hash.finalize().into())
}

struct Image<'a>(&'a [u8]);

impl<'a> Image<'a> {
    fn bytes(&self, offset: usize, length: usize) -> Result<&'a [u8], Error> {
        self.range(offset, offset.saturating_add(length))
    }

    fn range(&self, start: usize, end: usize) -> Result<&'a [u8], Error> {
        self.0.get(start..end).ok_or_else(|| {
            let cause = format!(
                "got {start:#x} to {end:#x} in a file of {:#x} bytes",
                self.0.len()
            );
            Error::Kernel {
                offset: start,
                cause,
            }
        })
    }

    fn u16(&self, offset: usize) -> Result<u16, Error> {
        let bytes = self.bytes(offset, 2)?.try_into().unwrap_or_default();
        Ok(u16::from_le_bytes(bytes))
    }

    fn u32(&self, offset: usize) -> Result<usize, Error> {
        let bytes = self.bytes(offset, 4)?.try_into().unwrap_or_default();
        Ok(usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX))
    }

    /// Size and file offset of each section with data, by offset.
    fn sections(&self, pe: usize) -> Result<Vec<(usize, usize)>, Error> {
        let count = self.u16(pe.saturating_add(NUMBER_OF_SECTIONS))?;
        let table = usize::from(self.u16(pe.saturating_add(SIZE_OF_OPTIONAL_HEADER))?);
        let table = pe.saturating_add(OPTIONAL_HEADER).saturating_add(table);
        let mut sections = Vec::new();
        for index in 0..usize::from(count) {
            let header = table.saturating_add(index.saturating_mul(SECTION_HEADER_SIZE));
            let size = header.saturating_add(SIZE_OF_RAW_DATA);
            let section = (self.u32(size)?, self.u32(size.saturating_add(4))?);
            if section.0 != 0 {
                sections.push(section);
            }
        }
        sections.sort_by_key(|(_, offset)| *offset);
        Ok(sections)
    }
}

fn refused(offset: usize, cause: &str) -> Error {
    Error::Kernel {
        offset,
        cause: cause.to_owned(),
    }
}
