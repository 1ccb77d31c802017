//! The kernel and the initrd.

use super::executable::{Section, elf_sections, pe_sections};
use super::{Difference, FormatError, Part, cpio, excerpt, first_difference};

/// The kernel's version, then the sections of the PE image that it is.
pub(super) fn kernel(a: &[u8], b: &[u8]) -> Vec<Difference> {
    if a == b {
        return Vec::new();
    }
    let mut differences = Vec::new();
    let (version_a, version_b) = (version(a), version(b));
    if version_a != version_b {
        differences.push(Difference {
            part: Part::Kernel,
            place: "version in the setup header".into(),
            a: version_a,
            b: version_b,
        });
    }
    let sections = [a, b].map(|file| pe_sections(file).unwrap_or_default());
    let compared = compare_sections(Part::Kernel, "", [a, b], sections);
    differences.extend(compared);
    differences
}

/// `kernel_version` of the setup header (Linux x86 Boot Protocol): where the
/// text is, less 512.
fn version(kernel: &[u8]) -> Option<String> {
    let offset = kernel.get(0x20e..)?.first_chunk()?;
    let offset = usize::from(u16::from_le_bytes(*offset)).checked_add(0x200)?;
    let text = kernel.get(offset..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// The entries of the archive, and the sections of what is an executable.
pub(super) fn initrd(a: &[u8], b: &[u8]) -> Result<Vec<Difference>, FormatError> {
    if a == b {
        return Ok(Vec::new());
    }
    let (list_a, list_b) = (cpio::read(a)?, cpio::read(b)?);
    let mut differences = Vec::new();
    let name = |entry: &cpio::Entry<'_>| format!("/{}", String::from_utf8_lossy(entry.name));
    for index in 0..list_a.len().max(list_b.len()) {
        let (in_a, in_b) = (list_a.get(index), list_b.get(index));
        match (in_a, in_b) {
            (Some(in_a), Some(in_b)) if in_a.name == in_b.name => {
                let place = name(in_a);
                if in_a.fields != in_b.fields {
                    let told = |entry: &cpio::Entry<'_>| format!("{:?}", entry.fields);
                    differences.push(Difference {
                        part: Part::Initrd,
                        place: format!("{place}: header"),
                        a: Some(told(in_a)),
                        b: Some(told(in_b)),
                    });
                }
                if in_a.data != in_b.data {
                    let data = [in_a.data, in_b.data];
                    let sections = data.map(|data| elf_sections(data).unwrap_or_default());
                    let compared = compare_sections(Part::Initrd, &place, data, sections);
                    differences.extend(compared);
                }
            }
            _ => differences.push(Difference {
                part: Part::Initrd,
                place: format!("entry {index}"),
                a: in_a.map(name),
                b: in_b.map(name),
            }),
        }
    }
    Ok(differences)
}

/// Names each differing section; the file as a whole when no section differs.
fn compare_sections(
    part: Part,
    file: &str,
    [a, b]: [&[u8]; 2],
    [sections_a, sections_b]: [Vec<Section<'_>>; 2],
) -> Vec<Difference> {
    let mut differences = Vec::new();
    let prefix = if file.is_empty() { "" } else { ": " };
    for section in &sections_a {
        let other = sections_b.iter().find(|other| other.name == section.name);
        let data = other.map_or(&[][..], |other| other.data);
        if other.is_some() && section.data == data {
            continue;
        }
        let offset = first_difference(section.data, data);
        let in_file = section.offset.saturating_add(offset);
        differences.push(Difference {
            part,
            place: format!(
                "{file}{prefix}section {} from offset {offset:#x} (file offset {in_file:#x})",
                section.name
            ),
            a: Some(excerpt(section.data, offset)),
            b: other.map(|other| excerpt(other.data, offset)),
        });
    }
    for section in &sections_b {
        if sections_a.iter().all(|other| other.name != section.name) {
            differences.push(Difference {
                part,
                place: format!("{file}{prefix}section {}", section.name),
                a: None,
                b: Some(excerpt(section.data, 0)),
            });
        }
    }
    if differences.is_empty() {
        let offset = first_difference(a, b);
        differences.push(Difference {
            part,
            place: format!("{file}{prefix}offset {offset:#x}, in no section"),
            a: Some(excerpt(a, offset)),
            b: Some(excerpt(b, offset)),
        });
    }
    differences
}
