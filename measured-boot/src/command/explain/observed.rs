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

/// `TCG_PCR_EVENT` that begins a crypto-agile log, behind its register: type
/// EV_NO_ACTION, and zeros for a digest.
const LOG_START: [u8; 24] = {
    let mut start = [0; 24];
    start[0] = 3;
    start
};

/// Bytes of a quote's header (Intel "DCAP Quote Generation Library", A.3), its
/// `TEE_TYPE` for TDX, and where registers are in the TD report behind it.
const QUOTE_HEADER: usize = 48;
const TEE_TDX: [u8; 4] = [0x81, 0, 0, 0];
const REGISTERS: [usize; 3] = [136, 376, 424];
/// Version 5 has type and size of the report before it.
const QUOTE_BODY_DESCRIPTOR: usize = 6;

pub(super) enum Observed {
    LaunchDigest(LaunchDigest),
    Pcrs(Vec<(u8, [u8; 32])>),
    /// MRTD, RTMR1 and RTMR2.
    Td([[u8; 48]; 3]),
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
        if file
            .get(4..)
            .is_some_and(|file| file.starts_with(&LOG_START))
        {
            return Ok(Self::Log(file.to_vec()));
        }
        if let Some(registers) = quote_registers(file) {
            return Ok(Self::Td(registers));
        }
        let version = file.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let is_report = version.is_some_and(|version| REPORT_VERSIONS.contains(&version));
        ensure!(
            is_report && file.len() == REPORT,
            "cannot tell what was observed: got {} bytes, expected a SEV-SNP report ({REPORT} bytes, version 2 to 5), a TDX quote (version 4 or 5), 96 hexadecimal digits, the JSON of a TPM's evidence, or an event log",
            file.len()
        );
        let digest = file.get(MEASUREMENT).and_then(<[u8]>::first_chunk);
        match digest {
            Some(digest) => Ok(Self::LaunchDigest(LaunchDigest(*digest))),
            None => bail!("cannot read report: it has no measurement"),
        }
    }
}

/// MRTD, RTMR1 and RTMR2 of a TDX quote of version 4 or 5; nothing of it is
/// verified.
fn quote_registers(file: &[u8]) -> Option<[[u8; 48]; 3]> {
    let body = match file.first_chunk()? {
        [4, 0] => QUOTE_HEADER,
        [5, 0] => QUOTE_HEADER.checked_add(QUOTE_BODY_DESCRIPTOR)?,
        _ => return None,
    };
    if file.get(4..8) != Some(&TEE_TDX) {
        return None;
    }
    let report = file.get(body..)?;
    let register = |offset: usize| report.get(offset..)?.first_chunk().copied();
    let [mrtd, rtmr1, rtmr2] = REGISTERS.map(register);
    Some([mrtd?, rtmr1?, rtmr2?])
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
