//! Quotes (Intel TDX DCAP Quoting Library API, appendix A).

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use super::{Authority, raw_signature};

/// `SEPT_VE_DISABLE`.
const TD_ATTRIBUTES: u64 = 1 << 28;
/// x87, SSE, AVX, AVX-512, PKRU, CET and AMX.
const XFAM: u64 = 0x6_1ae7;
const TEE_TYPE_TDX: u32 = 0x81;
const QE_VENDOR_ID: u128 = 0x939a_7233_f79c_4ca9_940a_0db3_957f_0607;
/// ECDSA with P-256.
const KEY_TYPE: u16 = 2;
const PCK_CHAIN: u16 = 5;
const QE_REPORT: u16 = 6;
/// Type and bytes of a TDX 1.5 body.
const BODY_15: (u16, u32) = (3, 648);

pub(super) const MODULE_SVN: u8 = 5;
pub(super) const MODULE_VERSION: u8 = 1;
pub(super) const TEE_TCB_SVN: [u8; 16] = [
    MODULE_SVN,
    MODULE_VERSION,
    5,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];
pub(super) const QE_MR_SIGNER: [u8; 32] = [0x51; 32];
pub(super) const QE_PROD_ID: u16 = 2;
pub(super) const QE_ISV_SVN: u16 = 4;
/// INIT and MODE64BIT.
pub(super) const QE_ATTRIBUTES: [u8; 16] = [0x05, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0];
const QE_AUTH_DATA: [u8; 32] = [0x0a; 32];

/// What a quote says of its TD.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of appendix A.3")]
pub struct Td {
    /// 4, or 5 with a TDX 1.5 body.
    pub version: u16,
    pub tee_tcb_svn: [u8; 16],
    pub mr_seam: [u8; 48],
    pub mr_signer_seam: [u8; 48],
    pub seam_attributes: [u8; 8],
    pub td_attributes: u64,
    pub xfam: u64,
    pub mrtd: [u8; 48],
    pub mr_config_id: [u8; 48],
    pub mr_owner: [u8; 48],
    pub mr_owner_config: [u8; 48],
    pub rtmrs: [[u8; 48]; 4],
    pub report_data: [u8; 64],
    /// Written in version 5.
    pub mr_service_td: [u8; 48],
}

impl Default for Td {
    /// A TD as it should be; measurements and report data are the caller's.
    fn default() -> Self {
        Self {
            version: 4,
            tee_tcb_svn: TEE_TCB_SVN,
            mr_seam: [0x5e; 48],
            mr_signer_seam: [0; 48],
            seam_attributes: [0; 8],
            td_attributes: TD_ATTRIBUTES,
            xfam: XFAM,
            mrtd: [0; 48],
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmrs: [[0; 48]; 4],
            report_data: [0; 64],
            mr_service_td: [0; 48],
        }
    }
}

impl Td {
    fn encode(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        match self.version {
            4 => {}
            5 => {
                body.extend(BODY_15.0.to_le_bytes());
                body.extend(BODY_15.1.to_le_bytes());
            }
            other => bail!("cannot write a quote of version {other}: expected 4 or 5"),
        }
        body.extend(self.tee_tcb_svn);
        body.extend(self.mr_seam);
        body.extend(self.mr_signer_seam);
        body.extend(self.seam_attributes);
        body.extend(self.td_attributes.to_le_bytes());
        body.extend(self.xfam.to_le_bytes());
        body.extend(self.mrtd);
        body.extend(self.mr_config_id);
        body.extend(self.mr_owner);
        body.extend(self.mr_owner_config);
        body.extend(self.rtmrs.as_flattened());
        body.extend(self.report_data);
        if self.version == 5 {
            // TEE_TCB_SVN2: the module was not updated since the launch.
            body.extend(self.tee_tcb_svn);
            body.extend(self.mr_service_td);
        }
        Ok(body)
    }
}

impl Authority {
    /// A quote over this TD by the quoting enclave of the authority's platform.
    ///
    /// # Errors
    /// The version is neither 4 nor 5.
    pub fn quote(&self, td: &Td) -> Result<Vec<u8>> {
        let mut quote = Vec::new();
        quote.extend(td.version.to_le_bytes());
        quote.extend(KEY_TYPE.to_le_bytes());
        quote.extend(TEE_TYPE_TDX.to_le_bytes());
        quote.extend([0; 4]);
        quote.extend(QE_VENDOR_ID.to_be_bytes());
        quote.extend([0; 20]);
        quote.extend(td.encode()?);
        let signature = raw_signature(&self.attestation_key, &quote);

        let point = self.attestation_key.verifying_key().to_sec1_point(false);
        let attestation_key = point.as_bytes().get(1..).unwrap_or_default();
        let qe_report = qe_report(attestation_key);
        let mut certification = qe_report.clone();
        certification.extend(raw_signature(&self.pck_key, &qe_report));
        certification.extend(u16::try_from(QE_AUTH_DATA.len())?.to_le_bytes());
        certification.extend(QE_AUTH_DATA);
        certification.extend(certification_data(PCK_CHAIN, self.pck_chain()?.as_bytes())?);

        let mut auth = signature.to_vec();
        auth.extend(attestation_key);
        auth.extend(certification_data(QE_REPORT, &certification)?);
        quote.extend(u32::try_from(auth.len())?.to_le_bytes());
        quote.extend(auth);
        Ok(quote)
    }
}

/// Type, length, value.
fn certification_data(kind: u16, data: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(data.len())?;
    Ok([&kind.to_le_bytes()[..], &length.to_le_bytes(), data].concat())
}

/// The quoting enclave's report, which names its attestation key.
fn qe_report(attestation_key: &[u8]) -> Vec<u8> {
    let report_data = Sha256::new()
        .chain_update(attestation_key)
        .chain_update(QE_AUTH_DATA)
        .finalize();
    let mut report = super::pck::CPU_SVN.to_vec();
    report.extend([0; 4 + 28]);
    report.extend(QE_ATTRIBUTES);
    report.extend([0x0e; 32]);
    report.extend([0; 32]);
    report.extend(QE_MR_SIGNER);
    report.extend([0; 96]);
    report.extend(QE_PROD_ID.to_le_bytes());
    report.extend(QE_ISV_SVN.to_le_bytes());
    report.extend([0; 60]);
    report.extend(report_data);
    report.extend([0; 32]);
    report
}
