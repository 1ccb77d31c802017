//! The kernel command line: written by the builder, measured by the firmware,
//! read by init. One grammar, and no other text is accepted:
//!
//! ```text
//! console=ttyS0 roothash=<64 lower-case hex> rootblocks=<decimal>[ initrd=initrd]
//! ```
//!
//! The last word is OVMF's in QEMU's direct boot, and part of what the kernel's
//! EFI stub measures into PCR 9. Later versions of OVMF write it first.

use alloc::format;
use alloc::string::String;
use core::fmt;

use crate::base16::Hex32;
use crate::verity::Geometry;

/// What a loader that hands the initrd over by the EFI file protocol appends.
pub const LOADER_SUFFIX: &str = " initrd=initrd";
/// The same, in front of the rest, by later versions.
const LOADER_PREFIX: &str = "initrd=initrd ";

/// A command line that was inside the grammar: each parameter exactly once, in
/// order, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cmdline {
    /// Root hash of the rootfs.
    pub root_hash: Hex32,
    /// Size of the rootfs; its hash tree follows the data.
    pub geometry: Geometry,
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = self.geometry.data_blocks();
        write!(
            f,
            "console=ttyS0 roothash={} rootblocks={blocks}",
            self.root_hash
        )
    }
}

impl Cmdline {
    /// Reads `/proc/cmdline` without its final newline.
    ///
    /// # Errors
    /// What was got and expected at the first word that is unknown, repeated, out
    /// of place, malformed or missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let loaders = text.strip_suffix(LOADER_SUFFIX);
        let loaders = loaders.or_else(|| text.strip_prefix(LOADER_PREFIX));
        let mut words = loaders.unwrap_or(text).split(' ');
        let console = "console=ttyS0";
        expect(words.next(), console, |word| {
            (word == console).then_some(())
        })?;
        let root_hash = expect(words.next(), "roothash=<64 of 0-9, a-f>", |word| {
            Hex32::from_hex(word.strip_prefix("roothash=")?)
        })?;
        let geometry = expect(words.next(), "rootblocks=<1 to 2^32>", |word| {
            Geometry::new(parse_decimal(word.strip_prefix("rootblocks=")?)?)
        })?;
        match words.next() {
            None => Ok(Self {
                root_hash,
                geometry,
            }),
            word => Err(unexpected(word, "the end")),
        }
    }
}

/// What `parse` makes of the word at this place, described by `expected`.
fn expect<T>(
    word: Option<&str>,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, String> {
    word.and_then(parse)
        .ok_or_else(|| unexpected(word, expected))
}

/// Decimal without sign or leading zero, so that one number has one spelling.
fn parse_decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok())?
}

/// The host chooses the word, and it goes to the console: printable ASCII only,
/// and not more of it than a reader needs.
fn unexpected(word: Option<&str>, expected: &str) -> String {
    let Some(word) = word else {
        return format!("got the end, expected {expected}");
    };
    let got: String = word.escape_default().take(40).collect();
    let more = if got.len() < word.len() { "..." } else { "" };
    format!("got word \"{got}{more}\", expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::Cmdline;
    use crate::base16::Hex32;
    use crate::verity::Geometry;

    fn sample() -> Cmdline {
        Cmdline {
            root_hash: Hex32([0x5a; 32]),
            geometry: Geometry::new(70).unwrap(),
        }
    }

    #[test]
    fn accepts_exactly_what_the_builder_emits() {
        let text = sample().to_string();
        assert_eq!(Cmdline::parse(&text), Ok(sample()));
        for text in [
            format!("{text} initrd=initrd"),
            format!("initrd=initrd {text}"),
        ] {
            assert_eq!(Cmdline::parse(&text), Ok(sample()));
        }
    }

    #[test]
    fn rejects_everything_around_it() {
        let good = sample().to_string();
        let bad = [
            String::new(),
            format!("{good} "),
            format!(" {good}"),
            format!("{good} init=/bin/sh"),
            format!("{good} initrd=initrd initrd=initrd"),
            format!("initrd=initrd {good} initrd=initrd"),
            format!("initrd=initrd initrd=initrd {good}"),
            format!("initrd=initrd  {good}"),
            format!("{good} initrd=other"),
            format!("{good} {good}"),
            format!("{good} rootblocks=70"),
            format!("{good}\t"),
            format!("{good}\n"),
            good.replace("rootblocks=70", "rootblocks=070"),
            good.replace("rootblocks=70", "rootblocks=+70"),
            good.replace("rootblocks=70", "rootblocks=0"),
            good.replace("rootblocks=70", "rootblocks=99999999999999999999"),
            good.replace("rootblocks=70", "rootblocks="),
            good.replace(" rootblocks=70", ""),
            good.replace("ttyS0", "ttyS1"),
            good.replace("5a5a", "5A5A"),
            good.replace(' ', "  "),
        ];
        for text in bad {
            assert!(Cmdline::parse(&text).is_err(), "{text:?}");
        }
    }
}
