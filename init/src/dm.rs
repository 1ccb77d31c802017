//! Device-mapper devices, by own ioctls with pinned parameters
//! (Linux `Documentation/admin-guide/device-mapper`, `linux/dm-ioctl.h`).
//!
//! A device really changes state several times, and a wrong order is a real bug
//! class, so here the state is a type: [`Created`], [`Loaded`], [`Active`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::marker::PhantomData;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::{self, Errno};
use zeroize::Zeroizing;

use crate::sys::device_mapper::{self, Command, HEADER_SIZE};

/// `DM_VERSION_MAJOR` of the interface; minor 0 accepts any newer kernel.
const VERSION: [u32; 3] = [4, 0, 0];
const READONLY: u32 = 1 << 0;
const SKIP_LOCKFS: u32 = 1 << 10;
/// `DM_SECURE_DATA_FLAG`: the kernel wipes its copies of the request.
const SECURE_DATA: u32 = 1 << 15;
/// `DM_SUSPEND_FLAG`; absent in a suspend request, it resumes.
const SUSPEND: u32 = 1 << 1;
/// `DM_STATUS_TABLE_FLAG`: a status request for the table, not for statistics.
const STATUS_TABLE: u32 = 1 << 4;
/// Room for one table as the kernel reads it back.
const STATUS_SIZE: usize = 1024;
/// `struct dm_target_spec`: sector_start, length, status, next, target_type[16].
const SPEC_SIZE: usize = 40;

/// Offsets in `struct dm_ioctl`.
mod offset {
    pub(super) const VERSION: usize = 0;
    pub(super) const DATA_START: usize = 16;
    pub(super) const TARGET_COUNT: usize = 20;
    pub(super) const FLAGS: usize = 28;
    pub(super) const DEV: usize = 40;
    pub(super) const NAME: usize = 48;
}

/// A device without a table.
#[derive(Debug)]
pub enum Created {}
/// A device whose table is loaded but not in use.
#[derive(Debug)]
pub enum Loaded {}
/// A device that can be read.
#[derive(Debug)]
pub enum Active {}

/// A device-mapper device.
#[derive(Debug)]
pub struct Device<State> {
    control: OwnedFd,
    name: String,
    number: u64,
    state: PhantomData<State>,
}

/// One target over the whole device.
pub struct Target<'a> {
    /// Name of the target type.
    pub kind: &'static str,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Its parameters, which may hold a key.
    pub parameters: &'a str,
}

impl core::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Target({}, {} sectors, parameters redacted)",
            self.kind, self.sectors
        )
    }
}

impl Device<Created> {
    /// Creates a device with no table yet.
    ///
    /// # Errors
    /// What the kernel says; `EBUSY` for a name in use.
    pub fn create(name: &str) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let control = rustix::fs::open("/dev/mapper/control", flags, Mode::empty())?;
        let mut request = request(name, 0, None)?;
        device_mapper::run(&control, Command::Create, &mut request)?;
        let number = field(&request, offset::DEV).map(u64::from_ne_bytes)?;
        Ok(Self {
            control,
            name: String::from(name),
            number,
            state: PhantomData,
        })
    }

    /// Creates a device that can be written, with a table, and puts it into use.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn writable(name: &str, target: &Target<'_>) -> io::Result<Device<Active>> {
        let created = Self::create(name)?;
        created.load_table(target, 0)?;
        created.into_state::<Loaded>().activate()
    }

    /// Loads the table of a read-only device.
    ///
    /// # Errors
    /// What the kernel says; `EINVAL` for parameters it does not take.
    pub fn load(self, target: &Target<'_>) -> io::Result<Device<Loaded>> {
        self.load_table(target, READONLY)?;
        Ok(self.into_state())
    }
}

impl Device<Loaded> {
    /// Puts the loaded table into use.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn activate(self) -> io::Result<Device<Active>> {
        self.resume()?;
        Ok(self.into_state())
    }
}

impl Device<Active> {
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
    pub fn reload(&self, target: &Target<'_>) -> io::Result<()> {
        self.load_table(target, READONLY)?;
        let mut suspend = request(&self.name, SUSPEND | SKIP_LOCKFS, None)?;
        device_mapper::run(&self.control, Command::Suspend, &mut suspend)?;
        self.resume()
    }

    /// Whether the kernel, asked for the parameters of the only target, says
    /// these. What it took from the disk shows here too.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reads_back(&self, parameters: &str) -> io::Result<bool> {
        let mut status = request(&self.name, STATUS_TABLE, None)?;
        status.resize(STATUS_SIZE, 0);
        device_mapper::run(&self.control, Command::TableStatus, &mut status)?;
        // The kernel starts its answer where the request said.
        let text = status.get(HEADER_SIZE.saturating_add(SPEC_SIZE)..);
        let end = |text: &&[u8]| text.iter().position(|byte| *byte == 0);
        let text = text.and_then(|text| text.get(..end(&text)?));
        Ok(text == Some(parameters.as_bytes()))
    }

    /// Takes the device out of use: what it holds back is written out.
    ///
    /// # Errors
    /// `EBUSY` while something uses it.
    pub fn remove(self) -> io::Result<()> {
        let mut remove = request(&self.name, 0, None)?;
        device_mapper::run(&self.control, Command::Remove, &mut remove)
    }
}

impl<State> Device<State> {
    fn load_table(&self, target: &Target<'_>, access: u32) -> io::Result<()> {
        let mut request = request(&self.name, access | SECURE_DATA, Some(target))?;
        device_mapper::run(&self.control, Command::LoadTable, &mut request)
    }

    fn resume(&self) -> io::Result<()> {
        let mut resume = request(&self.name, READONLY | SKIP_LOCKFS, None)?;
        device_mapper::run(&self.control, Command::Suspend, &mut resume)
    }

    fn into_state<Next>(self) -> Device<Next> {
        let Self {
            control,
            name,
            number,
            state: PhantomData,
        } = self;
        Device {
            control,
            name,
            number,
            state: PhantomData,
        }
    }
}

/// Lays out `struct dm_ioctl`, and after it, for a table, one `struct
/// dm_target_spec` with its parameters as a C string.
fn request(name: &str, flags: u32, target: Option<&Target<'_>>) -> io::Result<Zeroizing<Vec<u8>>> {
    let parameters = target.map_or("", |target| target.parameters);
    // The kernel wants every spec aligned to 8 bytes.
    let size = HEADER_SIZE
        .saturating_add(SPEC_SIZE)
        .saturating_add(parameters.len())
        .saturating_add(1)
        .next_multiple_of(8);
    // Reserved at once: growing would leave copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    bytes.resize(HEADER_SIZE, 0);
    for (index, part) in VERSION.iter().enumerate() {
        put(
            &mut bytes,
            offset::VERSION.saturating_add(index.saturating_mul(4)),
            &part.to_ne_bytes(),
        )?;
    }
    put(
        &mut bytes,
        offset::DATA_START,
        &u32::try_from(HEADER_SIZE).unwrap_or(0).to_ne_bytes(),
    )?;
    put(
        &mut bytes,
        offset::TARGET_COUNT,
        &u32::from(target.is_some()).to_ne_bytes(),
    )?;
    put(&mut bytes, offset::FLAGS, &flags.to_ne_bytes())?;
    put(&mut bytes, offset::NAME, name.as_bytes())?;
    if let Some(target) = target {
        let mut kind = [0; 16];
        put(&mut kind, 0, target.kind.as_bytes())?;
        bytes.extend_from_slice(&0u64.to_ne_bytes());
        bytes.extend_from_slice(&target.sectors.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&kind);
        bytes.extend_from_slice(parameters.as_bytes());
    }
    bytes.resize(size, 0);
    Ok(bytes)
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) -> io::Result<()> {
    let end = offset.saturating_add(value.len());
    bytes
        .get_mut(offset..end)
        .ok_or(Errno::INVAL)?
        .copy_from_slice(value);
    Ok(())
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> io::Result<[u8; N]> {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(Errno::INVAL)
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
    use super::{HEADER_SIZE, Target, major, minor, request};

    #[test]
    fn request_is_laid_out_as_the_kernel_reads_it() {
        let target = Target {
            kind: "verity",
            sectors: 72,
            parameters: "1 254:0",
        };
        let bytes = request("rootfs", 0x401, Some(&target)).unwrap();
        assert_eq!(
            bytes.len(),
            (HEADER_SIZE + 40 + 8_usize).next_multiple_of(8)
        );
        assert_eq!(bytes[0..12], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..24], [0x38, 1, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[28..32], [1, 4, 0, 0]);
        assert_eq!(bytes[48..55], *b"rootfs\0");
        assert_eq!(
            bytes[HEADER_SIZE + 8..HEADER_SIZE + 16],
            72u64.to_ne_bytes()
        );
        assert_eq!(bytes[HEADER_SIZE + 24..HEADER_SIZE + 31], *b"verity\0");
        assert_eq!(bytes[HEADER_SIZE + 40..HEADER_SIZE + 48], *b"1 254:0\0");
    }

    #[test]
    fn rejects_a_name_that_does_not_fit() {
        assert!(request(&"x".repeat(1000), 0, None).is_err());
    }

    #[test]
    fn decodes_device_numbers() {
        assert_eq!((major(0xfe00), minor(0xfe00)), (254, 0));
        assert_eq!((major(0x0010_fd05), minor(0x0010_fd05)), (253, 0x105));
    }
}
