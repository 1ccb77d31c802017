//! The KBS protocol's `tdx` evidence.

#[cfg(feature = "std")]
mod received;

use alloc::vec::Vec;

#[cfg(feature = "std")]
pub use self::received::Error;

/// A quote and the log behind its runtime registers; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxEvidence {
    /// The quote, as the quoting service gave it.
    pub quote: Vec<u8>,
    /// The firmware's event log (CCEL), without the unused end of its area;
    /// `None` where the firmware left none.
    pub event_log: Option<Vec<u8>>,
}
