//! The appraisal of a TPM's evidence: who signed, what was signed, which
//! enrolled image that is.

use measured_boot::base16;
use measured_boot::evidence::ReportData;
use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::manifest::Image;
use measured_boot::reference_values::{FirmwareProfile, Register, TpmValues};
use measured_boot::tpm::{ALL_PCRS, Attest, LATCH_PCR, Pcrs, pcr_digest, rsassa_signature};
use rsa::pkcs1v15::{Signature, VerifyingKey};
use rsa::signature::Verifier;
use sha2::Sha256;

use crate::log::{Check, Decision};
use crate::refusal::Refusal;
use crate::store::attesters::{AkId, attestation_key};
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

    let signed = signature(&evidence);
    let got = signed
        .as_ref()
        .map_or_else(Clone::clone, |()| "valid".into());
    require(
        decision,
        Check::equal("signature", got, "valid"),
        Refusal::Signature,
    )?;

    let message = &evidence.quote.message;
    let attest = Attest::parse(message).map_err(|e| Failure::new(Refusal::Quote, e.0))?;
    let boot = boot(message).ok_or(Refusal::Quote)?;
    let check = Check::equal(
        "report data",
        base16::encode(attest.extra_data),
        base16::encode(report_data.qualifying_data()),
    );
    require(decision, check, Refusal::ReportData)?;

    let selection = |list: &[measured_boot::tpm::Selection]| {
        let banks = list
            .iter()
            .map(|s| format!("{:04x}:{:06x}", s.bank, s.mask));
        banks.collect::<Vec<_>>().join(" ")
    };
    let check = Check::equal(
        "pcr selection",
        selection(&attest.selection),
        selection(&[ALL_PCRS]),
    );
    require(decision, check, Refusal::PcrSelection)?;

    let digest = base16::encode(&pcr_digest(&evidence.quote.pcrs));
    let check = Check::equal("pcr digest", digest, base16::encode(attest.pcr_digest));
    require(decision, check, Refusal::PcrDigest)?;

    let image = identify(store, &evidence.quote.pcrs, decision)?;
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

/// Whether `ak_public` signed the quote. Says nothing about whose key that is.
fn signature(evidence: &TpmEvidence) -> Result<(), String> {
    let key = attestation_key(&evidence.ak_public)?;
    let bytes = rsassa_signature(&evidence.quote.signature).map_err(|e| e.0.to_string())?;
    let signature = Signature::try_from(bytes).map_err(|_| "not an RSA signature".to_string())?;
    VerifyingKey::<Sha256>::new(key)
        .verify(&evidence.quote.message, &signature)
        .map_err(|_| "invalid".into())
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
    let differing: Vec<_> = checks
        .iter()
        .filter(|c| !c.ok)
        .map(|c| c.check.clone())
        .collect();
    let latched = differing == [pcr_name(LATCH_PCR)];
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

/// Compares every register that is judged. Pinned ones are compared with the
/// one firmware build that fits best: mixtures of two builds never pass.
fn compare(values: &TpmValues, pcrs: &Pcrs) -> Vec<Check> {
    let against = |firmware: Option<&FirmwareProfile>| -> Vec<Check> {
        let registers = pcrs.iter().zip(values.pcrs.iter());
        registers
            .filter_map(|(got, (number, register))| {
                let expected: Vec<_> = match register {
                    Register::Predicted { values, .. } => values.iter().map(|v| v.0).collect(),
                    Register::Pinned { .. } => {
                        let pinned = firmware.and_then(|profile| profile.pcrs.get(number));
                        pinned.iter().map(|v| v.0).collect()
                    }
                    Register::Ignored { .. } => return None,
                };
                let texts: Vec<_> = expected.iter().map(|v| base16::encode(v)).collect();
                let ok = expected.contains(got);
                let name = pcr_name(*number);
                Some(Check::new(
                    &name,
                    ok,
                    base16::encode(got),
                    texts.join(" or "),
                ))
            })
            .collect()
    };
    let profiles = values.firmware.iter().map(|profile| against(Some(profile)));
    profiles
        .min_by_key(|checks| wrong(checks))
        .unwrap_or_else(|| against(None))
}

fn wrong(checks: &[Check]) -> usize {
    checks.iter().filter(|check| !check.ok).count()
}

fn pcr_name(number: u8) -> String {
    format!("pcr{number:02}")
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
