//! Files that are given on the command line.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64ct::{Base64, Encoding};

/// More than any evidence, certificate or collateral.
const LONGEST: u64 = 16 << 20;

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let name = path.display();
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {name}"))?;
    let length = metadata.len();
    ensure!(
        length <= LONGEST,
        "cannot read {name}: got {length} bytes, expected at most {LONGEST}"
    );
    fs::read(path).with_context(|| format!("cannot read {name}"))
}

/// Lower-case hexadecimal of any length.
pub(super) fn hexadecimal(text: &str) -> Result<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| match digit {
        b'0'..=b'9' | b'a'..=b'f' => char::from(digit).to_digit(16),
        _ => None,
    };
    let byte = |[high, low]: &[u8; 2]| {
        let value = (digit(*high)? << 4) | digit(*low)?;
        u8::try_from(value).ok()
    };
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    match bytes {
        Some(bytes) if rest.is_empty() => Ok(bytes),
        _ => bail!("got {text:?}, expected pairs of lower-case hexadecimal digits"),
    }
}

/// DER as it is, or what is inside the blocks of a PEM file.
pub(super) fn der(bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
    if !bytes.starts_with(b"-----BEGIN ") {
        return Ok(vec![bytes]);
    }
    let text = String::from_utf8(bytes).context("cannot read PEM")?;
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("-----BEGIN ") {
            block = Some(String::new());
        } else if line.starts_with("-----END ") {
            let base64 = block
                .take()
                .context("cannot read PEM: got an end without a begin")?;
            let der = Base64::decode_vec(&base64);
            blocks.push(der.map_err(|error| anyhow::anyhow!("cannot read PEM: {error}"))?);
        } else if let Some(block) = &mut block {
            block.push_str(line);
        }
    }
    ensure!(
        block.is_none() && !blocks.is_empty(),
        "cannot read PEM: got no end of a block"
    );
    Ok(blocks)
}
