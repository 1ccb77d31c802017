//! TDX: a platform that Intel certifies, up to date, and a TD that neither its
//! host nor a service TD can look into.

use measured_boot::event_log::{self, Algorithm, Format, Tcb};
use measured_boot::evidence::TdxEvidence;
use measured_boot::verify::tdx::{VerifiedQuote, fmspc, verify};
use measured_boot::verify::validate::{self, Freshness, TdxExpectation};
use measured_boot::verify::{Refused, Roots, Table};

use super::image::{Known, Unknown, identify};
use super::{Appraised, Context, Failure, Verified, now, rows};
use crate::log::{Check, Decision};
use crate::refusal::Refusal;
use crate::session::Identity;
use crate::store::endorsements::Cached;
use crate::store::resources::Instance;

pub(super) fn appraise(
    json: &str,
    context: Context<'_>,
    decision: &mut Decision,
) -> Result<Appraised, Failure> {
    let evidence =
        TdxEvidence::parse(json.as_bytes()).map_err(|e| Failure::new(Refusal::Evidence, e))?;
    let store = context.store;
    let (roots, cached) = (store.roots()?, store.endorsements(context.directory)?);
    let verified = authenticate(&evidence.quote, &roots, &cached, decision)?;
    let td = verified.td();
    let instance = Instance::tdx(&td.mr_config_id);
    decision.instance = Some(instance.to_string());

    let policy = store.platform_policy()?.tdx;
    let freshness = Freshness::ReportData(context.report_data.0.to_vec());
    // Only what is of this session is worth the work.
    let bound = td.report_data.strip_prefix(&context.report_data.0);
    let fresh = bound.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    let log = evidence.event_log.as_deref().filter(|_| fresh);
    let replayed = log.map(|log| replay(log, &td.rtmrs));
    let judge = |expected: &TdxExpectation| {
        let mut table = Table::default();
        validate::tdx(&verified, &policy, expected, &mut table);
        let mut checks = rows::checks(table.checks);
        checks.extend(replayed.clone());
        checks
    };
    let identified = identify(
        store,
        |values| {
            let values = values.tdx.as_ref()?;
            let expected = TdxExpectation::of(values, &td.rtmrs, None, freshness.clone());
            Some(judge(&expected))
        },
        decision,
    )?;
    match identified {
        Ok(Known { image, values }) => Ok(Appraised {
            image,
            values,
            identity: Identity::Tdx { instance },
            verified: Verified::Tdx(Box::new(verified)),
        }),
        Err(mut unknown) => {
            if unknown.image.is_none() {
                unknown.checks = judge(&TdxExpectation {
                    mrtd: Vec::new(),
                    rtmrs: [const { Some(Vec::new()) }; 4],
                    mr_config_id: None,
                    freshness,
                });
            }
            Err(refuse(unknown, decision))
        }
    }
}

/// Verifies the quote with every collateral of its kind of platform, from the
/// store and the configured directory. None is fetched. The verdict of the one
/// that Intel published last counts, so that an older one hides neither a TCB
/// recovery nor a revocation; what any of them says is revoked, is.
fn authenticate(
    quote: &[u8],
    roots: &Roots,
    cached: &Cached,
    decision: &mut Decision,
) -> Result<VerifiedQuote, Failure> {
    let platform = fmspc(quote);
    let of_platform = cached
        .collaterals
        .iter()
        .filter(|(collateral, _)| Some(collateral.fmspc()) == platform.as_deref());
    type Judged = (
        (bool, [u64; 5], bool),
        Result<VerifiedQuote, Refused>,
        Vec<Check>,
    );
    let mut newest: Option<Judged> = None;
    for (collateral, json) in of_platform {
        let mut table = Table::default();
        let verdict = verify(quote, json, roots, now()?, &mut table);
        let checks = rows::checks(table.checks);
        let authentic = collateral.authenticate(roots).is_ok();
        if authentic && verdict.is_err() && rows::refusal(&checks) == Refusal::Revoked {
            return Err(refuse_quote(checks, decision));
        }
        // What nobody trusted signed counts only where there is nothing else.
        let order = (authentic, collateral.order(), verdict.is_err());
        if newest.as_ref().is_none_or(|(other, ..)| *other < order) {
            newest = Some((order, verdict, checks));
        }
    }
    match newest {
        Some((_, Ok(verified), checks)) => {
            decision.checks.extend(checks);
            Ok(verified)
        }
        Some((_, Err(_), checks)) => Err(refuse_quote(checks, decision)),
        None => {
            let got = platform.map_or_else(
                || "a quote that names no platform".to_owned(),
                |fmspc| format!("none for FMSPC {fmspc}"),
            );
            let check = Check::new("collateral", false, got, "one of this platform");
            decision.checks.push(check);
            Err(Refusal::Collateral.into())
        }
    }
}

fn refuse_quote(checks: Vec<Check>, decision: &mut Decision) -> Failure {
    let refusal = rows::refusal(&checks);
    let detail = checks.iter().find(|check| !check.ok);
    let detail = detail.map_or_else(String::new, |check| {
        format!("{}: {}", check.check, check.got)
    });
    decision.checks.extend(checks);
    Failure::new(refusal, detail)
}

/// Whether the log that was sent gives the registers that were signed.
fn replay(log: &[u8], rtmrs: &[[u8; 48]; 4]) -> Check {
    let expected = "a log that gives RTMR0 to RTMR3";
    let refused = |got: String| Check::new("event log", false, got, expected);
    let parsed = match event_log::parse(log) {
        Ok(parsed) => parsed,
        Err(error) => return refused(error.to_string()),
    };
    // UEFI 2.10 section 38.4.1: of a TD there is no other.
    if parsed.format != Format::CryptoAgile {
        return refused("a log of SHA-1 alone".to_owned());
    }
    let banks = match parsed.replay(Tcb::Tdx) {
        Ok(banks) => banks,
        Err(error) => return refused(error.to_string()),
    };
    let bank = banks
        .iter()
        .find(|bank| bank.algorithm == Algorithm::Sha384);
    // Registers of a log are numbered from MRTD on; what has no event is zero.
    let replayed = |index| match bank.and_then(|bank| bank.registers.get(&index)) {
        Some(value) => value.clone(),
        None => vec![0; 48],
    };
    let differing: Vec<_> = (1..)
        .zip(rtmrs)
        .filter(|(index, signed)| replayed(*index) != signed[..])
        .map(|(index, _)| Tcb::Tdx.register_name(index))
        .collect();
    let got = match differing.is_empty() {
        true => "gives them".to_owned(),
        false => format!("gives another {}", differing.join(", ")),
    };
    Check::new("event log", differing.is_empty(), got, expected)
}

fn refuse(unknown: Unknown, decision: &mut Decision) -> Failure {
    let refusal = rows::refusal(&unknown.checks);
    let names = rows::failed(&unknown.checks);
    unknown.refuse(refusal, &names, decision)
}
