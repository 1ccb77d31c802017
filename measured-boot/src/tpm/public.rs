//! The attestation key: the template it is made from, and its public part.

use alloc::vec::Vec;

use sha2::{Digest, Sha256};

use super::wire::{Malformed, Reader};

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
const MODULUS_SIZE: usize = 256;
const EXPONENT: [u8; 3] = [1, 0, 1];

/// The template with an empty modulus, as `TPM2_CreatePrimary` takes it.
pub(super) fn template() -> Vec<u8> {
    [&TEMPLATE[..], &[0, 0]].concat()
}

/// DER `SubjectPublicKeyInfo` of the key that `TPM2_CreatePrimary` answered
/// with, after making sure it is the key asked for.
pub(super) fn created(mut parameters: Reader<'_>) -> Result<Vec<u8>, Malformed> {
    let public = parameters.sized()?;
    let _creation_data = parameters.sized()?;
    let _creation_hash = parameters.sized()?;
    // TPMT_TK_CREATION: tag and hierarchy, then its digest.
    let _ticket = (parameters.bytes(6)?, parameters.sized()?);
    let name = parameters.sized()?;
    parameters.end()?;

    let unique = public
        .strip_prefix(&TEMPLATE)
        .ok_or(Malformed("got another key than the template's"))?;
    let mut unique = Reader(unique);
    let modulus = unique.sized()?;
    unique.end()?;
    if modulus.len() != MODULUS_SIZE || modulus.first().is_none_or(|top| *top < 0x80) {
        return Err(Malformed("got a modulus that is not of 2048 bits"));
    }
    // Part 1 section 16: the name is nameAlg and the digest of the public area.
    if name != [&[0x00, 0x0b], &Sha256::digest(public)[..]].concat() {
        return Err(Malformed("got a name that is not the key's"));
    }
    Ok(subject_public_key_info(modulus))
}

/// RFC 5280 section 4.1.2.7 around RFC 8017 appendix A.1.1.
fn subject_public_key_info(modulus: &[u8]) -> Vec<u8> {
    // rsaEncryption with NULL parameters (RFC 3279 section 2.3.1).
    const ALGORITHM: [u8; 15] = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
    ];
    // A leading zero keeps the integer positive.
    let integers = [der(0x02, &[&[0], modulus]), der(0x02, &[&EXPONENT])].concat();
    let key = der(0x30, &[&integers]);
    der(0x30, &[&ALGORITHM, &der(0x03, &[&[0], &key])])
}

/// One DER element of fewer than 65536 bytes (X.690 section 8.1.3).
fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let [high, low] = u16::try_from(contents.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    let header = match (high, low) {
        (0, 0..=0x7f) => [tag, low].to_vec(),
        (0, _) => [tag, 0x81, low].to_vec(),
        _ => [tag, 0x82, high, low].to_vec(),
    };
    [header, contents].concat()
}
