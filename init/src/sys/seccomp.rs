//! The system call filter.

use alloc::vec::Vec;

use rustix::io::{self, Errno};

use super::process::syscall;

const SYS_SECCOMP: usize = 317;
const SECCOMP_SET_MODE_FILTER: usize = 1;

/// `struct sock_filter` (`linux/filter.h`).
#[repr(C)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

/// `struct sock_fprog` (`linux/filter.h`).
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// Puts this process and all it starts under `filter`, records of 8 bytes. Cannot
/// be undone. The kernel checks the program.
///
/// # Errors
/// `EINVAL` for a filter the kernel does not accept.
pub fn install(filter: &[u8]) -> io::Result<()> {
    let instructions = instructions(filter).ok_or(Errno::INVAL)?;
    let program = Program {
        length: u16::try_from(instructions.len()).map_err(|_| Errno::INVAL)?,
        instructions: instructions.as_ptr(),
    };
    let address = core::ptr::from_ref(&program).expose_provenance();
    // SAFETY: a `struct sock_fprog` whose pointer and length are those of
    // `instructions`; the kernel copies the program during the call.
    unsafe { syscall(SYS_SECCOMP, [SECCOMP_SET_MODE_FILTER, 0, address, 0, 0]) }.map(drop)
}

fn instructions(filter: &[u8]) -> Option<Vec<Instruction>> {
    let (records, rest) = filter.as_chunks::<8>();
    let read = |&[c0, c1, jump_true, jump_false, k0, k1, k2, k3]: &[u8; 8]| Instruction {
        code: u16::from_le_bytes([c0, c1]),
        jump_true,
        jump_false,
        operand: u32::from_le_bytes([k0, k1, k2, k3]),
    };
    rest.is_empty().then(|| records.iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::instructions;

    #[test]
    fn records_are_read_as_the_kernel_lays_them_out() {
        // BPF_RET | BPF_K with SECCOMP_RET_ALLOW.
        let read = instructions(&[0x06, 0, 1, 2, 0, 0, 0xff, 0x7f]).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(
            (read[0].code, read[0].jump_true, read[0].jump_false),
            (6, 1, 2)
        );
        assert_eq!(read[0].operand, 0x7fff_0000);
    }

    #[test]
    fn a_cut_record_is_refused() {
        assert!(instructions(&[0; 12]).is_none());
    }
}
