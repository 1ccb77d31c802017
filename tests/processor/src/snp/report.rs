//! Reports (SEV-SNP Firmware ABI 56860, table "ATTESTATION_REPORT Structure").

use anyhow::{Result, ensure};
use measured_boot::evidence::snp::REPORT_LEN;
use measured_boot::verify::snp::{Cpuid, Product, SigningKey, Tcb};
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey as EcdsaKey};

use super::Authority;

/// Bytes that are signed.
const SIGNED_LEN: usize = 0x2a0;
/// Bytes of each of the signature's numbers.
const NUMBER_LEN: usize = 72;
/// SMT allowed, bit 17 as always.
const POLICY: u64 = 0x3_0000;
/// `POLICY`: a migration agent may be associated.
pub const MIGRATE_MA: u64 = 1 << 18;
/// SMT is on, memory is encrypted with a key the host cannot choose.
const PLATFORM_INFO: u64 = 0x1;

/// A report's fields before it is signed.
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
    /// Which key signs.
    pub signing_key: SigningKey,
    pub report_data: [u8; 64],
    pub measurement: [u8; 48],
    pub host_data: [u8; 32],
    pub id_key_digest: [u8; 48],
    pub author_key_digest: [u8; 48],
    pub report_id: [u8; 32],
    pub report_id_ma: [u8; 32],
    /// Written from version 3.
    pub cpuid: Cpuid,
    /// 64 bytes, or 8 and zeros on Turin.
    pub chip_id: [u8; 64],
    pub current_tcb: Tcb,
    pub reported_tcb: Tcb,
    pub committed_tcb: Tcb,
    pub launch_tcb: Tcb,
    /// Build, minor, major.
    pub current_version: [u8; 3],
    pub committed_version: [u8; 3],
    /// Written from version 5.
    pub launch_mit_vector: u64,
    pub current_mit_vector: u64,
}

impl Report {
    /// What a processor with current firmware reports of a guest that was
    /// launched as it should be; measurement, report data and report id are the
    /// caller's.
    pub fn new(product: Product) -> Self {
        let (cpuid, chip) = match product {
            Product::Milan => ((0x19, 0x01, 1), 64),
            Product::Genoa => ((0x19, 0x11, 1), 64),
            Product::Turin => ((0x1a, 0x02, 1), 8),
        };
        let tcb = Tcb {
            fmc: match product {
                Product::Milan | Product::Genoa => 0,
                Product::Turin => 1,
            },
            bootloader: 10,
            tee: 1,
            snp: 23,
            microcode: 88,
        };
        let mut chip_id = [0; 64];
        chip_id.iter_mut().take(chip).for_each(|byte| *byte = 0xc1);
        Self {
            version: 5,
            guest_svn: 0,
            policy: POLICY,
            family_id: [0; 16],
            image_id: [0; 16],
            vmpl: 0,
            platform_info: PLATFORM_INFO,
            author_key_en: false,
            mask_chip_key: false,
            signing_key: SigningKey::Vcek,
            report_data: [0; 64],
            measurement: [0; 48],
            host_data: [0; 32],
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            report_id: [0x1d; 32],
            // No migration agent.
            report_id_ma: [0xff; 32],
            cpuid: Cpuid {
                family: cpuid.0,
                model: cpuid.1,
                stepping: cpuid.2,
            },
            chip_id,
            current_tcb: tcb,
            reported_tcb: tcb,
            committed_tcb: tcb,
            launch_tcb: tcb,
            current_version: [40, 55, 1],
            committed_version: [40, 55, 1],
            launch_mit_vector: 0,
            current_mit_vector: 0,
        }
    }

    /// The certificate, DER, of the key that signs it.
    ///
    /// # Errors
    /// The authority's key does not sign.
    pub fn vek(&self, authority: &Authority) -> Result<Vec<u8>> {
        match self.signing_key {
            SigningKey::Vcek => authority.vcek(&self.chip_id, self.reported_tcb),
            SigningKey::Vlek => authority.vlek(self.reported_tcb),
        }
    }

    /// The report as the processor of this chip with this firmware signs it.
    ///
    /// # Errors
    /// The key cannot be derived.
    pub fn sign(&self, authority: &Authority) -> Result<[u8; REPORT_LEN]> {
        let chip = match self.signing_key {
            SigningKey::Vcek => self.chip_id,
            SigningKey::Vlek => [0; 64],
        };
        let key = authority.vek_key(self.signing_key, &chip, self.reported_tcb)?;
        let signed = self.encode(authority.product);
        ensure!(
            signed.len() == SIGNED_LEN,
            "got {} bytes to sign, expected {SIGNED_LEN}",
            signed.len()
        );
        let signature: Signature = EcdsaKey::from(&key).sign(&signed);
        let (r, s) = signature.split_bytes();
        let mut report = signed;
        for number in [r, s] {
            report.extend(number.iter().rev());
            report.resize(report.len().saturating_add(NUMBER_LEN - 48), 0);
        }
        report.resize(REPORT_LEN, 0);
        let length = report.len();
        <[u8; REPORT_LEN]>::try_from(report)
            .map_err(|_| anyhow::anyhow!("got {length} bytes, expected {REPORT_LEN}"))
    }

    /// The fields in their order; what a version lacks is zero.
    fn encode(&self, product: Product) -> Vec<u8> {
        let signing_key = match self.signing_key {
            SigningKey::Vcek => 0,
            SigningKey::Vlek => 1,
        };
        let flags =
            u32::from(self.author_key_en) | u32::from(self.mask_chip_key) << 1 | signing_key << 2;
        let Cpuid {
            family,
            model,
            stepping,
        } = self.cpuid;
        let cpuid = match self.version {
            ..3 => [0; 3],
            _ => [family, model, stepping],
        };
        let mitigations = match self.version {
            ..5 => [0; 2],
            _ => [self.launch_mit_vector, self.current_mit_vector],
        };
        let mut bytes = Vec::with_capacity(REPORT_LEN);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.guest_svn.to_le_bytes());
        bytes.extend(self.policy.to_le_bytes());
        bytes.extend(self.family_id);
        bytes.extend(self.image_id);
        bytes.extend(self.vmpl.to_le_bytes());
        // ECDSA P-384 with SHA-384.
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(tcb_bytes(product, self.current_tcb));
        bytes.extend(self.platform_info.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.report_data);
        bytes.extend(self.measurement);
        bytes.extend(self.host_data);
        bytes.extend(self.id_key_digest);
        bytes.extend(self.author_key_digest);
        bytes.extend(self.report_id);
        bytes.extend(self.report_id_ma);
        bytes.extend(tcb_bytes(product, self.reported_tcb));
        bytes.extend(cpuid);
        bytes.extend([0; 21]);
        bytes.extend(self.chip_id);
        bytes.extend(tcb_bytes(product, self.committed_tcb));
        bytes.extend(self.current_version);
        bytes.push(0);
        bytes.extend(self.committed_version);
        bytes.push(0);
        bytes.extend(tcb_bytes(product, self.launch_tcb));
        bytes.extend(mitigations.iter().flat_map(|vector| vector.to_le_bytes()));
        bytes.resize(SIGNED_LEN, 0);
        bytes
    }
}

/// `TCB_VERSION` (56860, section 2.2).
pub fn tcb_bytes(product: Product, tcb: Tcb) -> [u8; 8] {
    let Tcb {
        fmc,
        bootloader,
        tee,
        snp,
        microcode,
    } = tcb;
    match product {
        Product::Milan | Product::Genoa => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
        Product::Turin => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
    }
}
