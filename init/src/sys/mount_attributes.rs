//! `mount_setattr`, which rustix does not wrap.

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{self, Errno};
use rustix::mount::MountAttrFlags;

use super::process::syscall;

const SYS_MOUNT_SETATTR: usize = 442;
const AT_EMPTY_PATH: usize = 0x1000;

/// `struct mount_attr` (`linux/mount.h`).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds `attributes` to the mount whose root `mount` is.
///
/// # Errors
/// What `mount_setattr` says.
pub fn add(mount: impl AsFd, attributes: MountAttrFlags) -> io::Result<()> {
    let request = MountAttributes {
        set: u64::from(attributes.bits()),
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let mount = usize::try_from(mount.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    let arguments = [
        mount,
        c"".as_ptr().expose_provenance(),
        AT_EMPTY_PATH,
        core::ptr::from_ref(&request).expose_provenance(),
        size_of::<MountAttributes>(),
    ];
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; the
    // kernel reads a `struct mount_attr` of the size given.
    unsafe { syscall(SYS_MOUNT_SETATTR, arguments) }.map(drop)
}
