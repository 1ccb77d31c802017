//! The container of the test images. Its first argument says what it does; what
//! it finds goes to standard output, one fact per line.
#![allow(
    clippy::exit,
    reason = "a container program ends with the status that the test asks for"
)]
#![allow(
    unsafe_code,
    reason = "some attempts are system calls without a safe wrapper"
)]

use std::ffi::CString;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::{Command, exit};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["exit", status] => exit(status.parse().unwrap_or(255)),
        ["signal", number] => die_by(number.parse().unwrap_or(0)),
        ["identity"] => identity(),
        ["attempts"] => attempts(),
        ["digest", paths @ ..] => paths.iter().for_each(|path| digest(path)),
        ["read-later", path] => {
            println!("probe: running");
            digest(path);
        }
        ["secrets", paths @ ..] => secrets(paths),
        ["volume", path] => volume(path),
        ["canaries", paths @ ..] => {
            paths.iter().for_each(|path| digest(path));
            let secret = std::env::var("SECRET").unwrap_or_default();
            println!("probe: digest-of SECRET {}", hex_digest(secret.as_bytes()));
        }
        ["memory"] => take_memory(),
        ["orphans"] => orphans(),
        ["wait"] => wait_for_signal(false),
        ["ignore"] => wait_for_signal(true),
        ["say", lines @ ..] => lines.iter().for_each(|line| say(line)),
        ["network"] => network(),
        ["write", path] => report(&format!("write {path}"), fs::write(path, b"probe")),
        other => {
            println!("probe: unknown {other:?}");
            exit(254)
        }
    }
}

fn report<T>(what: &str, result: std::io::Result<T>) {
    match result {
        Ok(_) => println!("probe: {what}: succeeded"),
        Err(error) => match error.raw_os_error() {
            Some(number) => println!("probe: {what}: refused {:?}", Errno::from_raw(number)),
            None => println!("probe: {what}: refused {error}"),
        },
    }
}

fn die_by(number: i32) {
    if let Ok(number) = Signal::try_from(number) {
        // std handles SIGSEGV itself and returns when no access faulted.
        // SAFETY: the default action runs no code of this program.
        unsafe { signal(number, SigHandler::SigDfl) }.ok();
        report("raise", nix::sys::signal::raise(number).map_err(Into::into));
    }
    std::thread::sleep(Duration::from_secs(2));
    exit(253)
}

/// Who this process is, and what it was given.
fn identity() {
    for (name, path) in [
        ("status", "/proc/self/status"),
        ("mountinfo", "/proc/self/mountinfo"),
        ("cgroup", "/proc/self/cgroup"),
        ("limits", "/proc/self/limits"),
        ("resolv", "/etc/resolv.conf"),
    ] {
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            println!("{name}: {line}");
        }
    }
    for (name, path) in [
        ("fd", "/proc/self/fd"),
        ("dev", "/dev"),
        ("root", "/"),
        ("proc", "/proc"),
    ] {
        let Ok(entries) = fs::read_dir(path) else {
            continue;
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| {
                // The descriptor of this very listing is none that was given.
                let target = fs::read_link(entry.path()).unwrap_or_default();
                name != "fd" || !target.starts_with("/proc/")
            })
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        println!("{name}: {}", names.join(" "));
    }
    println!("pid: {}", std::process::id());
    println!(
        "cwd: {}",
        std::env::current_dir().unwrap_or_default().display()
    );
    println!("hostname: {}", nix_hostname());
    for (name, value) in std::env::vars() {
        println!("env: {name}={value}");
    }
}

fn nix_hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Everything a container must not be able to do.
fn attempts() {
    report("write root", fs::write("/written", b"x"));
    report("write binary", fs::write("/bin/probe", b"x"));
    report("mount tmpfs", mount("tmpfs", "/tmp", "tmpfs"));
    report("mount proc", mount("proc", "/tmp", "proc"));
    report("mount configfs", mount("configfs", "/tmp", "configfs"));
    report("mknod disk", mknod("/tmp/disk", 254, 0));
    report("mknod in dev", mknod("/dev/disk", 254, 0));
    for node in [
        "tpm0",
        "tpmrm0",
        "sev-guest",
        "tdx_guest",
        "vda",
        "vdb",
        "dm-0",
        "dm-1",
        "mapper/control",
        "console",
        "ttyS0",
        "kmsg",
        "mem",
        "port",
        "input/event0",
        "hwrng",
    ] {
        report(
            &format!("open /dev/{node}"),
            fs::File::open(format!("/dev/{node}")),
        );
    }
    for path in [
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/sysrq-trigger",
        "/proc/1/root",
        "/proc/1/cwd",
        "/proc/1/mem",
        "/proc/1/environ",
        "/proc/keys",
        "/sys/kernel",
        "/sys/kernel/config",
        "/sys/firmware",
        "/proc/config.gz",
        "/proc/timer_list",
    ] {
        report(&format!("read {path}"), read_some(path));
    }
    report(
        "write /proc/sys",
        fs::write("/proc/sys/kernel/hostname", b"evil"),
    );
    report(
        "write core_pattern",
        fs::write("/proc/sys/kernel/core_pattern", b"|/bin/probe"),
    );
    report("chroot", nix::unistd::chroot("/tmp").map_err(Into::into));
    report(
        "setuid 0",
        nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).map_err(Into::into),
    );
    report(
        "sethostname",
        nix_call(libc::SYS_sethostname, [c"evil".as_ptr() as i64, 4, 0, 0]),
    );
    report(
        "unshare user",
        nix_call(libc::SYS_unshare, [0x1000_0000, 0, 0, 0]),
    );
    report(
        "unshare mount",
        nix_call(libc::SYS_unshare, [0x0002_0000, 0, 0, 0]),
    );
    // Where the emulated processors of test kernels are.
    report("open COM2", nix_call(libc::SYS_ioperm, [0x2f8, 8, 1, 0]));
    report("ptrace", nix_call(libc::SYS_ptrace, [16, 1, 0, 0]));
    report(
        "personality",
        nix_call(libc::SYS_personality, [0x0004_0000, 0, 0, 0]),
    );
    report("bpf", nix_call(libc::SYS_bpf, [0, 0, 0, 0]));
    report("io_uring", nix_call(libc::SYS_io_uring_setup, [1, 0, 0, 0]));
    report("keyctl", nix_call(libc::SYS_keyctl, [0, -3, 0, 0]));
    report("kexec", nix_call(libc::SYS_kexec_load, [0, 0, 0, 0]));
    report(
        "reboot",
        nix_call(libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0x4321_fedc, 0]),
    );
    report("perf", nix_call(libc::SYS_perf_event_open, [0, 0, -1, -1]));
    report("userfaultfd", nix_call(libc::SYS_userfaultfd, [0, 0, 0, 0]));
    report("init_module", nix_call(libc::SYS_init_module, [0, 0, 0, 0]));
    report(
        "swapon",
        nix_call(libc::SYS_swapon, [c"/tmp".as_ptr() as i64, 0, 0, 0]),
    );
    report(
        "settime",
        nix_call(
            libc::SYS_clock_settime,
            [0, [0_i64, 0].as_ptr() as i64, 0, 0],
        ),
    );
    report("socket packet", nix_call(libc::SYS_socket, [17, 3, 0, 0]));
    report("socket vsock", nix_call(libc::SYS_socket, [40, 1, 0, 0]));
    report("socket alg", nix_call(libc::SYS_socket, [38, 5, 0, 0]));
    report(
        "kill init",
        nix::sys::signal::kill(Pid::from_raw(1), Signal::SIGKILL).map_err(Into::into),
    );
    println!("probe: survived");
}

fn mount(source: &str, target: &str, kind: &str) -> std::io::Result<()> {
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some(source), target, Some(kind), flags, None::<&str>).map_err(Into::into)
}

/// Makes a block device and opens it: the node alone would be no harm.
fn mknod(path: &str, major: u64, minor: u64) -> std::io::Result<fs::File> {
    let device = nix::sys::stat::makedev(major, minor);
    let mode = Mode::from_bits_truncate(0o600);
    nix::sys::stat::mknod(path, SFlag::S_IFBLK, mode, device)?;
    let file = fs::File::open(path)?;
    if file.metadata()?.file_type().is_block_device() {
        Ok(file)
    } else {
        Err(Errno::ENODEV.into())
    }
}

fn read_some(path: &str) -> std::io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        let count = fs::read_dir(path)?.count();
        return if count == 0 {
            Err(Errno::ENOENT.into())
        } else {
            Ok(())
        };
    }
    let mut byte = [0];
    match fs::File::open(path)?.read(&mut byte)? {
        0 => Err(Errno::ENODATA.into()),
        _ => Ok(()),
    }
}

fn nix_call(number: i64, arguments: [i64; 4]) -> std::io::Result<()> {
    let [a, b, c, d] = arguments;
    // SAFETY: every call made here either fails or takes pointers to constants.
    let result = unsafe { libc::syscall(number, a, b, c, d, 0, 0) };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn digest(path: &str) {
    match fs::read(path) {
        Ok(content) => {
            println!("probe: digest {path} {}", hex_digest(&content));
        }
        Err(error) => println!("probe: digest {path} failed {error}"),
    }
}

/// Blocks of the file that [`volume`] writes, and bytes in each.
const BLOCKS: u64 = 256;
const BLOCK: usize = 4096;

/// Writes a file if it is not there; otherwise reads it block by block and says
/// how many blocks are as they were written, cannot be read, and are altered.
fn volume(path: &str) {
    let pattern = |number: u64| number.to_be_bytes().repeat(BLOCK / 8);
    let Ok(mut file) = fs::File::open(path) else {
        let content: Vec<u8> = (1..=BLOCKS).flat_map(pattern).collect();
        let written = fs::File::create_new(path)
            .and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()));
        return report("volume write", written);
    };
    let blocks: Vec<&str> = (1..=BLOCKS)
        .zip((0..).step_by(BLOCK))
        .map(|(number, start)| {
            let mut block = vec![0; BLOCK];
            let read = file
                .seek(std::io::SeekFrom::Start(start))
                .and_then(|_| file.read_exact(&mut block));
            match read {
                Err(error) if error.raw_os_error() == Some(libc::EIO) => "failed",
                Ok(()) if block == pattern(number) => "good",
                _ => "altered",
            }
        })
        .collect();
    let [good, failed, altered] = ["good", "failed", "altered"]
        .map(|state| blocks.iter().filter(|block| **block == state).count());
    println!("probe: volume {good} good {failed} failed {altered} altered");
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Says length, owner and mode of secret files and which secret variables are
/// set, but never the secrets.
fn secrets(paths: &[&str]) {
    for path in paths {
        match (fs::read(path), fs::metadata(path)) {
            (Ok(content), Ok(meta)) => println!(
                "probe: secret {path} {} bytes mode {:o} owner {}:{}",
                content.len(),
                meta.mode() & 0o7777,
                meta.uid(),
                meta.gid()
            ),
            (content, _) => println!("probe: secret {path} failed {:?}", content.err()),
        }
    }
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("SECRET")) {
        println!("probe: variable {name} {} bytes", value.len());
    }
}

fn take_memory() {
    let mut blocks = Vec::new();
    loop {
        blocks.push(vec![1_u8; 1 << 20]);
        if blocks.len().is_multiple_of(16) {
            println!("probe: {} MiB", blocks.len());
        }
    }
}

/// Leaves 50 orphans behind and waits until none is left unreaped.
fn orphans() {
    for _ in 0..50 {
        let status = Command::new("/bin/probe")
            .args(["say", "--orphan"])
            .status();
        if let Err(error) = status {
            println!("probe: spawn failed {error}");
        }
        // SAFETY: the child only forks once more and ends.
        match unsafe { nix::unistd::fork() } {
            Ok(nix::unistd::ForkResult::Child) => {
                // SAFETY: as above; the grandchild ends at once.
                unsafe { nix::unistd::fork() }.ok();
                exit(0)
            }
            Ok(nix::unistd::ForkResult::Parent { child }) => {
                nix::sys::wait::waitpid(child, None).ok();
            }
            Err(error) => println!("probe: fork failed {error}"),
        }
    }
    let end = Instant::now().checked_add(Duration::from_secs(5));
    let zombies = || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
            .filter(|stat| stat.contains(") Z "))
            .count()
    };
    while zombies() > 0 && end.is_some_and(|end| Instant::now() < end) {
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("probe: zombies {}", zombies());
}

static TERMINATED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

extern "C" fn note(_: i32) {
    TERMINATED.store(true, std::sync::atomic::Ordering::SeqCst);
}

fn wait_for_signal(ignore: bool) {
    let handler = if ignore {
        SigHandler::SigIgn
    } else {
        SigHandler::Handler(note)
    };
    // SAFETY: the handler only stores to an atomic.
    if let Err(error) = unsafe { signal(Signal::SIGTERM, handler) } {
        println!("probe: cannot handle SIGTERM: {error}");
    }
    println!("probe: waiting");
    for _ in 0..1200 {
        std::thread::sleep(Duration::from_millis(50));
        if TERMINATED.load(std::sync::atomic::Ordering::SeqCst) {
            println!("probe: asked to end");
            exit(42)
        }
    }
    exit(252)
}

/// Writes bytes as they are; `\xNN` and `\n` in the argument stand for bytes.
fn say(line: &str) {
    let text = line
        .replace("\\n", "\n")
        .replace("\\r", "\r")
        .replace("\\x1b", "\u{1b}");
    let mut out = std::io::stdout();
    drop(
        out.write_all(text.as_bytes())
            .and_then(|()| out.write_all(b"\n")),
    );
}

/// Every listening or bound socket in this network namespace, and the outcome
/// of the name lookup file.
fn network() {
    for table in [
        "tcp", "tcp6", "udp", "udp6", "raw", "packet", "unix", "netlink",
    ] {
        for line in fs::read_to_string(format!("/proc/net/{table}"))
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            println!("socket: {table} {line}");
        }
    }
    for line in fs::read_to_string("/proc/net/route")
        .unwrap_or_default()
        .lines()
    {
        println!("route: {line}");
    }
    println!(
        "probe: sockets listed {}",
        CString::default().as_bytes().len()
    );
}
