//! Processes and signals: what rustix leaves out because it cannot know that the
//! caller has one thread and no libc.

use core::arch::asm;
use core::ffi::CStr;

use alloc::vec::Vec;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{self, Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::process::Pid;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_EXECVE: usize = 59;
const SYS_KILL: usize = 62;
const SYS_RT_SIGTIMEDWAIT: usize = 128;
const SYS_EXIT_GROUP: usize = 231;
const SYS_PRLIMIT64: usize = 302;
const SYS_CLONE3: usize = 435;
const SYS_CLOSE_RANGE: usize = 436;

/// `SIGCHLD`
const SIGCHLD: u64 = 17;
/// Bytes of the kernel's `sigset_t`, one bit for each of 64 signals.
const SIGSET_SIZE: usize = 8;
/// `CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_INTO_CGROUP`
/// (`linux/sched.h`). The cgroup namespace is made later, see
/// [`new_cgroup_namespace`]; the network is shared.
const CONTAINER: u64 = 0x2_0000 | 0x400_0000 | 0x800_0000 | 0x2000_0000 | 0x2_0000_0000;

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

/// Starts a process that runs `child` on a copy of this one's memory, and ends
/// with status 1 if `child` returns. Given a cgroup, it starts there, in
/// namespaces of its own. In the parent, `child` and what it owns are dropped.
///
/// Of the descriptors, the copy has `input` as 0, `output` as 1 and 2, and `report`,
/// which it gets as an argument and which `execve` closes; no other stays open.
/// Numbers 0 to 2 are taken in every process of ours, so none of the three is
/// one of the others' targets.
///
/// The caller must be the only thread of its process: the copy has no other, so
/// a lock that another one held would stay locked.
///
/// # Errors
/// What `clone3` says.
pub fn start(
    cgroup: Option<BorrowedFd<'_>>,
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    report: BorrowedFd<'_>,
    child: impl FnOnce(OwnedFd),
) -> io::Result<Pid> {
    let mut arguments = CloneArguments {
        exit_signal: SIGCHLD,
        ..Default::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags = CONTAINER;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::BADF)?;
    }
    let address = core::ptr::from_ref(&arguments).expose_provenance();
    // SAFETY: `arguments` is a `struct clone_args` of the size given. Without
    // CLONE_VM the child has its own copy of everything, the stack included, and
    // it never returns from this function, so nothing runs twice.
    let pid = unsafe { syscall(SYS_CLONE3, [address, size_of::<CloneArguments>(), 0, 0, 0]) }?;
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        return Ok(pid);
    }
    if let Ok(report) = keep_only(input, output, report) {
        child(report);
    }
    exit(1)
}

/// Arranges the descriptors as [`start`] says. Only for a process that has just
/// been copied: the owners of what is closed are frames of [`start`]'s callers,
/// which the copy never returns to.
fn keep_only(
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    report: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    dup2_stdin(input)?;
    dup2_stdout(output)?;
    dup2_stderr(output)?;
    let report = fcntl_dupfd_cloexec(report, 3)?;
    let number = usize::try_from(report.as_raw_fd()).map_err(|_| Errno::BADF)?;
    // The last is the highest number that `close_range` takes.
    let around = [
        (3, number.saturating_sub(1)),
        (number.saturating_add(1), 0xffff_ffff),
    ];
    for (first, last) in around.into_iter().filter(|(first, last)| first <= last) {
        // SAFETY: takes numbers only. Nothing in this copy of the process uses
        // these descriptors again, as said above.
        unsafe { syscall(SYS_CLOSE_RANGE, [first, last, 0, 0, 0]) }?;
    }
    Ok(report)
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
        let addresses = strings.iter().map(|s| s.as_ptr().expose_provenance());
        addresses.chain([0]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let lists = [&arguments, &environment].map(|list| list.as_ptr().expose_provenance());
    let [arguments_at, environment_at] = lists;
    let program_at = program.as_ptr().expose_provenance();
    // SAFETY: a string and two null-terminated arrays of pointers to strings,
    // all alive during the call. Success ends this program.
    match unsafe { syscall(SYS_EXECVE, [program_at, arguments_at, environment_at, 0, 0]) } {
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

/// Blocks the signals whose bit is set (bit 0 is signal 1), and no other. A blocked
/// signal is only ever taken by [`wait_for_signal`].
///
/// # Errors
/// What `rt_sigprocmask` says.
pub fn set_signal_mask(mask: u64) -> io::Result<()> {
    const SIG_SETMASK: usize = 2;
    let mask = core::ptr::from_ref(&mask).expose_provenance();
    // SAFETY: reads 8 bytes of `mask` and writes nothing back.
    unsafe { syscall(SYS_RT_SIGPROCMASK, [SIG_SETMASK, mask, 0, SIGSET_SIZE, 0]) }.map(drop)
}

/// Waits for a blocked signal. Returns its number if it came from outside the
/// caller's PID namespace, nothing for one of a process inside, such as SIGCHLD.
///
/// # Errors
/// What `rt_sigtimedwait` says.
pub fn wait_for_signal() -> io::Result<Option<u8>> {
    let all = u64::MAX;
    // `siginfo_t` (`asm-generic/siginfo.h`): 128 bytes, the sender's process id
    // at 16, zero for one that has none in this namespace.
    let mut info = [0_i32; 32];
    let set = core::ptr::from_ref(&all).expose_provenance();
    let address = core::ptr::from_mut(&mut info).expose_provenance();
    let number = retry_on_intr(|| {
        // SAFETY: reads 8 bytes of `all` and writes at most one `siginfo_t`.
        unsafe { syscall(SYS_RT_SIGTIMEDWAIT, [set, address, 0, SIGSET_SIZE, 0]) }
    })?;
    let outside = info.get(4) == Some(&0);
    Ok(u8::try_from(number).ok().filter(|_| outside))
}

/// Sets resource limit `number` of this process.
///
/// # Errors
/// What `prlimit64` says.
pub fn set_limit(number: u8, soft: u64, hard: u64) -> io::Result<()> {
    let limit = [soft, hard];
    let address = core::ptr::from_ref(&limit).expose_provenance();
    // SAFETY: reads one `struct rlimit64`, two numbers, and writes nothing back.
    unsafe { syscall(SYS_PRLIMIT64, [0, number.into(), address, 0, 0]) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::{start, syscall};
    use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
        let null = std::fs::File::open("/dev/null").unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (other, _) = rustix::pipe::pipe().unwrap();
        // The test has other threads, so the child must not allocate.
        let child = |report: OwnedFd| {
            let open = |number| {
                // SAFETY: a number without a descriptor is only refused.
                let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
                rustix::io::fcntl_getfd(descriptor).is_ok()
            };
            let kept = open(0) && open(1) && open(2);
            let number = report.as_raw_fd();
            let closed = (3..64).all(|other| other == number || !open(other));
            if kept && closed && !open(other.as_raw_fd()) {
                rustix::io::write(&report, b"kept").ok();
            }
        };
        let (null, report) = (null.as_fd(), write.as_fd());
        let pid = start(None, null, null, report, child).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(1));
        let mut text = [0; 8];
        assert_eq!(rustix::io::read(&read, &mut text), Ok(4));
    }
}
