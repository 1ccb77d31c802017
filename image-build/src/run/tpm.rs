//! The software TPM: one swtpm process per boot, on a state folder that stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::Process;

/// File in which swtpm keeps a TPM 2.0.
const STATE_FILE: &str = "tpm2-00.permall";
const START_DEADLINE: Duration = Duration::from_secs(10);

/// A running software TPM; ends with QEMU's connection, or when dropped.
#[derive(Debug)]
pub(super) struct Swtpm {
    process: Process,
    socket: PathBuf,
}

impl Swtpm {
    /// Starts swtpm on `state`, which is created when it holds no TPM; socket
    /// and log go into `scratch`.
    pub(super) fn start(state: &Path, scratch: &Path) -> Result<Self, String> {
        create(state)?;
        // swtpm changes its folder, so relative paths would be others for it.
        let state = fs::canonicalize(state)
            .map_err(|e| format!("cannot find TPM state {}: {e}", state.display()))?;
        let socket = scratch.join("tpm.sock");
        let log = scratch.join("tpm.log");
        let process = Process::start("swtpm", |command| {
            command
                .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
                .arg(format!("dir={}", state.display()))
                .arg("--ctrl")
                .arg(format!("type=unixio,path={}", socket.display()))
                .arg("--log")
                .arg(format!("file={}", log.display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        })
        .map_err(|e| format!("cannot start swtpm: {e}"))?;
        let mut swtpm = Self { process, socket };
        swtpm.await_socket().map_err(|cause| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("cannot start swtpm: {cause} {}", log.trim())
        })?;
        Ok(swtpm)
    }

    /// The socket QEMU's `tpm-emulator` connects to.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits for swtpm to end by itself, so that its state is on the disk; ends
    /// it when it does not.
    pub(super) fn finish(mut self) {
        let started = Instant::now();
        while started.elapsed() < START_DEADLINE {
            if !matches!(self.process.ended(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn await_socket(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while !self.socket.exists() {
            if let Some(status) = self.process.ended().map_err(|e| e.to_string())? {
                return Err(format!("it ended with {status}:"));
            }
            if started.elapsed() > START_DEADLINE {
                return Err("got no socket within 10 seconds:".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// Creates a TPM with the SHA-256 bank, unless there is one. Without
/// certificates: the tool for those needs a CA folder that only root may write,
/// and the attestation key is enrolled by its public part.
fn create(state: &Path) -> Result<(), String> {
    if state.join(STATE_FILE).exists() {
        return Ok(());
    }
    create_in(state)
        .map_err(|cause| format!("cannot create TPM state {}: {cause}", state.display()))
}

fn create_in(state: &Path) -> Result<(), String> {
    fs::create_dir_all(state).map_err(|e| e.to_string())?;
    let absolute = fs::canonicalize(state).map_err(|e| e.to_string())?;
    let output = Command::new("swtpm_setup")
        .args(["--tpm2", "--pcr-banks", "sha256", "--tpmstate"])
        .arg(absolute)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("swtpm_setup: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(format!("swtpm_setup: {}: {}", output.status, said.trim()))
}
