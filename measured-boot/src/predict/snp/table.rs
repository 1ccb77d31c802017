//! The GUIDed table at the end of a firmware file
//! (`OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`). It is read backwards from
//! 32 bytes before the end; each entry is followed by its size and GUID, and the
//! table by its own.

use super::Error;

/// The reset vector lies behind the table.
const RESET_VECTOR: usize = 32;
/// Size and GUID of an entry.
const ENTRY: usize = 18;

/// A GUID as it is stored: the first three fields little-endian.
pub(super) type Guid = [u8; 16];

/// 96b582de-1fb2-45f7-baea-a366c55a082d
const TABLE_FOOTER: Guid = guid(0x96b582de_1fb2_45f7_baea_a366c55a082d);
/// An entry by its name in OVMF's sources and its GUID.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) guid: Guid,
}

/// Stores a GUID given in the order in which it is written.
pub(super) const fn guid(written: u128) -> Guid {
    let [a, b, c, d, e, f, g, h, rest @ ..] = written.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

/// The entries of the GUIDed table, with the offset of their data in the file.
pub(super) struct Table<'a> {
    entries: Vec<(Guid, usize, &'a [u8])>,
}

impl<'a> Table<'a> {
    /// Reads every entry.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, Error> {
        let end = file.len().saturating_sub(RESET_VECTOR);
        let footer = end.saturating_sub(ENTRY);
        let (size, found) = entry_header(file, footer)?;
        if found != TABLE_FOOTER {
            let got = crate::base16::encode(&found);
            let expected = crate::base16::encode(&TABLE_FOOTER);
            return Err(Error::firmware("GUID of the table", footer, got, expected));
        }
        let start = size
            .checked_sub(ENTRY)
            .and_then(|data| footer.checked_sub(data))
            .ok_or_else(|| {
                let expected = format!("{ENTRY} to {end}");
                Error::firmware("size of the table", footer, size, expected)
            })?;

        let mut entries: Vec<(Guid, usize, &[u8])> = Vec::new();
        let mut cursor = footer;
        while cursor > start {
            let room = cursor.saturating_sub(start);
            let header = cursor.saturating_sub(ENTRY).max(start);
            let (size, guid) = match room {
                ENTRY.. => entry_header(file, header)?,
                _ => (0, [0; 16]),
            };
            if size < ENTRY || size > room {
                let expected = format!("{ENTRY} to {room}");
                return Err(Error::firmware("size of an entry", header, size, expected));
            }
            if entries.iter().any(|(other, ..)| *other == guid) {
                let got = crate::base16::encode(&guid);
                return Err(Error::firmware(
                    "GUID of an entry",
                    header,
                    got,
                    "each GUID once",
                ));
            }
            cursor = cursor.saturating_sub(size);
            entries.push((guid, cursor, file.get(cursor..header).unwrap_or_default()));
        }
        Ok(Self { entries })
    }

    /// The entry's data and where it is.
    pub(super) fn get(&self, entry: Entry) -> Option<(usize, &'a [u8])> {
        let found = self.entries.iter().find(|(guid, ..)| *guid == entry.guid)?;
        Some((found.1, found.2))
    }

    /// As [`Self::get`], of an entry that must be there.
    pub(super) fn find(&self, entry: Entry) -> Result<(usize, &'a [u8]), Error> {
        let missing = Error::MissingEntry { entry: entry.name };
        self.get(entry).ok_or(missing)
    }
}

fn entry_header(file: &[u8], offset: usize) -> Result<(usize, Guid), Error> {
    let bytes: Option<&[u8; ENTRY]> = file.get(offset..).and_then(<[u8]>::first_chunk);
    let Some([low, high, guid @ ..]) = bytes else {
        return Err(Error::firmware("table", offset, "end of file", "an entry"));
    };
    Ok((usize::from(u16::from_le_bytes([*low, *high])), *guid))
}

/// The number at the start of an entry's data.
pub(super) fn first_u32(field: &'static str, offset: usize, data: &[u8]) -> Result<u32, Error> {
    match data.first_chunk() {
        Some(bytes) => Ok(u32::from_le_bytes(*bytes)),
        None => {
            let got = format!("{} bytes", data.len());
            Err(Error::firmware(field, offset, got, "at least 4 bytes"))
        }
    }
}
