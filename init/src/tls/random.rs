//! Random bytes of the kernel, whose generator is seeded before this is used.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `buffer`, or fails: fewer bytes are no success.
///
/// # Errors
/// What the kernel says.
pub fn fill(buffer: &mut [u8]) -> Result<(), Errno> {
    let mut rest = buffer;
    while !rest.is_empty() {
        // Above 256 bytes the call may be interrupted and give less.
        let length = match getrandom(&mut *rest, GetRandomFlags::empty()) {
            Err(Errno::INTR) => continue,
            Ok(0) => return Err(Errno::IO),
            result => result?,
        };
        rest = rest.get_mut(length..).ok_or(Errno::IO)?;
    }
    Ok(())
}

/// `N` random bytes, for identifiers rather than keys.
///
/// # Errors
/// What the kernel says.
pub fn bytes<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}
