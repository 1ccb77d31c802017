//! The ID block: with it the secure processor launches nothing but the launch
//! digest it names, and shows in every report whose key had signed it (56860,
//! section 8.18, tables 75 and 77).
//!
//! Only what an auditor compares is here: the block, and the digests of the
//! keys. Signing it is the business of who holds the keys.

use sha2::{Digest as _, Sha384};

use super::LaunchDigest;

/// Bytes of a coordinate in the format of the secure processor.
const COORDINATE: usize = 72;
/// `ECDSA_KEY`: curve, coordinates, zeros.
const KEY: usize = 0x404;
/// The curve's number in that format.
const CURVE_P384: u32 = 2;
/// The only version of the block.
const VERSION: u32 = 1;

/// What the guest's owner says of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdBlock {
    /// The one launch digest that is let through.
    pub launch_digest: LaunchDigest,
    /// FAMILY_ID of the reports.
    pub family_id: [u8; 16],
    /// IMAGE_ID of the reports.
    pub image_id: [u8; 16],
    /// GUEST_SVN of the reports.
    pub guest_svn: u32,
    /// The one POLICY that is let through.
    pub policy: u64,
}

impl IdBlock {
    /// The block's 96 bytes, which the ID key signs.
    pub fn bytes(&self) -> [u8; 96] {
        let mut block = [0; 96];
        let bytes = (self.launch_digest.0.into_iter())
            .chain(self.family_id)
            .chain(self.image_id)
            .chain(VERSION.to_le_bytes())
            .chain(self.guest_svn.to_le_bytes())
            .chain(self.policy.to_le_bytes());
        for (byte, value) in block.iter_mut().zip(bytes) {
            *byte = value;
        }
        block
    }
}

/// A public key on P-384.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcdsaPublicKey {
    x: [u8; 48],
    y: [u8; 48],
}

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read public key: got {got}, expected {EXPECTED}")]
pub struct KeyError {
    got: &'static str,
}

const EXPECTED: &str = "a P-384 key as SubjectPublicKeyInfo in DER";
/// What comes before an uncompressed point (RFC 5480): `id-ecPublicKey`, `secp384r1`.
const PREFIX: [u8; 24] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00, 0x04,
];

impl EcdsaPublicKey {
    /// Reads the DER of `openssl ec -pubout -outform DER`. Whether the point is
    /// on the curve is not checked: only its digest is used.
    ///
    /// # Errors
    /// Another algorithm or encoding.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let Some(point) = der.strip_prefix(&PREFIX) else {
            let got = "another algorithm or encoding";
            return Err(KeyError { got });
        };
        match point.as_chunks::<48>() {
            ([x, y], []) => Ok(Self { x: *x, y: *y }),
            _ => {
                let got = "another length";
                Err(KeyError { got })
            }
        }
    }

    /// What a report's ID_KEY_DIGEST or AUTHOR_KEY_DIGEST shows: SHA-384 over
    /// the key in the secure processor's format, numbers little-endian.
    pub fn digest(&self) -> [u8; 48] {
        let coordinate = |number: &[u8; 48]| {
            let mut bytes = [0; COORDINATE];
            for (byte, value) in bytes.iter_mut().zip(number.iter().rev()) {
                *byte = *value;
            }
            bytes
        };
        let mut key = [0; KEY];
        let bytes = (CURVE_P384.to_le_bytes().into_iter())
            .chain(coordinate(&self.x))
            .chain(coordinate(&self.y));
        for (byte, value) in key.iter_mut().zip(bytes) {
            *byte = value;
        }
        Sha384::digest(key).into()
    }
}
