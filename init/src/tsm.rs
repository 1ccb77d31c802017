//! SEV-SNP and TDX through configfs-tsm, the kernel's one interface to both
//! (`Documentation/ABI/testing/configfs-tsm`).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use measured_boot::code::Code;
use measured_boot::evidence::{Evidence, ReportData, SnpEvidence, TdxEvidence};
use measured_boot::manifest::Tee;
use rustix::fs::Mode;
use rustix::io::{self, Errno};
use rustix::thread::{Timespec, nanosleep};

use crate::error::BootError;
use crate::file;
use crate::network::deadline::Deadline;
use crate::tpm;

/// What the kernel's drivers call themselves, and so what the machine is.
const PROVIDERS: [(&str, Tee); 2] = [("sev_guest", Tee::Snp), ("tdx_guest", Tee::Tdx)];
const REPORT: &str = "/sys/kernel/config/tsm/report/init";
/// Where the kernel shows the log area that the ACPI table of that name tells of.
const EVENT_LOG: &str = "/sys/firmware/acpi/tables/data/CCEL";
const STEP: &str = "tsm";
/// `TSM_OUTBLOB_MAX` (`include/linux/tsm.h`).
const MAX_BLOB: usize = 32 * 1024;
const MAX_EVENT_LOG: usize = 1 << 20;
/// What passes: the host is busy or throttles us, or a quote is still in the making.
const TRANSIENT: [Errno; 4] = [Errno::BUSY, Errno::AGAIN, Errno::INTR, Errno::TIMEDOUT];
/// Between two attempts.
const PAUSE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The kernel reports for a TEE that the manifest allows, and one report is ours.
#[derive(Debug)]
pub struct Tsm {
    /// Which one the kernel says it runs in.
    pub tee: Tee,
}

impl Tsm {
    /// Finds out which TEE this is, and makes the report's entry.
    ///
    /// # Errors
    /// [`Code::TeeMissing`] when it is none of `allowed`, [`Code::Tsm`] otherwise.
    pub fn open(allowed: &[Tee]) -> Result<Self, BootError> {
        let found = match rustix::fs::mkdir(REPORT, Mode::RWXU) {
            Ok(()) => read_text("provider"),
            // No driver has registered, and perhaps no kernel of ours.
            Err(Errno::NXIO | Errno::NOENT) => Ok(match tpm::is_present() {
                true => "tpm".into(),
                false => "no TEE".into(),
            }),
            Err(errno) => Err(errno),
        };
        let found = found.map_err(|e| error("find out the kind of TEE", e))?;
        let fits = |(name, tee): &(&str, Tee)| *name == found && allowed.contains(tee);
        if let Some((_, tee)) = PROVIDERS.into_iter().find(fits) {
            return Ok(Self { tee });
        }
        let allowed: Vec<_> = allowed.iter().map(|tee| tee.as_str()).collect();
        let allowed = allowed.join(", ");
        let cause = format_args!("this machine offers {found}, the manifest allows {allowed}");
        Err(BootError::new(
            Code::TeeMissing,
            STEP,
            "choose a TEE",
            cause,
        ))
    }

    /// Evidence bound to `report_data`. Attempts begin until the deadline; the
    /// kernel bounds each one itself, SEV-SNP's at 60 and TDX's at 30 seconds.
    ///
    /// # Errors
    /// [`Code::Tsm`].
    pub fn evidence(
        &self,
        report_data: &ReportData,
        deadline: Deadline,
    ) -> Result<Evidence, BootError> {
        let mut inblob = report_data.0.to_vec();
        inblob.resize(64, 0);
        let failed = |errno| error("get a report", errno);
        let report = self.report(&inblob, deadline).map_err(failed)?;
        // The driver of TDX has no such file.
        let evidence = if self.tee == Tee::Snp {
            let certificates = read("auxblob", MAX_BLOB).map_err(failed)?;
            SnpEvidence::from_device(&report, &certificates).map(|e| e.to_evidence())
        } else {
            let log = match file::read(EVENT_LOG, MAX_EVENT_LOG) {
                Err(Errno::NOENT) => None,
                log => Some(log.map_err(|e| error("read the event log", e))?),
            };
            TdxEvidence::from_device(report, log.as_deref()).map(|e| e.to_evidence())
        };
        // All of it is of one report, and that is of the one write there was.
        let generation = read_text("generation").map_err(failed)?;
        match evidence {
            Ok(evidence) if generation == "1" => Ok(evidence),
            Ok(_) => {
                let cause = format_args!("got a report of generation {generation}, expected 1");
                Err(error("get a report", cause))
            }
            Err(cause) => Err(error("use the report", cause)),
        }
    }

    fn report(&self, inblob: &[u8], deadline: Deadline) -> io::Result<Vec<u8>> {
        loop {
            // The kernel takes the value when the file is closed.
            file::write(&path("inblob"), inblob)?;
            let outcome = read("outblob", MAX_BLOB);
            // TDX's driver takes a quote that failed or came too late for one of
            // no bytes, which the entry then keeps.
            let passes = match &outcome {
                Ok(report) => report.is_empty(),
                Err(errno) => TRANSIENT.contains(errno),
            };
            if !passes || deadline.passed() {
                return outcome;
            }
            let _cut_short = nanosleep(&PAUSE);
            // A new entry asks again, and counts its generations from nothing.
            rustix::fs::rmdir(REPORT)?;
            rustix::fs::mkdir(REPORT, Mode::RWXU)?;
        }
    }

    /// Gives the entry back to the kernel.
    ///
    /// # Errors
    /// [`Code::Tsm`].
    pub fn close(self) -> Result<(), BootError> {
        rustix::fs::rmdir(REPORT).map_err(|e| error("remove the report's entry", e))
    }
}

fn path(attribute: &str) -> String {
    format!("{REPORT}/{attribute}")
}

fn read(attribute: &str, limit: usize) -> io::Result<Vec<u8>> {
    file::read(&path(attribute), limit)
}

fn read_text(attribute: &str) -> io::Result<String> {
    file::read_line(&path(attribute), 64)
}

fn error(action: &str, cause: impl fmt::Display) -> BootError {
    BootError::new(Code::Tsm, STEP, action, cause)
}
