//! KVM or TCG: a `/dev/kvm` may open and still be unable to run firmware, so it
//! is tried once and the answer is kept.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use measured_boot::base16;
use sha2::{Digest as _, Sha256};

use super::machine::{Firmware, QEMU, firmware_arguments};
use super::process::Process;

/// How long firmware may take to its first byte on the console. Under KVM that
/// is well under two seconds.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// How the guest's processor is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// KVM if it is able to run the firmware, TCG otherwise.
    #[default]
    Auto,
    /// QEMU's emulator.
    Tcg,
    /// The host's processor.
    Kvm,
}

impl Accel {
    /// QEMU's name of the accelerator; probes when it is [`Self::Auto`].
    pub(super) fn resolve(self, firmware: &Firmware) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
            Self::Auto if kvm_runs_firmware(firmware) => "kvm",
            Self::Auto => "tcg",
        }
    }
}

fn kvm_runs_firmware(firmware: &Firmware) -> bool {
    // Being in group kvm may come and go, so this is asked each time.
    let opens = fs::File::options().read(true).write(true).open("/dev/kvm");
    if opens.is_err() {
        return false;
    }
    let cache = cache_file(firmware);
    match cache.as_deref().map(fs::read_to_string) {
        Some(Ok(answer)) if answer == "kvm" => return true,
        Some(Ok(answer)) if answer == "tcg" => return false,
        _ => {}
    }
    let runs = probe(firmware);
    if let Some(file) = cache {
        keep(&file, if runs { "kvm" } else { "tcg" });
    }
    runs
}

/// Starts nothing but the firmware under KVM and waits for its first byte.
fn probe(firmware: &Firmware) -> bool {
    let Ok(scratch) = tempfile::tempdir() else {
        return false;
    };
    let vars = scratch.path().join("vars.fd");
    if fs::copy(&firmware.vars, &vars).is_err() {
        return false;
    }
    let started = Process::start(QEMU, |command| {
        command
            .args([
                "-machine", "q35", "-accel", "kvm", "-cpu", "max", "-m", "256",
            ])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(firmware_arguments(&firmware.code, &vars))
            .args([
                "-chardev",
                "stdio,id=serial,signal=off",
                "-serial",
                "chardev:serial",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
    });
    let Ok(mut qemu) = started else { return false };
    let Some(mut stdout) = qemu.child().stdout.take() else {
        return false;
    };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let first = stdout.read(&mut [0]);
        // Nobody listens any more once the deadline has passed.
        sender.send(matches!(first, Ok(1))).ok();
    });
    receiver.recv_timeout(PROBE_DEADLINE).unwrap_or(false)
}

/// One file per host kernel, QEMU version and firmware file.
fn cache_file(firmware: &Firmware) -> Option<PathBuf> {
    let kernel = fs::read("/proc/sys/kernel/osrelease").ok()?;
    let version = Command::new(QEMU).arg("--version").output().ok()?;
    let code = Sha256::digest(fs::read(&firmware.code).ok()?);
    let mut key = Sha256::new();
    for part in [kernel.as_slice(), &version.stdout, &code] {
        key.update(Sha256::digest(part));
    }
    let folder = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let name = base16::encode(&key.finalize());
    Some(folder.join("anchorhold/accel").join(name))
}

/// An answer that cannot be kept is found again next time.
fn keep(file: &Path, answer: &str) {
    if let Some(folder) = file.parent() {
        drop(fs::create_dir_all(folder));
    }
    drop(fs::write(file, answer));
}
