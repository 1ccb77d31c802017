//! Every call into the kernel that needs `unsafe`, one thin wrapper each.
#![allow(unsafe_code, reason = "this is the one place for it")]

use rustix::fd::{BorrowedFd, RawFd};

pub mod cpu;
pub mod device_mapper;
pub mod mount_attributes;
pub mod process;
pub mod seccomp;

/// Borrows a descriptor that is never closed.
pub fn borrow_forever(raw: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the caller's descriptor stays open until the machine ends, and a
    // negative number, which would be no descriptor, is not passed here.
    unsafe { BorrowedFd::borrow_raw(raw) }
}
