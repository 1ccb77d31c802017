//! The attestation report, field by field (SEV-SNP Firmware ABI 56860, section 7.3,
//! `ATTESTATION_REPORT`).
//!
//! Own code beside the crate `sev`: that one checks the signature over its own
//! encoding of what it read, in which reserved bytes are zero again, and its
//! errors name no field. Here the signed bytes are the received bytes.

use crate::verify::{Refused, Table};

/// Bytes of a report.
pub const REPORT_LEN: usize = 0x4a0;
/// Bytes of it that are signed.
pub(super) const SIGNED_LEN: usize = 0x2a0;
/// Bytes of each of the signature's two numbers, little-endian, of which P-384 uses 48.
const NUMBER_LEN: usize = 72;

const VERSIONS: core::ops::RangeInclusive<u32> = 2..=5;
/// From which version the report names the processor.
const CPUID_SINCE: u32 = 3;
/// From which version the report has mitigation vectors.
const MITIGATIONS_SINCE: u32 = 5;
/// ECDSA P-384 with SHA-384 (56860, chapter on digital signatures).
const SIGNATURE_ALGORITHM: u32 = 1;

/// Which key signed a report (`SIGNING_KEY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningKey {
    /// Versioned chip endorsement key: of one chip.
    Vcek,
    /// Versioned loaded endorsement key: of one cloud provider.
    Vlek,
}

impl core::fmt::Display for SigningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        })
    }
}

/// Family, model and stepping of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// Combined extended and base family.
    pub family: u8,
    /// Combined extended and base model.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

/// A report whose form is right; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of ATTESTATION_REPORT")]
pub struct Report {
    pub version: u32,
    pub guest_svn: u32,
    pub policy: u64,
    pub family_id: [u8; 16],
    pub image_id: [u8; 16],
    pub vmpl: u32,
    pub platform_info: u64,
    pub author_key_en: bool,
    pub mask_chip_key: bool,
    pub signing_key: SigningKey,
    pub report_data: [u8; 64],
    pub measurement: [u8; 48],
    pub host_data: [u8; 32],
    pub id_key_digest: [u8; 48],
    pub author_key_digest: [u8; 48],
    pub report_id: [u8; 32],
    pub report_id_ma: [u8; 32],
    /// From version 3.
    pub cpuid: Option<Cpuid>,
    pub chip_id: [u8; 64],
    /// The four TCB versions as eight bytes; their layout depends on the product.
    pub current_tcb: [u8; 8],
    pub reported_tcb: [u8; 8],
    pub committed_tcb: [u8; 8],
    pub launch_tcb: [u8; 8],
    /// The signature's numbers, big-endian.
    pub(super) signature: ([u8; 48], [u8; 48]),
}

impl Report {
    /// Reads a report: exactly 1184 bytes, versions 2 to 5, every reserved
    /// byte and bit zero.
    ///
    /// # Errors
    /// The first field that is not well formed, with its offset.
    pub fn parse(bytes: &[u8], table: &mut Table) -> Result<Self, Refused> {
        let length = format!("{} bytes", bytes.len());
        let expected = format!("{REPORT_LEN} bytes");
        table.require("report length", length, expected, bytes.len() == REPORT_LEN)?;
        let report = Fields { bytes }.report();
        match report {
            Ok(report) => {
                table.compare(
                    "report format",
                    format!("version {}", report.version),
                    "version 2 to 5, reserved fields zero",
                    true,
                );
                Ok(report)
            }
            Err(Field {
                name,
                offset,
                got,
                expected,
            }) => table.refuse(
                &format!("report field {name} at offset {offset:#x}"),
                got,
                expected,
            ),
        }
    }
}

/// A field that is not well formed.
struct Field {
    name: &'static str,
    offset: usize,
    got: String,
    expected: String,
}

struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn report(&self) -> Result<Report, Field> {
        let version = self.u32("VERSION", 0)?;
        expect("VERSION", 0, version, "2 to 5", VERSIONS.contains(&version))?;
        let policy = self.u64("POLICY", 0x8)?;
        // Bit 17 is one, bits 26 and up are reserved (56860, section 4.3).
        let fixed = policy >> 26 == 0 && policy >> 17 & 1 == 1;
        expect(
            "POLICY",
            0x8,
            Hex(policy),
            "bit 17 set, bits 26 to 63 clear",
            fixed,
        )?;
        let algorithm = self.u32("SIGNATURE_ALGO", 0x34)?;
        expect(
            "SIGNATURE_ALGO",
            0x34,
            algorithm,
            SIGNATURE_ALGORITHM,
            algorithm == SIGNATURE_ALGORITHM,
        )?;
        let flags = self.u32("KEY FLAGS", 0x48)?;
        expect(
            "KEY FLAGS",
            0x48,
            Hex(flags.into()),
            "bits 5 to 31 clear",
            flags >> 5 == 0,
        )?;
        let signing_key = match flags >> 2 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            other => return Err(field("SIGNING_KEY", 0x48, other, "0 (VCEK) or 1 (VLEK)")),
        };
        self.zero("RESERVED", 0x4c, 0x50)?;
        let cpuid = if version >= CPUID_SINCE {
            self.zero("RESERVED", 0x18b, 0x1a0)?;
            let [family, model, stepping] = self.array("CPUID", 0x188)?;
            Some(Cpuid {
                family,
                model,
                stepping,
            })
        } else {
            self.zero("RESERVED", 0x188, 0x1a0)?;
            None
        };
        self.zero("RESERVED", 0x1eb, 0x1ec)?;
        self.zero("RESERVED", 0x1ef, 0x1f0)?;
        let mitigations = if version >= MITIGATIONS_SINCE { 16 } else { 0 };
        self.zero(
            "RESERVED",
            0x1f8usize.saturating_add(mitigations),
            SIGNED_LEN,
        )?;
        Ok(Report {
            version,
            guest_svn: self.u32("GUEST_SVN", 0x4)?,
            policy,
            family_id: self.array("FAMILY_ID", 0x10)?,
            image_id: self.array("IMAGE_ID", 0x20)?,
            vmpl: self.u32("VMPL", 0x30)?,
            current_tcb: self.array("CURRENT_TCB", 0x38)?,
            platform_info: self.u64("PLATFORM_INFO", 0x40)?,
            author_key_en: flags & 1 == 1,
            mask_chip_key: flags >> 1 & 1 == 1,
            signing_key,
            report_data: self.array("REPORT_DATA", 0x50)?,
            measurement: self.array("MEASUREMENT", 0x90)?,
            host_data: self.array("HOST_DATA", 0xc0)?,
            id_key_digest: self.array("ID_KEY_DIGEST", 0xe0)?,
            author_key_digest: self.array("AUTHOR_KEY_DIGEST", 0x110)?,
            report_id: self.array("REPORT_ID", 0x140)?,
            report_id_ma: self.array("REPORT_ID_MA", 0x160)?,
            reported_tcb: self.array("REPORTED_TCB", 0x180)?,
            cpuid,
            chip_id: self.array("CHIP_ID", 0x1a0)?,
            committed_tcb: self.array("COMMITTED_TCB", 0x1e0)?,
            launch_tcb: self.array("LAUNCH_TCB", 0x1f0)?,
            signature: self.signature()?,
        })
    }

    /// `SIGNATURE`: R, S, and zeros to the end.
    fn signature(&self) -> Result<([u8; 48], [u8; 48]), Field> {
        let number = |name, offset: usize| {
            let mut number: [u8; 48] = self.array(name, offset)?;
            number.reverse();
            let rest = offset.saturating_add(number.len());
            self.zero(name, rest, offset.saturating_add(NUMBER_LEN))?;
            Ok(number)
        };
        let r = number("SIGNATURE.R", SIGNED_LEN)?;
        let s = SIGNED_LEN.saturating_add(NUMBER_LEN);
        let end = s.saturating_add(NUMBER_LEN);
        let s = number("SIGNATURE.S", s)?;
        self.zero("RESERVED", end, REPORT_LEN)?;
        Ok((r, s))
    }

    fn array<const N: usize>(&self, name: &'static str, offset: usize) -> Result<[u8; N], Field> {
        let bytes = self.bytes.get(offset..).and_then(|rest| rest.first_chunk());
        bytes
            .copied()
            .ok_or_else(|| field(name, offset, "the report's end", N))
    }

    fn u32(&self, name: &'static str, offset: usize) -> Result<u32, Field> {
        self.array(name, offset).map(u32::from_le_bytes)
    }

    fn u64(&self, name: &'static str, offset: usize) -> Result<u64, Field> {
        self.array(name, offset).map(u64::from_le_bytes)
    }

    fn zero(&self, name: &'static str, from: usize, to: usize) -> Result<(), Field> {
        let reserved = self.bytes.get(from..to).unwrap_or_default();
        match (from..to).zip(reserved).find(|(_, byte)| **byte != 0) {
            Some((at, byte)) => Err(field(name, at, format!("{byte:#04x}"), "0x00")),
            None => Ok(()),
        }
    }
}

struct Hex(u64);

impl core::fmt::Display for Hex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

fn expect(
    name: &'static str,
    offset: usize,
    got: impl ToString,
    expected: impl ToString,
    ok: bool,
) -> Result<(), Field> {
    if ok {
        return Ok(());
    }
    Err(field(name, offset, got, expected))
}

fn field(name: &'static str, offset: usize, got: impl ToString, expected: impl ToString) -> Field {
    let (got, expected) = (got.to_string(), expected.to_string());
    Field {
        name,
        offset,
        got,
        expected,
    }
}
