//! `measured-boot verify`: check evidence against reference values.

mod evidence;
mod files;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use measured_boot::reference_values::ReferenceValues;
use measured_boot::verify::Table;
use measured_boot::verify::validate::{Freshness, PlatformPolicy};

use self::evidence::Evidence;

/// Check evidence against reference values.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// SNP report, TDX quote, or the JSON that a guest sends of SNP, of TDX, of a TPM or of an Azure VM.
    evidence: PathBuf,
    /// What the image measures: reference-values.json.
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// What platforms must be, beside the defaults: JSON with "snp" and "tdx".
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// What the evidence must be bound to: hexadecimal, at most 64 bytes.
    #[arg(
        long,
        value_name = "HEX",
        alias = "nonce",
        required_unless_present = "insecure_any_report_data"
    )]
    report_data: Option<String>,
    /// Accept evidence of any session, old ones too.
    #[arg(long, conflicts_with = "report_data")]
    insecure_any_report_data: bool,
    /// SNP: folder with the certificate of the VCEK or VLEK, DER or PEM; tried after those in the evidence.
    #[arg(long, value_name = "DIR")]
    certificates: Option<PathBuf>,
    /// SNP: CRL of AMD's root, DER; may be repeated.
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// SNP: do not look up whether AMD took its signing key back.
    #[arg(long, conflicts_with = "crl")]
    insecure_no_crl: bool,
    /// TDX: Intel's collateral, the JSON of dcap-qvl.
    #[arg(long, value_name = "FILE")]
    collateral: Option<PathBuf>,
    /// TPM: the trusted attestation key, PEM or DER SubjectPublicKeyInfo.
    #[arg(long, value_name = "FILE")]
    ak: Option<PathBuf>,
    /// SNP and Azure: HOST_DATA, 32 bytes in hexadecimal. TDX: MRCONFIGID, 48 bytes.
    #[arg(long, value_name = "HEX")]
    instance: Option<String>,
    /// When it is, in seconds since 1970 [default: this machine's clock]
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Write JSON.
    #[arg(long)]
    json: bool,
}

/// Everything a verification starts from, read.
struct Request<'a> {
    arguments: &'a Arguments,
    values: ReferenceValues,
    policy: PlatformPolicy,
    freshness: Freshness,
    now: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(super::answered(appraise(arguments)))
}

fn appraise(arguments: &Arguments) -> Result<bool> {
    let request = Request {
        arguments,
        values: ReferenceValues::parse(&files::read(&arguments.reference)?)?,
        policy: policy(arguments)?,
        freshness: freshness(arguments)?,
        now: now(arguments)?,
    };
    let evidence = Evidence::read(&files::read(&arguments.evidence)?)?;
    let mut table = Table::default();
    evidence.appraise(&request, &mut table)?;
    output::print(evidence.name(), &request, &table)?;
    Ok(table.holds())
}

fn policy(arguments: &Arguments) -> Result<PlatformPolicy> {
    let Some(path) = &arguments.policy else {
        return Ok(PlatformPolicy::default());
    };
    serde_json::from_slice(&files::read(path)?)
        .with_context(|| format!("cannot read platform policy {}", path.display()))
}

fn freshness(arguments: &Arguments) -> Result<Freshness> {
    match &arguments.report_data {
        Some(hex) => {
            let bytes = files::hexadecimal(hex).context("cannot read --report-data")?;
            let length = bytes.len();
            ensure!(
                (1..=64).contains(&length),
                "cannot read --report-data: got {length} bytes, expected 1 to 64"
            );
            Ok(Freshness::ReportData(bytes))
        }
        None => Ok(Freshness::InsecureAny),
    }
}

/// The clock is read here alone: the library is told what time it is.
fn now(arguments: &Arguments) -> Result<u64> {
    if let Some(time) = arguments.time {
        return Ok(time);
    }
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => Ok(since.as_secs()),
        Err(_) => bail!("cannot read the clock: it is before 1970, say --time"),
    }
}
