//! The appraisal of a TPM's evidence: who signed, what was signed, which
//! enrolled image that is.

use measured_boot::base16;
use measured_boot::evidence::ReportData;
use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::manifest::Image;
use measured_boot::reference_values::TpmValues;
use measured_boot::tpm::{ALL_PCRS, Attest, LATCH_PCR, Pcrs, Selection, pcr_digest};
use measured_boot::verify;

use crate::log::{Check, Decision};
use crate::refusal::Refusal;
use crate::store::attesters::AkId;
use crate::store::boots::{Boot, may_release};
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

/// Evidence that holds. Made only by [`tpm`].
#[derive(Debug)]
pub(crate) struct Appraised {
    pub(crate) evidence: TpmEvidence,
    pub(crate) image: Image,
    pub(crate) ak: AkId,
    pub(crate) boot: Boot,
}

/// Appraises `tpm` evidence over `report_data`. Everything compared is left in
/// `decision`.
pub(crate) fn tpm(
    store: &Store,
    json: &str,
    report_data: &ReportData,
    session: &str,
    decision: &mut Decision,
) -> Result<Appraised, Failure> {
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

    let image = identify(store, verified.pcrs(), decision)?;
    let last = store.released(&ak)?;
    let expected = last.as_ref().map_or_else(
        || "any boot".into(),
        |last| format!("reset count above {}", last.boot.reset_count),
    );
    let check = Check::new(
        "boot",
        may_release(last.as_ref(), boot, session),
        format!(
            "reset count {}, restart count {}",
            boot.reset_count, boot.restart_count
        ),
        expected,
    );
    require(decision, check, Refusal::BootLatched)?;
    Ok(Appraised {
        evidence,
        image,
        ak,
        boot,
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

/// Finds the enrolled image whose reference values all registers match, and
/// refuses one below the minimum version.
fn identify(store: &Store, pcrs: &Pcrs, decision: &mut Decision) -> Result<Image, Failure> {
    let mut retired = None;
    let mut closest: Option<(Image, Vec<Check>)> = None;
    for image in store.images()? {
        let Some(values) = store.reference_values(&image)?.and_then(|v| v.tpm) else {
            continue;
        };
        let checks = compare(&values, pcrs);
        let wrong = wrong(&checks);
        if wrong == 0 {
            let minimum = store.minimum_version(&image.name)?;
            if image.version >= minimum {
                decision.checks.extend(checks);
                decision.image = Some(image.name.clone());
                decision.version = Some(image.version);
                return Ok(image);
            }
            retired.get_or_insert((image, minimum, checks));
        } else if closest
            .as_ref()
            .is_none_or(|(_, best)| wrong < self::wrong(best))
        {
            closest = Some((image, checks));
        }
    }
    if let Some((image, minimum, checks)) = retired {
        decision.checks.extend(checks);
        decision.image = Some(image.name);
        decision.version = Some(image.version);
        let version = image.version.to_string();
        let check = Check::new("version", false, version, format!("at least {minimum}"));
        decision.checks.push(check);
        return Err(Refusal::ImageRetired.into());
    }
    let Some((image, checks)) = closest else {
        return Err(Failure::new(Refusal::ImageUnknown, "no image is enrolled"));
    };
    let numbered = (0_u32..).zip(&checks);
    let differing: Vec<_> = numbered
        .filter(|(_, c)| !c.ok)
        .map(|(pcr, _)| pcr)
        .collect();
    let latched = differing == [u32::from(LATCH_PCR)];
    let differing: Vec<_> = differing.iter().map(|pcr| format!("PCR {pcr}")).collect();
    let detail = format!(
        "closest is {} version {}; not as expected: {}",
        image.name,
        image.version,
        differing.join(", ")
    );
    decision.checks.extend(checks);
    // An image of ours that already has its keys differs in just this register.
    let refusal = if latched {
        Refusal::BootLatched
    } else {
        Refusal::ImageUnknown
    };
    Err(Failure::new(refusal, detail))
}

/// One check for each register, in order.
fn compare(values: &TpmValues, pcrs: &Pcrs) -> Vec<Check> {
    let checks = verify::appraise(pcrs, values).into_iter();
    checks
        .map(|c| Check::new(&c.name, c.ok, c.got, c.expected))
        .collect()
}

fn wrong(checks: &[Check]) -> usize {
    checks.iter().filter(|check| !check.ok).count()
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
