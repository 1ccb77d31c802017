//! What a PCK certificate says of its platform (Intel SGX PCK Certificate and
//! CRL Profile, table "SGX Extensions").

use anyhow::Result;
use x509_cert::der::asn1::{Any, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Encode, Tag};
use x509_cert::ext::Extension;

const SGX_EXTENSIONS: &str = "1.2.840.113741.1.13.1";

/// Family, model and configuration of the platform.
pub(super) const FMSPC: [u8; 6] = [0xb0, 0xc0, 0x6f, 0, 0, 0];
pub(super) const PCE_ID: [u8; 2] = [0, 0];
/// `CPUSVN` and `PCESVN` of its firmware.
pub(super) const CPU_SVN: [u8; 16] = [5, 5, 2, 2, 4, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
pub(super) const PCE_SVN: u8 = 13;

pub(super) fn extension() -> Result<Extension> {
    let mut tcb = Vec::new();
    for (part, svn) in (1u8..).zip(CPU_SVN) {
        tcb.push(member(&format!("2.{part}"), &svn)?);
    }
    tcb.push(member("2.17", &PCE_SVN)?);
    tcb.push(member("2.18", &octets(&CPU_SVN)?)?);
    let configuration = [
        member("7.1", &false)?,
        member("7.2", &false)?,
        member("7.3", &true)?,
    ];
    // SGXType: scalable, as every platform with TDX.
    let scalable = Any::new(Tag::Enumerated, [1])?;
    let all = [
        member("1", &octets(&[0x99; 16])?)?,
        member("2", &sequence(&tcb)?)?,
        member("3", &octets(&PCE_ID)?)?,
        member("4", &octets(&FMSPC)?)?,
        member("5", &scalable)?,
        member("6", &octets(&[0x77; 16])?)?,
        member("7", &sequence(&configuration)?)?,
    ];
    crate::x509::extension(SGX_EXTENSIONS, &sequence(&all)?.to_der()?)
}

fn octets(bytes: &[u8]) -> Result<&OctetStringRef> {
    Ok(OctetStringRef::new(bytes)?)
}

/// An identifier below Intel's, and its value.
fn member(id: &str, value: &impl Encode) -> Result<Vec<u8>> {
    let id = ObjectIdentifier::new(&format!("{SGX_EXTENSIONS}.{id}"))?;
    Ok(sequence(&[id.to_der()?, value.to_der()?])?.to_der()?)
}

fn sequence(members: &[Vec<u8>]) -> Result<Any> {
    Ok(Any::new(Tag::Sequence, members.concat())?)
}
