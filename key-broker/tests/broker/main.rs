//! The broker against guests that are honest, and against others.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking; clippy exempts only functions marked as tests"
)]

mod commands;
mod decisions;
mod explain;
mod guest;
mod hardware;
mod mutations;
mod server;
mod snp;
mod soft_tpm;
mod swtpm;
mod tdx;
mod vectors;
