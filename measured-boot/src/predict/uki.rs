//! What systemd-stub measures of a unified kernel image.
//!
//! A UKI is a PE image: the stub, and beside it kernel, initrd and command line
//! as sections ("Unified Kernel Images", UAPI group specification 5). Which
//! sections are measured, in which order and under which name, changed with the
//! stub's version, so that only versions are accepted whose order was seen in a
//! real log.

#[cfg(test)]
mod tests;

use super::Error;
use super::authenticode::{Image, Section};

/// Major versions of systemd-stub whose measurements are known.
const VERSIONS: &[&str] = &["252"];
/// `unified_sections` of systemd 252, without `.pcrsig`, which is not measured.
const MEASURED: &[&str] = &[
    ".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey",
];
const MAGIC_START: &[u8] = b"#### LoaderInfo: systemd-stub ";

/// A unified kernel image, by its sections.
#[derive(Clone, Debug)]
pub(super) struct Uki<'a> {
    pub(super) linux: &'a [u8],
    pub(super) initrd: &'a [u8],
    pub(super) cmdline: &'a str,
    /// Name and contents of each measured section, in the stub's order.
    pub(super) measured: Vec<(&'static str, &'a [u8])>,
}

impl<'a> Uki<'a> {
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let image = Image(file);
        let sections = image.sections().map_err(Error::of_uki)?;
        for (index, section) in sections.iter().enumerate() {
            let mut before = sections.iter().take(index);
            if before.any(|other| other.name == section.name) {
                return Err(refused("section name", section, "twice", "once"));
            }
        }
        let find = |name: &str| {
            let padded = |section: &&Section| {
                let end = section.name.iter().rposition(|byte| *byte != 0);
                section
                    .name
                    .get(..end.map_or(0, |last| last.saturating_add(1)))
                    == Some(name.as_bytes())
            };
            match sections.iter().find(padded) {
                None => Ok(None),
                Some(section) => contents(file, section).map(Some),
            }
        };
        check_version(find(".sdmagic")?)?;
        let needed = |name: &'static str| find(name)?.ok_or_else(|| missing(name));
        let cmdline = needed(".cmdline")?;
        let cmdline = std::str::from_utf8(cmdline).map_err(|_| Error::Cmdline {
            cause: "is not printable ASCII",
        })?;
        let mut measured = Vec::new();
        for name in MEASURED {
            if let Some(data) = find(name)? {
                measured.push((*name, data));
            }
        }
        Ok(Self {
            linux: needed(".linux")?,
            initrd: needed(".initrd")?,
            cmdline,
            measured,
        })
    }
}

/// The stub reads from memory, where a section has its virtual size.
fn contents<'a>(file: &'a [u8], section: &Section) -> Result<&'a [u8], Error> {
    let Section {
        virtual_size,
        size,
        offset,
        ..
    } = *section;
    if virtual_size > size {
        let got = format!("{virtual_size:#x}");
        return Err(refused(
            "section's virtual size",
            section,
            got,
            format!("at most {size:#x}"),
        ));
    }
    file.get(offset..offset.saturating_add(virtual_size))
        .ok_or_else(|| {
            let got = format!("{offset:#x} with {virtual_size:#x} bytes");
            let expected = format!("data inside a file of {:#x} bytes", file.len());
            refused("section's offset", section, got, expected)
        })
}

fn check_version(magic: Option<&[u8]>) -> Result<(), Error> {
    let text = magic.and_then(|magic| magic.strip_prefix(MAGIC_START));
    let text =
        text.map(|text| String::from_utf8_lossy(text.get(..32).unwrap_or(text)).into_owned());
    let version = text
        .as_deref()
        .map(|text| text.trim_end_matches(|c| " #\0".contains(c)));
    let major = version.and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next());
    match major {
        Some(major) if VERSIONS.contains(&major) => Ok(()),
        _ => Err(Error::Stub {
            got: version.unwrap_or("none").to_owned(),
            expected: VERSIONS.join(" or "),
        }),
    }
}

fn missing(name: &'static str) -> Error {
    Error::Uki {
        field: "section table",
        offset: 0,
        got: format!("no {name}"),
        expected: "one".to_owned(),
    }
}

fn refused(
    field: &'static str,
    section: &Section,
    got: impl ToString,
    expected: impl ToString,
) -> Error {
    Error::Uki {
        field,
        offset: section.header,
        got: got.to_string(),
        expected: expected.to_string(),
    }
}
