//! The system call filter.

use rustix::io::{self, Errno};

use super::process::syscall;

const SYS_SECCOMP: usize = 317;
const SECCOMP_SET_MODE_FILTER: usize = 1;
/// Bytes of `struct sock_filter` (`linux/filter.h`): code, two jumps, operand,
/// little-endian as the manifest has them.
const INSTRUCTION_SIZE: usize = 8;

/// `struct sock_fprog` (`linux/filter.h`).
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const u8,
}

/// Puts this process and all it starts under `filter`, records of 8 bytes. Cannot
/// be undone. The kernel checks the program.
///
/// # Errors
/// `EINVAL` for a filter the kernel does not accept.
pub fn install(filter: &[u8]) -> io::Result<()> {
    let (instructions, rest) = filter.as_chunks::<INSTRUCTION_SIZE>();
    if !rest.is_empty() {
        return Err(Errno::INVAL);
    }
    let program = Program {
        length: u16::try_from(instructions.len()).map_err(|_| Errno::INVAL)?,
        instructions: filter.as_ptr(),
    };
    let address = core::ptr::from_ref(&program).expose_provenance();
    // SAFETY: a `struct sock_fprog` whose pointer and length are those of `filter`,
    // of any alignment; the kernel copies the program during the call.
    unsafe { syscall(SYS_SECCOMP, [SECCOMP_SET_MODE_FILTER, 0, address, 0, 0]) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::install;
    use rustix::io::Errno;

    #[test]
    fn an_empty_and_a_cut_filter_are_refused() {
        assert_eq!(install(&[]), Err(Errno::INVAL));
        // BPF_RET | BPF_K with SECCOMP_RET_ALLOW, and half a record more.
        let cut = [6, 0, 0, 0, 0, 0, 0xff, 0x7f, 6, 0, 0, 0];
        assert_eq!(install(&cut), Err(Errno::INVAL));
    }

    #[test]
    fn the_kernel_reads_the_records_as_the_manifest_has_them() {
        // A thread's filter is its own: refuse every call of number 500 with
        // EDOM (33), allow the rest. `struct seccomp_data` starts with the number.
        let filter = [
            [0x20, 0, 0, 0, 0, 0, 0, 0],
            [0x15, 0, 0, 1, 0xf4, 1, 0, 0],
            [0x06, 0, 0, 0, 33, 0, 5, 0],
            [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f],
        ];
        std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            install(filter.as_flattened()).unwrap();
            // SAFETY: no such call exists; the filter answers.
            let answer = unsafe { super::syscall(500, [0; 5]) };
            assert_eq!(answer, Err(Errno::DOM));
        })
        .join()
        .unwrap();
    }
}
