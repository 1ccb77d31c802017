//! A TPM's evidence: by an enrolled key, of a boot that got nothing before.

use measured_boot::base16;
use measured_boot::evidence::ReportData;
use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::reference_values::TpmValues;
use measured_boot::tpm::{ALL_PCRS, Attest, LATCH_PCR, Pcrs, Selection, pcr_digest};
use measured_boot::verify;

use super::image::{Known, Unknown, identify};
use super::{Appraised, Context, Failure, Verified, require};
use crate::log::{Check, Decision};
use crate::refusal::Refusal;
use crate::session::Identity;
use crate::store::attesters::AkId;
use crate::store::boots::{Boot, may_release};

pub(super) fn appraise(
    json: &str,
    context: Context<'_>,
    decision: &mut Decision,
) -> Result<Appraised, Failure> {
    let (store, report_data) = (context.store, context.report_data);
    let evidence =
        TpmEvidence::parse(json.as_bytes()).map_err(|e| Failure::new(Refusal::Evidence, e))?;
    let ak = AkId::of(&evidence.ak_public);
    decision.ak = Some(ak.to_string());

    let believed = store.believes(&evidence.ak_public)?;
    let got = match &believed {
        Ok(origin) => format!("enrolled ({origin:?})").to_lowercase(),
        Err(cause) => cause.clone(),
    };
    require(
        decision,
        Check::new("ak", believed.is_ok(), got, "enrolled"),
        Refusal::AkUnknown,
    )?;

    let verified = verify::tpm_quote(&evidence, &evidence.ak_public, report_data);
    tell(&evidence, report_data, verified.as_ref().err(), decision);
    let verified = verified.map_err(|e| Failure::new(refusal(&e), e))?;
    let boot = boot(&evidence.quote.message).ok_or(Refusal::Quote)?;

    let pcrs = verified.pcrs();
    let identified = identify(
        store,
        |values| Some(compare(values.tpm.as_ref()?, pcrs)),
        decision,
    )?;
    let Known { image, values } = match identified {
        Ok(known) => known,
        Err(unknown) => return Err(refuse(unknown, decision)),
    };
    let last = store.released(&ak)?;
    let expected = last.as_ref().map_or_else(
        || "any boot".into(),
        |last| format!("reset count above {}", last.boot.reset_count),
    );
    let check = Check::new(
        "boot",
        may_release(last.as_ref(), boot, context.session),
        format!(
            "reset count {}, restart count {}",
            boot.reset_count, boot.restart_count
        ),
        expected,
    );
    require(decision, check, Refusal::BootLatched)?;
    Ok(Appraised {
        verified: Verified::Tpm(Box::new(evidence)),
        image,
        values,
        identity: Identity::Tpm { ak, boot },
    })
}

fn refusal(error: &verify::Error) -> Refusal {
    match error {
        verify::Error::OtherKey | verify::Error::Key => Refusal::AkUnknown,
        verify::Error::Signature(_) => Refusal::Signature,
        verify::Error::Message(_) => Refusal::Quote,
        verify::Error::Selection => Refusal::PcrSelection,
        verify::Error::ReportData => Refusal::ReportData,
        verify::Error::PcrDigest => Refusal::PcrDigest,
    }
}

/// Leaves what [`verify::tpm_quote`] compared in the log. The verdict is its,
/// not this function's.
fn tell(
    evidence: &TpmEvidence,
    report_data: &ReportData,
    error: Option<&verify::Error>,
    decision: &mut Decision,
) {
    let bad = matches!(
        error,
        Some(verify::Error::Signature(_) | verify::Error::Key)
    );
    let got = if bad { "invalid" } else { "valid" };
    decision
        .checks
        .push(Check::equal("signature", got, "valid"));
    let Ok(attest) = Attest::parse(&evidence.quote.message) else {
        return;
    };
    if bad {
        return;
    }
    let selection = |list: &[Selection]| {
        let banks = list
            .iter()
            .map(|s| format!("{:04x}:{:06x}", s.bank, s.mask));
        banks.collect::<Vec<_>>().join(" ")
    };
    decision.checks.extend([
        Check::equal(
            "pcr selection",
            selection(&attest.selection),
            selection(&[ALL_PCRS]),
        ),
        Check::equal(
            "report data",
            base16::encode(attest.extra_data),
            base16::encode(report_data.qualifying_data()),
        ),
        Check::equal(
            "pcr digest",
            base16::encode(&pcr_digest(&evidence.quote.pcrs)),
            base16::encode(attest.pcr_digest),
        ),
    ]);
}

/// Reads `TPMS_CLOCK_INFO` (Part 2 section 10.11.1) out of a quote that parsed:
/// behind magic, type, qualifiedSigner and extraData. The key is of the
/// endorsement hierarchy, for which a TPM gives the counts unchanged.
fn boot(message: &[u8]) -> Option<Boot> {
    let sized = |bytes: &'_ [u8]| -> Option<usize> {
        let (length, _) = bytes.split_first_chunk::<2>()?;
        usize::from(u16::from_be_bytes(*length)).checked_add(2)
    };
    let rest = message.get(6..)?;
    let rest = rest.get(sized(rest)?..)?;
    let rest = rest.get(sized(rest)?..)?;
    let (reset_count, rest) = rest.get(8..)?.split_first_chunk()?;
    let (restart_count, _) = rest.split_first_chunk()?;
    Some(Boot {
        reset_count: u32::from_be_bytes(*reset_count),
        restart_count: u32::from_be_bytes(*restart_count),
    })
}

/// An image of ours that already has its keys differs in just the latch.
fn refuse(unknown: Unknown, decision: &mut Decision) -> Failure {
    let numbered = (0_u32..).zip(&unknown.checks);
    let differing: Vec<_> = numbered
        .filter(|(_, c)| !c.ok)
        .map(|(pcr, _)| pcr)
        .collect();
    let refusal = match differing == [u32::from(LATCH_PCR)] {
        true => Refusal::BootLatched,
        false => Refusal::ImageUnknown,
    };
    let names: Vec<_> = differing.iter().map(|pcr| format!("PCR {pcr}")).collect();
    unknown.refuse(refusal, &names, decision)
}

/// One check for each register, in order.
fn compare(values: &TpmValues, pcrs: &Pcrs) -> Vec<Check> {
    let checks = verify::appraise(pcrs, values).into_iter();
    checks
        .map(|c| Check::new(&c.name, c.ok, c.got, c.expected))
        .collect()
}
