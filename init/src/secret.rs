//! Secrets are a type: zeroed when dropped, never printed, never cloned.

use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroizing;

/// Secret bytes of any length, the only owner of their buffer.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes over `bytes`. The vector must never have been reallocated with the
    /// secret inside, or a copy stays behind in freed memory.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret, for its one use.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(redacted)")
    }
}
