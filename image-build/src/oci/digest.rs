//! `sha256:<hex>`, the only kind of digest accepted.

use std::fmt;
use std::io::{self, Read};

use anyhow::{Context as _, Result};
use measured_boot::base16;
use serde::{Deserialize, Deserializer, de::Error as _};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest in the OCI notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// Reads `sha256:` and 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// Any other text, which names any other algorithm too.
    pub fn parse(text: &str) -> Result<Self> {
        text.strip_prefix("sha256:")
            .and_then(base16::decode)
            .map(Self)
            .with_context(|| {
                let text: String = text.escape_default().take(80).collect();
                format!(
                    "got digest {text:?}, expected sha256: and 64 lower-case hexadecimal digits"
                )
            })
    }

    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Without `sha256:`.
    pub fn hex(&self) -> String {
        base16::encode(&self.0)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Hashes what is read through it, and stops at a limit.
pub(super) struct Metered<R> {
    input: R,
    left: u64,
    hash: Sha256,
}

impl<R: Read> Metered<R> {
    pub(super) fn new(input: R, limit: u64) -> Self {
        Self {
            input,
            left: limit,
            hash: Sha256::new(),
        }
    }

    /// Digest of everything read.
    pub(super) fn finish(self) -> Sha256Digest {
        Sha256Digest(self.hash.finalize().into())
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        let count = u64::try_from(read).map_err(io::Error::other)?;
        self.left = self
            .left
            .checked_sub(count)
            .ok_or_else(|| io::Error::other("unpacks to more than the limit (--max-size)"))?;
        Ok(read)
    }
}
