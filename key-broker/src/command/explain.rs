//! `key-broker explain`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use measured_boot::predict::snp::{CpuType, GuestFeatures, Vmm};

use super::say;
use crate::explain::{Candidates, Image, SnpMachine, explain, find, read};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Fingerprint of the session, as the log has it
    pub(super) session: String,
    /// The broker's log; standard input without it
    #[arg(long)]
    log: Option<PathBuf>,
    /// Image folder: first the enrolled one, then others that may have been started
    #[arg(long = "image", value_name = "DIR")]
    images: Vec<PathBuf>,
    /// Firmware file: first the predicted one, then others that may have been used
    #[arg(long)]
    firmware: Vec<PathBuf>,
    /// SNP: who launches the guest, as predicted: qemu, ec2, gce, krun
    #[arg(long)]
    vmm: Option<String>,
    /// SNP: QEMU's -cpu model, or the CPUID signature
    #[arg(long)]
    vcpu_type: Option<CpuType>,
    /// SNP: number of vCPUs
    #[arg(long)]
    vcpus: Option<u32>,
    /// SNP: SEV_FEATURES, such as 0x1
    #[arg(long)]
    guest_features: Option<String>,
}

pub(super) fn run(arguments: &Explain) -> Result<()> {
    let log: Box<dyn BufRead> = match &arguments.log {
        Some(path) => Box::new(BufReader::new(open(path)?)),
        None => Box::new(BufReader::new(io::stdin())),
    };
    let entries = find(log, &arguments.session)?;
    let candidates = arguments.candidates()?;
    for entry in entries {
        say(explain(entry, &candidates))?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

impl Explain {
    fn candidates(&self) -> Result<Candidates> {
        let mut candidates = Candidates {
            snp: self.machine()?,
            ..Candidates::default()
        };
        for folder in &self.images {
            candidates.images.push(Image::read(folder)?);
        }
        for path in &self.firmware {
            let file = read(path)?;
            candidates.firmware.push((path.display().to_string(), file));
        }
        Ok(candidates)
    }

    /// All of the machine or nothing of it: a part would be completed by a guess.
    fn machine(&self) -> Result<Option<SnpMachine>> {
        let (vmm, vcpus, features) = match (&self.vmm, self.vcpus, &self.guest_features) {
            (None, None, None) => return Ok(None),
            (Some(vmm), Some(vcpus), Some(features)) => (vmm, vcpus, features),
            _ => bail!(
                "cannot explain a launch digest without all of --vmm, --vcpus and --guest-features"
            ),
        };
        let bits = match features.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => features.parse(),
        };
        let bits = bits.with_context(|| {
            format!("cannot use --guest-features {features}: expected a number such as 0x1")
        })?;
        Ok(Some(SnpMachine {
            vmm: Vmm::from_name(vmm, self.vcpu_type)?,
            vcpus,
            features: GuestFeatures::new(bits)?,
        }))
    }
}
