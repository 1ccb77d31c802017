//! The digest by which firmware measures a PE image.
//!
//! "Windows Authenticode Portable Executable Signature Format", "Calculating
//! the PE Image Hash", in the order of its steps: all but the checksum, the
//! certificate table and its directory entry; sections by their file offset.

use std::ops::Range;

use sha2::Digest;
use sha2::digest::Output;

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

/// The image's Authenticode digest.
pub(super) fn digest<D: Digest>(image: &[u8]) -> Result<Output<D>, Error> {
    let image = Image(image);
    let mut hash = D::new();
    for range in image.hashed()? {
        hash.update(image.range(range.start, range.end)?);
    }
    Ok(hash.finalize())
}

/// A PE32+ image; nothing in it is believed before it is looked up.
pub(super) struct Image<'a>(pub(super) &'a [u8]);

/// Where one section lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// Padded with zeros.
    pub(super) name: [u8; 8],
    /// Its header in the file.
    pub(super) header: usize,
    /// Bytes in memory, of which the file gives the first.
    pub(super) virtual_size: usize,
    /// Bytes in the file.
    pub(super) size: usize,
    /// Where they are.
    pub(super) offset: usize,
}

impl<'a> Image<'a> {
    /// What the digest covers, in its order.
    fn hashed(&self) -> Result<Vec<Range<usize>>, Error> {
        let pe = self.signature()?;
        let at = |field: usize| pe.saturating_add(field);
        if self.u32(at(NUMBER_OF_DIRECTORIES))? < 5 {
            return Err(refused(
                at(NUMBER_OF_DIRECTORIES),
                "got no certificate directory",
            ));
        }
        let headers = self.u32(at(SIZE_OF_HEADERS))?;
        let certificates = self.u32(at(CERTIFICATE_DIRECTORY + 4))?;
        let mut hashed = vec![
            0..at(CHECKSUM),
            at(CHECKSUM + 4)..at(CERTIFICATE_DIRECTORY),
            at(CERTIFICATE_DIRECTORY + 8)..headers,
        ];
        let mut sections = self.sections()?;
        sections.retain(|section| section.size != 0);
        sections.sort_by_key(|section| section.offset);
        let mut covered = headers;
        for Section { size, offset, .. } in sections {
            hashed.push(offset..offset.saturating_add(size));
            covered = covered.saturating_add(size);
        }
        // More than the file would be hashed only if sections share bytes, and
        // 65,535 of them that each are the whole file keep a predictor busy.
        if covered > self.0.len() {
            let cause = format!(
                "got sections of {covered:#x} bytes in all in a file of {:#x}",
                self.0.len()
            );
            return Err(Error::Kernel {
                offset: at(NUMBER_OF_SECTIONS),
                cause,
            });
        }
        // What no section covers, up to the certificates at the end.
        let end = self.0.len().checked_sub(certificates);
        let end = end.ok_or_else(|| {
            refused(
                at(CERTIFICATE_DIRECTORY + 4),
                "got more certificates than file",
            )
        })?;
        hashed.push(covered..end);
        Ok(hashed)
    }

    /// Offset of the PE signature.
    fn signature(&self) -> Result<usize, Error> {
        if self.bytes(0, 2)? != b"MZ" {
            return Err(refused(0, "got no MZ signature"));
        }
        let pe = self.u32(0x3c)?;
        if self.bytes(pe, 4)? != b"PE\0\0" {
            return Err(refused(pe, "got no PE signature"));
        }
        let optional = pe.saturating_add(OPTIONAL_HEADER);
        if self.u16(optional)? != PE32_PLUS {
            return Err(refused(
                optional,
                "got an optional header that is not PE32+",
            ));
        }
        Ok(pe)
    }

    /// Every section, in the order of the table.
    pub(super) fn sections(&self) -> Result<Vec<Section>, Error> {
        let pe = self.signature()?;
        let count = self.u16(pe.saturating_add(NUMBER_OF_SECTIONS))?;
        let table = usize::from(self.u16(pe.saturating_add(SIZE_OF_OPTIONAL_HEADER))?);
        let table = pe.saturating_add(OPTIONAL_HEADER).saturating_add(table);
        let section = |index: u16| {
            let header = usize::from(index).saturating_mul(SECTION_HEADER_SIZE);
            let header = table.saturating_add(header);
            let field = |offset: usize| self.u32(header.saturating_add(offset));
            Ok(Section {
                name: self.bytes(header, 8)?.try_into().unwrap_or_default(),
                header,
                virtual_size: field(8)?,
                size: field(16)?,
                offset: field(20)?,
            })
        };
        (0..count).map(section).collect()
    }

    /// `length` bytes of the file.
    pub(super) fn bytes(&self, offset: usize, length: usize) -> Result<&'a [u8], Error> {
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
}

fn refused(offset: usize, cause: &str) -> Error {
    Error::Kernel {
        offset,
        cause: cause.to_owned(),
    }
}
