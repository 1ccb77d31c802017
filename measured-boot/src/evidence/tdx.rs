//! The KBS protocol's `tdx` evidence.

#[cfg(feature = "std")]
mod received;

use alloc::format;
use alloc::vec::Vec;

use base64ct::{Base64, Encoding};

use crate::manifest::Tee;

use super::Evidence;

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

impl TdxEvidence {
    /// Takes the quote and the area of the event log as the kernel gives them.
    ///
    /// # Errors
    /// There is no quote, or the log's events do not end at padding.
    pub fn from_device(quote: Vec<u8>, log_area: Option<&[u8]>) -> Result<Self, &'static str> {
        if quote.is_empty() {
            return Err("the quote is empty");
        }
        let events = |area| events(area).ok_or("the event log is malformed");
        let event_log = log_area.map(events).transpose()?.map(<[u8]>::to_vec);
        Ok(Self { quote, event_log })
    }

    /// The JSON that goes into `primary_evidence`.
    pub fn to_evidence(&self) -> Evidence {
        let quote = Base64::encode_string(&self.quote);
        let log = match &self.event_log {
            Some(log) => format!("\"{}\"", Base64::encode_string(log)),
            None => "null".into(),
        };
        let json = format!("{{\"quote\":\"{quote}\",\"cc_eventlog\":{log}}}");
        Evidence {
            tee: Tee::Tdx,
            json,
        }
    }
}

/// A log's area up to the end of the last event: what follows is all zeros or
/// all ones.
fn events(area: &[u8]) -> Option<&[u8]> {
    let mut rest = area;
    let mut agile = false;
    loop {
        let first = rest.first();
        if matches!(first, None | Some(0 | 0xff)) && rest.iter().all(|b| Some(b) == first) {
            return area.get(..area.len().checked_sub(rest.len())?);
        }
        rest = after_event(rest, agile)?;
        agile = true;
    }
}

/// What follows one event: of the form with SHA-1 alone, as the first is, or
/// with a list of digests (TCG PC Client Platform Firmware Profile 1.06,
/// sections 10.2.1 and 10.2.2).
fn after_event(event: &[u8], agile: bool) -> Option<&[u8]> {
    // Register and type.
    let mut rest = event.get(8..)?;
    if agile {
        let (count, digests) = size(rest)?;
        rest = digests;
        for _ in 0..count {
            let (algorithm, digest) = rest.split_first_chunk()?;
            // TCG Algorithm Registry, table "TPM_ALG_ID".
            let length = match u16::from_le_bytes(*algorithm) {
                0x0004 => 20,
                0x000b | 0x0012 => 32,
                0x000c => 48,
                0x000d => 64,
                _ => return None,
            };
            rest = digest.get(length..)?;
        }
    } else {
        rest = rest.get(20..)?;
    }
    let (length, data) = size(rest)?;
    data.get(length..)
}

fn size(rest: &[u8]) -> Option<(usize, &[u8])> {
    let (size, rest) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*size).try_into().ok()?, rest))
}

#[cfg(test)]
mod tests;
