//! What a firmware says of itself: the GUIDed table at its end, and the SEV
//! metadata that the table points to.
//!
//! Layout: `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`.
//!
//! VMMs read these bytes more loosely than this module. Where they would differ
//! among themselves (a section over another, entries twice, sizes that do not
//! add up) the file is refused, because no one digest could be predicted.

use super::table::{Entry, Table, first_u32, guid};
use super::{Error, PAGE};

/// The largest firmware: QEMU maps at most 8 MiB of flash below 4 GiB.
pub const MAX_FIRMWARE: usize = 8 << 20;

const FOUR_GIB: u64 = 1 << 32;
/// `OvmfSevMetadataHeader`: signature, size, version, number of sections.
const HEADER: usize = 16;
/// `OvmfSevMetadataSectionDesc`: address, size, type.
const DESCRIPTOR: usize = 12;
/// Bound on the pages of all sections together; OVMF has 32.
const MAX_SECTION_BYTES: u64 = 8 << 20;

const RESET_BLOCK: Entry = Entry {
    name: "SEV_ES_RESET_BLOCK",
    guid: guid(0x00f771de_1a7e_4fcb_890e_68c77e2fb44e),
};
const HASH_TABLE: Entry = Entry {
    name: "SEV_HASH_TABLE_RV",
    guid: guid(0x7255371f_3a3b_4b04_927b_1da6efa8d454),
};
const METADATA: Entry = Entry {
    name: "OVMF_SEV_META_DATA",
    guid: guid(0xdc886566_984a_4798_a75e_5585a7bf67cc),
};

/// What a section of the SEV metadata is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// Memory that the firmware uses before it can validate any itself.
    SecureMemory,
    /// The secrets page, filled by the secure processor.
    Secrets,
    /// The CPUID page, filled by the host and checked by the secure processor.
    Cpuid,
    /// Calling area of an SVSM, empty without one.
    SvsmCallingArea,
    /// Hashes of kernel, initrd and command line.
    KernelHashes,
}

impl SectionKind {
    const EXPECTED: &'static str =
        "1 (SNP_SEC_MEM), 2 (SNP_SECRETS), 3 (CPUID), 4 (SVSM_CAA) or 0x10 (SNP_KERNEL_HASHES)";

    fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::SecureMemory),
            2 => Some(Self::Secrets),
            3 => Some(Self::Cpuid),
            4 => Some(Self::SvsmCallingArea),
            0x10 => Some(Self::KernelHashes),
            _ => None,
        }
    }

    /// Of these there is one page. A VMM that measured more would do it in its
    /// own way.
    fn is_one_page(self) -> bool {
        match self {
            Self::Secrets | Self::Cpuid | Self::KernelHashes => true,
            Self::SecureMemory | Self::SvsmCallingArea => false,
        }
    }
}

/// Guest memory that the VMM adds to the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) kind: SectionKind,
    /// Guest physical address, a multiple of the page size.
    pub(super) address: u64,
    /// In bytes, a multiple of the page size.
    pub(super) size: u64,
}

impl Section {
    fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }

    /// Addresses of its pages.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (self.address..self.end()).step_by(PAGE)
    }
}

/// What the digest needs of a firmware, besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Guest physical address of the file's first byte.
    pub(super) address: u64,
    /// Where the other vCPUs start.
    pub(super) reset_eip: u32,
    /// Where in its page the firmware looks for the hash table; `None` when it
    /// does not look for one.
    pub(super) hash_table: Option<usize>,
    /// In file order, which is the order of measurement.
    pub(super) sections: Vec<Section>,
}

impl Metadata {
    pub(super) fn read(file: &[u8]) -> Result<Self, Error> {
        let address = check_size(file)?;
        let table = Table::read(file)?;
        let (offset, data) = table.find(RESET_BLOCK)?;
        let reset_eip = first_u32(RESET_BLOCK.name, offset, data)?;
        if reset_eip == 0 {
            let expected = "the address where other vCPUs start";
            return Err(Error::firmware(RESET_BLOCK.name, offset, "0", expected));
        }
        let sections = read_sections(file, &table, address)?;
        let hash_table = hash_table(&table, &sections)?;
        Ok(Self {
            address,
            reset_eip,
            hash_table,
            sections,
        })
    }
}

fn check_size(file: &[u8]) -> Result<u64, Error> {
    let size = file.len();
    if size == 0 || size > MAX_FIRMWARE || !size.is_multiple_of(PAGE) {
        let expected = format!("a multiple of {PAGE} bytes, at most {MAX_FIRMWARE}");
        return Err(Error::firmware("size", size, size, expected));
    }
    let size = u64::try_from(size).unwrap_or(FOUR_GIB);
    Ok(FOUR_GIB.saturating_sub(size))
}

fn read_sections(file: &[u8], table: &Table<'_>, below: u64) -> Result<Vec<Section>, Error> {
    let (entry, data) = table.find(METADATA)?;
    let from_end = first_u32(METADATA.name, entry, data)?;
    let header = usize::try_from(from_end)
        .ok()
        .filter(|from_end| *from_end >= HEADER)
        .and_then(|from_end| file.len().checked_sub(from_end))
        .ok_or_else(|| {
            let expected = format!("{HEADER} to {}, counted from the end", file.len());
            Error::firmware("offset of the SEV metadata", entry, from_end, expected)
        })?;
    let word = |index: usize| {
        let offset = header.saturating_add(index.saturating_mul(4));
        let bytes = file.get(offset..).and_then(<[u8]>::first_chunk::<4>);
        (offset, bytes.copied().unwrap_or_default())
    };
    let (offset, signature) = word(0);
    if &signature != b"ASEV" {
        let got = crate::base16::encode(&signature);
        let field = "signature of the SEV metadata";
        return Err(Error::firmware(field, offset, got, "ASEV"));
    }
    let (offset, version) = word(2);
    let version = u32::from_le_bytes(version);
    if version != 1 {
        let field = "version of the SEV metadata";
        return Err(Error::firmware(field, offset, version, 1));
    }
    let (offset, number) = word(3);
    let number = u32::from_le_bytes(number);
    let first = header.saturating_add(HEADER);
    let bytes = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_mul(DESCRIPTOR))
        .and_then(|size| file.get(first..)?.get(..size))
        .ok_or_else(|| {
            let room = file.len().saturating_sub(first) / DESCRIPTOR;
            let expected = format!("at most {room}, the room behind it");
            Error::firmware("number of SEV metadata sections", offset, number, expected)
        })?;
    let (offset, size) = word(1);
    let size = u32::from_le_bytes(size);
    let expected = bytes.len().saturating_add(HEADER);
    if usize::try_from(size) != Ok(expected) {
        let field = "size of the SEV metadata";
        return Err(Error::firmware(field, offset, size, expected));
    }

    let mut sections = Vec::new();
    let mut total = 0u64;
    for (index, descriptor) in bytes.as_chunks::<DESCRIPTOR>().0.iter().enumerate() {
        let offset = first.saturating_add(index.saturating_mul(DESCRIPTOR));
        let section = section(descriptor, offset, &sections, below)?;
        total = total.saturating_add(section.size);
        if total > MAX_SECTION_BYTES {
            let expected = format!("at most {MAX_SECTION_BYTES:#x} bytes in all sections");
            let field = "size of a section";
            return Err(Error::firmware(
                field,
                offset,
                format_args!("{total:#x}"),
                expected,
            ));
        }
        sections.push(section);
    }
    Ok(sections)
}

fn section(
    descriptor: &[u8; DESCRIPTOR],
    offset: usize,
    before: &[Section],
    below: u64,
) -> Result<Section, Error> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *descriptor;
    let address = u64::from(u32::from_le_bytes([a, b, c, d]));
    let size = u64::from(u32::from_le_bytes([e, f, g, h]));
    let code = u32::from_le_bytes([i, j, k, l]);
    let page = u64::try_from(PAGE).unwrap_or(1);
    let Some(kind) = SectionKind::from_code(code) else {
        let at = offset.saturating_add(8);
        let expected = SectionKind::EXPECTED;
        let got = format!("{code:#x}");
        return Err(Error::firmware("type of a section", at, got, expected));
    };
    if !address.is_multiple_of(page) {
        let got = format!("{address:#x}");
        let expected = "a multiple of 4096";
        return Err(Error::firmware(
            "address of a section",
            offset,
            got,
            expected,
        ));
    }
    let one = kind.is_one_page();
    if size == 0 || !size.is_multiple_of(page) || (one && size != page) {
        let at = offset.saturating_add(4);
        let expected = if one {
            "4096"
        } else {
            "a multiple of 4096, not 0"
        };
        let got = format!("{size:#x}");
        return Err(Error::firmware("size of a section", at, got, expected));
    }
    let section = Section {
        kind,
        address,
        size,
    };
    if section.end() > below {
        let got = format!("{address:#x} to {:#x}", section.end());
        let expected = format!("to end below the firmware at {below:#x}");
        return Err(Error::firmware(
            "address of a section",
            offset,
            got,
            expected,
        ));
    }
    let hit = |other: &&Section| section.address < other.end() && other.address < section.end();
    if let Some(other) = before.iter().find(hit) {
        let got = format!("{address:#x} to {:#x}", section.end());
        let expected = format!("no overlap with {:#x} to {:#x}", other.address, other.end());
        return Err(Error::firmware(
            "address of a section",
            offset,
            got,
            expected,
        ));
    }
    Ok(section)
}

/// Where in the page the hash table lies. A base of zero says that the build
/// checks no hashes.
fn hash_table(table: &Table<'_>, sections: &[Section]) -> Result<Option<usize>, Error> {
    let Some((offset, data)) = table.get(HASH_TABLE) else {
        return Ok(None);
    };
    let Some([a, b, c, d, e, f, g, h]) = data.first_chunk() else {
        let got = format!("{} bytes", data.len());
        return Err(Error::firmware(
            HASH_TABLE.name,
            offset,
            got,
            "at least 8 bytes",
        ));
    };
    let base = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
    let size = u64::from(u32::from_le_bytes([*e, *f, *g, *h]));
    if base == 0 {
        return Ok(None);
    }
    let end = base.saturating_add(size);
    let room = u64::try_from(super::hash_table::SIZE).unwrap_or(u64::MAX);
    if size < room {
        let expected = format!("at least {room}");
        let at = offset.saturating_add(4);
        return Err(Error::firmware(
            "size of the hash table",
            at,
            size,
            expected,
        ));
    }
    let is_hashes = |section: &&Section| section.kind == SectionKind::KernelHashes;
    let mut hashes = sections.iter().filter(is_hashes);
    let Some(section) = hashes.next() else {
        return Ok(Some(usize::try_from(base).unwrap_or(0) % PAGE));
    };
    if base < section.address || end > section.end() {
        let got = format!("{base:#x} to {end:#x}");
        let expected = format!(
            "inside the SNP_KERNEL_HASHES section, {:#x} to {:#x}",
            section.address,
            section.end()
        );
        return Err(Error::firmware(HASH_TABLE.name, offset, got, expected));
    }
    Ok(usize::try_from(base.saturating_sub(section.address)).ok())
}
