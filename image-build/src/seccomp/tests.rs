use super::{AUDIT_ARCH_X86_64, BpfProgram, compile, default_filter};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL_PROCESS: u32 = 0x8000_0000;

/// Runs the program as the kernel does (`net/core/filter.c`), as far as the
/// compiler uses its instructions.
fn run(program: &BpfProgram, arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend([0; 8]);
    for index in 0..6 {
        data.extend(arguments.get(index).unwrap_or(&0).to_le_bytes());
    }
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let i = &program[at];
        let jump = |taken: bool| at + 1 + usize::from(if taken { i.jt } else { i.jf });
        at = match i.code {
            0x20 => {
                let offset = i.k as usize;
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                at + 1
            }
            0x54 => {
                accumulator &= i.k;
                at + 1
            }
            0x05 => at + 1 + i.k as usize,
            0x15 => jump(accumulator == i.k),
            0x25 => jump(accumulator > i.k),
            0x35 => jump(accumulator >= i.k),
            0x06 => return i.k,
            other => panic!("instruction {other:#x}"),
        };
    }
}

fn judge(number: i64, arguments: &[u64]) -> u32 {
    let number = u32::try_from(number).unwrap();
    run(&compile().unwrap(), AUDIT_ARCH_X86_64, number, arguments)
}

#[test]
fn allows_what_programs_need() {
    for number in [
        libc::SYS_read,
        libc::SYS_openat,
        libc::SYS_mmap,
        libc::SYS_execve,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_rseq,
    ] {
        assert_eq!(judge(number, &[]), ALLOW, "syscall {number}");
    }
    let thread = 0x003d_0f00;
    assert_eq!(judge(libc::SYS_clone, &[thread]), ALLOW);
    assert_eq!(judge(libc::SYS_socket, &[2, 1, 6]), ALLOW);
    assert_eq!(judge(libc::SYS_socket, &[16, 3, 0]), ALLOW);
    assert_eq!(judge(libc::SYS_ioctl, &[0, 0x5401]), ALLOW);
    assert_eq!(judge(libc::SYS_personality, &[0xffff_ffff]), ALLOW);
}

#[test]
fn rejects_what_leads_out_or_into_the_kernel() {
    for number in [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_fsopen,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_mount_setattr,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_reboot,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_userfaultfd,
        libc::SYS_open_by_handle_at,
        libc::SYS_clock_settime,
        libc::SYS_settimeofday,
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_swapon,
        libc::SYS_quotactl,
        libc::SYS_syslog,
        0x0fff,
    ] {
        assert_eq!(judge(number, &[]), EPERM, "syscall {number}");
    }
    // Each namespace by itself, and with the upper half of the argument set.
    for bit in [17, 25, 26, 27, 28, 29, 30] {
        let flags = 1u64 << bit | 0x11;
        assert_eq!(judge(libc::SYS_clone, &[flags]), EPERM, "bit {bit}");
        assert_eq!(judge(libc::SYS_clone, &[flags | 1 << 40]), EPERM);
    }
    for family in [16, 17, 38, 40, 44, 1 << 20] {
        assert_eq!(judge(libc::SYS_socket, &[family, 3, 9]), EPERM, "{family}");
    }
    assert_eq!(judge(libc::SYS_socketpair, &[40, 1, 0]), EPERM);
    // The kernel looks at the low 32 bits of an ioctl only, so the filter does.
    for request in [0x5412, 0x541c, 0x5412 | 1 << 32] {
        assert_eq!(judge(libc::SYS_ioctl, &[0, request]), EPERM);
    }
    let addr_no_randomize = 0x0004_0000;
    assert_eq!(judge(libc::SYS_personality, &[addr_no_randomize]), EPERM);
}

#[test]
fn clone3_does_not_exist_and_other_architectures_die() {
    assert_eq!(judge(libc::SYS_clone3, &[]), ENOSYS);
    let i386 = 0x4000_0003;
    let program = compile().unwrap();
    assert_eq!(run(&program, i386, 435, &[]), KILL_PROCESS);
    assert_eq!(run(&program, i386, 3, &[]), KILL_PROCESS);
    let x32_read = 0x4000_0000;
    assert_eq!(run(&program, AUDIT_ARCH_X86_64, x32_read, &[]), EPERM);
}

#[test]
fn fits_the_kernel_and_the_manifest() {
    let bytes = default_filter().unwrap();
    assert!(bytes.len() <= 4096 * 8, "{} records", bytes.len() / 8);
    assert_eq!(bytes.len() % 8, 0);
}

/// The kernel takes the program and agrees with [`run`] about a few calls.
#[test]
fn kernel_enforces_the_filter() {
    use nix::errno::Errno;
    use nix::sched::{CloneFlags, unshare};

    let program = compile().unwrap();
    let guarded = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).unwrap();
        let unshared = unshare(CloneFlags::CLONE_NEWUTS);
        let mounted = nix::mount::umount("/nonexistent");
        // With clone3 answered by ENOSYS, threads are made by clone.
        let thread = std::thread::spawn(|| 7).join().unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").is_ok();
        let unix = std::os::unix::net::UnixStream::pair().is_ok();
        (unshared, mounted, thread, socket, unix)
    });
    let (unshared, mounted, thread, socket, unix) = guarded.join().unwrap();
    assert_eq!(unshared, Err(Errno::EPERM));
    assert_eq!(mounted, Err(Errno::EPERM));
    assert_eq!((thread, socket, unix), (7, true, true));
}
