//! The TPM 2.0 commands of an attestation, on the wire of our own.
//!
//! TPM 2.0 Library Specification, Part 2 (structures) and Part 3 (commands),
//! and only what is needed: one key, quotes, registers. Whoever can carry a
//! frame to a TPM implements [`Transport`]. The host is on the other end of the
//! bus, so answers are hostile input: parsed to the last byte, never trusted
//! for a length.

mod attest;
mod command;
mod public;
mod wire;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest, Sha256};

pub use self::attest::{Attest, rsassa_signature};
pub use self::command::MAX_RESPONSE;
pub use self::wire::{Malformed, Selection};

use self::command::{Answer, Command, Outcome};

/// `TPM_ALG_SHA256`.
pub const ALG_SHA256: u16 = 0x000b;
const ALG_RSASSA: u16 = 0x0014;

/// All 24 registers of the SHA-256 bank: the only selection we quote or accept.
pub const ALL_PCRS: Selection = Selection {
    bank: ALG_SHA256,
    mask: 0x00ff_ffff,
};
/// The register that ends the guest's right to keys.
pub const LATCH_PCR: u8 = 15;
/// What is extended into it, as SHA-256 of these bytes.
pub const LATCH_EVENT: &[u8] = b"anchorhold/1 keys released";

/// `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_RETRY`: warnings after which the
/// same command may succeed (Part 2 section 6.6.3).
const RC_AGAIN: [u32; 3] = [0x908, 0x90a, 0x922];
const MAX_ATTEMPTS: u32 = 8;

/// Values of PCR 0 to 23 of the SHA-256 bank.
pub type Pcrs = [[u8; 32]; 24];

/// Carries one command frame to a TPM and brings back its answer, whole.
pub trait Transport {
    /// Why a frame was not carried.
    type Error;

    /// Sends `command` and waits for the answer, at most [`MAX_RESPONSE`] bytes.
    ///
    /// # Errors
    /// What the transport says; the command may or may not have run.
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, Self::Error>;
}

/// Why the TPM did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as tpm::Error"
)]
pub enum Error<E> {
    /// The frame was not carried.
    Transport(E),
    /// The TPM answered with a `TPM_RC`.
    Refused {
        /// Part 3's name of the command.
        command: &'static str,
        /// The `TPM_RC`.
        rc: u32,
    },
    /// The answer is outside the specification.
    Malformed {
        /// Part 3's name of the command.
        command: &'static str,
        /// What is wrong.
        cause: Malformed,
    },
    /// Registers changed during every attempt to read or quote them.
    Moving,
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Refused { command, rc } => write!(f, "{command} got TPM_RC 0x{rc:03x}"),
            Self::Malformed { command, cause } => write!(f, "{command} {cause}"),
            Self::Moving => f.write_str("got PCRs that changed while they were read"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for Error<E> {}

/// A loaded attestation key. [`flush`] it: a TPM has few slots.
#[derive(Debug)]
pub struct Ak {
    handle: u32,
    /// DER `SubjectPublicKeyInfo`.
    pub public_der: Vec<u8>,
}

/// A quote, and the register values its digest is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteParts {
    /// `TPMS_ATTEST`: what was signed.
    pub message: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// All registers of the SHA-256 bank.
    pub pcrs: Pcrs,
}

/// Makes the attestation key: the same one for the life of the TPM.
///
/// # Errors
/// See [`Error`].
pub fn create_ak<T: Transport>(tpm: &mut T) -> Result<Ak, Error<T::Error>> {
    run(
        tpm,
        &Command::create_primary(&public::template()),
        |answer| {
            let handle = answer.handle.ok_or(Malformed("got no handle"))?;
            Ok(Ak {
                handle,
                public_der: public::created(answer.parameters)?,
            })
        },
    )
}

/// Unloads the key.
///
/// # Errors
/// See [`Error`].
pub fn flush<T: Transport>(tpm: &mut T, ak: Ak) -> Result<(), Error<T::Error>> {
    run(tpm, &Command::flush_context(ak.handle), |answer| {
        answer.parameters.end()
    })
}

/// Folds `digest` into a register of the SHA-256 bank.
///
/// # Errors
/// See [`Error`].
pub fn extend<T: Transport>(
    tpm: &mut T,
    pcr: u8,
    digest: &[u8; 32],
) -> Result<(), Error<T::Error>> {
    run(tpm, &Command::pcr_extend(pcr, digest), |answer| {
        answer.parameters.end()
    })
}

/// What a register holds after [`extend`] (Part 1 section 17.2).
pub fn extended(register: &[u8; 32], digest: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update(register)
        .chain_update(digest)
        .finalize()
        .into()
}

/// Reads all registers, as they were at one moment.
///
/// # Errors
/// See [`Error`].
pub fn read_pcrs<T: Transport>(tpm: &mut T) -> Result<Pcrs, Error<T::Error>> {
    for _ in 0..MAX_ATTEMPTS {
        let mut pcrs = [[0; 32]; 24];
        let mut left = ALL_PCRS.mask;
        let mut counter = None;
        let mut moved = false;
        while left != 0 {
            // A TPM answers with as many as it likes, in practice eight.
            let selection = Selection {
                mask: left,
                ..ALL_PCRS
            };
            let part = run(tpm, &Command::pcr_read(selection), |answer| {
                read_part(answer, left, &mut pcrs)
            })?;
            left &= !part.mask;
            moved |= counter
                .replace(part.counter)
                .is_some_and(|before| before != part.counter);
        }
        if !moved {
            return Ok(pcrs);
        }
    }
    Err(Error::Moving)
}

/// Quotes all registers with `qualifying_data`, and makes sure that the values
/// beside the quote are those it is over.
///
/// # Errors
/// See [`Error`].
pub fn quote<T: Transport>(
    tpm: &mut T,
    ak: &Ak,
    qualifying_data: &[u8; 32],
) -> Result<QuoteParts, Error<T::Error>> {
    let command = Command::quote(ak.handle, qualifying_data, ALL_PCRS);
    for _ in 0..MAX_ATTEMPTS {
        let pcrs = read_pcrs(tpm)?;
        let quoted = run(tpm, &command, |mut answer| {
            let message = answer.parameters.sized()?;
            let signature = answer.parameters.0;
            rsassa_signature(signature)?;
            let attest = Attest::parse(message)?;
            if attest.selection != [ALL_PCRS] || attest.extra_data != qualifying_data {
                return Err(Malformed("got a quote of something else than asked for"));
            }
            let current = attest.pcr_digest == pcr_digest(&pcrs);
            Ok(current.then(|| QuoteParts {
                message: message.to_vec(),
                signature: signature.to_vec(),
                pcrs,
            }))
        })?;
        if let Some(parts) = quoted {
            return Ok(parts);
        }
    }
    Err(Error::Moving)
}

/// The digest in a quote of [`ALL_PCRS`] (Part 2 section 10.12.1).
pub fn pcr_digest(pcrs: &Pcrs) -> [u8; 32] {
    Sha256::digest(pcrs.as_flattened()).into()
}

/// Sends a command until the TPM takes it, and reads the answer.
fn run<T: Transport, R>(
    tpm: &mut T,
    command: &Command,
    mut read: impl FnMut(Answer<'_>) -> Result<R, Malformed>,
) -> Result<R, Error<T::Error>> {
    let malformed = |cause| Error::Malformed {
        command: command.name,
        cause,
    };
    let mut attempts = 1;
    loop {
        let frame = tpm.transact(&command.frame).map_err(Error::Transport)?;
        match command.answer(&frame).map_err(malformed)? {
            Outcome::Success(answer) => return read(answer).map_err(malformed),
            Outcome::Refused(rc) if RC_AGAIN.contains(&rc) && attempts < MAX_ATTEMPTS => {
                attempts = attempts.saturating_add(1);
            }
            Outcome::Refused(rc) => {
                return Err(Error::Refused {
                    command: command.name,
                    rc,
                });
            }
        }
    }
}

/// What one `TPM2_PCR_Read` brought.
struct Part {
    counter: u32,
    mask: u32,
}

fn read_part(answer: Answer<'_>, asked: u32, pcrs: &mut Pcrs) -> Result<Part, Malformed> {
    let mut reader = answer.parameters;
    let counter = reader.u32()?;
    let selection = Selection::read_list(&mut reader)?;
    let &[
        Selection {
            bank: ALG_SHA256,
            mask,
        },
    ] = selection.as_slice()
    else {
        return Err(Malformed("got PCRs of another bank"));
    };
    // Something asked for and nothing else, so that reading comes to an end.
    if mask == 0 || mask & !asked != 0 {
        return Err(Malformed("got other PCRs than asked for"));
    }
    if reader.u32()? != mask.count_ones() {
        return Err(Malformed("got another number of digests than PCRs"));
    }
    let selected = (0..)
        .zip(pcrs.iter_mut())
        .filter(|(index, _)| mask & (1u32 << index) != 0);
    for (_, pcr) in selected {
        *pcr = reader
            .sized()?
            .try_into()
            .map_err(|_| Malformed("got a digest that is not of 32 bytes"))?;
    }
    reader.end()?;
    Ok(Part { counter, mask })
}
