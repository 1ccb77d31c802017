//! The device-mapper ioctls (`linux/dm-ioctl.h`).

use core::ffi::c_void;

use rustix::fd::AsFd;
use rustix::io;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

/// Bytes of `struct dm_ioctl`, which starts every request.
pub const HEADER_SIZE: usize = 312;
/// Offset of `data_size` in `struct dm_ioctl`.
const DATA_SIZE_OFFSET: usize = 12;

/// A device-mapper command: `DM_*_CMD`, the number in its ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
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
    rustix::ioctl::opcode::read_write::<[u8; HEADER_SIZE]>(0xfd, command as u8)
}

/// Runs one command. `request` is a `struct dm_ioctl` with its payload; its
/// `data_size` is set here to the length of `request`, so the kernel can reach
/// nothing outside it.
///
/// # Errors
/// `EINVAL` when `request` is shorter than the header or over 4 GiB, otherwise
/// what the kernel says.
pub fn run(control: impl AsFd, command: Command, request: &mut [u8]) -> io::Result<()> {
    let size = u32::try_from(request.len()).map_err(|_| io::Errno::INVAL)?;
    if request.len() < HEADER_SIZE {
        return Err(io::Errno::INVAL);
    }
    request
        .get_mut(DATA_SIZE_OFFSET..)
        .and_then(|rest| rest.first_chunk_mut::<4>())
        .ok_or(io::Errno::INVAL)?
        .copy_from_slice(&size.to_ne_bytes());
    // SAFETY: `Request` passes a pointer to `request` with the opcode that
    // takes a `struct dm_ioctl`; the kernel reads and writes `data_size` bytes
    // there (`copy_params` and `copy_to_user` in drivers/md/dm-ioctl.c), which
    // was just set to the length of the exclusively borrowed slice.
    unsafe {
        ioctl(
            control,
            Request {
                command,
                buffer: request,
            },
        )
    }
}

struct Request<'a> {
    command: Command,
    buffer: &'a mut [u8],
}

// SAFETY: `as_ptr` is valid for reads and writes of the whole buffer for as long
// as `self` lives, and the output is not taken from the pointer.
unsafe impl Ioctl for Request<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode(self.command)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, opcode};

    #[test]
    fn opcodes_match_the_kernels_header() {
        assert_eq!(opcode(Command::Create), 0xc138_fd03);
        assert_eq!(opcode(Command::Remove), 0xc138_fd04);
        assert_eq!(opcode(Command::Suspend), 0xc138_fd06);
        assert_eq!(opcode(Command::LoadTable), 0xc138_fd09);
        assert_eq!(opcode(Command::TableStatus), 0xc138_fd0c);
    }
}
