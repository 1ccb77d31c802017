//! Which refusal a failed row of a verification is.
//!
//! The rows are `measured-boot`'s. One without a line here is refused as
//! evidence that is not what it should be.

use measured_boot::verify;

use crate::log::Check;
use crate::refusal::Refusal;

/// The row in which all signatures of a quote and its collateral are.
const QUOTE: &str = "quote signature, chain and collateral";

/// What `dcap-qvl` tells in that row, in words alone. Another wording is refused
/// as well, only under a broader code.
const QUOTE_REFUSALS: &[(&str, Refusal)] = &[
    ("Revoked", Refusal::Revoked),
    ("TD migration is enabled", Refusal::Migration),
    ("SERVTD_EXT is enabled", Refusal::ServiceTd),
    ("SEPT_VE_DISABLE is not enabled", Refusal::GuestPolicy),
    ("TD attributes", Refusal::GuestPolicy),
];

/// By the row's name. Of several that fail, the refusal is that of the line
/// that comes first: what says that the guest is open to its host stands before
/// what says that it is another guest.
const REFUSALS: &[(&str, Refusal)] = &[
    ("collateral format", Refusal::Collateral),
    ("TCB info validity", Refusal::CollateralExpired),
    ("QE identity validity", Refusal::CollateralExpired),
    ("PCK CRL validity", Refusal::CollateralExpired),
    ("root CRL validity", Refusal::CollateralExpired),
    (QUOTE, Refusal::Chain),
    ("signing key", Refusal::Chain),
    ("issuer", Refusal::Chain),
    ("VCEK format", Refusal::Chain),
    ("VLEK format", Refusal::Chain),
    ("VCEK signature", Refusal::Chain),
    ("VLEK signature", Refusal::Chain),
    ("ARK validity", Refusal::Chain),
    ("ASK validity", Refusal::Chain),
    ("ASVK validity", Refusal::Chain),
    ("VCEK validity", Refusal::Chain),
    ("VLEK validity", Refusal::Chain),
    ("CRL", Refusal::Crl),
    ("CRL format", Refusal::Crl),
    ("CRL extensions", Refusal::Crl),
    ("CRL signature", Refusal::Crl),
    ("CRL validity", Refusal::Crl),
    ("ASK revocation", Refusal::Revoked),
    ("ASVK revocation", Refusal::Revoked),
    ("certificate product", Refusal::Product),
    ("processor", Refusal::Product),
    ("certificate HWID", Refusal::Chip),
    ("CHIP_ID", Refusal::Chip),
    ("certificate TCB", Refusal::Tcb),
    ("report signature", Refusal::Signature),
    ("report data", Refusal::ReportData),
    ("guest policy: debugging", Refusal::Debug),
    ("TD attributes: debug", Refusal::Debug),
    ("guest policy: migration agent", Refusal::Migration),
    ("TD attributes: migration", Refusal::Migration),
    ("guest policy", Refusal::GuestPolicy),
    ("TD attributes", Refusal::GuestPolicy),
    ("XFAM", Refusal::GuestPolicy),
    ("VMPL", Refusal::Vmpl),
    ("MRSERVICETD", Refusal::ServiceTd),
    ("service TD bound now", Refusal::ServiceTd),
    ("MRSIGNERSEAM", Refusal::Seam),
    ("SEAMATTRIBUTES", Refusal::Seam),
    ("product", Refusal::Product),
    ("minimum TCB", Refusal::Tcb),
    ("minimum TCB at launch", Refusal::Tcb),
    ("TCB status", Refusal::TcbStatus),
    ("chip", Refusal::Chip),
    ("event log", Refusal::EventLog),
    ("launch digest", Refusal::LaunchDigest),
    ("MRTD", Refusal::LaunchDigest),
    ("RTMR0", Refusal::ImageUnknown),
    ("RTMR1", Refusal::ImageUnknown),
    ("RTMR2", Refusal::ImageUnknown),
    ("RTMR3", Refusal::ImageUnknown),
];

/// The refusal of the failed checks.
pub(super) fn refusal(checks: &[Check]) -> Refusal {
    let quote = checks
        .iter()
        .find(|check| !check.ok && check.check == QUOTE);
    let told = |check: &Check| {
        QUOTE_REFUSALS
            .iter()
            .find(|(text, _)| check.got.contains(text))
    };
    if let Some((_, refusal)) = quote.and_then(told) {
        return *refusal;
    }
    let failed = |name: &str| checks.iter().any(|check| !check.ok && check.check == name);
    let first = REFUSALS.iter().find(|(name, _)| failed(name));
    first.map_or(Refusal::Evidence, |(_, refusal)| *refusal)
}

/// Names of the checks that fail.
pub(super) fn failed(checks: &[Check]) -> Vec<String> {
    let failed = checks.iter().filter(|check| !check.ok);
    failed.map(|check| check.check.clone()).collect()
}

/// The rows of a table, for the log.
pub(super) fn checks(rows: Vec<verify::Check>) -> Vec<Check> {
    let rows = rows.into_iter();
    rows.map(|row| Check::new(&row.name, row.ok, row.got, row.expected))
        .collect()
}
