//! A stock Trustee KBS in the place of our broker, by the documented steps.
//! Only where `TRUSTEE_KBS` names its binary; elsewhere the case is ignored,
//! never passed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64ct::{Base64, Encoding};
use serde_json::Value;
use tests::artifacts::{artifacts, run, workspace};
use tests::defences::Verdict;
use tests::site::{BrokerAddress, Site, boot, expect_exit};
use tests::trustee::{Trustee, binary};

use crate::scene::{cpio, said, verdict};

pub(crate) const NAME: &str = "trustee/gives-the-measured-image-its-key-and-no-other";

/// Keyed by predictions alone: nothing was recorded from a boot of this image.
pub(crate) fn trustee() -> Result<()> {
    let binary = binary().context("TRUSTEE_KBS names no binary")?;
    let parts = &artifacts()?.product;
    // Its broker is not asked; its TPM, its keys and its folder are used.
    let site = Site::open(parts)?;
    let aks = attestation_keys(&site)?;
    let folder = site.path().join("trustee");
    fs::create_dir(&folder)?;
    let trustee = Trustee::start(&binary, &parts.key_broker, &folder, &aks)?;

    let mut spec = site.spec(&["digest", "/private/note"])?;
    spec.broker = Some(BrokerAddress {
        url: format!("https://10.0.2.2:{}", trustee.port()),
        ca: fs::read_to_string(trustee.tls().join("ca.pem"))?,
        not_before: None,
    });
    let image = site.build(&spec, &parts.init)?;
    let predicted = folder.join("predicted");
    run(Command::new(measured_boot()?)
        .arg("predict")
        .arg(&image)
        .args(["--tee", "tpm", "--out"])
        .arg(&predicted))?;
    trustee.load(&predicted, &aks)?;
    trustee.put("probe/boot/key", &fs::read(site.boot_key()?)?)?;

    let told = |error: anyhow::Error| error.context(format!("the KBS said: {}", trustee.said()));
    let report = boot(&site.machine(&image)?)?;
    expect_exit(&report, 0).map_err(told)?;
    // SHA-256 of "what only the owner knows\n", the private file.
    let digest = sha256(b"what only the owner knows\n");
    said(&report, &format!("probe: digest /private/note {digest}"))?;

    let mut machine = site.machine(&image)?;
    machine.initrd = image.join("changed.cpio");
    let extra = cpio(&[("etc-added", b"added by the host")]);
    let changed = [fs::read(image.join("initrd.cpio"))?, extra].concat();
    fs::write(&machine.initrd, changed)?;
    let changed = verdict(&boot(&machine)?)?;
    let refused = matches!(&changed, Verdict::Stopped(code) if code == "E_BROKER_REFUSED");
    ensure!(
        refused,
        "a changed initrd got {changed:?}; the KBS said: {}",
        trustee.said()
    );
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    measured_boot::base16::encode(&Sha256::digest(bytes))
}

/// The keys that were enrolled in the site's store.
fn attestation_keys(site: &Site) -> Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(site.store().join("attesters"))? {
        let attester: Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
        let ak = attester["ak"].as_str().context("no key")?;
        keys.push(Base64::decode_vec(ak).map_err(|e| anyhow::anyhow!("{e}"))?);
    }
    Ok(keys)
}

/// The auditor's command, beside the others.
fn measured_boot() -> Result<PathBuf> {
    run(Command::new("cargo")
        .current_dir(workspace())
        .args(["build", "--quiet", "--locked", "--profile", "tools"])
        .args(["-p", "measured-boot"]))?;
    let tools = artifacts()?.product.key_broker.parent();
    Ok(tools.context("no folder")?.join("measured-boot"))
}
