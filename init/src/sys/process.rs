//! Processes and signals: what rustix leaves out because it cannot know that the
//! caller has one thread and no libc.

use core::arch::asm;
use core::ffi::CStr;

use alloc::vec::Vec;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::{self, Errno};
use rustix::process::Pid;

const SYS_RT_SIGACTION: usize = 13;
const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_EXECVE: usize = 59;
const SYS_KILL: usize = 62;
const SYS_EXIT_GROUP: usize = 231;
const SYS_SIGNALFD4: usize = 289;
const SYS_PRLIMIT64: usize = 302;
const SYS_CLONE3: usize = 435;
const SYS_CLOSE_RANGE: usize = 436;

/// `SIGCHLD`
const SIGCHLD: u64 = 17;
/// Highest signal number.
const SIGNALS: usize = 64;
/// Bytes of the kernel's `sigset_t`.
const SIGSET_SIZE: usize = 8;
/// `CLONE_INTO_CGROUP`
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Namespaces of a new process (`linux/sched.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Namespaces {
    /// Those of its parent.
    Inherited = 0,
    /// `CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID`. The cgroup
    /// namespace is made later, see [`new_cgroup_namespace`]; the network is shared.
    Container = 0x2_0000 | 0x400_0000 | 0x800_0000 | 0x2000_0000,
}

/// One system call.
///
/// # Safety
/// The arguments must be what call `number` expects, and what it does to the
/// memory or the descriptors of this process must be allowed to the caller.
pub(super) unsafe fn syscall(number: usize, arguments: [usize; 5]) -> io::Result<usize> {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: this is the kernel's calling convention on x86-64; what the call
    // itself may do is the caller's promise. Memory counts as clobbered.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    usize::try_from(result).map_err(|_| {
        let errno = result.checked_neg().and_then(|n| i32::try_from(n).ok());
        Errno::from_raw_os_error(errno.unwrap_or(Errno::INVAL.raw_os_error()))
    })
}

/// `struct clone_args` (`linux/sched.h`).
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Starts a process that runs `child` on a copy of this one's memory, in `cgroup`
/// if given, and ends with status 1 if `child` returns. The copy keeps descriptors
/// 0 to 2 and those in `kept`; all others are closed first. In the parent, `child`
/// and what it owns are dropped.
///
/// The caller must be the only thread of its process: the copy has no other, so
/// a lock that another one held would stay locked.
///
/// # Errors
/// What `clone3` says.
pub fn start(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    kept: &[RawFd],
    child: impl FnOnce(),
) -> io::Result<Pid> {
    let mut arguments = CloneArguments {
        flags: namespaces as u64,
        exit_signal: SIGCHLD,
        ..Default::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::BADF)?;
    }
    let closed = all_but(kept);
    let address = core::ptr::from_ref(&arguments).expose_provenance();
    // SAFETY: `arguments` is a `struct clone_args` of the size given. Without
    // CLONE_VM the child has its own copy of everything, the stack included, and
    // it never returns from this function, so nothing runs twice.
    let pid = unsafe { syscall(SYS_CLONE3, [address, size_of::<CloneArguments>(), 0, 0, 0]) }?;
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        Some(pid) => Ok(pid),
        None => {
            close(&closed);
            child();
            exit(1)
        }
    }
}

/// Closes ranges of descriptors. Only for a process that has just been copied:
/// the owners of what is closed are frames of [`start`]'s callers, which the copy
/// never returns to.
fn close(ranges: &[(usize, usize)]) {
    for (first, last) in ranges {
        // SAFETY: takes numbers only. Nothing in this copy of the process uses
        // these descriptors again, as said above.
        if unsafe { syscall(SYS_CLOSE_RANGE, [*first, *last, 0, 0, 0]) }.is_err() {
            exit(1);
        }
    }
}

/// The ranges of descriptors, ends included, that are above 2 and not in `kept`.
fn all_but(kept: &[RawFd]) -> Vec<(usize, usize)> {
    /// Highest number `close_range` takes.
    const LAST: usize = 0xffff_ffff;
    let mut kept: Vec<usize> = kept
        .iter()
        .filter_map(|fd| usize::try_from(*fd).ok())
        .collect();
    kept.sort_unstable();
    let mut first = 3_usize;
    let mut ranges = Vec::new();
    for fd in kept.into_iter().chain([LAST.saturating_add(1)]) {
        if first < fd {
            ranges.push((first, fd.saturating_sub(1)));
        }
        first = first.max(fd.saturating_add(1));
    }
    ranges
}

/// Makes the caller's cgroup the root of a new cgroup namespace. `clone3` could
/// not: it makes the namespace of the parent's group.
///
/// # Errors
/// What `unshare` says.
pub fn new_cgroup_namespace() -> io::Result<()> {
    // SAFETY: a new cgroup namespace changes no descriptor and no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }
}

/// Replaces the process; returns only to say why it could not.
pub fn execute(program: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> Errno {
    let pointers = |strings: &[&CStr]| -> Vec<usize> {
        strings
            .iter()
            .map(|s| s.as_ptr().expose_provenance())
            .chain([0])
            .collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let addresses = [
        program.as_ptr().expose_provenance(),
        arguments.as_ptr().expose_provenance(),
        environment.as_ptr().expose_provenance(),
        0,
        0,
    ];
    // SAFETY: a string and two null-terminated arrays of pointers to strings,
    // all alive during the call. Success ends this program.
    match unsafe { syscall(SYS_EXECVE, addresses) } {
        Err(errno) => errno,
        Ok(_) => Errno::INVAL,
    }
}

/// Ends the process without running anything else.
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: ends the process, which has one thread.
        let _refused = unsafe { syscall(SYS_EXIT_GROUP, [usize::from(status), 0, 0, 0, 0]) };
        // A seccomp filter can refuse even that call.
        // SAFETY: an undefined instruction touches nothing; its signal ends the
        // process.
        unsafe { asm!("ud2", options(nomem, nostack)) };
    }
}

/// Sends the signal `number` (1 to 64) to `pid`.
///
/// # Errors
/// What `kill` says.
pub fn kill(pid: Pid, number: u8) -> io::Result<()> {
    let pid = usize::try_from(pid.as_raw_nonzero().get()).map_err(|_| Errno::INVAL)?;
    // SAFETY: takes numbers only.
    unsafe { syscall(SYS_KILL, [pid, usize::from(number), 0, 0, 0]) }.map(drop)
}

/// Blocks every signal that can be blocked, so that one is only ever read from a
/// [`signal_descriptor`].
///
/// # Errors
/// What `rt_sigprocmask` says.
pub fn block_signals() -> io::Result<()> {
    set_signal_mask(u64::MAX)
}

/// Gives every signal its default action and blocks none: the state a program
/// expects at its start.
///
/// # Errors
/// What the kernel says.
pub fn reset_signals() -> io::Result<()> {
    /// `struct sigaction` of the kernel: handler, flags, restorer, mask. All
    /// zero is SIG_DFL.
    const DEFAULT: [usize; 4] = [0; 4];
    for number in 1..=SIGNALS {
        // SIGKILL and SIGSTOP have no other action, and refuse to be given one.
        if number == 9 || number == 19 {
            continue;
        }
        let arguments = [
            number,
            DEFAULT.as_ptr().expose_provenance(),
            0,
            SIGSET_SIZE,
            0,
        ];
        // SAFETY: reads one `struct sigaction`. The default action runs no code
        // of this process.
        unsafe { syscall(SYS_RT_SIGACTION, arguments) }?;
    }
    set_signal_mask(0)
}

fn set_signal_mask(mask: u64) -> io::Result<()> {
    const SIG_SETMASK: usize = 2;
    let arguments = [
        SIG_SETMASK,
        core::ptr::from_ref(&mask).expose_provenance(),
        0,
        SIGSET_SIZE,
        0,
    ];
    // SAFETY: reads 8 bytes of `mask` and writes nothing back.
    unsafe { syscall(SYS_RT_SIGPROCMASK, arguments) }.map(drop)
}

/// A descriptor that is readable while a signal is pending. Does not block.
///
/// # Errors
/// What `signalfd4` says.
pub fn signal_descriptor() -> io::Result<OwnedFd> {
    /// `SFD_CLOEXEC | SFD_NONBLOCK`
    const FLAGS: usize = 0o200_0000 | 0o4000;
    let mask = u64::MAX;
    let arguments = [
        usize::MAX,
        core::ptr::from_ref(&mask).expose_provenance(),
        SIGSET_SIZE,
        FLAGS,
        0,
    ];
    // SAFETY: reads 8 bytes of `mask`; -1 asks for a new descriptor.
    let raw = unsafe { syscall(SYS_SIGNALFD4, arguments) }?;
    let raw = RawFd::try_from(raw).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made it for this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Takes all pending signals from a [`signal_descriptor`]; their numbers do not
/// matter to its readers, who look at what may have changed.
pub fn drain_signals(descriptor: impl AsFd) {
    // One `struct signalfd_siginfo`.
    let mut record = [0_u8; 128];
    while matches!(io::read(&descriptor, &mut record[..]), Ok(length) if length > 0) {}
}

/// Sets resource limit `number` of this process.
///
/// # Errors
/// What `prlimit64` says.
pub fn set_limit(number: u8, soft: u64, hard: u64) -> io::Result<()> {
    let limit = [soft, hard];
    let arguments = [
        0,
        usize::from(number),
        limit.as_ptr().expose_provenance(),
        0,
        0,
    ];
    // SAFETY: reads one `struct rlimit64`, two numbers, and writes nothing back.
    unsafe { syscall(SYS_PRLIMIT64, arguments) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::{Namespaces, all_but, start, syscall};
    use rustix::fd::{AsRawFd, OwnedFd};
    use rustix::io::Errno;
    use rustix::process::{WaitOptions, waitpid};

    #[test]
    fn a_failed_call_gives_its_errno() {
        // SAFETY: closing an impossible descriptor range does nothing.
        let result = unsafe { syscall(super::SYS_CLOSE_RANGE, [5, 4, 0, 0, 0]) };
        assert_eq!(result, Err(Errno::INVAL));
    }

    #[test]
    fn a_started_process_keeps_the_descriptors_it_is_given_and_no_other() {
        let (kept, other) = rustix::pipe::pipe().unwrap();
        let number = kept.as_raw_fd();
        // The test has other threads, so the child must not allocate.
        let child = move || {
            let open = |fd: &OwnedFd| u8::from(rustix::io::fcntl_getfd(fd).is_ok());
            super::exit(open(&kept) * 2 + open(&other))
        };
        let pid = start(Namespaces::Inherited, None, &[number], child).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(2));
    }

    #[test]
    fn the_ranges_to_close_leave_out_what_is_kept() {
        let end = 0xffff_ffff;
        assert_eq!(all_but(&[]), [(3, end)]);
        assert_eq!(all_but(&[7, 1, 5, 6]), [(3, 4), (8, end)]);
        assert_eq!(all_but(&[3, 3, 5]), [(4, 4), (6, end)]);
    }
}
