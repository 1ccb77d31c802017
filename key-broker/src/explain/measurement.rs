//! Which files, firmware or machine give a measurement that was observed.

use measured_boot::base16;
use measured_boot::explain::files::Release;
use measured_boot::explain::snp::{Build, MOST_CHANGES, Question};
use measured_boot::explain::{Answer, tdx, tpm};
use measured_boot::predict::known_firmware;
use measured_boot::predict::snp::{Firmware, GuestFeatures, LaunchDigest, Machine, Vmm};

use super::{Candidates, Measured};

/// The machine that a launch digest was predicted for; none of it is told by
/// the image.
#[derive(Clone, Copy, Debug)]
pub struct SnpMachine {
    /// Who launches the guest, and with which vCPUs.
    pub vmm: Vmm,
    /// How many of them.
    pub vcpus: u32,
    /// `SEV_FEATURES`.
    pub features: GuestFeatures,
}

/// Searches for what gives `got`, if `check` is of a measurement that can be
/// explained.
pub(super) fn explain(check: &str, got: &str, candidates: &Candidates) -> Option<Measured> {
    let (name, _) = check.split_once(':').unwrap_or((check, ""));
    let search = match name {
        "launch digest" => launch_digest,
        "MRTD" => mrtd,
        "RTMR1" => rtmr1,
        "RTMR2" => rtmr2,
        "PCR 0" => pcr::<0>,
        "PCR 4" => pcr::<4>,
        "PCR 9" => pcr::<9>,
        _ => return None,
    };
    let answer = match candidates.images.is_empty() {
        true => Err("say --image".to_owned()),
        false => search(got, candidates),
    };
    let name = name.to_owned();
    Some(Measured { name, answer })
}

fn releases(candidates: &Candidates) -> Vec<Release<'_>> {
    let images = candidates.images.iter();
    images
        .map(|image| Release {
            name: &image.name,
            kernel: &image.kernel,
            initrd: &image.initrd,
            cmdline: &image.cmdline,
        })
        .collect()
}

fn launch_digest(got: &str, candidates: &Candidates) -> Result<Answer, String> {
    let machine = candidates.snp.as_ref();
    let machine = machine.ok_or(
        "say --firmware, --vmm, --vcpus, --vcpu-type and --guest-features, as it was predicted with",
    )?;
    let observed = LaunchDigest::from_hex(got).ok_or("the log has no launch digest")?;
    let mut firmware = Vec::new();
    for (name, file) in &candidates.firmware {
        firmware.push(Build {
            name: name.clone(),
            firmware: Firmware::read(file).map_err(|e| format!("{name}: {e}"))?,
        });
    }
    let question = Question {
        machine: Machine::new(machine.vmm, machine.vcpus, machine.features)
            .map_err(|e| e.to_string())?,
        firmware: &firmware,
        releases: &releases(candidates),
        most_changes: MOST_CHANGES,
    };
    question.explain(observed).map_err(|e| e.to_string())
}

fn mrtd(got: &str, candidates: &Candidates) -> Result<Answer, String> {
    if candidates.firmware.is_empty() {
        return Err("say --firmware".to_owned());
    }
    rtmr(got, candidates, tdx::Register::Mrtd)
}

fn rtmr1(got: &str, candidates: &Candidates) -> Result<Answer, String> {
    rtmr(got, candidates, tdx::Register::Rtmr1)
}

fn rtmr2(got: &str, candidates: &Candidates) -> Result<Answer, String> {
    rtmr(got, candidates, tdx::Register::Rtmr2)
}

fn rtmr(got: &str, candidates: &Candidates, register: tdx::Register) -> Result<Answer, String> {
    let observed = base16::decode(got).ok_or("the log has no register of 48 bytes")?;
    let releases = releases(candidates);
    Ok(tdx::explain(
        register,
        &observed,
        &releases,
        &candidates.firmware,
    ))
}

fn pcr<const NUMBER: u8>(got: &str, candidates: &Candidates) -> Result<Answer, String> {
    let observed = base16::decode(got).ok_or("the log has no register of 32 bytes")?;
    let known = known_firmware().map_err(|e| e.to_string())?;
    let answer = tpm::explain(NUMBER, &observed, &releases(candidates), &known);
    answer.ok_or_else(|| "nothing is known of it".to_owned())
}
