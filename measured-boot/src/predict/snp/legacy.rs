//! Launch digests of plain SEV and of SEV-ES, for auditors who compare hosts.
//! No image of this project runs there: neither keeps the host from changing
//! the guest's memory.
//!
//! SEV API 55766, section 6.4: one SHA-256 over all that is handed over, in
//! order: the firmware, the hash table, and with SEV-ES the vCPUs.

use sha2::{Digest as _, Sha256};

use super::metadata::Metadata;
use super::{Error, HashTable, Machine, vmsa};

/// The launch digest of a SEV guest.
///
/// # Errors
/// The firmware's metadata, or [`Error::MissingEntry`] when it would not check
/// the kernel.
pub fn sev_digest(firmware: &[u8], kernel: Option<&HashTable>) -> Result<[u8; 32], Error> {
    let metadata = Metadata::read(firmware)?;
    Ok(start(&metadata, firmware, kernel)?.finalize().into())
}

/// The launch digest of a SEV-ES guest. SEV-ES has no guest features.
///
/// # Errors
/// As of [`sev_digest`].
pub fn sev_es_digest(
    firmware: &[u8],
    kernel: Option<&HashTable>,
    machine: &Machine,
) -> Result<[u8; 32], Error> {
    let metadata = Metadata::read(firmware)?;
    let mut hash = start(&metadata, firmware, kernel)?;
    hash.update(vmsa::page(machine.vmm, 0, vmsa::FIRST_EIP));
    let others = vmsa::page(machine.vmm, 0, metadata.reset_eip);
    for _ in 1..machine.vcpus() {
        hash.update(others);
    }
    Ok(hash.finalize().into())
}

fn start(
    metadata: &Metadata,
    firmware: &[u8],
    kernel: Option<&HashTable>,
) -> Result<Sha256, Error> {
    let mut hash = Sha256::new();
    hash.update(firmware);
    if let Some(table) = kernel {
        if metadata.hash_table.is_none() {
            let entry = "SEV_HASH_TABLE_RV";
            return Err(Error::MissingEntry { entry });
        }
        hash.update(table.bytes());
    }
    Ok(hash)
}
