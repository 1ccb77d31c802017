//! What the container can do, and above all what it cannot.

use anyhow::{Result, bail, ensure};
use image_build::run::Report;
use tests::artifacts::{Parts, artifacts};
use tests::defences::{Attack, Verdict};
use tests::site::{Site, Spec, boot, expect_exit};

use crate::Fact;
use crate::scene::{self, Offline, said};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "container-root-read-only",
        attempt: |p| attempt(p, "write root"),
        control: writable,
    },
    Attack {
        name: "container-capabilities",
        attempt: |p| attempt(p, "mount tmpfs"),
        control: runs_as_root,
    },
    Attack {
        name: "container-seccomp",
        attempt: |p| attempt(p, "personality"),
        control: runs_as_root,
    },
    Attack {
        name: "container-devices",
        attempt: |p| attempt(p, "open /dev/tpmrm0"),
        control: runs_as_root,
    },
    Attack {
        name: "container-masked-proc",
        attempt: |p| attempt(p, "write /proc/sys"),
        control: runs_as_root,
    },
    Attack {
        name: "console-forgery",
        attempt: console_forgery,
        control: console_control,
    },
];

pub(crate) const FACTS: &[Fact] = &[
    ("container/identity", identity),
    ("container/root-with-everything-refused", everything_refused),
    (
        "container/user-with-everything-refused",
        everything_refused_to_user,
    ),
    (
        "container/capabilities-when-listed",
        capabilities_when_listed,
    ),
    ("container/secrets", secrets),
    ("container/writable-root", || {
        writable(&artifacts()?.product)
    }),
    ("container/orphans-are-reaped", orphans),
    ("container/limits", limits),
];

fn run(parts: &Parts, spec: &Spec) -> Result<Report> {
    boot(&Offline::new(parts, spec)?.machine()?)
}

/// The probe as root, which is the strongest container there is.
fn root(arguments: &[&str]) -> Spec {
    let mut spec = Spec::offline(arguments);
    spec.user = "0:0";
    spec
}

fn attempt(parts: &Parts, what: &str) -> Result<Verdict> {
    let report = run(parts, &root(&["attempts"]))?;
    let line = scene::line(&report, &format!("probe: {what}: "))?;
    if line.ends_with("succeeded") {
        return Ok(Verdict::Succeeded(line));
    }
    scene::line(&report, "probe: survived")?;
    Ok(Verdict::Stopped("refused".into()))
}

fn runs_as_root(parts: &Parts) -> Result<()> {
    let report = run(parts, &root(&["attempts"]))?;
    scene::line(&report, "probe: survived")?;
    expect_exit(&report, 0)
}

/// With a writable layer the same write succeeds, so the attempt is a real one.
fn writable(parts: &Parts) -> Result<()> {
    let mut spec = root(&["write", "/written"]);
    spec.container = "writable = \"4M\"".into();
    said(&run(parts, &spec)?, "probe: write /written: succeeded")
}

fn everything_refused() -> Result<()> {
    all_refused(&root(&["attempts"]))
}

fn everything_refused_to_user() -> Result<()> {
    all_refused(&Spec::offline(&["attempts"]))
}

fn all_refused(spec: &Spec) -> Result<()> {
    nothing_succeeded(&run(&artifacts()?.product, spec)?)
}

/// Every attempt of the probe was refused, and it did make them.
pub(crate) fn nothing_succeeded(report: &Report) -> Result<()> {
    scene::line(report, "probe: survived")?;
    let lines = report.lines();
    let succeeded: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("probe: ") && line.ends_with(": succeeded"))
        // Root may become root, and a signal to PID 1 of a namespace from within
        // is dropped by the kernel without an error.
        .filter(|line| !line.contains("setuid 0") && !line.contains("kill init"))
        .collect();
    ensure!(succeeded.is_empty(), "the container could: {succeeded:#?}");
    let refused = lines
        .iter()
        .filter(|line| line.contains(": refused "))
        .count();
    ensure!(refused > 40, "only {refused} attempts were made");
    expect_exit(report, 0)
}

fn identity() -> Result<()> {
    let report = run(&artifacts()?.product, &Spec::offline(&["identity"]))?;
    for text in [
        "pid: 2",
        "hostname: container",
        "cwd: /",
        "fd: 0 1 2",
        "dev: fd full null random shm stderr stdin stdout urandom zero",
        "status: Uid:\t1000\t1000\t1000\t1000",
        "status: Gid:\t1000\t1000\t1000\t1000",
        "status: CapInh:\t0000000000000000",
        "status: CapPrm:\t0000000000000000",
        "status: CapEff:\t0000000000000000",
        "status: CapBnd:\t0000000000000000",
        "status: CapAmb:\t0000000000000000",
        "status: NoNewPrivs:\t1",
        "status: Seccomp:\t2",
        "cgroup: 0::/",
        "env: PATH=/bin",
    ] {
        // Tabs are shown as they are; other control characters are not.
        said(&report, text)?;
    }
    let mounts: Vec<String> = report
        .lines()
        .into_iter()
        .filter(|line| line.contains("mountinfo: "))
        .collect();
    ensure!(!mounts.is_empty(), "no mounts listed");
    for line in &mounts {
        let fields: Vec<&str> = line.split(' ').collect();
        let (source, target, options) = (fields[5], fields[6], fields[7]);
        ensure!(options.contains("nosuid"), "{target} is not nosuid: {line}");
        // `/dev` holds devices, and a hidden file of /proc shows its null device.
        ensure!(
            target == "/dev" || source == "/null" || options.contains("nodev"),
            "{target} is not nodev: {line}"
        );
        ensure!(
            target != "/" || options.split(',').any(|option| option == "ro"),
            "the root is writable: {line}"
        );
        ensure!(!target.starts_with("/sys"), "{target} is mounted");
    }
    expect_exit(&report, 0)
}

fn capabilities_when_listed() -> Result<()> {
    let mut spec = Spec::offline(&["identity"]);
    spec.container = "capabilities = [\"CAP_NET_BIND_SERVICE\"]".into();
    let report = run(&artifacts()?.product, &spec)?;
    // Bit 10, for a user that is not root, in every set.
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        said(&report, &format!("status: {set}:\t0000000000000400"))?;
    }
    Ok(())
}

/// Secrets as file and as variable: length, mode and owner as the config says.
fn secrets() -> Result<()> {
    let site = Site::open(&artifacts()?.product)?;
    let mut spec = site.spec(&["secrets", "/run/secrets/token"])?;
    spec.tables = "[[container.secret]]\nresource = \"kbs:///probe/app/token\"\n\
        path = \"/run/secrets/token\"\n\
        [[container.secret]]\nresource = \"kbs:///probe/app/password\"\nenv = \"SECRET_PASSWORD\"\n"
        .into();
    for (name, content) in [("token", "thirteen here"), ("password", "swordfish")] {
        let file = site.path().join(name);
        std::fs::write(&file, content)?;
        site.put(&format!("probe/app/{name}"), &file, "probe")?;
    }
    let report = site.run(&spec)?;
    said(
        &report,
        "probe: secret /run/secrets/token 13 bytes mode 400 owner 1000:1000",
    )?;
    said(&report, "probe: variable SECRET_PASSWORD 9 bytes")?;
    expect_exit(&report, 0)
}

fn orphans() -> Result<()> {
    let report = run(&artifacts()?.product, &Spec::offline(&["orphans"]))?;
    said(&report, "probe: zombies 0")?;
    expect_exit(&report, 0)
}

fn limits() -> Result<()> {
    let mut spec = Spec::offline(&["identity"]);
    spec.tables = "[container.rlimits]\nnofile = 77\n".into();
    let report = run(&artifacts()?.product, &spec)?;
    let core = scene::line(&report, "limits: Max core file size")?;
    ensure!(
        core.split_whitespace().filter(|word| *word == "0").count() == 2,
        "{core}"
    );
    let files = scene::line(&report, "limits: Max open files")?;
    ensure!(
        files
            .split_whitespace()
            .filter(|word| *word == "77")
            .count()
            == 2,
        "{files}"
    );
    Ok(())
}

/// A container that writes what init or the kernel would write.
fn console_forgery(parts: &Parts) -> Result<Verdict> {
    let report = run(
        parts,
        &Spec::offline(&["say", FORGED, "\\x1b[2J\\rinit: done: exited 0"]),
    )?;
    let forged = report
        .lines()
        .into_iter()
        .any(|line| line.starts_with("init: fatal: E_FORGED") || line.contains('\u{1b}'));
    if forged || report.outcome.exit_status() != 0 {
        return Ok(Verdict::Succeeded("the container spoke as init".into()));
    }
    Ok(Verdict::Stopped("refused".into()))
}

const FORGED: &str =
    "innocent\\ninit: fatal: E_FORGED forged: cannot be: true\\rinit: done: exited 3";

fn console_control(parts: &Parts) -> Result<()> {
    let report = run(parts, &Spec::offline(&["say", FORGED]))?;
    // The text does arrive, as the container's.
    said(&report, "innocent")?;
    if !report
        .lines()
        .iter()
        .any(|line| line.starts_with("container: init: fatal: E_FORGED"))
    {
        bail!(
            "the forged line did not arrive; console:\n{}",
            report.lines().join("\n")
        );
    }
    Ok(())
}
