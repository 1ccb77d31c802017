//! Event logs of measured boots: what was extended into which register.
//!
//! A log comes from the host's firmware through tables that the host can
//! rewrite, so nothing in it is true until [`EventLog::replay`] gives the
//! registers that a quote signed. Until then it is bytes of an adversary: every
//! length is checked before it is followed, and a log is refused with the
//! offset of what is wrong.
//!
//! Formats: `TCG_PCR_EVENT` (SHA-1) and `TCG_PCR_EVENT2` (crypto-agile) of the
//! TCG PC Client Platform Firmware Profile 1.06 section 10, and the CCEL of a
//! TD, which is the latter with other registers (UEFI 2.10 section 38.4.1).

mod description;
mod kind;
mod reader;
mod replay;

#[cfg(test)]
mod tests;

pub use self::kind::EventType;
pub use self::replay::{Bank, Registers};

use self::reader::Reader;

/// Registers of a TPM's bank (PC Client Platform TPM Profile 1.05 section 4.6).
const HIGHEST_REGISTER: u32 = 23;
/// More hash algorithms than any TPM has banks: a bound on what a log declares.
const MAX_ALGORITHMS: u32 = 16;
/// Bytes of the longest digest that has an identifier (SHA-512).
const MAX_DIGEST: u16 = 64;
/// `TCG_EfiSpecIDEvent.signature` of a crypto-agile log.
const SPEC_ID_AGILE: &[u8; 16] = b"Spec ID Event03\0";

/// A hash algorithm, and with it a bank of registers (TCG Algorithm Registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// `TPM_ALG_SHA1`.
    Sha1,
    /// `TPM_ALG_SHA256`.
    Sha256,
    /// `TPM_ALG_SHA384`.
    Sha384,
    /// `TPM_ALG_SHA512`.
    Sha512,
    /// Another one that the log declares: its digests are read, not replayed.
    Other(u16),
}

impl Algorithm {
    fn from_id(id: u16) -> Self {
        match id {
            0x4 => Self::Sha1,
            0xb => Self::Sha256,
            0xc => Self::Sha384,
            0xd => Self::Sha512,
            other => Self::Other(other),
        }
    }

    /// Digest size in bytes, where the algorithm is known.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Sha1 => Some(20),
            Self::Sha256 => Some(32),
            Self::Sha384 => Some(48),
            Self::Sha512 => Some(64),
            Self::Other(_) => None,
        }
    }
}

impl core::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Sha1 => f.write_str("sha1"),
            Self::Sha256 => f.write_str("sha256"),
            Self::Sha384 => f.write_str("sha384"),
            Self::Sha512 => f.write_str("sha512"),
            Self::Other(id) => write!(f, "algorithm {id:#06x}"),
        }
    }
}

/// How the events are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `TCG_PCR_EVENT`: one SHA-1 digest for each event.
    Sha1,
    /// `TCG_PCR_EVENT2`: one digest for each declared algorithm.
    CryptoAgile,
}

/// Whose registers the events are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tcb {
    /// A TPM: index n is PCR n.
    Tpm,
    /// A trust domain: index 0 is MRTD, index n is RTMR n-1.
    Tdx,
}

impl Tcb {
    /// The register's name, as everybody says it.
    pub fn register_name(self, index: u32) -> String {
        match (self, index.checked_sub(1)) {
            (Self::Tpm, _) => format!("PCR {index}"),
            (Self::Tdx, Some(rtmr)) => format!("RTMR{rtmr}"),
            (Self::Tdx, None) => "MRTD".to_owned(),
        }
    }
}

/// What fills the log's buffer after the last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Nothing: the buffer ends with the last event.
    None,
    /// Bytes of 0x00.
    Zeros,
    /// Bytes of 0xFF, as in the table that a CCEL points at.
    Ones,
}

/// One digest of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventDigest<'a> {
    /// Which bank it was extended into.
    pub algorithm: Algorithm,
    /// The digest itself.
    pub value: &'a [u8],
}

/// One measured thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Where the event begins, in bytes from the start of the log.
    pub offset: usize,
    /// Index of the register, at most 23; [`Tcb::register_name`] names it.
    pub register: u32,
    /// What kind of thing was measured.
    pub kind: EventType,
    /// In the order of [`EventLog::algorithms`], one for each.
    pub digests: Vec<EventDigest<'a>>,
    /// What the firmware tells about it. Only for some types is the digest that of these bytes.
    pub data: &'a [u8],
}

impl Event<'_> {
    /// The digest for one bank.
    pub fn digest(&self, algorithm: Algorithm) -> Option<&[u8]> {
        let of_bank = |digest: &&EventDigest<'_>| digest.algorithm == algorithm;
        self.digests.iter().find(of_bank).map(|digest| digest.value)
    }
}

/// A log that is well formed from end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog<'a> {
    /// How its events are laid out.
    pub format: Format,
    /// Banks that the log declares, with their digest sizes in bytes.
    pub algorithms: Vec<(Algorithm, usize)>,
    /// All events in order, without the header that declares the algorithms.
    pub events: Vec<Event<'a>>,
    /// Bytes up to the end of the last event.
    pub end: usize,
    /// What is in the buffer after that.
    pub padding: Padding,
}

/// Why a log is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read event log: at offset {offset:#x}: {cause}")]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as event_log::Error"
)]
pub struct Error {
    /// Bytes from the start of the log.
    pub offset: usize,
    /// The field, what it has and what was expected.
    pub cause: String,
}

impl Error {
    fn at(offset: usize, cause: impl Into<String>) -> Self {
        let cause = cause.into();
        Self { offset, cause }
    }
}

/// Reads a whole log, to the last byte of its buffer.
///
/// # Errors
/// The first event that is not well formed, with its offset.
pub fn parse(log: &[u8]) -> Result<EventLog<'_>, Error> {
    let mut reader = Reader::new(log);
    let first = reader.sha1_event()?;
    let agile = first.kind == EventType::NO_ACTION && first.data.starts_with(SPEC_ID_AGILE);
    let (format, algorithms, mut events) = if agile {
        let algorithms = spec_id(&mut Reader::within(log, &first)?)?;
        (Format::CryptoAgile, algorithms, Vec::new())
    } else {
        (Format::Sha1, vec![(Algorithm::Sha1, 20)], vec![first])
    };
    let padding = loop {
        if let Some(padding) = reader.padding() {
            break padding;
        }
        events.push(match format {
            Format::Sha1 => reader.sha1_event()?,
            Format::CryptoAgile => reader.agile_event(&algorithms)?,
        });
    };
    let end = reader.offset();
    Ok(EventLog {
        format,
        algorithms,
        events,
        end,
        padding,
    })
}

/// `TCG_EfiSpecIDEvent` (section 10.4.5.1): the algorithms of every later event.
fn spec_id(reader: &mut Reader<'_>) -> Result<Vec<(Algorithm, usize)>, Error> {
    // Signature, platform class, specification version and errata, size of UINTN.
    reader.bytes(16 + 4 + 3 + 1, "specification identifier")?;
    let at = reader.offset();
    let count = reader.u32("number of algorithms")?;
    if !(1..=MAX_ALGORITHMS).contains(&count) {
        let cause = format!("got {count} algorithms, expected 1 to {MAX_ALGORITHMS}");
        return Err(Error::at(at, cause));
    }
    let mut algorithms: Vec<(Algorithm, usize)> = Vec::new();
    for _ in 0..count {
        let at = reader.offset();
        let algorithm = Algorithm::from_id(reader.u16("algorithm")?);
        let size = reader.u16("digest size")?;
        let expected = algorithm.size();
        if expected.is_some_and(|expected| expected != usize::from(size))
            || !(1..=MAX_DIGEST).contains(&size)
        {
            let expected = expected.unwrap_or_else(|| MAX_DIGEST.into());
            let cause = format!("{algorithm}: got digests of {size} bytes, expected {expected}");
            return Err(Error::at(at, cause));
        }
        if algorithms.iter().any(|(other, _)| *other == algorithm) {
            return Err(Error::at(at, format!("{algorithm} is declared twice")));
        }
        algorithms.push((algorithm, size.into()));
    }
    let size = reader.u8("vendor information size")?;
    reader.bytes(size.into(), "vendor information")?;
    reader.end("specification identifier event")?;
    Ok(algorithms)
}
