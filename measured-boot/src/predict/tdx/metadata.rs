//! Which pages the VMM puts into a TD before it runs, as the firmware says.
//!
//! OVMF's table of GUIDed entries ends 32 bytes before the end of the file; one
//! entry leads to the TDX metadata: a descriptor and sections ("Intel TDX
//! Virtual Firmware Design Guide", section 11, "TDVF Metadata"). A VMM that met
//! an unknown type or attribute would do what it likes, so nothing is predicted
//! for such a firmware.

use std::ops::Range;

use crate::predict::Error;

/// Footer of the table, `96b582de-1fb2-45f7-baea-a366c55a082d`.
const TABLE_FOOTER: [u8; 16] = [
    0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d,
];
/// Entry with the metadata's offset, `e47a6535-984a-4798-865e-4685a7bf8ec2`.
const METADATA_OFFSET: [u8; 16] = [
    0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2,
];
/// What lies behind the table: the reset vector.
const RESET_VECTOR: usize = 32;
const GUID: usize = 16;
/// Length and GUID, which end each entry.
const ENTRY_END: usize = 2 + GUID;
const DESCRIPTOR: usize = 16;
const SECTION: usize = 32;
/// OVMF has six; the bound keeps the check for overlaps short.
const MAX_SECTIONS: usize = 64;
const PAGE: u64 = 4096;
const FOUR_GIB: u64 = 1 << 32;
/// `TDX_METADATA_ATTRIBUTES_EXTENDMR` and `_PAGE_AUG`.
const EXTEND_MR: u32 = 1;
const PAGE_AUG: u32 = 2;

/// What a section is, with its number in the design guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 0: boot firmware volume.
    Bfv,
    /// 1: configuration firmware volume, the variables.
    Cfv,
    /// 2: where the VMM writes the hand-off blocks.
    TdHob,
    /// 3: memory for the first instructions.
    TempMem,
    /// 4: memory of the TD.
    PermMem,
    /// 5: what a firmware without a boot loader starts.
    Payload,
    /// 6: its parameters.
    PayloadParam,
    /// 7: td-shim's own description.
    TdInfo,
}

/// Pages of one section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) kind: Kind,
    /// Where its data is in the file; empty for memory without data.
    pub(super) data: Range<usize>,
    /// First guest-physical address.
    pub(super) address: u64,
    /// Number of pages.
    pub(super) pages: u64,
    /// Whether the VMM adds the pages before the TD runs, and not the TD itself.
    pub(super) added: bool,
    /// Whether their contents are measured, and not their addresses alone.
    pub(super) extended: bool,
}

/// Every section, in the order of the file, which is that of the VMM.
pub(super) fn sections(firmware: &[u8]) -> Result<Vec<Section>, Error> {
    let file = File(firmware);
    let descriptor = file.descriptor()?;
    let at = |field: usize| descriptor.saturating_add(field);
    if file.bytes("TDX metadata", descriptor, 4)? != b"TDVF" {
        return Err(refused(
            "TDX metadata signature",
            descriptor,
            "other bytes",
            "TDVF",
        ));
    }
    let version = file.u32("TDX metadata version", at(8))?;
    if version != 1 {
        return Err(refused("TDX metadata version", at(8), version, 1));
    }
    let count = usize::try_from(file.u32("TDX section count", at(12))?).unwrap_or(usize::MAX);
    if !(1..=MAX_SECTIONS).contains(&count) {
        let expected = format!("1 to {MAX_SECTIONS}");
        return Err(refused("TDX section count", at(12), count, expected));
    }
    let length = u64::from(file.u32("TDX metadata length", at(4))?);
    let expected = count.saturating_mul(SECTION).saturating_add(DESCRIPTOR);
    if length != expected as u64 {
        return Err(refused("TDX metadata length", at(4), length, expected));
    }
    let mut sections = Vec::new();
    for index in 0..count {
        let offset = at(DESCRIPTOR).saturating_add(index.saturating_mul(SECTION));
        let section = file.section(offset)?;
        check_overlap(&sections, &section, offset)?;
        sections.push(section);
    }
    if !sections.iter().any(|s| s.kind == Kind::Bfv && s.extended) {
        return Err(refused(
            "TDX sections",
            at(DESCRIPTOR),
            "no measured BFV",
            "one",
        ));
    }
    Ok(sections)
}

fn check_overlap(before: &[Section], section: &Section, offset: usize) -> Result<(), Error> {
    let end = |s: &Section| s.address.saturating_add(s.pages.saturating_mul(PAGE));
    let shares_memory = |s: &&Section| s.address < end(section) && section.address < end(s);
    let shares_data =
        |s: &&Section| s.data.start.max(section.data.start) < s.data.end.min(section.data.end);
    if let Some(other) = before.iter().find(shares_memory) {
        let got = format!(
            "memory at {:#x}, in that of another",
            section.address.max(other.address)
        );
        return Err(refused("TDX section", offset, got, "no overlap"));
    }
    if let Some(other) = before.iter().find(shares_data) {
        let got = format!(
            "data at {:#x}, in that of another",
            section.data.start.max(other.data.start)
        );
        return Err(refused("TDX section", offset, got, "no overlap"));
    }
    Ok(())
}

struct File<'a>(&'a [u8]);

impl<'a> File<'a> {
    /// Where the metadata starts, by the table of GUIDed entries.
    fn descriptor(&self) -> Result<usize, Error> {
        let length = self.0.len();
        let end = length.saturating_sub(RESET_VECTOR);
        let footer = end.saturating_sub(ENTRY_END);
        let field = "GUIDed table footer";
        if self.bytes(field, footer, ENTRY_END)?.get(2..) != Some(&TABLE_FOOTER) {
            return Err(refused(
                field,
                footer.saturating_add(2),
                "another GUID",
                "96b582de-1fb2-45f7-baea-a366c55a082d",
            ));
        }
        let size = usize::from(self.u16(field, footer)?);
        let Some(start) = end.checked_sub(size).filter(|_| size >= ENTRY_END) else {
            let expected = format!("{ENTRY_END} to {end}");
            return Err(refused("GUIDed table length", footer, size, expected));
        };
        let mut entry_end = footer;
        while entry_end > start {
            let tail = entry_end.saturating_sub(ENTRY_END);
            let guid = self.bytes("GUIDed entry", tail, ENTRY_END)?.get(2..);
            let size = usize::from(self.u16("GUIDed entry length", tail)?);
            let entry = entry_end.checked_sub(size);
            let Some(entry) = entry.filter(|entry| size >= ENTRY_END && *entry >= start) else {
                let expected = format!("{ENTRY_END} to {}", entry_end.saturating_sub(start));
                return Err(refused("GUIDed entry length", tail, size, expected));
            };
            if guid == Some(&METADATA_OFFSET) {
                return self.metadata_at(entry, size);
            }
            entry_end = entry;
        }
        Err(refused(
            "GUIDed table",
            start,
            "no entry for TDX metadata",
            "e47a6535-984a-4798-865e-4685a7bf8ec2",
        ))
    }

    /// The entry's one number counts from the end of the file.
    fn metadata_at(&self, entry: usize, size: usize) -> Result<usize, Error> {
        let field = "TDX metadata offset";
        if size != ENTRY_END.saturating_add(4) {
            return Err(refused(field, entry, format!("{size} bytes"), "22 bytes"));
        }
        let back = self.u32(field, entry)?;
        let start = usize::try_from(back).ok();
        let start = start.and_then(|back| self.0.len().checked_sub(back));
        start.ok_or_else(|| {
            let expected = format!("at most {:#x}", self.0.len());
            refused(field, entry, format!("{back:#x}"), expected)
        })
    }

    fn section(&self, offset: usize) -> Result<Section, Error> {
        let at = |field: usize| offset.saturating_add(field);
        let data_offset = self.u32("TDX section data offset", offset)?;
        let data_size = self.u32("TDX section data size", at(4))?;
        let address = self.u64("TDX section address", at(8))?;
        let memory_size = self.u64("TDX section memory size", at(16))?;
        let kind = kind(self.u32("TDX section type", at(24))?, at(24))?;
        let attributes = self.u32("TDX section attributes", at(28))?;

        if address % PAGE != 0 {
            let got = format!("{address:#x}");
            return Err(refused("TDX section address", at(8), got, "whole pages"));
        }
        let ends_below = address
            .checked_add(memory_size)
            .is_some_and(|end| end <= FOUR_GIB);
        if memory_size == 0 || memory_size % PAGE != 0 || !ends_below {
            let got = format!("{memory_size:#x} at {address:#x}");
            let expected = "whole pages below 4 GiB";
            return Err(refused("TDX section memory size", at(16), got, expected));
        }
        if attributes & !(EXTEND_MR | PAGE_AUG) != 0 || attributes == EXTEND_MR | PAGE_AUG {
            let got = format!("{attributes:#x}");
            let expected = "0, 1 (extended) or 2 (added by the TD)";
            return Err(refused("TDX section attributes", at(28), got, expected));
        }
        let has_data = matches!(
            kind,
            Kind::Bfv | Kind::Cfv | Kind::Payload | Kind::PayloadParam | Kind::TdInfo
        );
        // The VMM writes hand-off blocks, and payloads that are not in the file.
        if attributes == EXTEND_MR && (kind == Kind::TdHob || has_data && data_size == 0) {
            let expected = "0 where the VMM writes the contents";
            return Err(refused(
                "TDX section attributes",
                at(28),
                attributes,
                expected,
            ));
        }
        if attributes == PAGE_AUG && kind != Kind::PermMem {
            let expected = "2 for memory of the TD only";
            return Err(refused(
                "TDX section attributes",
                at(28),
                attributes,
                expected,
            ));
        }
        let data = if has_data { u64::from(data_size) } else { 0 };
        let full = matches!(kind, Kind::Bfv | Kind::Cfv);
        if u64::from(data_size) != data || data > memory_size || full && data != memory_size {
            let expected = if full {
                memory_size
            } else {
                data.min(memory_size)
            };
            let (got, expected) = (format!("{data_size:#x}"), format!("{expected:#x}"));
            return Err(refused("TDX section data size", at(4), got, expected));
        }
        let start = usize::try_from(data_offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(data).unwrap_or(usize::MAX));
        if end > self.0.len() {
            let got = format!("{start:#x} to {end:#x}");
            let expected = format!(
                "at most {:#x}, the file's end (a file of code without variables is not enough)",
                self.0.len()
            );
            return Err(refused("TDX section data offset", offset, got, expected));
        }
        Ok(Section {
            kind,
            data: if data == 0 { 0..0 } else { start..end },
            address,
            pages: memory_size / PAGE,
            added: attributes & PAGE_AUG == 0,
            extended: attributes & EXTEND_MR != 0,
        })
    }

    fn bytes(&self, field: &'static str, offset: usize, length: usize) -> Result<&'a [u8], Error> {
        let end = offset.saturating_add(length);
        self.0.get(offset..end).ok_or_else(|| {
            let got = format!("a file of {:#x} bytes", self.0.len());
            refused(field, offset, got, format!("at least {end:#x}"))
        })
    }

    fn u16(&self, field: &'static str, offset: usize) -> Result<u16, Error> {
        let bytes = self.bytes(field, offset, 2)?.try_into().unwrap_or_default();
        Ok(u16::from_le_bytes(bytes))
    }

    fn u32(&self, field: &'static str, offset: usize) -> Result<u32, Error> {
        let bytes = self.bytes(field, offset, 4)?.try_into().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&self, field: &'static str, offset: usize) -> Result<u64, Error> {
        let bytes = self.bytes(field, offset, 8)?.try_into().unwrap_or_default();
        Ok(u64::from_le_bytes(bytes))
    }
}

fn kind(number: u32, offset: usize) -> Result<Kind, Error> {
    Ok(match number {
        0 => Kind::Bfv,
        1 => Kind::Cfv,
        2 => Kind::TdHob,
        3 => Kind::TempMem,
        4 => Kind::PermMem,
        5 => Kind::Payload,
        6 => Kind::PayloadParam,
        7 => Kind::TdInfo,
        _ => return Err(refused("TDX section type", offset, number, "0 to 7")),
    })
}

fn refused(
    field: &'static str,
    offset: usize,
    got: impl ToString,
    expected: impl ToString,
) -> Error {
    Error::Tdvf {
        field,
        offset,
        got: got.to_string(),
        expected: expected.to_string(),
    }
}
