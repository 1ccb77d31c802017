//! The TPM behind `/dev/tpmrm0`, where the kernel's resource manager keeps our
//! key apart from whatever else is loaded.

use alloc::vec::Vec;

use measured_boot::code::Code;
use measured_boot::evidence::{Evidence, ReportData, TpmEvidence};
use measured_boot::tpm::{self, MAX_RESPONSE, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::error::BootError;

const DEVICE: &str = "/dev/tpmrm0";
const STEP: &str = "tpm";
/// For one answer. Making an RSA key takes a discrete TPM up to a minute.
const DEADLINE_SECONDS: i64 = 120;

/// The open device.
#[derive(Debug)]
pub struct Tpm(OwnedFd);

impl Tpm {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Code::TeeMissing`] when there is none, [`Code::Tpm`] otherwise.
    pub fn open() -> Result<Self, BootError> {
        // Without O_NONBLOCK the kernel would run the command inside write(2),
        // with no deadline of ours.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::open(DEVICE, flags, Mode::empty())
            .map(Self)
            .map_err(|errno| {
                let absent = [Errno::NOENT, Errno::NODEV, Errno::NXIO].contains(&errno);
                let code = if absent { Code::TeeMissing } else { Code::Tpm };
                BootError::new(code, STEP, format_args!("open {DEVICE}"), errno)
            })
    }

    /// Quotes every register, bound to `report_data`. The key is gone from the
    /// TPM when this returns.
    ///
    /// # Errors
    /// [`Code::Tpm`].
    pub fn evidence(&mut self, report_data: &ReportData) -> Result<Evidence, BootError> {
        let ak = tpm::create_ak(self).map_err(refused("create the attestation key"))?;
        let ak_public = ak.public_der.clone();
        let quote = tpm::quote(self, &ak, report_data.qualifying_data());
        let flushed = tpm::flush(self, ak).map_err(refused("flush the attestation key"));
        let quote = quote.map_err(refused("quote the PCRs"))?;
        flushed?;
        Ok(TpmEvidence { quote, ak_public }.to_evidence())
    }

    /// Waits for the answer to be there, whatever signals come in between.
    fn wait(&self) -> Result<(), Errno> {
        let mut deadline = clock_gettime(ClockId::Monotonic);
        deadline.tv_sec = deadline.tv_sec.saturating_add(DEADLINE_SECONDS);
        loop {
            let now = clock_gettime(ClockId::Monotonic);
            let left = deadline.checked_sub(now).filter(|left| left.tv_sec >= 0);
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(
                &mut fds,
                Some(&left.unwrap_or(Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                })),
            ) {
                Ok(0) if left.is_none() => return Err(Errno::TIMEDOUT),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl Transport for Tpm {
    type Error = Errno;

    /// One write and one read, each of a whole frame: the driver keeps no
    /// part of a command, and drops what a short read leaves behind.
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, Errno> {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, command))?;
        if written != command.len() {
            return Err(Errno::IO);
        }
        self.wait()?;
        let mut answer = alloc::vec![0; MAX_RESPONSE];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut answer[..]))?;
        answer.truncate(length);
        Ok(answer)
    }
}

/// Turns the TPM's error into the step's.
fn refused(action: &'static str) -> impl Fn(tpm::Error<Errno>) -> BootError {
    move |error| BootError::new(Code::Tpm, STEP, action, error)
}
