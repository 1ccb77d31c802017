//! What the guest and the host must agree on, to the byte.
//!
//! The manifest, the kernel command line, dm-verity geometry, the layout of
//! persistent volumes, the keys derived for encrypted disks, the TPM's wire format, evidence and the
//! data it is bound to. Init performs with the same functions with which the
//! host predicts, so that the two cannot drift apart.
//!
//! No I/O, no path of this machine, no clock: bytes in, values out. Without the
//! `std` feature the crate builds for `no_std` + alloc, and holds only what
//! init links.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod base16;
pub mod cmdline;
pub mod code;
pub mod evidence;
pub mod keys;
pub mod manifest;
pub mod tpm;
pub mod verity;
pub mod volume;

#[cfg(feature = "std")]
mod content_id;
#[cfg(feature = "std")]
pub mod diff;
#[cfg(feature = "std")]
pub mod event_log;
#[cfg(feature = "std")]
pub mod explain;
#[cfg(feature = "std")]
pub mod hash_tree;
#[cfg(feature = "std")]
pub mod predict;
#[cfg(feature = "std")]
pub mod reference_values;
#[cfg(feature = "std")]
pub mod trustee;
#[cfg(feature = "std")]
pub mod verify;
