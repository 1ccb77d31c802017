//! Undoes the compression of a layer, told by its first bytes: media types are
//! often wrong about it, and the unpacked digest is checked in any case.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use flate2::bufread::MultiGzDecoder;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BUFFER: usize = 128 << 10;

/// Gives the plain bytes of `input`, which may be plain already.
///
/// # Errors
/// The first bytes cannot be read.
pub fn decompress<'a>(mut input: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    (&mut input)
        .take(4)
        .read_to_end(&mut magic)
        .context("cannot read the first bytes")?;
    let gzip = magic.starts_with(GZIP);
    let zstd = magic == ZSTD;
    let input = BufReader::with_capacity(BUFFER, io::Cursor::new(magic).chain(input));
    Ok(if gzip {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input)))
    } else if zstd {
        Box::new(zstd::stream::read::Decoder::with_buffer(input)?)
    } else {
        Box::new(input)
    })
}

/// Whether a file starts as compressed data does.
///
/// # Errors
/// It cannot be read.
pub(super) fn is_compressed(file: &File) -> io::Result<bool> {
    let mut magic = [0; 4];
    let read = file.read_at(&mut magic, 0)?;
    let magic = magic.get(..read).unwrap_or_default();
    Ok(magic.starts_with(GZIP) || magic == ZSTD)
}
