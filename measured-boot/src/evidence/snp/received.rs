//! SNP evidence as the broker receives it: the report as Trustee's client
//! writes it, member by member, made into the signed bytes again.
//!
//! Every byte of a report is either a member here or zero, so that what is
//! verified afterwards is what the processor signed, or fails there.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Certificate, CertificateKind, REPORT_LEN, SnpEvidence};

/// More than a host's table holds.
const MOST_CERTIFICATES: usize = 16;
/// More than any certificate of AMD, or a list of revoked ones.
const LONGEST_CERTIFICATE: usize = 16 * 1024;
/// From which version the report names the processor, and has mitigation vectors.
const CPUID_SINCE: u32 = 3;
const MITIGATIONS_SINCE: u32 = 5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    attestation_report: JsonReport,
    #[serde(default)]
    cert_chain: Option<Vec<JsonCertificate>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonReport {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Bytes<16>,
    image_id: Bytes<16>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: JsonTcb,
    plat_info: u64,
    key_info: u32,
    report_data: Bytes<64>,
    measurement: Bytes<48>,
    host_data: Bytes<32>,
    id_key_digest: Bytes<48>,
    author_key_digest: Bytes<48>,
    report_id: Bytes<32>,
    report_id_ma: Bytes<32>,
    reported_tcb: JsonTcb,
    #[serde(default)]
    cpuid_fam_id: Option<u8>,
    #[serde(default)]
    cpuid_mod_id: Option<u8>,
    #[serde(default)]
    cpuid_step: Option<u8>,
    chip_id: Bytes<64>,
    committed_tcb: JsonTcb,
    current: JsonVersion,
    committed: JsonVersion,
    launch_tcb: JsonTcb,
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: JsonSignature,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonTcb {
    #[serde(default)]
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonVersion {
    major: u8,
    minor: u8,
    build: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSignature {
    r: Bytes<72>,
    s: Bytes<72>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCertificate {
    cert_type: JsonKind,
    data: Vec<u8>,
}

#[derive(Deserialize)]
enum JsonKind {
    #[serde(rename = "ARK")]
    Ark,
    #[serde(rename = "ASK")]
    Ask,
    #[serde(rename = "VCEK")]
    Vcek,
    #[serde(rename = "VLEK")]
    Vlek,
    #[serde(rename = "CRL")]
    Crl,
    Empty,
    #[serde(rename = "OTHER")]
    Other(#[allow(dead_code, reason = "the entry is dropped")] String),
}

impl JsonKind {
    /// The kinds that verifiers use; a list of revoked keys that the host sends
    /// is not one of them.
    fn used(&self) -> Option<CertificateKind> {
        match self {
            Self::Ark => Some(CertificateKind::Ark),
            Self::Ask => Some(CertificateKind::Ask),
            Self::Vcek => Some(CertificateKind::Vcek),
            Self::Vlek => Some(CertificateKind::Vlek),
            Self::Crl | Self::Empty | Self::Other(_) => None,
        }
    }
}

/// An array of exactly `N` integers from 0 to 255.
struct Bytes<const N: usize>([u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BytesVisitor)
    }
}

struct BytesVisitor<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for BytesVisitor<N> {
    type Value = Bytes<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {N} bytes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Bytes<N>, A::Error> {
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let next = sequence.next_element()?;
            *byte = next.ok_or_else(|| de::Error::invalid_length(index, &self))?;
        }
        match sequence.next_element::<u8>()? {
            None => Ok(Bytes(bytes)),
            Some(_) => Err(de::Error::invalid_length(N.saturating_add(1), &self)),
        }
    }
}

impl SnpEvidence {
    /// Reads the JSON of a guest: no unknown or repeated member, every number
    /// in its range, every byte string of its length.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let json: Json = serde_json::from_slice(json).map_err(|e| Error::Json(e.to_string()))?;
        let chain = json.cert_chain.unwrap_or_default();
        if chain.len() > MOST_CERTIFICATES {
            return Err(Error::Certificates(chain.len()));
        }
        let mut used = chain
            .iter()
            .filter(|entry| entry.cert_type.used().is_some());
        if let Some(entry) = used.find(|entry| entry.data.len() > LONGEST_CERTIFICATE) {
            return Err(Error::CertificateLength(entry.data.len()));
        }
        let used = |entry: JsonCertificate| {
            let kind = entry.cert_type.used()?;
            let der = entry.data;
            Some(Certificate { kind, der })
        };
        Ok(Self {
            report: json.attestation_report.bytes()?,
            certificates: chain.into_iter().filter_map(used).collect(),
        })
    }
}

impl JsonReport {
    /// `ATTESTATION_REPORT` (SEV-SNP Firmware ABI 56860, section 7.3).
    fn bytes(&self) -> Result<[u8; REPORT_LEN], Error> {
        let cpuid = self.cpuid()?;
        let mitigations = self.mitigations()?;
        let tcbs = [
            &self.current_tcb,
            &self.reported_tcb,
            &self.committed_tcb,
            &self.launch_tcb,
        ];
        if tcbs.iter().any(|tcb| tcb.fmc.is_some()) != tcbs.iter().all(|tcb| tcb.fmc.is_some()) {
            return Err(Error::Fmc);
        }
        let mut report = [0; REPORT_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            let fields = report.iter_mut().skip(offset).zip(bytes);
            fields.for_each(|(to, from)| *to = *from);
        };
        put(0x00, &self.version.to_le_bytes());
        put(0x04, &self.guest_svn.to_le_bytes());
        put(0x08, &self.policy.to_le_bytes());
        put(0x10, &self.family_id.0);
        put(0x20, &self.image_id.0);
        put(0x30, &self.vmpl.to_le_bytes());
        put(0x34, &self.sig_algo.to_le_bytes());
        put(0x38, &self.current_tcb.bytes());
        put(0x40, &self.plat_info.to_le_bytes());
        put(0x48, &self.key_info.to_le_bytes());
        put(0x50, &self.report_data.0);
        put(0x90, &self.measurement.0);
        put(0xc0, &self.host_data.0);
        put(0xe0, &self.id_key_digest.0);
        put(0x110, &self.author_key_digest.0);
        put(0x140, &self.report_id.0);
        put(0x160, &self.report_id_ma.0);
        put(0x180, &self.reported_tcb.bytes());
        put(0x188, &cpuid);
        put(0x1a0, &self.chip_id.0);
        put(0x1e0, &self.committed_tcb.bytes());
        put(0x1e8, &self.current.bytes());
        put(0x1ec, &self.committed.bytes());
        put(0x1f0, &self.launch_tcb.bytes());
        put(0x1f8, &mitigations);
        put(0x2a0, &self.signature.r.0);
        put(0x2e8, &self.signature.s.0);
        Ok(report)
    }

    fn cpuid(&self) -> Result<[u8; 3], Error> {
        let got = (self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step);
        match (self.version >= CPUID_SINCE, got) {
            (true, (Some(family), Some(model), Some(step))) => Ok([family, model, step]),
            (false, (None, None, None)) => Ok([0; 3]),
            _ => Err(Error::Version(self.version, "cpuid_fam_id")),
        }
    }

    fn mitigations(&self) -> Result<[u8; 16], Error> {
        let got = (self.launch_mit_vector, self.current_mit_vector);
        let (launch, current) = match (self.version >= MITIGATIONS_SINCE, got) {
            (true, (Some(launch), Some(current))) => (launch, current),
            (false, (None, None)) => (0, 0),
            _ => return Err(Error::Version(self.version, "launch_mit_vector")),
        };
        let both = u128::from(current) << 64 | u128::from(launch);
        Ok(both.to_le_bytes())
    }
}

impl JsonTcb {
    /// `TCB_VERSION` (56860, section 2.2): of Turin, which has an FMC, and of
    /// the products before it.
    fn bytes(&self) -> [u8; 8] {
        let Self {
            bootloader,
            tee,
            snp,
            microcode,
            ..
        } = *self;
        match self.fmc {
            Some(fmc) => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
            None => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
        }
    }
}

impl JsonVersion {
    fn bytes(&self) -> [u8; 3] {
        [self.build, self.minor, self.major]
    }
}

/// Why SNP evidence is refused before anything in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::error_impl_error,
    reason = "named by the module that exports it, as evidence::snp::Error"
)]
pub enum Error {
    /// Not the JSON of SNP evidence.
    Json(String),
    /// A member that a report of this version has not, or has.
    Version(u32, &'static str),
    /// Some of the four TCB versions are of Turin, others are not.
    Fmc,
    /// More entries than a host's table has.
    Certificates(usize),
    /// An entry larger than a certificate.
    CertificateLength(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot read SNP evidence: ")?;
        match self {
            Self::Json(cause) => f.write_str(cause),
            Self::Version(version, member) => write!(
                f,
                "report of version {version} does not go with what {member} and its like have"
            ),
            Self::Fmc => f.write_str("got fmc in some TCB versions, expected it in all or none"),
            Self::Certificates(got) => write!(
                f,
                "got {got} entries in cert_chain, expected at most {MOST_CERTIFICATES}"
            ),
            Self::CertificateLength(got) => write!(
                f,
                "got a certificate of {got} bytes, expected at most {LONGEST_CERTIFICATE}"
            ),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
