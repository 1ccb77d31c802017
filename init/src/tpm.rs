//! The TPM behind `/dev/tpmrm0`, where the kernel's resource manager keeps our
//! key apart from whatever else is loaded.

use alloc::vec::Vec;

use measured_boot::code::Code;
use measured_boot::evidence::{Evidence, ReportData, TpmEvidence};
use measured_boot::tpm::{self, MAX_RESPONSE, Transport};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::fs::{Access, Mode, OFlags};
use rustix::io::{Errno, read, retry_on_intr, write};

use crate::attestation::PATIENCE;
use crate::error::BootError;
use crate::network::deadline::Deadline;

const DEVICE: &str = "/dev/tpmrm0";
const STEP: &str = "tpm";

/// The open device.
#[derive(Debug)]
pub struct Tpm {
    device: OwnedFd,
    /// For every answer.
    deadline: Deadline,
}

/// Whether there is one.
pub fn is_present() -> bool {
    rustix::fs::access(DEVICE, Access::EXISTS).is_ok()
}

impl Tpm {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Code::TeeMissing`] when there is none, [`Code::Tpm`] otherwise.
    pub fn open() -> Result<Self, BootError> {
        // Without O_NONBLOCK the kernel would run the command inside write(2),
        // with no deadline of ours.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let device = rustix::fs::open(DEVICE, flags, Mode::empty());
        let deadline = Deadline::after(PATIENCE);
        device
            .map(|device| Self { device, deadline })
            .map_err(|errno| {
                let absent = [Errno::NOENT, Errno::NODEV, Errno::NXIO].contains(&errno);
                let code = if absent { Code::TeeMissing } else { Code::Tpm };
                BootError::new(code, STEP, format_args!("open {DEVICE}"), errno)
            })
    }

    /// From now on, answers are waited for until `deadline`.
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// Quotes every register, bound to `report_data`. The key is gone from the
    /// TPM when this returns.
    ///
    /// # Errors
    /// [`Code::Tpm`].
    pub fn evidence(&mut self, report_data: &ReportData) -> Result<Evidence, BootError> {
        let refused = |action| move |error| BootError::new(Code::Tpm, STEP, action, error);
        let ak = tpm::create_ak(self).map_err(refused("create the attestation key"))?;
        let ak_public = ak.public_der.clone();
        let quote = tpm::quote(self, &ak, report_data.qualifying_data());
        let flushed = tpm::flush(self, ak).map_err(refused("flush the attestation key"));
        let quote = quote.map_err(refused("quote the PCRs"))?;
        flushed?;
        Ok(TpmEvidence { quote, ak_public }.to_evidence())
    }
}

impl Transport for Tpm {
    type Error = Errno;

    /// One write and one read, each of a whole frame: the driver keeps no
    /// part of a command, and drops what a short read leaves behind.
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, Errno> {
        if retry_on_intr(|| write(&self.device, command))? != command.len() {
            return Err(Errno::IO);
        }
        self.deadline.wait(&self.device, PollFlags::IN)?;
        let mut answer = alloc::vec![0; MAX_RESPONSE];
        let length = retry_on_intr(|| read(&self.device, &mut answer[..]))?;
        answer.truncate(length);
        Ok(answer)
    }
}
