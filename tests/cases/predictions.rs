//! What was predicted from files is what a machine measures: a TPM's quote is
//! compared in all 24 registers, so one wrong prediction and no key is released.
//! The firmware's own registers are those recorded at other boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use measured_boot::base16;
use measured_boot::reference_values::{ReferenceValues, Register};
use tests::artifacts::{artifacts, run};
use tests::defences::Verdict;
use tests::site::{Site, Spec, boot, expect_exit, path};

use crate::Fact;
use crate::scene::{find, verdict};

pub(crate) const FACTS: &[Fact] = &[
    ("predictions/registers-of-a-uki-are-the-predicted-ones", uki),
    (
        "predictions/registers-of-a-uki-on-another-machine-are-the-predicted-ones",
        uki_on_another_machine,
    ),
    ("predictions/a-changed-uki-gets-no-keys", changed_uki),
    (
        "predictions/a-uki-started-as-its-parts-gets-no-keys",
        uki_in_parts,
    ),
    (
        "predictions/pcr-11-is-that-of-systemd-measure",
        systemd_measure,
    ),
];

fn image() -> Result<(Site, PathBuf)> {
    let site = Site::open(&artifacts()?.product)?;
    let spec = Spec {
        uki: true,
        ..site.spec(&["exit", "0"])?
    };
    let image = site.enrolled(&spec)?;
    Ok((site, image))
}

fn uki() -> Result<()> {
    let (site, image) = image()?;
    expect_exit(&boot(&site.machine(&image)?)?, 0)
}

fn uki_on_another_machine() -> Result<()> {
    let (site, image) = image()?;
    let mut machine = site.machine(&image)?;
    machine.memory = 2048;
    machine.arguments.extend(["-smp".into(), "4".into()]);
    machine.disks.reverse();
    expect_exit(&boot(&machine)?, 0)
}

fn changed_uki() -> Result<()> {
    let (site, image) = image()?;
    let mut machine = site.machine(&image)?;
    let file = image.join("image.efi");
    // A message of the kernel's that no boot under UEFI prints.
    let at = find(&file, b"Unable to boot")
        .or_else(|_| find(&file, b"code requires"))
        .or_else(|_| find(&file, b"CPU"))?;
    let mut bytes = fs::read(&file)?;
    let at = usize::try_from(at)?;
    *bytes.get_mut(at).context("outside the file")? ^= 1;
    let changed = site.path().join("changed.efi");
    fs::write(&changed, bytes)?;
    machine.uki = Some(changed);
    expect_refused(&verdict(&boot(&machine)?)?)
}

fn uki_in_parts() -> Result<()> {
    let (site, image) = image()?;
    let mut machine = site.machine(&image)?;
    machine.uki = None;
    expect_refused(&verdict(&boot(&machine)?)?)
}

fn expect_refused(verdict: &Verdict) -> Result<()> {
    match verdict {
        Verdict::Stopped(code) if code == "E_BROKER_REFUSED" => Ok(()),
        other => bail!("got {other:?}, expected E_BROKER_REFUSED"),
    }
}

/// systemd's own predictor, given the sections as files.
fn systemd_measure() -> Result<()> {
    let (_site, image) = image()?;
    let values = ReferenceValues::parse(&fs::read(image.join("reference-values.json"))?)?;
    let os_release = section(&image, ".osrel")?;
    let mut measure = Command::new("/lib/systemd/systemd-measure");
    measure.args(["calculate", "--bank=sha256", "--phase=", "--json=short"]);
    for (name, file) in [
        ("linux", image.join("bzImage")),
        ("initrd", image.join("initrd.cpio")),
        ("cmdline", image.join("cmdline")),
        ("osrel", os_release),
    ] {
        measure.arg(format!("--{name}={}", path(&file)));
    }
    let said = String::from_utf8(run(&mut measure)?)?;
    let tpm = values.tpm.context("no registers predicted")?;
    let Some(Register::Predicted { values, .. }) = tpm.pcrs.get(&11) else {
        bail!("PCR 11 is not predicted");
    };
    let [value] = values.as_slice() else {
        bail!("got {} values, expected one", values.len());
    };
    let predicted = base16::encode(&value.0);
    ensure!(
        said.contains(&predicted),
        "got {predicted}, systemd-measure says {said}"
    );
    Ok(())
}

fn section(image: &Path, name: &str) -> Result<PathBuf> {
    let file = image.join("section");
    let uki = image.join("image.efi");
    run(Command::new("objcopy")
        .args(["-O", "binary"])
        .arg(format!("--only-section={name}"))
        .arg(uki)
        .arg(&file))?;
    // objcopy pads the section to the file's alignment.
    let mut bytes = fs::read(&file)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    fs::write(&file, bytes)?;
    Ok(file)
}
