//! The TPM 2.0 commands of an attestation, on the wire of our own.
//!
//! TPM 2.0 Library Specification, Part 2 (structures) and Part 3 (commands),
//! and only what is needed: one key, quotes, registers. Whoever can carry a
//! frame to a TPM implements [`Transport`]. The host is on the other end of the
//! bus, so answers are hostile input: parsed to the last byte, never trusted
//! for a length. What a quote says is the verifier's to judge.

#[cfg(feature = "std")]
mod attest;
mod wire;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest, Sha256};

#[cfg(feature = "std")]
pub use self::attest::{ALG_SHA256, ALL_PCRS, Attest, Selection, rsassa_signature};
pub use self::wire::{MAX_RESPONSE, Malformed};

use self::wire::{Command, NO_SESSIONS, Reader, SESSIONS};

/// The register that ends the guest's right to keys.
pub const LATCH_PCR: u8 = 15;
/// What is extended into it, as SHA-256 of these bytes.
pub const LATCH_EVENT: &[u8] = b"anchorhold/1 keys released";

/// Part 3 sections 24.1, 28.4, 22.4, 22.2 and 18.4.
const CREATE_PRIMARY: Command = Command::new("TPM2_CreatePrimary", SESSIONS, 0x131);
const FLUSH_CONTEXT: Command = Command::new("TPM2_FlushContext", NO_SESSIONS, 0x165);
const PCR_READ: Command = Command::new("TPM2_PCR_Read", NO_SESSIONS, 0x17e);
const PCR_EXTEND: Command = Command::new("TPM2_PCR_Extend", SESSIONS, 0x182);
const QUOTE: Command = Command::new("TPM2_Quote", SESSIONS, 0x158);

/// `TPM_RH_ENDORSEMENT`: its seed outlives `TPM2_Clear`, unlike the owner's.
const RH_ENDORSEMENT: [u8; 4] = [0x40, 0, 0, 0x0b];
/// `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_RETRY`: warnings after which the
/// same command may succeed (Part 2 section 6.6.3).
const RC_AGAIN: [u32; 3] = [0x908, 0x90a, 0x922];
const MAX_ATTEMPTS: u32 = 8;

/// `TPMT_PUBLIC` up to the modulus (Part 2 section 12.2.4). With the TPM's
/// endorsement seed it decides the key, so that it can be enrolled before the
/// first boot: a change of one byte here is another key everywhere.
const TEMPLATE: [u8; 22] = [
    0x00, 0x01, // TPM_ALG_RSA
    0x00, 0x0b, // nameAlg: SHA-256
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted,
    // sign: signs only what the TPM itself says (Part 2 section 8.3).
    0x00, 0x05, 0x00, 0x72, //
    0x00, 0x00, // authPolicy: none
    0x00, 0x10, // symmetric: TPM_ALG_NULL, as for every signing key
    0x00, 0x14, 0x00, 0x0b, // scheme: RSASSA with SHA-256
    0x08, 0x00, // 2048 bits
    0x00, 0x00, 0x00, 0x00, // exponent: the default, 65537
];
/// DER `SubjectPublicKeyInfo` before the modulus (RFC 5280 section 4.1.2.7 around
/// RFC 8017 appendix A.1.1); every length in it follows from 2048 bits.
const SPKI_HEAD: [u8; 33] = [
    0x30, 0x82, 0x01, 0x22, // SEQUENCE
    // rsaEncryption with NULL parameters (RFC 3279 section 2.3.1).
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0, //
    0x03, 0x82, 0x01, 0x0f, 0x00, // BIT STRING
    0x30, 0x82, 0x01, 0x0a, // SEQUENCE
    0x02, 0x82, 0x01, 0x01, 0x00, // INTEGER; the zero keeps it positive
];
/// And after it: the exponent 65537.
const SPKI_TAIL: [u8; 5] = [0x02, 0x03, 1, 0, 1];

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
    /// No quote was over the registers as they were read just before it.
    Moving,
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Refused { command, rc } => write!(f, "{command} got TPM_RC 0x{rc:03x}"),
            Self::Malformed { command, cause } => write!(f, "{command} {cause}"),
            Self::Moving => f.write_str("TPM2_Quote got other PCRs than were read before it"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for Error<E> {}

/// A loaded attestation key. [`flush`] it: a TPM has few slots.
#[derive(Debug)]
pub struct Ak {
    handle: [u8; 4],
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
    let parameters = [
        &[0, 4, 0, 0, 0, 0][..], // inSensitive: no authorization value, no data
        &[0, 24],                // inPublic: the template and an empty modulus
        &TEMPLATE,
        &[0, 0],
        &[0, 0],       // outsideInfo: empty
        &[0, 0, 0, 0], // creationPCR: an empty list
    ];
    run(
        tpm,
        &CREATE_PRIMARY,
        &RH_ENDORSEMENT,
        &parameters.concat(),
        |mut answer| {
            let handle = answer.array()?;
            let public_der = created(answer.parameters()?)?;
            Ok(Ak { handle, public_der })
        },
    )
}

/// The key that `TPM2_CreatePrimary` answered with, after making sure it is the
/// key asked for.
fn created(mut parameters: Reader<'_>) -> Result<Vec<u8>, Malformed> {
    let public = parameters.sized()?;
    let _creation_data = parameters.sized()?;
    let _creation_hash = parameters.sized()?;
    // TPMT_TK_CREATION: tag and hierarchy, then its digest.
    let _ticket = (parameters.bytes(6)?, parameters.sized()?);
    let name = parameters.sized()?;
    parameters.end()?;

    let mut key = Reader(public);
    key.expect(&TEMPLATE, Malformed("got another key than the template's"))?;
    let modulus = key.sized()?;
    key.end()?;
    if modulus.len() != 256 || modulus.first().is_none_or(|top| *top < 0x80) {
        return Err(Malformed("got a modulus that is not of 2048 bits"));
    }
    // Part 1 section 16: the name is nameAlg and the digest of the public area.
    if name != [&[0x00, 0x0b], &Sha256::digest(public)[..]].concat() {
        return Err(Malformed("got a name that is not the key's"));
    }
    Ok([&SPKI_HEAD[..], modulus, &SPKI_TAIL].concat())
}

/// Unloads the key.
///
/// # Errors
/// See [`Error`].
pub fn flush<T: Transport>(tpm: &mut T, ak: Ak) -> Result<(), Error<T::Error>> {
    run(tpm, &FLUSH_CONTEXT, &ak.handle, &[], |answer| answer.end())
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
    // One digest, of TPM_ALG_SHA256.
    let digests = [&[0, 0, 0, 1, 0, 0x0b], &digest[..]].concat();
    run(tpm, &PCR_EXTEND, &[0, 0, 0, pcr], &digests, |answer| {
        answer.parameters()?.end()
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

/// Reads one register of the SHA-256 bank.
///
/// # Errors
/// See [`Error`].
pub fn read_pcr<T: Transport>(tpm: &mut T, pcr: u8) -> Result<[u8; 32], Error<T::Error>> {
    let selection = selection(1_u32.wrapping_shl(pcr.into()));
    run(tpm, &PCR_READ, &[], &selection, |mut answer| {
        let _update_counter = answer.u32()?;
        answer.expect(&selection, Malformed("got other PCRs than asked for"))?;
        let one = Malformed("got something else than one digest of 32 bytes");
        answer.expect(&[0, 0, 0, 1, 0, 32], one)?;
        let value = answer.array()?;
        answer.end()?;
        Ok(value)
    })
}

/// Reads all registers, one after the other.
///
/// # Errors
/// See [`Error`].
pub fn read_pcrs<T: Transport>(tpm: &mut T) -> Result<Pcrs, Error<T::Error>> {
    let mut pcrs = [[0; 32]; 24];
    for (pcr, value) in (0..).zip(&mut pcrs) {
        *value = read_pcr(tpm, pcr)?;
    }
    Ok(pcrs)
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
    // In the key's own scheme: TPM_ALG_NULL.
    let scheme_and_pcrs = [&[0, 0x10][..], &selection(0x00ff_ffff)].concat();
    let parameters = [&[0, 32], &qualifying_data[..], &scheme_and_pcrs].concat();
    for _ in 0..MAX_ATTEMPTS {
        let pcrs = read_pcrs(tpm)?;
        let parts = run(tpm, &QUOTE, &ak.handle, &parameters, |answer| {
            let mut parameters = answer.parameters()?;
            Ok(QuoteParts {
                message: parameters.sized()?.to_vec(),
                signature: parameters.0.to_vec(),
                pcrs,
            })
        })?;
        // The digest ends the message (TPMS_QUOTE_INFO).
        if parts.message.ends_with(&pcr_digest(&pcrs)) {
            return Ok(parts);
        }
    }
    Err(Error::Moving)
}

/// The digest in a quote of all registers (Part 2 section 10.12.1).
pub fn pcr_digest(pcrs: &Pcrs) -> [u8; 32] {
    Sha256::digest(pcrs.as_flattened()).into()
}

/// `TPML_PCR_SELECTION` of one `TPMS_PCR_SELECTION`: the SHA-256 bank, three octets
/// with bit n for PCR n (Part 2 sections 10.6.2 and 10.9.7).
fn selection(mask: u32) -> [u8; 10] {
    let [first, second, third, _] = mask.to_le_bytes();
    [0, 0, 0, 1, 0, 0x0b, 3, first, second, third]
}

/// Sends a command until the TPM takes it, and reads the answer.
fn run<T: Transport, R>(
    tpm: &mut T,
    command: &Command,
    handle: &[u8],
    parameters: &[u8],
    read: impl Fn(Reader<'_>) -> Result<R, Malformed>,
) -> Result<R, Error<T::Error>> {
    let name = command.name;
    let malformed = |cause| Error::Malformed {
        command: name,
        cause,
    };
    let frame = command.frame(handle, parameters);
    let mut rc = 0;
    for _ in 0..MAX_ATTEMPTS {
        let answer = tpm.transact(&frame).map_err(Error::Transport)?;
        let (code, answer) = command.answer(&answer).map_err(malformed)?;
        if code == 0 {
            return read(answer).map_err(malformed);
        }
        rc = code;
        if !RC_AGAIN.contains(&rc) {
            break;
        }
    }
    Err(Error::Refused { command: name, rc })
}
