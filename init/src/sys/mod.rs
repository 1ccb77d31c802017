//! Every call into the kernel that needs `unsafe`, one thin wrapper each.
#![allow(unsafe_code, reason = "this is the one place for it")]

use rustix::fd::BorrowedFd;

pub mod cpu;
pub mod device_mapper;
pub mod mount_attributes;
pub mod process;
pub mod seccomp;

/// Descriptors 0 and 1, which are open from the start of every process of ours to
/// its end.
pub fn standard_streams() -> [BorrowedFd<'static>; 2] {
    // SAFETY: nothing closes them; a number without a descriptor is only refused.
    [0, 1].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}
