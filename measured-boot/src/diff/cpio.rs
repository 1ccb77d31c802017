//! Reads a cpio archive of the form that the kernel unpacks ("newc", Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use super::FormatError;

const HEADER: usize = 110;
const ALIGNMENT: usize = 4;
const TRAILER: &[u8] = b"TRAILER!!!";

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its path.
    pub name: &'a [u8],
    /// Every field of the header but the sizes: inode, mode, owner, links,
    /// time, devices and checksum.
    pub fields: [u32; 11],
    /// Its contents.
    pub data: &'a [u8],
    /// Where the contents are in the archive.
    pub offset: usize,
}

/// Reads the entries up to the trailer, behind which nothing may be.
///
/// # Errors
/// Another format, or an entry that leaves the archive.
pub fn read(archive: &[u8]) -> Result<Vec<Entry<'_>>, FormatError> {
    let mut entries = Vec::new();
    let mut cursor = 0usize;
    loop {
        let (entry, next) = entry(archive, cursor)?;
        if entry.name == TRAILER {
            let rest = archive.get(next..).unwrap_or_default();
            return match rest {
                [] => Ok(entries),
                _ => {
                    let got = format!("{} bytes", rest.len());
                    Err(error(next, "end", got, "nothing behind the trailer"))
                }
            };
        }
        entries.push(entry);
        cursor = next;
    }
}

fn entry(archive: &[u8], start: usize) -> Result<(Entry<'_>, usize), FormatError> {
    let header: Option<&[u8; HEADER]> = archive.get(start..).and_then(<[u8]>::first_chunk);
    let Some([a, b, c, d, e, f, ..]) = header else {
        return Err(error(
            start,
            "header",
            "end of file",
            "an entry or the trailer",
        ));
    };
    let magic = &[*a, *b, *c, *d, *e, *f];
    if magic != b"070701" {
        let got = crate::base16::encode(magic);
        return Err(error(start, "magic", got, "070701 in ASCII"));
    }
    let mut fields = [0u32; 13];
    for (index, field) in fields.iter_mut().enumerate() {
        let at = start
            .saturating_add(6)
            .saturating_add(index.saturating_mul(8));
        let digits = archive.get(at..at.saturating_add(8)).unwrap_or_default();
        let plain = digits.iter().all(u8::is_ascii_hexdigit);
        *field = core::str::from_utf8(digits)
            .ok()
            .filter(|_| plain)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| {
                let got = crate::base16::encode(digits);
                error(at, "field", got, "8 hexadecimal digits")
            })?;
    }
    let [a, b, c, d, e, f, size, g, h, i, j, name_size, k] = fields;
    let name_start = start.saturating_add(HEADER);
    let (name, name_end) = take(archive, name_start, name_size, "name")?;
    let Some((0, name)) = name.split_last() else {
        return Err(error(name_start, "name", "no NUL at its end", "a NUL"));
    };
    let offset = aligned(name_end);
    let (data, end) = take(archive, offset, size, "contents")?;
    let entry = Entry {
        name,
        fields: [a, b, c, d, e, f, g, h, i, j, k],
        data,
        offset,
    };
    Ok((entry, aligned(end)))
}

fn take<'a>(
    archive: &'a [u8],
    start: usize,
    size: u32,
    field: &'static str,
) -> Result<(&'a [u8], usize), FormatError> {
    let end = usize::try_from(size)
        .ok()
        .and_then(|size| start.checked_add(size));
    end.and_then(|end| Some((archive.get(start..end)?, end)))
        .ok_or_else(|| {
            let room = archive.len().saturating_sub(start);
            let got = format!("{size} bytes");
            error(start, field, got, format!("at most {room} bytes"))
        })
}

fn aligned(offset: usize) -> usize {
    offset
        .checked_next_multiple_of(ALIGNMENT)
        .unwrap_or(usize::MAX)
}

fn error(
    offset: usize,
    field: &'static str,
    got: impl Into<String>,
    expected: impl Into<String>,
) -> FormatError {
    FormatError {
        part: "initrd",
        offset,
        field,
        got: got.into(),
        expected: expected.into(),
    }
}
