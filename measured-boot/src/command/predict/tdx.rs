//! `predict --tee tdx`: MRTD and the RTMRs.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use measured_boot::base16;
use measured_boot::event_log::{self, Algorithm, Tcb};
use measured_boot::predict::{self, LowMemory, PageOrder, Td};
use measured_boot::reference_values::{Hex48, Register, TdxLog, TdxValues};

use super::super::image::{self, Image};

/// The VMMs whose order of pages is known.
const PROFILES: [(&str, PageOrder); 2] = [
    ("qemu", PageOrder::EachPage),
    ("qemu-two-pass", PageOrder::EachSection),
];
/// Where OVMF measures its variables: `EV_EFI_PLATFORM_FIRMWARE_BLOB2`.
const FIRMWARE_BLOB: u32 = 0x8000_000a;
/// RTMR0, as the event log of a TD counts: MRTD is 0.
const RTMR0: u32 = 1;

#[derive(clap::Args)]
#[command(next_help_heading = "TDX machine (--tee tdx)")]
pub(super) struct Options {
    /// Event log (CCEL) of one boot of this firmware on such a machine: pins RTMR0. May be repeated.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
}

pub(super) fn values(
    image: &Image,
    options: &Options,
    vmm: Option<&str>,
    firmware: Option<&PathBuf>,
    memory: LowMemory,
) -> Result<TdxValues> {
    let names = || PROFILES.map(|(name, _)| name).join(" or ");
    let Some(vmm) = vmm else {
        bail!(
            "cannot predict MRTD without --vmm: it changes the register, and the image does not tell it; expected {}",
            names()
        );
    };
    let profile = PROFILES.iter().find(|(name, _)| *name == vmm);
    let (_, order) = profile.with_context(|| {
        format!(
            "cannot predict MRTD for --vmm {vmm}: its order of pages is not known; expected {}",
            names()
        )
    })?;
    let path = firmware.context("cannot predict MRTD without --firmware")?;
    let firmware = image::read(path)?;
    let logs = options.log.iter().map(|log| read_log(log, &firmware));
    let logs = logs.collect::<Result<Vec<_>>>()?;
    let td = Td {
        firmware: &firmware,
        order: *order,
        memory,
    };
    let values = predict::tdx(&image.payload()?, &td, logs);
    values.with_context(|| format!("{} with {}", image.name, path.display()))
}

/// RTMR0 of the log, if the log is of this firmware: the variables in it are an
/// event that is computed here, not believed.
fn read_log(path: &Path, firmware: &[u8]) -> Result<TdxLog> {
    let shown = path.display();
    let bytes = image::read(path)?;
    let log = event_log::parse(&bytes).with_context(|| format!("cannot read log {shown}"))?;
    let variables = predict::variables_digest(firmware)?;
    let variables = variables.context("cannot pin RTMR0: the firmware has no variables section")?;
    let event = log
        .events
        .iter()
        .find(|event| event.register == RTMR0 && event.kind.0 == FIRMWARE_BLOB);
    let got = event.and_then(|event| event.digest(Algorithm::Sha384));
    ensure!(
        got == Some(&variables),
        "cannot pin RTMR0 to log {shown}: got variables with digest {}, expected {}, the firmware's",
        got.map_or_else(|| "none".to_owned(), base16::encode),
        base16::encode(&variables)
    );
    let banks = log
        .replay(Tcb::Tdx)
        .with_context(|| format!("cannot replay log {shown}"))?;
    let bank = banks
        .iter()
        .find(|bank| bank.algorithm == Algorithm::Sha384);
    let value = bank.and_then(|bank| bank.registers.get(&RTMR0));
    let value = value.and_then(|value| <[u8; 48]>::try_from(value.as_slice()).ok());
    let value = value.with_context(|| format!("cannot pin RTMR0 to log {shown}: it has none"))?;
    Ok(TdxLog {
        name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        rtmrs: [(0, Hex48(value))].into(),
    })
}

pub(super) fn print(out: &mut impl Write, image: &Image, values: &TdxValues) -> Result<()> {
    writeln!(out, "TDX registers of {}", image.name)?;
    writeln!(out, "\nassumed, since no file tells it:")?;
    for line in &values.assumptions {
        writeln!(out, "  {line}")?;
    }
    writeln!(
        out,
        "\nfirmware: sha256 {}",
        base16::encode(&values.firmware.0)
    )?;
    let names = ["RTMR0", "RTMR1", "RTMR2", "RTMR3"];
    let rtmrs = names.iter().zip(&values.rtmrs);
    for (name, register) in std::iter::once((&"MRTD", &values.mrtd)).chain(rtmrs) {
        match register {
            Register::Predicted { values, covers } => {
                writeln!(out, "{name}: predicted: {covers}")?;
                for value in values {
                    writeln!(out, "  {}", base16::encode(&value.0))?;
                }
            }
            Register::Pinned { covers } => writeln!(out, "{name}: pinned: {covers}")?,
            Register::Ignored { reason } => writeln!(out, "{name}: ignored: {reason}")?,
        }
    }
    for log in &values.logs {
        for (rtmr, value) in &log.rtmrs {
            writeln!(
                out,
                "log {}: RTMR{rtmr} {}",
                log.name,
                base16::encode(&value.0)
            )?;
        }
    }
    Ok(())
}
