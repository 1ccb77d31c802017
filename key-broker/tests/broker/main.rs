//! The broker against guests that are honest, and against others.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking; clippy exempts only functions marked as tests"
)]

mod bodies;
mod commands;
mod decisions;
mod endorsements;
mod explain;
mod fields;
mod guest;
mod hardware;
mod hardware_fields;
mod heads;
mod load;
mod mutations;
mod process;
mod restart;
mod secrets;
mod server;
mod single_field;
mod snp;
mod soft_tpm;
mod states;
mod stock_client;
mod swtpm;
mod tdx;
mod vectors;
mod wire;
