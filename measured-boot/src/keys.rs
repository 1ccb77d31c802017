//! What is derived from the master keys that the broker releases: of the
//! encrypted boot filesystem, and of each persistent volume.
//!
//! HKDF-SHA256 (RFC 5869) with an info string that is versioned and length-
//! prefixed, so that no two purposes or contents can share bytes:
//! `"anchorhold/1" ‖ len(purpose) ‖ purpose ‖ len(id) ‖ id`, lengths as one byte.

use alloc::vec::Vec;
use core::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

#[cfg(feature = "std")]
pub use crate::content_id::ContentIdBuilder;

/// Bytes of a boot key as the builder makes it and the broker releases it.
pub const BOOT_KEY_SIZE: usize = 32;

/// The master key of one encrypted boot filesystem. Not cloned, not printed,
/// zeroed when dropped.
pub struct BootKey(Zeroizing<[u8; BOOT_KEY_SIZE]>);

impl fmt::Debug for BootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootKey(redacted)")
    }
}

/// Names the contents of a boot filesystem without telling them: an HMAC of the
/// plain EROFS bytes under the master. Part of the context of every derived
/// key, so two builds share no ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentId(pub [u8; 32]);

/// Key and salt of one encrypted boot filesystem.
pub struct BootFilesystemKeys {
    /// For dm-crypt `aes-xts-plain64`: two AES-256 keys.
    pub volume_key: Zeroizing<[u8; 64]>,
    /// For dm-verity. Secret too: with it, a published root hash would confirm
    /// a guess of the contents.
    pub salt: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for BootFilesystemKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootFilesystemKeys(redacted)")
    }
}

impl BootKey {
    /// Takes exactly [`BOOT_KEY_SIZE`] bytes; any other length is no boot key.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|key| Self(Zeroizing::new(key)))
    }

    /// Derives volume key and salt, consuming the master: a boot needs it once.
    pub fn boot_filesystem(self, content_id: &ContentId) -> BootFilesystemKeys {
        BootFilesystemKeys {
            volume_key: self.derive("dm-crypt", &content_id.0),
            salt: self.derive("verity-salt", &content_id.0),
        }
    }

    pub(crate) fn derive<const N: usize>(&self, purpose: &str, id: &[u8]) -> Zeroizing<[u8; N]> {
        const { assert!(N <= 255 * 32, "RFC 5869 bounds the output") };
        let length = |part: &[u8]| u8::try_from(part.len()).unwrap_or(u8::MAX);
        let mut info = Vec::from(b"anchorhold/1");
        for part in [purpose.as_bytes(), id] {
            info.push(length(part));
            info.extend_from_slice(part);
        }
        let mut output = Zeroizing::new([0; N]);
        // The only failure is an output over 255 blocks, excluded above.
        let expanded = Hkdf::<Sha256>::new(None, &*self.0).expand(&info, &mut *output);
        debug_assert!(expanded.is_ok());
        output
    }
}

/// The master key of one persistent volume. Not cloned, not printed, zeroed when
/// dropped.
#[derive(Debug)]
pub struct VolumeKey(BootKey);

/// The keys of one persistent volume.
pub struct VolumeKeys {
    /// Of the HMAC-SHA256 over the header.
    pub header: Zeroizing<[u8; 64]>,
    /// For dm-crypt `authenc(hmac(sha256),xts(aes))`: two AES-256 keys, then the
    /// key of the HMAC.
    pub data: Zeroizing<[u8; 96]>,
}

impl fmt::Debug for VolumeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeKeys(redacted)")
    }
}

impl VolumeKey {
    /// Takes exactly [`BOOT_KEY_SIZE`] bytes; any other length is no volume key.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        BootKey::from_slice(bytes).map(Self)
    }

    /// Derives the keys of the volume with this identity
    /// ([`crate::volume::Volume::identity`]), consuming the master.
    pub fn volume(self, identity: &[u8]) -> VolumeKeys {
        VolumeKeys {
            header: self.0.derive("volume-header", identity),
            data: self.0.derive("volume-data", identity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BootKey, ContentId};

    fn key() -> BootKey {
        BootKey::from_slice(&[7; 32]).unwrap()
    }

    #[test]
    fn rejects_any_other_length() {
        for length in [0, 16, 31, 33, 64] {
            assert!(BootKey::from_slice(&vec![7; length]).is_none());
        }
    }

    #[test]
    fn derivations_differ_by_purpose_content_and_key() {
        let one = key().boot_filesystem(&ContentId([1; 32]));
        let two = key().boot_filesystem(&ContentId([2; 32]));
        assert_ne!(*one.volume_key, *two.volume_key);
        assert_ne!(*one.salt, *two.salt);
        assert_ne!(one.volume_key[..32], one.salt[..]);
        assert_ne!(one.volume_key[..32], one.volume_key[32..]);
        let again = key().boot_filesystem(&ContentId([1; 32]));
        assert_eq!(*one.volume_key, *again.volume_key);
    }

    #[test]
    fn prints_no_secret() {
        assert_eq!(format!("{:?}", key()), "BootKey(redacted)");
    }
}
