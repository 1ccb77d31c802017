//! Registers, computed from a log as the machine computed them.

use std::collections::BTreeMap;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::{Algorithm, Error, Event, EventLog, EventType, Tcb};

/// `TCG_EfiStartupLocalityEvent.Signature` (section 10.4.5.3).
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
/// Who may start a TPM: the platform, the host's or the dynamic root of trust.
const STARTUP_LOCALITIES: [u8; 3] = [0, 3, 4];
/// The registers of the firmware, which it ends with one separator each.
const FIRMWARE_PCRS: u32 = 8;
/// MRTD and RTMR0 to RTMR3.
const HIGHEST_TDX_REGISTER: u32 = 4;
/// OVMF ends the variables of secure boot with one separator and the boot
/// manager with another, in RTMR0 and RTMR1 or, before 2024, both in RTMR0.
const TDX_SEPARATORS: usize = 2;

/// Values by register index; a register that nothing was extended into is absent.
pub type Registers = BTreeMap<u32, Vec<u8>>;

/// One bank of registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bank {
    /// Its hash algorithm.
    pub algorithm: Algorithm,
    /// Its registers after the last event.
    pub registers: Registers,
}

impl EventLog<'_> {
    /// Extends every digest into its register, for each bank whose algorithm
    /// is known. `EV_NO_ACTION` extends nothing; a TPM that was started at
    /// another locality begins PCR 0 with its number (section 10.4.5.3).
    ///
    /// # Errors
    /// An event of a register that `tcb` has not, a second or late
    /// `StartupLocality`, a register of the firmware with two separators or,
    /// for a TPM, with none: such a log hides what came between.
    pub fn replay(&self, tcb: Tcb) -> Result<Vec<Bank>, Error> {
        match tcb {
            Tcb::Tpm => self.check_separators()?,
            Tcb::Tdx => self.check_tdx()?,
        }
        let locality = self.startup_locality(tcb)?;
        let mut banks = Vec::new();
        for (algorithm, size) in &self.algorithms {
            if algorithm.size().is_none() {
                continue;
            }
            let mut registers = Registers::new();
            if let Some(locality) = locality {
                let mut initial = vec![0; size.saturating_sub(1)];
                initial.push(locality);
                registers.insert(0, initial);
            }
            for event in self.extended() {
                let Some(digest) = event.digest(*algorithm) else {
                    continue;
                };
                let register = registers
                    .entry(event.register)
                    .or_insert_with(|| vec![0; *size]);
                *register = extend(*algorithm, register, digest);
            }
            banks.push(Bank {
                algorithm: *algorithm,
                registers,
            });
        }
        Ok(banks)
    }

    /// The events that changed a register.
    pub fn extended(&self) -> impl Iterator<Item = &Event<'_>> + Clone {
        self.events
            .iter()
            .filter(|event| event.kind != EventType::NO_ACTION)
    }

    fn startup_locality(&self, tcb: Tcb) -> Result<Option<u8>, Error> {
        let mut locality = None;
        let mut begun = false;
        for event in &self.events {
            if event.kind != EventType::NO_ACTION {
                begun |= event.register == 0;
                continue;
            }
            let Some(value) = event.data.strip_prefix(STARTUP_LOCALITY) else {
                continue;
            };
            let refuse = |cause: &str| {
                Err(Error::at(
                    event.offset,
                    format!("startup locality: {cause}"),
                ))
            };
            let &[value] = value else {
                return refuse(&format!("got {} bytes, expected 1", value.len()));
            };
            if !STARTUP_LOCALITIES.contains(&value) {
                return refuse(&format!("got {value}, expected 0, 3 or 4"));
            }
            if tcb != Tcb::Tpm || event.register != 0 {
                let name = tcb.register_name(event.register);
                return refuse(&format!("got {name}, expected PCR 0 of a TPM"));
            }
            if begun {
                return refuse("got it after PCR 0 was extended");
            }
            if locality.replace(value).is_some() {
                return refuse("got it twice");
            }
        }
        Ok(locality)
    }

    fn check_separators(&self) -> Result<(), Error> {
        for register in 0..FIRMWARE_PCRS {
            let mut events = self.extended().filter(|event| event.register == register);
            let mut separators = events
                .clone()
                .filter(|event| event.kind == EventType::SEPARATOR);
            let first = separators.next();
            if let Some(second) = separators.next() {
                let cause = format!("got a second separator of PCR {register}");
                return Err(Error::at(second.offset, cause));
            }
            if first.is_none() && events.next().is_some() {
                let cause =
                    format!("got the end of the log, expected a separator of PCR {register}");
                return Err(Error::at(self.end, cause));
            }
        }
        Ok(())
    }

    fn check_tdx(&self) -> Result<(), Error> {
        for event in self.extended() {
            if !(1..=HIGHEST_TDX_REGISTER).contains(&event.register) {
                let got = event.register;
                let cause =
                    format!("register index: got {got}, expected 1 to {HIGHEST_TDX_REGISTER}");
                return Err(Error::at(event.offset, cause));
            }
        }
        let is_separator = |event: &&Event<'_>| event.kind == EventType::SEPARATOR;
        let separators = self.extended().filter(is_separator);
        let cause = |event: &Event<'_>, count| {
            let name = Tcb::Tdx.register_name(event.register);
            Error::at(event.offset, format!("got a {count} separator, of {name}"))
        };
        if let Some(third) = separators.clone().nth(TDX_SEPARATORS) {
            return Err(cause(third, "third"));
        }
        let beyond_rtmr0 = separators.filter(|event| event.register > 1);
        match beyond_rtmr0.clone().nth(1) {
            Some(second) => Err(cause(second, "second")),
            None => Ok(()),
        }
    }
}

/// `TPM2_PCR_Extend`: the digest of register and digest, one after the other.
fn extend(algorithm: Algorithm, register: &[u8], digest: &[u8]) -> Vec<u8> {
    fn hash<D: Digest>(register: &[u8], digest: &[u8]) -> Vec<u8> {
        D::new()
            .chain_update(register)
            .chain_update(digest)
            .finalize()
            .to_vec()
    }
    match algorithm {
        Algorithm::Sha1 => hash::<Sha1>(register, digest),
        Algorithm::Sha256 => hash::<Sha256>(register, digest),
        Algorithm::Sha384 => hash::<Sha384>(register, digest),
        Algorithm::Sha512 => hash::<Sha512>(register, digest),
        Algorithm::Other(_) => register.to_vec(),
    }
}
