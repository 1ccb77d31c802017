//! A small key broker for laptops, tests and small sites.
//!
//! It speaks the protocol of Trustee's KBS, so that our init works against
//! either, and Trustee's client against this one. It verifies evidence of a
//! TPM, of SEV-SNP and of TDX itself, asks nobody on the network, and releases
//! resources to enrolled images only. Denied is whatever nobody allowed: there
//! is no trust on first use, no admin API on the network, no policy language.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use key_broker::{ServeOptions, Store, serve};
//!
//! let store = Store::open("/var/lib/broker".as_ref())?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8443").await?;
//! serve(store, listener, ServeOptions::default()).await?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod appraise;
pub mod broker;
pub mod command;
pub mod explain;
pub mod jwe;
pub mod log;
pub mod protocol;
mod refusal;
mod server;
pub mod session;
pub mod store;
mod swtpm;
mod token;

pub use crate::refusal::Refusal;
pub use crate::server::{ServeError, ServeOptions, serve};
pub use crate::store::{InitOptions, Store};
