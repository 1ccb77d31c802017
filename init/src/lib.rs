//! The steps of the boot, one module each. `main.rs` puts them in order.
//!
//! The library has no entry point and no allocator of its own, so it builds and
//! unit-tests with std on the host.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod attestation;
pub mod boot_filesystem;
mod broker;
pub mod cmdline;
pub mod console;
pub mod container;
pub mod disk;
pub mod dm;
pub mod entropy;
pub mod error;
pub mod file;
pub mod halt;
pub mod latch;
pub mod mounts;
pub mod network;
pub mod rootfs;
pub mod secret;
pub mod storage;
pub mod supervise;
pub mod sys;
mod tls;
pub mod tpm;
pub mod tsm;
pub mod verity;
pub mod volumes;
pub mod workload;
