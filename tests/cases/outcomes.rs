//! How a run ends, as `image-build run` and its callers see it.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use image_build::run::Outcome;
use serde_json::Value;
use tests::artifacts::artifacts;
use tests::site::{Site, Spec, boot, expect_exit, path};

use crate::Fact;
use crate::scene::{Offline, line, said};

pub(crate) const FACTS: &[Fact] = &[
    ("outcomes/exit-0-with-a-private-file", exit_0),
    ("outcomes/exit-7", exit_7),
    ("outcomes/death-by-signal", death_by_signal),
    ("outcomes/out-of-memory", out_of_memory),
    (
        "outcomes/command-passes-the-status-on",
        command_passes_the_status_on,
    ),
    ("outcomes/confidential-image", confidential_image),
    ("outcomes/logs-none", logs_none),
    ("outcomes/power-button", power_button),
    ("outcomes/power-button-ignored", power_button_ignored),
    ("outcomes/deadline", deadline),
];

fn site() -> Result<Site> {
    Site::open(&artifacts()?.product)
}

fn offline(arguments: &[&str]) -> Result<Offline> {
    Offline::new(&artifacts()?.product, &Spec::offline(arguments))
}

/// The private file is read from the encrypted boot filesystem, and is what the
/// owner put there.
fn exit_0() -> Result<()> {
    let site = site()?;
    let report = site.run(&site.spec(&["digest", "/private/note"])?)?;
    // SHA-256 of "what only the owner knows\n".
    let digest = measured_boot::base16::encode(&sha2_of(b"what only the owner knows\n"));
    said(&report, &format!("probe: digest /private/note {digest}"))?;
    expect_exit(&report, 0)
}

fn sha2_of(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

fn exit_7() -> Result<()> {
    let report = boot(&offline(&["exit", "7"])?.machine()?)?;
    line(&report, "init: done: exited 7")?;
    expect_exit(&report, 7)
}

fn death_by_signal() -> Result<()> {
    for (number, status) in [("9", 137), ("11", 139), ("15", 143)] {
        let report = boot(&offline(&["signal", number])?.machine()?)?;
        let signal = number.parse()?;
        ensure!(
            report.outcome == Outcome::Signaled { signal, oom: false },
            "signal {number}: got {:?}; console:\n{}",
            report.outcome,
            report.lines().join("\n")
        );
        ensure!(
            report.outcome.exit_status() == status,
            "{}",
            report.outcome.exit_status()
        );
    }
    Ok(())
}

fn out_of_memory() -> Result<()> {
    let mut spec = Spec::offline(&["memory"]);
    spec.container = "memory = \"64M\"".into();
    let scene = Offline::new(&artifacts()?.product, &spec)?;
    let report = boot(&scene.machine()?)?;
    ensure!(
        report.outcome
            == Outcome::Signaled {
                signal: 9,
                oom: true
            },
        "{:?}",
        report.outcome
    );
    Ok(())
}

/// The command itself, not the library: status and `--json`.
fn command_passes_the_status_on() -> Result<()> {
    let parts = &artifacts()?.product;
    for (arguments, status) in [
        (["exit", "0"], 0),
        (["exit", "7"], 7),
        (["signal", "15"], 143),
    ] {
        let scene = offline(&arguments)?;
        let done = Command::new(&parts.image_build)
            .args([
                "run",
                path(&scene.image),
                "--json",
                "--timeout",
                "150",
                "--tpm-state",
            ])
            .arg(scene.path().join("tpm"))
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            done.status.code() == Some(status),
            "got {:?}, expected {status}",
            done.status
        );
        let text = String::from_utf8(done.stdout)?;
        let json: Value = serde_json::from_str(text.trim_end().lines().last().unwrap_or_default())?;
        ensure!(json.get("outcome").is_some(), "no outcome in {json}");
    }
    Ok(())
}

/// The container's own root lives on the encrypted boot filesystem; the rootfs,
/// which the host can read, has no file of it.
fn confidential_image() -> Result<()> {
    let site = site()?;
    let mut spec = site.spec(&["digest", "/private/note", "/bin/probe"])?;
    spec.container = "root = \"boot\"".into();
    let image = site.enrolled(&spec)?;
    let report = boot(&site.machine(&image)?)?;
    line(&report, "probe: digest /private/note ")?;
    line(&report, "probe: digest /bin/probe ")?;
    expect_exit(&report, 0)?;
    let rootfs = std::fs::read(image.join("rootfs.img"))?;
    let needle = b"what only the owner knows";
    ensure!(
        !rootfs.windows(needle.len()).any(|w| w == needle),
        "a private file is on the rootfs"
    );
    ensure!(
        rootfs.len() < 1 << 20,
        "the rootfs has {} bytes, so it holds more",
        rootfs.len()
    );
    Ok(())
}

fn logs_none() -> Result<()> {
    let mut spec = Spec::offline(&["say", "a line for nobody"]);
    spec.logs = "none";
    let scene = Offline::new(&artifacts()?.product, &spec)?;
    let report = boot(&scene.machine()?)?;
    ensure!(
        !report
            .lines()
            .iter()
            .any(|line| line.contains("a line for nobody")),
        "it was logged"
    );
    expect_exit(&report, 0)
}

fn power_button() -> Result<()> {
    let scene = offline(&["wait"])?;
    let mut running = scene.machine()?.start()?;
    running.wait_for("container: probe: waiting")?;
    running.control("system_powerdown", &Value::Null)?;
    let report = running.wait();
    said(&report, "probe: asked to end")?;
    expect_exit(&report, 42)
}

/// A container that ignores the request is killed when its grace ends.
fn power_button_ignored() -> Result<()> {
    let mut spec = Spec::offline(&["ignore"]);
    spec.container = "stop_grace = 2".into();
    let scene = Offline::new(&artifacts()?.product, &spec)?;
    let mut running = scene.machine()?.start()?;
    running.wait_for("container: probe: waiting")?;
    running.control("system_powerdown", &Value::Null)?;
    let report = running.wait();
    ensure!(
        report.outcome
            == Outcome::Signaled {
                signal: 9,
                oom: false
            },
        "{:?}",
        report.outcome
    );
    Ok(())
}

fn deadline() -> Result<()> {
    let scene = offline(&["wait"])?;
    let mut machine = scene.machine()?;
    machine.deadline = Some(Duration::from_secs(25));
    let report = boot(&machine)?;
    ensure!(report.outcome == Outcome::Timeout, "{:?}", report.outcome);
    ensure!(
        report.outcome.exit_status() == 202,
        "{}",
        report.outcome.exit_status()
    );
    Ok(())
}
