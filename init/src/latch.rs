//! The end of the guest's right to keys: a register that only a reboot resets.
//!
//! The broker releases keys to a guest whose latch register is zero. Once this
//! step has passed, no quote of this boot shows zero again, whoever asks for it.
//!
//! SEV-SNP has no such register, and Linux 6.12 cannot extend TDX's RTMR3. There
//! the container's lack of any way to a report is what holds; a broker that
//! remembers the REPORT_ID of SEV-SNP holds on its own.

use measured_boot::base16;
use measured_boot::code::Code;
use measured_boot::tpm::{self, LATCH_EVENT, LATCH_PCR};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::attestation::{Device, PATIENCE, TeeDevice};
use crate::error::BootError;
use crate::network::deadline::Deadline;
use crate::tpm::Tpm;

const STEP: &str = "latch";

/// The right to keys has ended: a TPM's register was read back with its final
/// value, the entry for reports of SEV-SNP or TDX is gone, or there was no broker.
#[derive(Debug)]
pub struct Latched(());

/// Closes the latch, and with it the TEE device.
///
/// # Errors
/// [`Code::Latch`] when the register was not zero before, or does not hold the
/// predicted value after; [`Code::Tpm`] when the TPM refuses a command,
/// [`Code::Tsm`] when the entry for reports cannot be removed.
pub fn close(device: TeeDevice) -> Result<Latched, BootError> {
    let mut tpm = match device.into_device() {
        None => return Ok(Latched(())),
        Some(Device::Tsm(tsm)) => return tsm.close().map(Latched),
        Some(Device::Tpm(tpm)) => tpm,
    };
    tpm.set_deadline(Deadline::after(PATIENCE));
    let open = [0; 32];
    expect(&mut tpm, "find the latch open", &open)?;
    let event = Sha256::digest(LATCH_EVENT).into();
    tpm::extend(&mut tpm, LATCH_PCR, &event).map_err(failed("extend PCR 15"))?;
    expect(&mut tpm, "close the latch", &tpm::extended(&open, &event))?;
    Ok(Latched(()))
}

fn expect(tpm: &mut Tpm, action: &'static str, value: &[u8; 32]) -> Result<(), BootError> {
    let pcr = tpm::read_pcr(tpm, LATCH_PCR).map_err(failed("read PCR 15"))?;
    if pcr == *value {
        return Ok(());
    }
    let (got, expected) = (base16::encode(&pcr), base16::encode(value));
    let cause = format_args!("got PCR 15 {got}, expected {expected}");
    Err(BootError::new(Code::Latch, STEP, action, cause))
}

fn failed(action: &'static str) -> impl Fn(tpm::Error<Errno>) -> BootError {
    move |error| BootError::new(Code::Tpm, STEP, action, error)
}
