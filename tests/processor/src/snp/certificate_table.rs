//! The table in which a host hands over certificates (GHCB Standardization
//! 56421, section 4.1.8.1).

use anyhow::Result;
use measured_boot::evidence::snp::CertificateKind;

/// Bytes of an entry: GUID, offset, length.
const ENTRY_LEN: usize = 24;

/// Entries, an entry of zeros, then the certificates.
///
/// # Errors
/// It would be larger than 4 GiB, or has an ASVK.
pub fn certificate_table(certificates: &[(CertificateKind, &[u8])]) -> Result<Vec<u8>> {
    let entries = certificates.len().saturating_add(1);
    let mut offset = entries.saturating_mul(ENTRY_LEN);
    let mut table = Vec::new();
    for (kind, der) in certificates {
        table.extend(guid(*kind));
        table.extend(u32::try_from(offset)?.to_le_bytes());
        table.extend(u32::try_from(der.len())?.to_le_bytes());
        offset = offset.saturating_add(der.len());
    }
    table.extend([0; ENTRY_LEN]);
    table.extend(certificates.iter().flat_map(|(_, der)| der.iter()));
    Ok(table)
}

/// The bytes in the order of the text, as the tools that fill the table write them.
fn guid(kind: CertificateKind) -> [u8; 16] {
    let number: u128 = match kind {
        CertificateKind::Ark => 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae,
        CertificateKind::Ask => 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782,
        CertificateKind::Vcek => 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd,
        CertificateKind::Vlek => 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1,
    };
    number.to_be_bytes()
}
