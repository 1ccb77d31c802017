//! The steps of the boot, one module each. `main.rs` puts them in order.
//!
//! The library has no entry point and no allocator of its own, so it builds and
//! unit-tests with std on the host.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod broker;
pub mod container;
pub mod error;
pub mod network;
pub mod secret;
pub mod supervise;
pub mod sys;
pub mod tls;
pub mod tpm;
