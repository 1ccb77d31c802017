//! The host's side of an emulated launch: a process on the other end of the
//! guest's second serial port that answers as the processor would.
//!
//! What it signs it computes from the very files that QEMU is given, when QEMU
//! connects: so changing any measured byte changes the report, as in hardware.

mod event_log;
mod firmware;
mod server;
mod tee;

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a failure here is a failed test"
)]
mod tests;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use measured_boot::predict::snp::{CpuType, Firmware, GuestFeatures, HashTable, Vmm};
use measured_boot::predict::{self, LowMemory, PageOrder, Payload};
use measured_boot::reference_values::{Hex48, Register};

pub use self::firmware::write_firmware;
pub use self::server::Processor;
pub use self::tee::{Snp, Tdx, Tee};

/// SNPActive alone.
pub const GUEST_FEATURES: u64 = 1;

/// What QEMU is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The file of `-bios`.
    pub firmware: PathBuf,
    /// The file of `-kernel`.
    pub kernel: PathBuf,
    /// The file of `-initrd`.
    pub initrd: PathBuf,
    /// The text of `-append`.
    pub cmdline: String,
    /// MiB of `-m`.
    pub memory: u32,
    /// Number of `-smp`.
    pub vcpus: u32,
}

/// The registers of a TD, and the log that replays to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdRegisters {
    /// MRTD.
    pub mrtd: [u8; 48],
    /// RTMR0 to RTMR3.
    pub rtmrs: [[u8; 48]; 4],
    /// What the ACPI table CCEL points at, without what follows the last event.
    pub log: Vec<u8>,
}

struct Files {
    firmware: Vec<u8>,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
}

impl Boot {
    /// What a processor measures when QEMU launches this as a SEV-SNP guest.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn launch_digest(&self, cpu: CpuType) -> Result<[u8; 48]> {
        let files = self.read()?;
        let table = HashTable::new(&files.kernel, &files.initrd, self.cmdline.as_bytes());
        let firmware = Firmware::read(&files.firmware)?;
        let launch = firmware.launch(Some(&table), Vmm::Qemu(cpu))?;
        let digests = launch.digests(GuestFeatures::new(GUEST_FEATURES)?);
        let last = usize::try_from(self.vcpus)?.checked_sub(1);
        let digest = last.and_then(|last| digests.into_iter().nth(last));
        Ok(digest.context("cannot launch a guest without a vCPU")?.0)
    }

    /// What is in the registers of a TD when its kernel runs. RTMR0 is of a
    /// firmware that found nothing but its own variables.
    ///
    /// # Errors
    /// As of [`Self::launch_digest`].
    pub fn td_registers(&self) -> Result<TdRegisters> {
        let files = self.read()?;
        let memory = LowMemory::of(self.memory);
        let payload = Payload::Direct {
            kernel: &files.kernel,
            initrd: &files.initrd,
            cmdline: &self.cmdline,
        };
        let td = predict::Td {
            firmware: &files.firmware,
            order: PageOrder::EachPage,
            memory,
        };
        let values = predict::tdx(&payload, &td, Vec::new())?;
        let variables = predict::variables_digest(&files.firmware)?;
        let variables = variables.context("the firmware has no variables section")?;
        let [kernel, files] = predict::td_events(&payload, memory)?;
        let log = event_log::encode(&[&[variables], &kernel, &files])?;
        let [_, rtmr1, rtmr2, rtmr3] = &values.rtmrs;
        Ok(TdRegisters {
            mrtd: first(&values.mrtd)?,
            rtmrs: [
                event_log::replay(&[variables]),
                first(rtmr1)?,
                first(rtmr2)?,
                first(rtmr3)?,
            ],
            log,
        })
    }

    /// Arguments for QEMU's emulator: this firmware, and in memory the hash
    /// table without which it refuses to start a kernel. The table names the
    /// kernel as QEMU rewrites it for a machine without SEV.
    ///
    /// # Errors
    /// As of [`Self::launch_digest`], or the table cannot be written into `folder`.
    pub fn hash_table_arguments(&self, folder: &Path) -> Result<Vec<OsString>> {
        let files = self.read()?;
        let kernel = predict::rewritten(&files.kernel, Some(files.initrd.len()), self.memory)?;
        let table = HashTable::new(&kernel, &files.initrd, self.cmdline.as_bytes());
        let address = Firmware::read(&files.firmware)?.hash_table_address();
        let address = address.context("the firmware checks no kernel")?;
        let file = folder.join("hash-table");
        fs::write(&file, table.bytes())
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut loader = OsString::from("loader,force-raw=on,file=");
        loader.push(&file);
        loader.push(format!(",addr={address:#x}"));
        Ok(vec!["-device".into(), loader])
    }

    fn read(&self) -> Result<Files> {
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Files {
            firmware: read(&self.firmware)?,
            kernel: read(&self.kernel)?,
            initrd: read(&self.initrd)?,
        })
    }
}

fn first(register: &Register<Hex48>) -> Result<[u8; 48]> {
    let value = match register {
        Register::Predicted { values, .. } => values.first(),
        Register::Pinned { .. } | Register::Ignored { .. } => None,
    };
    Ok(value.context("the register is not predicted")?.0)
}
