//! What Intel publishes about platforms, as its provisioning service does
//! (Intel SGX and TDX Provisioning Certification Service, version 4).

use core::time::Duration;

use anyhow::Result;
use dcap_qvl::tcb_info::{TdxModule, TdxModuleIdentity, TdxModuleTcb, TdxModuleTcbLevel};
use dcap_qvl::{
    QeIdentity, QeTcb, QeTcbLevel, QuoteCollateralV3, Tcb, TcbComponents, TcbInfo, TcbLevel,
    TcbStatus,
};
use x509_cert::der::DateTime;

use super::pck::{CPU_SVN, FMSPC, PCE_ID, PCE_SVN};
use super::quote::{MODULE_SVN, MODULE_VERSION, QE_ISV_SVN, QE_MR_SIGNER, QE_PROD_ID, TEE_TCB_SVN};
use super::{Authority, PCK_SERIAL, PLATFORM_CA_SERIAL, pem_chain, raw_signature};
use crate::{NOT_AFTER, NOT_BEFORE};

/// What the collateral says; by default that all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    /// How many times Intel evaluated TCB levels before it.
    pub evaluation: u32,
    /// End of the validity of TCB info and QE identity.
    pub next_update: u64,
    /// End of the validity of the PCK CRL.
    pub pck_crl_until: u64,
    /// End of the validity of the root's CRL.
    pub root_crl_until: u64,
    /// Of the platform's TCB level.
    pub status: TcbStatus,
    /// Advisories that are open at that level.
    pub advisory_ids: Vec<String>,
    /// Whether the platform CA took the platform's PCK certificate back.
    pub pck_revoked: bool,
    /// Whether the root took the platform CA back.
    pub platform_ca_revoked: bool,
}

impl Default for Collateral {
    fn default() -> Self {
        Self {
            evaluation: 17,
            next_update: NOT_AFTER,
            pck_crl_until: NOT_AFTER,
            root_crl_until: NOT_AFTER,
            status: TcbStatus::UpToDate,
            advisory_ids: Vec::new(),
            pck_revoked: false,
            platform_ca_revoked: false,
        }
    }
}

impl Authority {
    /// Signed collateral of this authority's platform, in the JSON of `dcap-qvl`.
    ///
    /// # Errors
    /// A key does not sign.
    pub fn collateral(&self, says: &Collateral) -> Result<String> {
        let revoked = |revoked: bool, serial: &'static [u8]| match revoked {
            true => vec![serial],
            false => Vec::new(),
        };
        let signers = pem_chain(&[&self.tcb_signing, &self.root])?;
        let tcb_info = serde_json::to_string(&says.tcb_info()?)?;
        let qe_identity = serde_json::to_string(&says.qe_identity()?)?;
        let collateral = QuoteCollateralV3 {
            pck_crl_issuer_chain: pem_chain(&[&self.platform_ca, &self.root])?,
            root_ca_crl: self.root_key.crl(
                &self.root,
                &revoked(says.platform_ca_revoked, &PLATFORM_CA_SERIAL),
                [NOT_BEFORE, says.root_crl_until],
            )?,
            pck_crl: self.platform_ca_key.crl(
                &self.platform_ca,
                &revoked(says.pck_revoked, &PCK_SERIAL),
                [NOT_BEFORE, says.pck_crl_until],
            )?,
            tcb_info_issuer_chain: signers.clone(),
            tcb_info_signature: raw_signature(&self.tcb_key, tcb_info.as_bytes()).to_vec(),
            tcb_info,
            qe_identity_issuer_chain: signers,
            qe_identity_signature: raw_signature(&self.tcb_key, qe_identity.as_bytes()).to_vec(),
            qe_identity,
            pck_certificate_chain: None,
        };
        Ok(serde_json::to_string(&collateral)?)
    }
}

impl Collateral {
    fn tcb_info(&self) -> Result<TcbInfo> {
        let components = |svns: &[u8; 16]| svns.iter().map(|&svn| TcbComponents { svn }).collect();
        let module = TdxModule {
            mrsigner: "00".repeat(48),
            attributes: "00".repeat(8),
            attributes_mask: "FF".repeat(8),
        };
        Ok(TcbInfo {
            id: "TDX".into(),
            version: 3,
            issue_date: date(NOT_BEFORE)?,
            next_update: date(self.next_update)?,
            fmspc: hex(&FMSPC),
            pce_id: hex(&PCE_ID),
            tcb_type: 0,
            tcb_evaluation_data_number: self.evaluation,
            tcb_levels: vec![TcbLevel {
                tcb: Tcb {
                    sgx_components: components(&CPU_SVN),
                    tdx_components: components(&TEE_TCB_SVN),
                    pce_svn: PCE_SVN.into(),
                },
                tcb_date: date(NOT_BEFORE)?,
                tcb_status: self.status,
                advisory_ids: self.advisory_ids.clone(),
            }],
            tdx_module_identities: vec![TdxModuleIdentity {
                id: format!("TDX_{MODULE_VERSION:02X}"),
                mrsigner: module.mrsigner.clone(),
                attributes: module.attributes.clone(),
                attributes_mask: module.attributes_mask.clone(),
                tcb_levels: vec![TdxModuleTcbLevel {
                    tcb: TdxModuleTcb { isvsvn: MODULE_SVN },
                    tcb_date: date(NOT_BEFORE)?,
                    tcb_status: TcbStatus::UpToDate,
                    advisory_ids: Vec::new(),
                }],
            }],
            tdx_module: Some(module),
        })
    }

    fn qe_identity(&self) -> Result<QeIdentity> {
        Ok(QeIdentity {
            id: "TD_QE".into(),
            version: 2,
            issue_date: date(NOT_BEFORE)?,
            next_update: date(self.next_update)?,
            tcb_evaluation_data_number: self.evaluation,
            miscselect: [0; 4],
            miscselect_mask: [0xff; 4],
            attributes: super::quote::QE_ATTRIBUTES,
            attributes_mask: [0xff; 16],
            mrsigner: QE_MR_SIGNER,
            isvprodid: QE_PROD_ID,
            tcb_levels: vec![QeTcbLevel {
                tcb: QeTcb { isvsvn: QE_ISV_SVN },
                tcb_date: date(NOT_BEFORE)?,
                tcb_status: TcbStatus::UpToDate,
                advisory_ids: Vec::new(),
            }],
        })
    }
}

/// RFC 3339.
fn date(seconds: u64) -> Result<String> {
    Ok(DateTime::from_unix_duration(Duration::from_secs(seconds))?.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
