//! Random bytes of the kernel, whose generator is seeded before this is used.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `buffer`, or fails: fewer bytes are no success. Up to 256 bytes come
/// whole (getrandom(2)), and nothing here is longer than a key.
///
/// # Errors
/// What the kernel says.
pub(crate) fn fill(buffer: &mut [u8]) -> Result<(), Errno> {
    let length = buffer.len();
    let got = getrandom(buffer, GetRandomFlags::empty())?;
    (got == length).then_some(()).ok_or(Errno::IO)
}

/// `N` random bytes, for identifiers rather than keys.
///
/// # Errors
/// What the kernel says.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}
