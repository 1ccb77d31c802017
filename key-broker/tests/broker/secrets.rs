//! Whether a text gives a secret away, in any of the usual spellings.

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};
use measured_boot::base16;

/// Raw, hexadecimal in both cases, or base64 in both alphabets, wherever the
/// secret begins in what was encoded.
pub(crate) fn gives_away(text: &[u8], secret: &[u8]) -> bool {
    let has = |part: &[u8]| !part.is_empty() && text.windows(part.len()).any(|w| w == part);
    let hex = base16::encode(secret);
    let mut spellings = vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
    ];
    for before in 0..3 {
        let bytes = [&[0; 2][..before.min(2)], secret].concat();
        for encoded in [
            Base64Unpadded::encode_string(&bytes),
            Base64UrlUnpadded::encode_string(&bytes),
        ] {
            // The first characters have bits of what was before, the last ones
            // of what comes behind.
            let start = [0, 2, 3][before];
            let inner = &encoded[start..encoded.len() - 2];
            spellings.push(inner.as_bytes().to_vec());
        }
    }
    spellings.iter().any(|spelling| has(spelling))
}

#[test]
fn every_spelling_is_seen() {
    let secret = crate::guest::SECRET;
    let spelled = |bytes: &[u8]| {
        let hex = base16::encode(bytes);
        let url = Base64UrlUnpadded::encode_string(bytes);
        [
            bytes.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            Base64Unpadded::encode_string(bytes).into_bytes(),
            url.into_bytes(),
        ]
    };
    for before in ["", "x", "xy", "xyz"] {
        for text in spelled(&[before.as_bytes(), secret, b"behind"].concat()) {
            assert!(gives_away(&text, secret), "{before:?} {text:?}");
        }
    }
    for text in spelled(b"another text, as long as that one is") {
        assert!(!gives_away(&text, secret));
    }
}
