//! The appraisal of evidence: who signed, what was signed, which enrolled
//! image that is. One module for each kind of TEE; none of them verifies
//! anything itself, that is [`measured_boot::verify`]'s.

mod image;
mod rows;
mod snp;
mod tdx;
mod tpm;

use std::path::Path;
use std::time::SystemTime;

use measured_boot::evidence::ReportData;
use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::manifest::{Image, Tee};
use measured_boot::verify::snp::VerifiedReport;
use measured_boot::verify::tdx::VerifiedQuote;

use crate::log::{Check, Decision};
use crate::refusal::Refusal;
use crate::session::Identity;
use crate::store::{self, Store};

/// A refusal and, for the log, its cause.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) refusal: Refusal,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(refusal: Refusal, detail: impl ToString) -> Self {
        Self {
            refusal,
            detail: detail.to_string(),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal, refusal.meaning())
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::new(Refusal::Internal, error)
    }
}

/// What was signed, verified.
#[derive(Debug)]
pub(crate) enum Verified {
    Tpm(Box<TpmEvidence>),
    Snp(Box<VerifiedReport>),
    Tdx(Box<VerifiedQuote>),
}

/// Evidence that holds. Made only by [`evidence`].
#[derive(Debug)]
pub(crate) struct Appraised {
    pub(crate) verified: Verified,
    pub(crate) image: Image,
    /// Digest of its reference values.
    pub(crate) values: [u8; 32],
    pub(crate) identity: Identity,
}

/// What evidence is appraised with, beside itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) store: &'a Store,
    /// The configured directory of endorsements.
    pub(crate) directory: Option<&'a Path>,
    pub(crate) report_data: &'a ReportData,
    /// Fingerprint of the session.
    pub(crate) session: &'a str,
}

/// Appraises evidence of `tee`, which is the session's. Everything compared is
/// left in `decision`.
pub(crate) fn evidence(
    tee: Tee,
    json: &str,
    context: Context<'_>,
    decision: &mut Decision,
) -> Result<Appraised, Failure> {
    match tee {
        Tee::Tpm => tpm::appraise(json, context, decision),
        Tee::Snp => snp::appraise(json, context, decision),
        Tee::Tdx => tdx::appraise(json, context, decision),
    }
}

/// Seconds since 1970.
fn now() -> Result<u64, Failure> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_err(|e| Failure::new(Refusal::Internal, e))?;
    Ok(now.as_secs())
}

/// Notes a check and stops at a failed one.
pub(crate) fn require(
    decision: &mut Decision,
    check: Check,
    refusal: Refusal,
) -> Result<(), Failure> {
    let ok = check.ok;
    decision.checks.push(check);
    if ok { Ok(()) } else { Err(refusal.into()) }
}
