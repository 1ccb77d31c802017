//! The kinds of evidence, and how each is appraised.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use measured_boot::base16;
use measured_boot::evidence::snp::{Certificate, CertificateKind};
use measured_boot::evidence::{SnpEvidence, TdxEvidence, TpmEvidence};
use measured_boot::manifest::Hex32;
use measured_boot::tpm::Pcrs;
use measured_boot::verify::azure::{self, AzureEvidence};
use measured_boot::verify::snp::{self, Endorsements, REPORT_LEN, Revocation};
use measured_boot::verify::validate::{self, Freshness, SnpExpectation, TdxExpectation};
use measured_boot::verify::{Refused, Roots, Table, appraise, tdx, tpm};

use super::{Request, files};

/// One of the kinds, told apart by form; nothing in it is verified.
pub(super) enum Evidence {
    /// A report, and certificates that came with it.
    Snp(Vec<u8>, Vec<Certificate>),
    Tdx(Vec<u8>),
    Tpm(TpmEvidence),
    Azure(AzureEvidence),
}

impl Evidence {
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        if bytes.trim_ascii_start().starts_with(b"{") {
            return Self::read_json(bytes);
        }
        // A quote of SGX is of version 3, and refused as what it is.
        let quote = matches!(bytes, [3..=5, 0, 2 | 3, 0, ..]);
        if quote && bytes.len() != REPORT_LEN {
            return Ok(Self::Tdx(bytes.to_vec()));
        }
        Ok(Self::Snp(bytes.to_vec(), Vec::new()))
    }

    fn read_json(bytes: &[u8]) -> Result<Self> {
        let members: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(bytes).context("cannot read evidence")?;
        if members.contains_key("ak_public") {
            return Ok(Self::Tpm(TpmEvidence::parse(bytes)?));
        }
        if members.contains_key("attestation_report") {
            let evidence = SnpEvidence::parse(bytes)?;
            return Ok(Self::Snp(evidence.report.to_vec(), evidence.certificates));
        }
        if members.contains_key("quote") {
            return Ok(Self::Tdx(TdxEvidence::parse(bytes)?.quote));
        }
        ensure!(
            members.contains_key("vcek"),
            "cannot read evidence: JSON is neither of SNP or TDX nor of a TPM or an Azure VM"
        );
        Ok(Self::Azure(AzureEvidence::parse(
            bytes,
            &mut Table::default(),
        )?))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Snp(..) => "SNP report",
            Self::Tdx(_) => "TDX quote",
            Self::Tpm(_) => "TPM quote",
            Self::Azure(_) => "Azure SNP vTPM evidence",
        }
    }

    /// Fills `table`; fails only when something needed was not given.
    pub(super) fn appraise(&self, request: &Request<'_>, table: &mut Table) -> Result<()> {
        match self {
            Self::Snp(report, sent) => appraise_snp(report, sent, request, table),
            Self::Tdx(quote) => appraise_tdx(quote, request, table),
            Self::Tpm(evidence) => appraise_tpm(evidence, request, table),
            Self::Azure(evidence) => appraise_azure(evidence, request, table),
        }
    }
}

/// A refusal is told by the table; it is no failure of the command.
fn verified<T>(verdict: Result<T, Refused>) -> Option<T> {
    verdict.ok()
}

fn appraise_snp(
    report: &[u8],
    sent: &[Certificate],
    request: &Request<'_>,
    table: &mut Table,
) -> Result<()> {
    let crls = crls(request)?;
    let mut last = Table::default();
    let vek = |kind| matches!(kind, CertificateKind::Vcek | CertificateKind::Vlek);
    let sent = sent.iter().filter(|certificate| vek(certificate.kind));
    let mut candidates: Vec<_> = sent.map(|certificate| certificate.der.clone()).collect();
    if candidates.is_empty() || request.arguments.certificates.is_some() {
        candidates.extend(veks(request)?);
    }
    // The folder may hold the keys of several chips and firmware versions.
    for vek in candidates {
        let mut attempt = Table::default();
        let endorsements = Endorsements {
            vek: &vek,
            revocation: revocation(request, &crls)?,
            roots: Roots::BUILT_IN,
        };
        let verdict = snp::verify(report, &endorsements, request.now, &mut attempt);
        if let Some(verified) = verified(verdict) {
            let expected = snp_expectation(request, request.freshness.clone())?;
            validate::snp(&verified, &request.policy.snp, &expected, &mut attempt);
            *table = attempt;
            return Ok(());
        }
        last = attempt;
    }
    *table = last;
    Ok(())
}

/// Every certificate in the folder that says it is of a VCEK or VLEK.
fn veks(request: &Request<'_>) -> Result<Vec<Vec<u8>>> {
    let folder = request.arguments.certificates.as_ref();
    let folder = folder.context("cannot verify an SNP report: say --certificates")?;
    let name = folder.display();
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {name}"))? {
        paths.push(entry.with_context(|| format!("cannot read {name}"))?.path());
    }
    paths.sort();
    let mut veks = Vec::new();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("der" | "crt" | "cer" | "pem")) {
            continue;
        }
        let certificates = files::der(files::read(&path)?)
            .with_context(|| format!("cannot read {}", path.display()))?;
        veks.extend(certificates.into_iter().filter(|der| snp::is_vek(der)));
    }
    ensure!(
        !veks.is_empty(),
        "cannot verify an SNP report: no certificate of a VCEK or VLEK in {name}"
    );
    Ok(veks)
}

fn crls(request: &Request<'_>) -> Result<Vec<Vec<u8>>> {
    let mut crls = Vec::new();
    for path in &request.arguments.crl {
        let lists = files::der(files::read(path)?);
        crls.extend(lists.with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(crls)
}

fn revocation<'a>(request: &Request<'_>, crls: &'a [Vec<u8>]) -> Result<Revocation<'a>> {
    if request.arguments.insecure_no_crl {
        return Ok(Revocation::InsecureUnchecked);
    }
    ensure!(
        !crls.is_empty(),
        "cannot verify an SNP report: say --crl, or --insecure-no-crl"
    );
    Ok(Revocation::Lists(crls))
}

fn snp_expectation(request: &Request<'_>, freshness: Freshness) -> Result<SnpExpectation> {
    let Some(values) = &request.values.snp else {
        bail!("cannot verify an SNP report: the reference values have no \"snp\"");
    };
    let host_data = match &request.arguments.instance {
        Some(hex) => {
            let bytes = base16::decode(hex);
            Some(Hex32(bytes.context(
                "cannot read --instance: expected 64 lower-case hexadecimal digits",
            )?))
        }
        None => None,
    };
    Ok(SnpExpectation::of(values, host_data, freshness))
}

fn appraise_tdx(quote: &[u8], request: &Request<'_>, table: &mut Table) -> Result<()> {
    let path = request.arguments.collateral.as_ref();
    let path = path.context("cannot verify a TDX quote: say --collateral")?;
    let Some(values) = &request.values.tdx else {
        bail!("cannot verify a TDX quote: the reference values have no \"tdx\"");
    };
    let mr_config_id = match &request.arguments.instance {
        Some(hex) => Some(
            base16::decode(hex)
                .context("cannot read --instance: expected 96 lower-case hexadecimal digits")?,
        ),
        None => None,
    };
    let collateral = files::read(path)?;
    let Some(verified) = verified(tdx::verify(
        quote,
        &collateral,
        Roots::BUILT_IN,
        request.now,
        table,
    )) else {
        return Ok(());
    };
    let freshness = request.freshness.clone();
    let expected = TdxExpectation::of(values, &verified.td().rtmrs, mr_config_id, freshness);
    validate::tdx(&verified, &request.policy.tdx, &expected, table);
    Ok(())
}

fn appraise_tpm(evidence: &TpmEvidence, request: &Request<'_>, table: &mut Table) -> Result<()> {
    let path = request.arguments.ak.as_ref();
    let path = path.context("cannot verify a TPM quote: say --ak, the enrolled attestation key")?;
    let keys = files::der(files::read(path)?)?;
    let [key] = &keys[..] else {
        bail!(
            "cannot read {}: got {} keys, expected 1",
            path.display(),
            keys.len()
        );
    };
    let verdict = tpm::verify(evidence, key, &request.freshness, table);
    match verified(verdict) {
        Some(verified) => appraise_pcrs(verified.pcrs(), request, table),
        None => Ok(()),
    }
}

fn appraise_pcrs(pcrs: &Pcrs, request: &Request<'_>, table: &mut Table) -> Result<()> {
    let Some(values) = &request.values.tpm else {
        bail!("cannot verify a TPM quote: the reference values have no \"tpm\"");
    };
    table.checks.extend(appraise(pcrs, values));
    Ok(())
}

fn appraise_azure(
    evidence: &AzureEvidence,
    request: &Request<'_>,
    table: &mut Table,
) -> Result<()> {
    let crls = crls(request)?;
    let revocation = revocation(request, &crls)?;
    let verdict = azure::verify(evidence, revocation, &request.freshness, request.now, table);
    let Some(verified) = verified(verdict) else {
        return Ok(());
    };
    // The session is bound by the TPM's quote; the report is bound to the claims.
    let bound = Freshness::ReportData(verified.claims_digest().to_vec());
    let expected = snp_expectation(request, bound)?;
    validate::snp(verified.report(), &request.policy.snp, &expected, table);
    appraise_pcrs(verified.pcrs().pcrs(), request, table)
}
