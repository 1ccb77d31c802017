//! The sections of executables, by `object`.

use object::read::elf::ElfFile64;
use object::read::pe::PeFile64;
use object::{Endianness, Object, ObjectSection as _};

/// A named part of a file.
pub(super) struct Section<'a> {
    pub(super) name: String,
    /// Where it is in the file.
    pub(super) offset: usize,
    pub(super) data: &'a [u8],
}

/// The sections of an ELF file; `None` when it is none.
pub(super) fn elf_sections(file: &[u8]) -> Option<Vec<Section<'_>>> {
    let elf = ElfFile64::<Endianness>::parse(file).ok()?;
    Some(sections(file, &elf))
}

/// The sections of a PE file; `None` when it is none.
pub(super) fn pe_sections(file: &[u8]) -> Option<Vec<Section<'_>>> {
    let pe = PeFile64::parse(file).ok()?;
    Some(sections(file, &pe))
}

fn sections<'a>(file: &'a [u8], object: &impl Object<'a>) -> Vec<Section<'a>> {
    let mut sections = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for section in object.sections() {
        let range = section.file_range().and_then(|(offset, size)| {
            let offset = usize::try_from(offset).ok()?;
            let end = offset.checked_add(usize::try_from(size).ok()?)?;
            Some((offset, file.get(offset..end)?))
        });
        let Some((offset, data)) = range else {
            continue;
        };
        let name = String::from_utf8_lossy(section.name_bytes().unwrap_or_default()).into_owned();
        // A name that comes again is told apart by its number.
        let before = names.iter().filter(|other| **other == name).count();
        names.push(name.clone());
        let name = match before {
            0 => name,
            _ => format!("{name} ({})", before.saturating_add(1)),
        };
        sections.push(Section { name, offset, data });
    }
    sections
}
