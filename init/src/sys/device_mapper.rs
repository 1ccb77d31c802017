//! The device-mapper ioctls (`linux/dm-ioctl.h`).

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{self, Errno};
use rustix::ioctl::{Opcode, opcode};
use zeroize::Zeroize;

use super::process::syscall;

const SYS_IOCTL: usize = 16;
/// Bytes of `struct dm_ioctl`, which starts every request.
const HEADER_SIZE: usize = 312;
/// Room for one table's parameters: the longest has two keys in hexadecimal.
const PARAMETERS_SIZE: usize = 1024;
/// `DM_VERSION_MAJOR` of the interface; minor 0 accepts any newer kernel.
const VERSION: [u32; 3] = [4, 0, 0];

/// A device-mapper command: `DM_*_CMD`, the number in its ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// `DM_DEV_CREATE`
    Create = 3,
    /// `DM_DEV_REMOVE`
    Remove = 4,
    /// `DM_DEV_SUSPEND`, which also resumes.
    Suspend = 6,
    /// `DM_TABLE_LOAD`
    LoadTable = 9,
    /// `DM_TABLE_STATUS`
    TableStatus = 12,
}

/// `_IOWR(DM_IOCTL, nr, struct dm_ioctl)`, with `DM_IOCTL` = 0xfd.
const fn opcode(command: Command) -> Opcode {
    opcode::read_write::<[u8; HEADER_SIZE]>(0xfd, command as u8)
}

/// `struct dm_ioctl`, followed by one `struct dm_target_spec` and its parameters as
/// a C string, which may hold a key.
#[repr(C)]
pub struct Request {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: u32,
    flags: u32,
    event_number: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid_and_data: [u8; 136],
    sector_start: u64,
    sectors: u64,
    status: u32,
    next: u32,
    kind: [u8; 16],
    parameters: [u8; PARAMETERS_SIZE],
}

impl Drop for Request {
    fn drop(&mut self) {
        self.parameters.zeroize();
    }
}

impl core::fmt::Debug for Request {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Request(redacted)")
    }
}

impl Request {
    /// A request about the device with this name, without a table.
    ///
    /// # Errors
    /// `EINVAL` for a name that does not fit.
    pub fn new(name: &str, flags: u32) -> io::Result<Self> {
        let size = |bytes: usize| u32::try_from(bytes).map_err(|_| Errno::INVAL);
        let mut request = Self {
            version: VERSION,
            data_size: size(size_of::<Self>())?,
            data_start: size(HEADER_SIZE)?,
            target_count: 0,
            open_count: 0,
            flags,
            event_number: 0,
            padding: 0,
            device: 0,
            name: [0; 128],
            uuid_and_data: [0; 136],
            sector_start: 0,
            sectors: 0,
            status: 0,
            next: 0,
            kind: [0; 16],
            parameters: [0; PARAMETERS_SIZE],
        };
        put(&mut request.name, name)?;
        Ok(request)
    }

    /// Adds the table: one target over the whole device. The request must stay
    /// where it is from here on, since a move would leave a copy of a key behind.
    ///
    /// # Errors
    /// `EINVAL` for texts that do not fit.
    pub fn set_table(&mut self, kind: &str, sectors: u64, parameters: &str) -> io::Result<()> {
        self.target_count = 1;
        self.sectors = sectors;
        put(&mut self.kind, kind)?;
        put(&mut self.parameters, parameters)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&mut self, control: impl AsFd, command: Command) -> io::Result<()> {
        let control = usize::try_from(control.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
        let opcode = usize::try_from(opcode(command)).map_err(|_| Errno::INVAL)?;
        let address = core::ptr::from_mut(self).expose_provenance();
        // SAFETY: the opcode takes a `struct dm_ioctl`; the kernel reads and writes
        // `data_size` bytes there (`copy_params` and `copy_to_user` in
        // drivers/md/dm-ioctl.c), which is the size of this exclusively borrowed
        // structure, all of whose bits may have any value.
        unsafe { syscall(SYS_IOCTL, [control, opcode, address, 0, 0]) }.map(drop)
    }

    /// Whether the kernel's answer has this one target's parameters, which stand
    /// where those of a table are loaded from.
    pub fn has_parameters(&self, text: &str) -> bool {
        let end = self.parameters.iter().position(|byte| *byte == 0);
        end.and_then(|end| self.parameters.get(..end)) == Some(text.as_bytes())
    }

    /// The device's number, as the kernel's answer has it (`huge_encode_dev`).
    pub fn device(&self) -> u64 {
        self.device
    }
}

/// Writes a C string into a field of zeros.
fn put(field: &mut [u8], text: &str) -> io::Result<()> {
    let place = field.get_mut(..text.len()).ok_or(Errno::INVAL)?;
    place.copy_from_slice(text.as_bytes());
    // Its end is the field's next byte.
    field.get(text.len()).map(drop).ok_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::{Command, HEADER_SIZE, Request, opcode};
    use core::mem::offset_of;

    #[test]
    fn opcodes_match_the_kernels_header() {
        assert_eq!(opcode(Command::Create), 0xc138_fd03);
        assert_eq!(opcode(Command::Remove), 0xc138_fd04);
        assert_eq!(opcode(Command::Suspend), 0xc138_fd06);
        assert_eq!(opcode(Command::LoadTable), 0xc138_fd09);
        assert_eq!(opcode(Command::TableStatus), 0xc138_fd0c);
    }

    #[test]
    fn request_is_laid_out_as_the_kernel_reads_it() {
        let mut request = Request::new("rootfs", 0x401).unwrap();
        request.set_table("verity", 72, "1 254:0").unwrap();
        assert_eq!(offset_of!(Request, version), 0);
        assert_eq!(request.version, [4, 0, 0]);
        assert_eq!(offset_of!(Request, data_size), 12);
        assert_eq!(request.data_size, 312 + 40 + 1024);
        assert_eq!(size_of::<Request>(), 312 + 40 + 1024);
        assert_eq!(offset_of!(Request, data_start), 16);
        assert_eq!((request.data_start, request.target_count), (312, 1));
        assert_eq!(offset_of!(Request, flags), 28);
        assert_eq!(request.flags, 0x401);
        assert_eq!(offset_of!(Request, device), 40);
        assert_eq!(offset_of!(Request, name), 48);
        assert_eq!(request.name[..7], *b"rootfs\0");
        assert_eq!(offset_of!(Request, sector_start), HEADER_SIZE);
        assert_eq!(offset_of!(Request, sectors), HEADER_SIZE + 8);
        assert_eq!((request.sector_start, request.sectors), (0, 72));
        assert_eq!(offset_of!(Request, kind), HEADER_SIZE + 24);
        assert_eq!(request.kind[..7], *b"verity\0");
        assert_eq!(offset_of!(Request, parameters), HEADER_SIZE + 40);
        assert_eq!(request.parameters[..8], *b"1 254:0\0");
        assert!(request.has_parameters("1 254:0"));
        assert!(!request.has_parameters("1 254:01") && !request.has_parameters("1"));
    }

    #[test]
    fn rejects_texts_that_do_not_fit_with_their_end() {
        assert!(Request::new(&"x".repeat(127), 0).is_ok());
        assert!(Request::new(&"x".repeat(128), 0).is_err());
        let mut request = Request::new("x", 0).unwrap();
        assert!(request.set_table("verity", 1, &"x".repeat(1024)).is_err());
        assert!(request.set_table("sixteen letters!", 1, "").is_err());
    }
}
