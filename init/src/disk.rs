//! Which disk plays which role. The serial is only the host's hint: what counts
//! is that the disk opens under its root hash or key.

use alloc::format;
use alloc::string::String;
use core::fmt;

use measured_boot::code::Code;
use measured_boot::verity::SECTOR_SIZE;
use rustix::io::{self, Errno};

use crate::error::BootError;
use crate::file;

/// Longest text read from a disk's attributes in `/sys`.
const LIMIT: usize = 256;

/// The only disk with a certain serial.
#[derive(Debug)]
pub struct Disk {
    /// `major:minor`, as device-mapper tables take it.
    pub device: String,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
}

/// The step that needs a disk, and its codes for a disk that cannot be had.
#[derive(Debug)]
pub struct Needs {
    /// Name of the step.
    pub step: &'static str,
    /// No disk with that serial.
    pub missing: Code,
    /// More than one: guessing would let the host choose.
    pub ambiguous: Code,
    /// Shorter than what it should hold.
    pub short: Code,
    /// Its description could not be read.
    pub unreadable: Code,
}

/// Finds the one virtio disk with this serial, of at least `sectors` sectors.
///
/// # Errors
/// A code of `needs`: none, several, too short, or the kernel's error.
pub fn find(serial: &str, sectors: u64, needs: &Needs) -> Result<Disk, BootError> {
    let error = |code, cause: &dyn fmt::Display| {
        BootError::new(code, needs.step, format_args!("find disk {serial}"), cause)
    };
    let unreadable = |errno: Errno| error(needs.unreadable, &errno);
    let mut names = file::names("/sys/block", "vd").map_err(unreadable)?;
    names.retain(|name| attribute(name, "serial").is_ok_and(|s| s == serial));
    let name = match names.as_slice() {
        [] => return Err(error(needs.missing, &"no disk has this serial")),
        [name] => name,
        _ => {
            return Err(error(
                needs.ambiguous,
                &"more than one disk has this serial",
            ));
        }
    };

    let size = attribute(name, "size").map_err(unreadable)?;
    let disk = Disk {
        device: attribute(name, "dev").map_err(unreadable)?,
        sectors: size.parse().map_err(|_| unreadable(Errno::INVAL))?,
    };
    if disk.sectors < sectors {
        let [got, expected] = [disk.sectors, sectors].map(|n| n.saturating_mul(SECTOR_SIZE));
        let cause = format_args!("got {got} bytes, expected at least {expected}");
        return Err(error(needs.short, &cause));
    }
    Ok(disk)
}

fn attribute(disk: &str, name: &str) -> io::Result<String> {
    file::read_line(&format!("/sys/block/{disk}/{name}"), LIMIT)
}
