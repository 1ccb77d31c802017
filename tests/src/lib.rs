//! The harness: builds the product as users do, boots it, attacks it, and takes
//! defences out of copies of it to see the attacks succeed.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "test code: a failure here is a failed test"
)]

pub mod artifacts;
pub mod client;
pub mod defences;
pub mod hardware;
pub mod hostile;
pub mod mutation;
pub mod oci;
pub mod relay;
pub mod site;
pub mod trustee;
