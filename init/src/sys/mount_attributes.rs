//! `mount_setattr`, which rustix does not wrap.

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{self, Errno};
use rustix::mount::MountAttrFlags;

use super::process::syscall;

const SYS_MOUNT_SETATTR: usize = 442;
const AT_EMPTY_PATH: usize = 0x1000;

/// Adds `attributes` to the mount whose root `mount` is.
///
/// # Errors
/// What `mount_setattr` says.
pub fn add(mount: impl AsFd, attributes: MountAttrFlags) -> io::Result<()> {
    // `struct mount_attr` (`linux/mount.h`): attr_set, attr_clr, propagation,
    // userns_fd.
    let request = [u64::from(attributes.bits()), 0, 0, 0];
    let mount = usize::try_from(mount.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    let path = c"".as_ptr().expose_provenance();
    let address = core::ptr::from_ref(&request).expose_provenance();
    let arguments = [mount, path, AT_EMPTY_PATH, address, size_of_val(&request)];
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; the
    // kernel reads a `struct mount_attr` of the size given.
    unsafe { syscall(SYS_MOUNT_SETATTR, arguments) }.map(drop)
}
