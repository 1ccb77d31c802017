//! The early mounts and kernel settings, as tables.

use alloc::format;

use measured_boot::code::Code;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::console;
use crate::error::BootError;
use crate::file;

const STEP: &str = "mounts";

/// Where the verified rootfs is mounted.
pub const ROOTFS: &str = "/mnt/rootfs";
/// Where the decrypted, verified boot filesystem is mounted.
pub const BOOT: &str = "/mnt/boot";
/// Where the container's root is assembled, in the container's namespace.
pub const CONTAINER: &str = "/mnt/container";

/// `/proc`, `/sys`, `/dev`, the cgroup tree and configfs are mounted as the table
/// says, on a root that is a tmpfs of our own; the console is open.
#[derive(Debug)]
pub struct EarlyMounts(());

/// File system, mount point, options, data. Flags `nosuid` and `noexec` apply to
/// all: nothing is ever executed from here.
const MOUNTS: &[(&str, &str, MountFlags, &str)] = &[
    ("devtmpfs", "/dev", MountFlags::empty(), "mode=0755"),
    ("proc", "/proc", MountFlags::NODEV, ""),
    // Read for disks, network interfaces and the TEE; never written.
    (
        "sysfs",
        "/sys",
        MountFlags::NODEV.union(MountFlags::RDONLY),
        "",
    ),
    ("cgroup2", "/sys/fs/cgroup", MountFlags::NODEV, ""),
    // Reports of SEV-SNP and TDX; no other subsystem is in it.
    ("configfs", "/sys/kernel/config", MountFlags::NODEV, ""),
];

/// Mount points and working directories on our root.
const DIRECTORIES: &[&str] = &["/dev", "/proc", "/sys", "/mnt", ROOTFS, BOOT, CONTAINER];

/// Kernel settings. What the kernel was built without cannot be switched on, so
/// a missing file is as good as the setting.
const SETTINGS: &[(&str, &str)] = &[
    // Kernel addresses and messages help an attack from the container.
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/sysrq", "0"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/yama/ptrace_scope", "3"),
    // A core dump would be a copy of secrets.
    ("kernel/core_pattern", "|/"),
    ("fs/suid_dumpable", "0"),
    // Confused deputies in world-writable directories.
    ("fs/protected_symlinks", "1"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
];

/// Mounts the tables above. Without `/dev` there is no console yet, so a failure
/// before it ends the machine in silence.
///
/// # Errors
/// `E_MOUNT`.
pub fn mount_early() -> Result<EarlyMounts, BootError> {
    move_root()?;
    for directory in DIRECTORIES {
        make_directory(directory)?;
    }
    for (filesystem, target, flags, data) in MOUNTS {
        let flags = *flags | MountFlags::NOSUID | MountFlags::NOEXEC;
        let data = format!("{data}\0");
        let data = core::ffi::CStr::from_bytes_until_nul(data.as_bytes()).unwrap_or_default();
        mount(*filesystem, *target, *filesystem, flags, Some(data))
            .map_err(|e| error(format_args!("mount {target}"), e))?;
        if *target == "/dev" {
            console::open().map_err(|e| error("open /dev/console", e))?;
        }
    }
    for (name, value) in SETTINGS {
        set(name, value)?;
    }
    console::progress("mounts: done");
    Ok(EarlyMounts(()))
}

/// Puts a tmpfs over the initramfs and makes it the root: `pivot_root` refuses to
/// work from the initramfs, and the container's namespace needs it to leave this
/// root behind for good.
fn move_root() -> Result<(), BootError> {
    make_directory("/root")?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount("tmpfs", "/root", "tmpfs", flags, Some(c"size=1m,mode=0755"))
        .map_err(|e| error("mount the root tmpfs", e))?;
    rustix::process::chdir("/root").map_err(|e| error("enter the root tmpfs", e))?;
    mount_move(".", "/").map_err(|e| error("move the root tmpfs", e))?;
    rustix::process::chroot(".").map_err(|e| error("change the root", e))?;
    rustix::process::chdir("/").map_err(|e| error("enter the new root", e))
}

fn make_directory(path: &str) -> Result<(), BootError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(error(format_args!("create directory {path}"), errno)),
    }
}

fn set(name: &str, value: &str) -> Result<(), BootError> {
    match file::write(&format!("/proc/sys/{name}"), value) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(error(format_args!("set {name} to {value}"), errno)),
    }
}

fn error(action: impl core::fmt::Display, errno: Errno) -> BootError {
    BootError::new(Code::Mount, STEP, action, errno)
}
