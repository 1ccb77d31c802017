//! Lower-case hexadecimal, the only form in which digests are written (RFC 4648
//! section 8, with the lower-case alphabet).

use alloc::string::String;
use core::fmt;

/// 32 bytes that are written as hexadecimal: a digest, or an id that is as long.
/// Holding one says nothing of what matches it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex32(pub [u8; 32]);

impl Hex32 {
    /// Reads 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }
}

impl fmt::Display for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hex32({self})")
    }
}

/// Writes `bytes` in lower-case hexadecimal, two digits per byte.
pub fn encode(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// Reads exactly `N` bytes. Upper case, a sign, a space or any other length is
/// refused, so that one value has one spelling.
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(character.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn round_trips_every_byte() {
        let all: [u8; 256] = core::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(decode::<256>(&encode(&all)), Some(all));
    }

    #[test]
    fn rejects_other_spellings_of_the_same_value() {
        assert_eq!(decode::<2>("00ff"), Some([0, 255]));
        for text in [
            "00FF", "00f", "00ff0", " 00f", "+0ff", "0x00", "00fg", "00\u{e9}",
        ] {
            assert_eq!(decode::<2>(text), None, "{text}");
        }
    }
}
