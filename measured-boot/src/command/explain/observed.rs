//! What was observed, in any of the forms in which people have it.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use measured_boot::base16;
use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::predict::snp::LaunchDigest;

use super::super::image;

/// Bytes of an attestation report (56860, table 23), its versions, and where
/// its launch digest is.
const REPORT: usize = 1184;
const REPORT_VERSIONS: std::ops::RangeInclusive<u32> = 2..=5;
const MEASUREMENT: std::ops::Range<usize> = 0x90..0xc0;

/// `TCG_PCR_EVENT` of a crypto-agile log: PCR, type EV_NO_ACTION, SHA-1 of zeros.
const LOG_START: [u8; 28] = {
    let mut start = [0; 28];
    start[4] = 3;
    start
};

pub(super) enum Observed {
    LaunchDigest(LaunchDigest),
    Pcrs(Vec<(u8, [u8; 32])>),
    /// An event log, not yet read.
    Log(Vec<u8>),
}

impl Observed {
    /// Reads the value itself, or the file of that name.
    pub(super) fn read(argument: &str) -> Result<Self> {
        if let Some(digest) = LaunchDigest::from_hex(argument) {
            return Ok(Self::LaunchDigest(digest));
        }
        if argument.contains('=') && !Path::new(argument).exists() {
            return registers(argument);
        }
        let file = image::read(Path::new(argument))?;
        Self::parse(&file).with_context(|| argument.to_owned())
    }

    fn parse(file: &[u8]) -> Result<Self> {
        let text = core::str::from_utf8(file).unwrap_or_default().trim();
        if let Some(digest) = LaunchDigest::from_hex(text) {
            return Ok(Self::LaunchDigest(digest));
        }
        if text.starts_with('{') {
            let evidence = TpmEvidence::parse(file)?;
            return Ok(Self::Pcrs((0..).zip(evidence.quote.pcrs).collect()));
        }
        // A log begins with an event without an action, of register 0.
        if file.starts_with(&LOG_START) {
            return Ok(Self::Log(file.to_vec()));
        }
        let version = file.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let is_report = version.is_some_and(|version| REPORT_VERSIONS.contains(&version));
        ensure!(
            is_report && file.len() == REPORT,
            "cannot tell what was observed: got {} bytes, expected a SEV-SNP report ({REPORT} bytes, version 2 to 5), 96 hexadecimal digits, the JSON of a TPM's evidence, or an event log",
            file.len()
        );
        let digest = file.get(MEASUREMENT).and_then(<[u8]>::first_chunk);
        match digest {
            Some(digest) => Ok(Self::LaunchDigest(LaunchDigest(*digest))),
            None => bail!("cannot read report: it has no measurement"),
        }
    }
}

/// `4=HEX,9=HEX`.
fn registers(text: &str) -> Result<Observed> {
    let register = |pair: &str| {
        let (pcr, value) = pair.split_once('=')?;
        Some((pcr.parse().ok()?, base16::decode(value)?))
    };
    let registers = text.split(',').map(|pair| {
        register(pair).with_context(|| {
            format!("cannot use --observed {pair}: expected a register and 64 hexadecimal digits in lower case, as 4=HEX")
        })
    });
    Ok(Observed::Pcrs(registers.collect::<Result<_>>()?))
}
