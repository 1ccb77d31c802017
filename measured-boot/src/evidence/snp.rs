//! The KBS protocol's `snp` evidence.

#[cfg(feature = "std")]
mod received;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::manifest::Tee;

use super::Evidence;

#[cfg(feature = "std")]
pub use self::received::Error;

/// Bytes of an attestation report of versions 2 to 5 (SEV-SNP Firmware ABI
/// 56860, table "ATTESTATION_REPORT Structure").
pub const REPORT_LEN: usize = 1184;

/// A report and what the host offered to verify it; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpEvidence {
    /// The report, as the secure processor gave it.
    pub report: [u8; REPORT_LEN],
    /// Certificates from the host's table; none where it has none.
    pub certificates: Vec<Certificate>,
}

/// One entry of the certificate table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What it claims to be.
    pub kind: CertificateKind,
    /// DER.
    pub der: Vec<u8>,
}

/// The kinds that verifiers use (GHCB Standardization 56421, section 4.1.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub enum CertificateKind {
    Ark,
    Ask,
    Vcek,
    Vlek,
}

/// What marks each kind in the host's table: a GUID, in the byte order of its text.
const GUIDS: [(u128, CertificateKind); 4] = [
    (0xc0b406a4a803495297433fb6014cd0ae, CertificateKind::Ark),
    (0x4ab7b379bbac4fe4a02f05aef327c782, CertificateKind::Ask),
    (0x63da758de6644564adc5f4b93be8accd, CertificateKind::Vcek),
    (0xa8074bc2a25a483eaae639c045a0b8a1, CertificateKind::Vlek),
];

impl SnpEvidence {
    /// Takes the report and the host's certificate table as configfs-tsm gives
    /// them.
    ///
    /// # Errors
    /// The report is not one of versions 3 to 5 that its JSON can give back to
    /// the byte, or the table points outside itself.
    pub fn from_device(report: &[u8], table: &[u8]) -> Result<Self, &'static str> {
        let report = report.try_into();
        let report = report.map_err(|_| "the report does not have 1184 bytes")?;
        report_json(&report).ok_or("the report is not of version 3 to 5, or has reserved bytes")?;
        let certificates = certificates(table).ok_or("the certificate table is malformed")?;
        Ok(Self {
            report,
            certificates,
        })
    }

    /// The JSON that goes into `primary_evidence`. Its report is `null` when it
    /// is not one that [`Self::from_device`] takes.
    pub fn to_evidence(&self) -> Evidence {
        let report = report_json(&self.report).unwrap_or_else(|| "null".into());
        let entries = self.certificates.iter().map(|Certificate { kind, der }| {
            let name = format!("{kind:?}").to_ascii_uppercase();
            format!("{{\"cert_type\":\"{name}\",\"data\":{der:?}}}")
        });
        let chain = match &entries.collect::<Vec<_>>()[..] {
            [] => "null".into(),
            entries => format!("[{}]", entries.join(",")),
        };
        let json = format!("{{\"attestation_report\":{report},\"cert_chain\":{chain}}}");
        Evidence {
            tee: Tee::Snp,
            json,
        }
    }
}

/// Entries of GUID, offset and length, up to one of zeros (56421, section
/// 4.1.8.1). A host without certificates gives no table.
fn certificates(table: &[u8]) -> Option<Vec<Certificate>> {
    let mut certificates = Vec::new();
    let mut rest = table;
    // Entries that overlap would let a small table fill the guest's memory.
    let mut unclaimed = table.len();
    while !rest.is_empty() {
        let (guid, after) = rest.split_first_chunk()?;
        let (offset, after) = after.split_first_chunk()?;
        let (length, after) = after.split_first_chunk()?;
        rest = after;
        let guid = u128::from_be_bytes(*guid);
        let [offset, length] =
            [offset, length].map(|n| usize::try_from(u32::from_le_bytes(*n)).unwrap_or(usize::MAX));
        if (guid, offset, length) == (0, 0, 0) {
            return Some(certificates);
        }
        unclaimed = unclaimed.checked_sub(length)?;
        let der = table.get(offset..)?.get(..length)?.to_vec();
        if let Some((_, kind)) = GUIDS.into_iter().find(|row| row.0 == guid) {
            certificates.push(Certificate { kind, der });
        }
    }
    table.is_empty().then_some(certificates)
}

/// How the bytes of a field become JSON.
enum Form {
    Number,
    Bytes,
    Tcb,
    Version,
    /// A number from report version 5 on, reserved before.
    Mitigations,
    Signature,
    Reserved,
}

/// Every byte of `ATTESTATION_REPORT` (56860, section 7.3), in order: length,
/// form, and the member's name.
const FIELDS: &[(usize, Form, &str)] = &[
    (4, Form::Number, "version"),
    (4, Form::Number, "guest_svn"),
    (8, Form::Number, "policy"),
    (16, Form::Bytes, "family_id"),
    (16, Form::Bytes, "image_id"),
    (4, Form::Number, "vmpl"),
    (4, Form::Number, "sig_algo"),
    (8, Form::Tcb, "current_tcb"),
    (8, Form::Number, "plat_info"),
    (4, Form::Number, "key_info"),
    (4, Form::Reserved, ""),
    (64, Form::Bytes, "report_data"),
    (48, Form::Bytes, "measurement"),
    (32, Form::Bytes, "host_data"),
    (48, Form::Bytes, "id_key_digest"),
    (48, Form::Bytes, "author_key_digest"),
    (32, Form::Bytes, "report_id"),
    (32, Form::Bytes, "report_id_ma"),
    (8, Form::Tcb, "reported_tcb"),
    (1, Form::Number, "cpuid_fam_id"),
    (1, Form::Number, "cpuid_mod_id"),
    (1, Form::Number, "cpuid_step"),
    (21, Form::Reserved, ""),
    (64, Form::Bytes, "chip_id"),
    (8, Form::Tcb, "committed_tcb"),
    (3, Form::Version, "current"),
    (1, Form::Reserved, ""),
    (3, Form::Version, "committed"),
    (1, Form::Reserved, ""),
    (8, Form::Tcb, "launch_tcb"),
    (8, Form::Mitigations, "launch_mit_vector"),
    (8, Form::Mitigations, "current_mit_vector"),
    (152, Form::Reserved, ""),
    (144, Form::Signature, "signature"),
    (368, Form::Reserved, ""),
];
const FAMILY_AT: usize = 0x188;
/// Whose `TCB_VERSION` begins with the FMC (56860, section 2.2).
const TURIN_FAMILY: u8 = 0x1a;

/// The members of the crate `sev`, which Trustee's verifier turns back into the
/// signed bytes. `None` when a byte would be lost on the way.
fn report_json(report: &[u8; REPORT_LEN]) -> Option<String> {
    let version = report.first_chunk().map(|v| u32::from_le_bytes(*v))?;
    if !(3..=5).contains(&version) {
        return None;
    }
    let turin = report.get(FAMILY_AT) == Some(&TURIN_FAMILY);
    let mut members = Vec::new();
    let mut rest = &report[..];
    for (length, form, name) in FIELDS {
        let (field, after) = rest.split_at_checked(*length)?;
        rest = after;
        let value = match (form, field) {
            (Form::Mitigations, _) if version >= 5 => format!("{}", number(field)),
            (Form::Mitigations, [0, 0, 0, 0, 0, 0, 0, 0]) => "null".into(),
            (Form::Number, _) => format!("{}", number(field)),
            (Form::Bytes, _) => format!("{field:?}"),
            (Form::Tcb, [fmc, bootloader, tee, snp, 0, 0, 0, microcode]) if turin => {
                tcb(&format!("{fmc}"), [bootloader, tee, snp, microcode])
            }
            (Form::Tcb, [bootloader, tee, 0, 0, 0, 0, snp, microcode]) if !turin => {
                tcb("null", [bootloader, tee, snp, microcode])
            }
            (Form::Version, [build, minor, major]) => {
                format!("{{\"major\":{major},\"minor\":{minor},\"build\":{build}}}")
            }
            (Form::Signature, _) => {
                let (r, s) = field.split_at_checked(72)?;
                format!("{{\"r\":{r:?},\"s\":{s:?}}}")
            }
            (Form::Reserved, _) if field.iter().all(|byte| *byte == 0) => continue,
            _ => return None,
        };
        members.push(format!("\"{name}\":{value}"));
    }
    Some(format!("{{{}}}", members.join(",")))
}

/// A little-endian number of at most eight bytes.
fn number(field: &[u8]) -> u64 {
    field
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn tcb(fmc: &str, [bootloader, tee, snp, microcode]: [&u8; 4]) -> String {
    format!(
        "{{\"fmc\":{fmc},\"bootloader\":{bootloader},\"tee\":{tee},\"snp\":{snp},\
         \"microcode\":{microcode}}}"
    )
}

#[cfg(test)]
mod tests;
