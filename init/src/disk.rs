//! Which disk plays which role. The serial is only the host's hint: what counts
//! is that the disk opens under its root hash or key.

use alloc::format;
use alloc::string::String;
use core::fmt;

use measured_boot::verity::SECTOR_SIZE;
use rustix::io::Errno;

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

/// Why there is no such disk.
#[derive(Debug)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as disk::Error"
)]
pub enum Error {
    /// No disk with that serial.
    Missing,
    /// More than one: guessing would let the host choose.
    Ambiguous,
    /// Shorter than what it should hold.
    Short {
        /// Its length in bytes.
        got: u64,
        /// The least it must have.
        expected: u64,
    },
    /// Its description could not be read.
    Io(Errno),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no disk has this serial"),
            Self::Ambiguous => f.write_str("more than one disk has this serial"),
            Self::Short { got, expected } => {
                write!(f, "got {got} bytes, expected at least {expected}")
            }
            Self::Io(errno) => write!(f, "{errno}"),
        }
    }
}

/// Finds the one virtio disk with this serial, of at least `sectors` sectors.
///
/// # Errors
/// None, several, too short, or the kernel's error.
pub fn find(serial: &str, sectors: u64) -> Result<Disk, Error> {
    let mut matching = file::list("/sys/block").map_err(Error::Io)?;
    matching.retain(|name| {
        name.starts_with("vd")
            && file::read_line(&format!("/sys/block/{name}/serial"), LIMIT)
                .is_ok_and(|s| s == serial)
    });
    let name = match matching.as_slice() {
        [] => return Err(Error::Missing),
        [name] => name,
        _ => return Err(Error::Ambiguous),
    };

    let attribute = |attribute: &str| {
        file::read_line(&format!("/sys/block/{name}/{attribute}"), LIMIT).map_err(Error::Io)
    };
    let disk = Disk {
        device: attribute("dev")?,
        sectors: attribute("size")?
            .parse()
            .map_err(|_| Error::Io(Errno::INVAL))?,
    };
    if disk.sectors < sectors {
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_SIZE);
        return Err(Error::Short {
            got: bytes(disk.sectors),
            expected: bytes(sectors),
        });
    }
    Ok(disk)
}
