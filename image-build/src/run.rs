//! `image-build run`: boots an image under QEMU, OVMF and a software TPM, shows
//! the boot, and ends with the container's exit status.
//!
//! The same library boots images in the tests: [`Machine`] is what to boot,
//! [`Running`] is the machine, [`Report`] and [`Outcome`] are what came of it.
//! The launcher is on the host's side of the border: nothing in the guest's
//! security depends on it.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use measured_boot::manifest::{Manifest, Tee};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

mod accel;
mod console;
mod machine;
mod outcome;
mod process;
mod qmp;
mod running;
mod tpm;

pub use accel::Accel;
pub use machine::{Disk, Error, Firmware, Machine, Show, Tpm, TpmInterface};
pub use outcome::{
    Outcome, STATUS_FATAL, STATUS_LAUNCH, STATUS_NO_REPORT, STATUS_PANIC, STATUS_TIMEOUT,
};
pub use process::Missing;
pub use running::{Interrupt, Report, Running};

/// Boots an image and exits with its container's exit status.
///
/// Exit status: the container's own; 128+N when signal N ended it; 200 when
/// init stopped the boot; 201 when the guest's kernel panicked; 202 when the
/// time ran out; 203 when the machine ended without a report; 204 when it did
/// not start. A container may use these numbers too: --json tells them apart.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Folder that `image-build build` wrote
    pub image: PathBuf,
    /// Folder of the software TPM's state, made if needed; without it, no TPM
    #[arg(long, value_name = "DIR")]
    pub tpm_state: Option<PathBuf>,
    /// Memory of the guest in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..))]
    pub memory: u32,
    /// Kill the machine after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Print the outcome as JSON on standard output; the console goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Also write the raw console to a file
    #[arg(long, value_name = "FILE")]
    pub serial_log: Option<PathBuf>,
    /// How to run the guest's processor; auto tries whether KVM can run the firmware
    #[arg(long, value_enum, default_value_t)]
    pub accel: Accel,
    /// Firmware code instead of Debian's OVMF
    #[arg(long, value_name = "CODE", requires = "vars")]
    pub firmware: Option<PathBuf>,
    /// Firmware variables to start from (a copy is used)
    #[arg(long, value_name = "VARS", requires = "firmware")]
    pub vars: Option<PathBuf>,
    /// One more argument for QEMU, may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_arg: Vec<OsString>,
    /// Write every network packet to a file, in pcap format
    #[arg(long, value_name = "FILE")]
    pub net_pcap: Option<PathBuf>,
    /// Offer QEMU's control protocol (QMP) on a Unix socket
    #[arg(long, value_name = "SOCKET")]
    pub monitor: Option<PathBuf>,
    /// One more disk, which the guest may write, by its virtio serial
    #[arg(long, value_name = "SERIAL=FILE", value_parser = parse_disk)]
    pub disk: Vec<Disk>,
    /// The disk of a persistent volume, by the volume's name; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_volume)]
    pub volume: Vec<Disk>,
}

fn parse_volume(text: &str) -> Result<Disk, String> {
    if !text.contains('=') {
        return Err("expected NAME=FILE".into());
    }
    parse_disk(&format!("volume-{text}"))
}

fn parse_disk(text: &str) -> Result<Disk, String> {
    let (serial, file) = text.split_once('=').ok_or("expected SERIAL=FILE")?;
    // VIRTIO_BLK_ID_BYTES; QEMU would cut a longer one.
    if serial.is_empty() || serial.len() > 20 {
        return Err(format!("got serial \"{serial}\", expected 1 to 20 bytes"));
    }
    Ok(Disk {
        serial: serial.into(),
        file: file.into(),
        writable: true,
    })
}

/// What `--json` prints.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    exit_status: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    accel: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

/// Runs the command. The last line on standard error says how it ended.
pub fn main(args: Args) -> ExitCode {
    // Before any thread starts, so that all of them leave these to the listener.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let blocked = signals.thread_block();
    let json = args.json;
    let run = machine(args).and_then(|machine| {
        let running = machine.start()?;
        if blocked.is_ok() {
            let interrupt = running.interrupt();
            std::thread::spawn(move || while signals.wait().is_ok() && interrupt.send() {});
        }
        Ok(running.wait())
    });
    let report = run.as_ref().ok();
    let outcome = match &run {
        Ok(report) => report.outcome.clone(),
        Err(error) => Outcome::Launch {
            cause: error.to_string(),
        },
    };
    let took = report.map_or_else(String::new, |report| {
        format!(
            " ({:.1} s, {})",
            report.duration.as_secs_f64(),
            report.accel
        )
    });
    // Nobody is left to tell when these fail.
    drop(writeln!(std::io::stderr(), "image-build: {outcome}{took}"));
    if json {
        let summary = Summary {
            outcome: &outcome,
            exit_status: outcome.exit_status(),
            accel: report.map(|report| report.accel),
            seconds: report.map(|report| report.duration.as_secs_f64()),
        };
        if let Ok(text) = serde_json::to_string(&summary) {
            drop(writeln!(std::io::stdout(), "{text}"));
        }
    }
    ExitCode::from(&outcome)
}

fn machine(args: Args) -> Result<Machine, Error> {
    let mut machine = Machine::new(&args.image)?;
    if args.qemu_arg.is_empty() {
        check_tee(&args.image)?;
    }
    if let Some(state) = args.tpm_state {
        machine = machine.with_tpm(state);
    }
    if let (Some(code), Some(vars)) = (args.firmware, args.vars) {
        machine.firmware = Firmware { code, vars };
    }
    machine.memory = args.memory;
    machine.deadline = args.timeout.map(Duration::from_secs);
    machine.serial_log = args.serial_log;
    machine.accel = args.accel;
    machine.arguments = args.qemu_arg;
    machine.pcap = args.net_pcap;
    machine.monitor = args.monitor;
    machine.disks.extend(args.disk);
    machine.disks.extend(args.volume);
    machine.show = if args.json {
        Show::Stderr
    } else {
        Show::Stdout
    };
    if machine.accel == Accel::Auto && std::io::stderr().is_terminal() {
        drop(writeln!(
            std::io::stderr(),
            "image-build: starting the machine"
        ));
    }
    Ok(machine)
}

/// The launcher offers a TPM and no hardware TEE; who gives QEMU arguments of
/// their own may know better.
pub(crate) fn check_tee(image: &Path) -> Result<(), Error> {
    let failed = |cause| Error::Image {
        folder: image.into(),
        file: "manifest.json",
        cause,
    };
    let json = std::fs::read(image.join("manifest.json")).map_err(failed)?;
    let manifest =
        Manifest::parse(&json).map_err(|e| failed(std::io::Error::other(e.to_string())))?;
    let allowed = &manifest.attestation.tee;
    if manifest.broker.is_none() || allowed.contains(&Tee::Tpm) {
        return Ok(());
    }
    let names: Vec<_> = allowed.iter().map(|tee| tee.as_str()).collect();
    Err(Error::Tee {
        folder: image.into(),
        allowed: names.join(" and "),
    })
}
