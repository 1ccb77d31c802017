//! OCI image in, measured VM image out: the library behind `image-build`.
//!
//! No root, no mounts, no loop devices, no network, and no program of the host:
//! layers are applied to a tree in memory, and filesystems are written by code
//! in this crate. So the same inputs and the same key give the same bits
//! anywhere. The exception is a persistent volume, which is data and not part of
//! an image: its empty filesystem comes from `mke2fs`.
//!
//! [`build`](mod@build) tells the whole story in order; each step is a module.

pub mod archive;
pub mod boot_filesystem;
pub mod build;
pub mod certificate;
pub mod config;
pub mod container;
pub mod erofs;
pub mod initrd;
pub mod key;
pub mod notes;
pub mod oci;
pub mod open_commands;
pub mod output;
pub mod prediction;
pub mod progress;
pub mod run;
pub mod seccomp;
pub mod spool;
pub mod tree;
pub mod uki;
pub mod volume;

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod fixture;
