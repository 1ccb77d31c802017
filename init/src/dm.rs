//! Device-mapper devices, by own ioctls with pinned parameters
//! (Linux `Documentation/admin-guide/device-mapper`, `linux/dm-ioctl.h`).

use alloc::format;
use alloc::string::String;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io;
use zeroize::Zeroizing;

use crate::sys::device_mapper::{Command, Request};

const READONLY: u32 = 1 << 0;
/// `DM_SUSPEND_FLAG`; absent in a suspend request, it resumes.
const SUSPEND: u32 = 1 << 1;
/// `DM_STATUS_TABLE_FLAG`: a status request for the table, not for statistics.
const STATUS_TABLE: u32 = 1 << 4;
const SKIP_LOCKFS: u32 = 1 << 10;
/// `DM_SECURE_DATA_FLAG`: the kernel wipes its copies of the request.
const SECURE_DATA: u32 = 1 << 15;

/// A device-mapper device in use.
#[derive(Debug)]
pub struct Device {
    control: OwnedFd,
    name: String,
    number: u64,
    /// [`READONLY`] or nothing.
    access: u32,
}

/// One target over the whole device.
pub struct Target {
    /// Name of the target type.
    pub kind: &'static str,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Its parameters, which may hold a key.
    pub parameters: Zeroizing<String>,
}

impl core::fmt::Debug for Target {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { kind, sectors, .. } = self;
        write!(f, "Target({kind}, {sectors} sectors, parameters redacted)")
    }
}

impl Device {
    /// Creates a read-only device, loads its table and puts it into use.
    ///
    /// # Errors
    /// What the kernel says: `EBUSY` for a name in use, `EINVAL` for parameters it
    /// does not take.
    pub fn open(name: &str, target: &Target) -> io::Result<Self> {
        Self::open_for(READONLY, name, target)
    }

    /// The same for a device that can be written.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_writable(name: &str, target: &Target) -> io::Result<Self> {
        Self::open_for(0, name, target)
    }

    fn open_for(access: u32, name: &str, target: &Target) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let control = rustix::fs::open("/dev/mapper/control", flags, Mode::empty())?;
        let mut create = Request::new(name, 0)?;
        create.run(&control, Command::Create)?;
        let device = Self {
            control,
            name: String::from(name),
            number: create.device(),
            access,
        };
        device.load_table(target)?;
        device.resume()?;
        Ok(device)
    }

    /// `major:minor`, as the table of another device takes it.
    pub fn device(&self) -> String {
        format!("{}:{}", major(self.number), minor(self.number))
    }

    /// Path of the node the kernel made in devtmpfs.
    pub fn node(&self) -> String {
        format!("/dev/dm-{}", minor(self.number))
    }

    /// Exchanges the table under a mounted filesystem. Reads wait meanwhile;
    /// nothing is frozen, since nothing is ever written.
    ///
    /// # Errors
    /// What the kernel says. The device then may be left suspended.
    pub fn reload(&self, target: &Target) -> io::Result<()> {
        self.load_table(target)?;
        Request::new(&self.name, SUSPEND | SKIP_LOCKFS)?.run(&self.control, Command::Suspend)?;
        self.resume()
    }

    /// Whether the kernel, asked for the parameters of the only target, says
    /// these. What it took from the disk shows here too.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reads_back(&self, target: &Target) -> io::Result<bool> {
        let mut status = Request::new(&self.name, STATUS_TABLE)?;
        status.run(&self.control, Command::TableStatus)?;
        Ok(status.has_parameters(&target.parameters))
    }

    /// Takes the device out of use: what it holds back is written out.
    ///
    /// # Errors
    /// `EBUSY` while something uses it.
    pub fn remove(self) -> io::Result<()> {
        Request::new(&self.name, 0)?.run(&self.control, Command::Remove)
    }

    fn load_table(&self, target: &Target) -> io::Result<()> {
        let mut load = Request::new(&self.name, self.access | SECURE_DATA)?;
        load.set_table(target.kind, target.sectors, &target.parameters)?;
        load.run(&self.control, Command::LoadTable)
    }

    fn resume(&self) -> io::Result<()> {
        Request::new(&self.name, self.access | SKIP_LOCKFS)?.run(&self.control, Command::Suspend)
    }
}

/// `huge_decode_dev` (`linux/kdev_t.h`): minor in bits 0-7 and 20-31, major in 8-19.
fn major(number: u64) -> u64 {
    (number >> 8) & 0xfff
}

fn minor(number: u64) -> u64 {
    (number & 0xff) | ((number >> 12) & 0xfff00)
}

#[cfg(test)]
mod tests {
    use super::{major, minor};

    #[test]
    fn decodes_device_numbers() {
        assert_eq!((major(0xfe00), minor(0xfe00)), (254, 0));
        assert_eq!((major(0x0010_fd05), minor(0x0010_fd05)), (253, 0x105));
    }
}
