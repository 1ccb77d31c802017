//! SEV-SNP: a processor of AMD whose key and firmware are accepted, and a
//! launch that got nothing in another session.

use measured_boot::base16;
use measured_boot::evidence::SnpEvidence;
use measured_boot::evidence::snp::{Certificate, CertificateKind};
use measured_boot::verify::snp::{Endorsements, Revocation, VerifiedReport, matches, verify};
use measured_boot::verify::validate::{self, Freshness, SnpExpectation};
use measured_boot::verify::{Roots, Table};

use super::image::{Known, Unknown, identify};
use super::{Appraised, Context, Failure, Verified, now, require, rows};
use crate::log::{Check, Decision};
use crate::refusal::Refusal;
use crate::session::Identity;
use crate::store::endorsements::Cached;
use crate::store::launches::ReportId;
use crate::store::resources::Instance;

pub(super) fn appraise(
    json: &str,
    context: Context<'_>,
    decision: &mut Decision,
) -> Result<Appraised, Failure> {
    let evidence =
        SnpEvidence::parse(json.as_bytes()).map_err(|e| Failure::new(Refusal::Evidence, e))?;
    let store = context.store;
    let (roots, cached) = (store.roots()?, store.endorsements(context.directory)?);
    let verified = authenticate(&evidence, &roots, &cached, decision)?;
    let report = verified.report();
    let instance = Instance::snp(&report.host_data);
    decision.instance = Some(instance.to_string());
    let report_id = ReportId(report.report_id);
    decision.launch = Some(report_id.to_string());

    let policy = store.platform_policy()?.snp;
    let freshness = Freshness::ReportData(context.report_data.0.to_vec());
    let judge = |expected: &SnpExpectation| {
        let mut table = Table::default();
        validate::snp(&verified, &policy, expected, &mut table);
        rows::checks(table.checks)
    };
    let identified = identify(
        store,
        |values| {
            let values = values.snp.as_ref()?;
            Some(judge(&SnpExpectation::of(values, None, freshness.clone())))
        },
        decision,
    )?;
    let Known { image, values } = match identified {
        Ok(known) => known,
        Err(mut unknown) => {
            if unknown.image.is_none() {
                // No image has such values; all that is wrong is told, too.
                unknown.checks = judge(&SnpExpectation {
                    launch_digests: Vec::new(),
                    host_data: None,
                    freshness,
                });
            }
            return Err(refuse(unknown, decision));
        }
    };
    let id = report_id.to_string();
    let check = Check::new("report id", !report_id.is_zero(), id, "not zero");
    require(decision, check, Refusal::ReportId)?;
    let last = store.launch(&report_id)?;
    let free = last.is_none_or(|last| last == context.session);
    let got = if free { "none" } else { "another session" };
    let check = Check::new("released to", free, got, "no other session of this launch");
    require(decision, check, Refusal::BootLatched)?;
    Ok(Appraised {
        verified: Verified::Snp(Box::new(verified)),
        image,
        values,
        identity: Identity::Snp {
            report_id,
            instance,
        },
    })
}

/// Verifies the report with the certificates that were sent, then with those
/// of the store and of the configured directory that are of this chip and
/// firmware. None is fetched.
fn authenticate(
    evidence: &SnpEvidence,
    roots: &Roots,
    cached: &Cached,
    decision: &mut Decision,
) -> Result<VerifiedReport, Failure> {
    let is_vek = |c: &&Certificate| matches!(c.kind, CertificateKind::Vcek | CertificateKind::Vlek);
    let sent = evidence.certificates.iter().filter(is_vek);
    let kept = cached
        .veks
        .iter()
        .filter(|vek| matches(&evidence.report, vek));
    let candidates = sent.map(|certificate| &certificate.der).chain(kept);
    let mut refused: Option<Table> = None;
    for vek in candidates {
        let mut table = Table::default();
        let endorsements = Endorsements {
            vek,
            revocation: Revocation::Lists(&cached.crls),
            roots,
        };
        match verify(&evidence.report, &endorsements, now()?, &mut table) {
            Ok(verified) => {
                decision.checks.extend(rows::checks(table.checks));
                return Ok(verified);
            }
            // The first is the guest's own, of which it is told.
            Err(_) => drop(refused.get_or_insert(table)),
        }
    }
    let Some(table) = refused else {
        let check = Check::new(
            "certificate",
            false,
            "none of this chip and firmware",
            "one",
        );
        decision.checks.push(check);
        return Err(Refusal::VekMissing.into());
    };
    let checks = rows::checks(table.checks);
    let refusal = rows::refusal(&checks);
    let detail = format!("not as expected: {}", rows::failed(&checks).join(", "));
    decision.checks.extend(checks);
    Err(Failure::new(refusal, detail))
}

fn refuse(unknown: Unknown, decision: &mut Decision) -> Failure {
    let refusal = rows::refusal(&unknown.checks);
    let names = rows::failed(&unknown.checks);
    unknown.refuse(refusal, &names, decision)
}

impl std::fmt::Display for ReportId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&base16::encode(&self.0))
    }
}
