//! `measured-boot predict`: what an image will measure.

mod corim;
mod snp;
mod tdx;
mod tpm;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use measured_boot::predict::LowMemory;
use measured_boot::reference_values::ReferenceValues;
use measured_boot::trustee;

use super::image::Image;

/// What an image will measure. Every assumption is printed; none is made silently.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Image folder, as `image-build build` writes it.
    image: PathBuf,
    /// What measures the boot; several are separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    tee: Vec<Tee>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Memory of the machine in MiB; without it, each of the usual sizes. Changes the kernel that QEMU
    /// hands to the firmware (TDX, TPM).
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(64..))]
    memory: Option<u32>,
    /// Write reference-values.json, and for Trustee rvps-message.json, attestation-policy.rego and
    /// resource-policy.rego, and reference-values.corim, into this new folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    snp: snp::Options,
    #[command(flatten)]
    tdx: tdx::Options,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tee {
    /// AMD SEV-SNP: the launch digest.
    Snp,
    /// Intel TDX: MRTD, RTMR0 to RTMR3.
    Tdx,
    /// TPM 2.0: PCR 0 to 23.
    Tpm,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let image = Image::read(&arguments.image)?;
    let mut reference = match &arguments.out {
        Some(_) => Some(image.reference_values()?),
        None => None,
    };
    let memory = arguments.memory.map_or(LowMemory::Usual, LowMemory::of);
    let machine = &arguments.snp.machine;
    let firmware = machine.firmware.as_ref();
    let wanted = |tee| arguments.tee.contains(&tee);
    ensure!(
        image.uki.is_none() || !wanted(Tee::Snp),
        "cannot predict a launch digest for {}: it is started as image.efi, which a launch does not measure",
        image.name
    );
    let tdx = || {
        let vmm = machine.vmm.as_deref();
        let values = || tdx::values(&image, &arguments.tdx, vmm, firmware, memory);
        wanted(Tee::Tdx).then(values).transpose()
    };
    let tpm = || {
        // The other TEEs' firmware is another build.
        let firmware = firmware.filter(|_| arguments.tee == [Tee::Tpm]);
        let values = || tpm::values(&image, firmware, memory);
        wanted(Tee::Tpm).then(values).transpose()
    };
    let snp = || {
        let values = || snp::run(&image, &arguments.snp, arguments.json);
        wanted(Tee::Snp).then(values).transpose()
    };
    let (snp, (tdx, tpm)) = rayon::join(snp, || rayon::join(tdx, tpm));
    let (snp, tdx, tpm) = (snp?, tdx?, tpm?);
    if let Some(reference) = &mut reference {
        reference.snp = snp.or(reference.snp.take());
        reference.tdx = tdx.clone().or(reference.tdx.take());
        reference.tpm = tpm.clone().or(reference.tpm.take());
    }
    if let (Some(folder), Some(reference)) = (&arguments.out, &reference) {
        write(folder, reference)?;
    }
    // A reader that went away is an error, not a panic.
    let mut out = io::stdout().lock();
    if let Some(values) = &tdx {
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string_pretty(values)?)?;
        } else {
            tdx::print(&mut out, &image, values)?;
        }
    }
    if let Some(values) = &tpm {
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string_pretty(values)?)?;
        } else {
            tpm::print(&mut out, &image, values, memory)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything is computed before the folder is made.
fn write(folder: &Path, reference: &ReferenceValues) -> Result<()> {
    let files = [
        ("reference-values.json", reference.to_json()?),
        (
            "rvps-message.json",
            trustee::rvps_message(reference)?.into(),
        ),
        (
            "attestation-policy.rego",
            trustee::ATTESTATION_POLICY.into(),
        ),
        ("resource-policy.rego", trustee::RESOURCE_POLICY.into()),
        ("reference-values.corim", corim::bytes(reference)?),
    ];
    let shown = folder.display();
    fs::create_dir(folder).with_context(|| format!("cannot make folder {shown}"))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
