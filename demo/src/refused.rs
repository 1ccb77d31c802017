//! What a container must not be able to do. Each attempt is real; an `Ok` is a
//! hole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// One thing to try.
pub(crate) struct Attempt {
    pub(crate) what: &'static str,
    pub(crate) run: fn() -> io::Result<()>,
}

macro_rules! attempts {
    ($($what:literal $run:expr;)*) => {
        /// Everything that is tried, in this order.
        pub(crate) const ATTEMPTS: &[Attempt] = &[$(Attempt { what: $what, run: $run },)*];
    };
}

attempts! {
    "write to my root" || write("/written");
    "write into the private files" || write("/private/written");
    "mount a tmpfs" || Ok(mount(Some("x"), "/private", Some("tmpfs"), MsFlags::empty(), None::<&str>)?);
    "make my root writable" || Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REMOUNT, None::<&str>)?);
    "unmount the private files" || Ok(umount("/private")?);
    "make a device node" || Ok(mknod("/tmp/disk", SFlag::S_IFBLK, Mode::S_IRWXU, makedev(254, 0))?);
    "open the TPM" || open("/dev/tpm0");
    "open the TPM's resource manager" || open("/dev/tpmrm0");
    "open the first disk" || open("/dev/vda");
    "open the second disk" || open("/dev/vdb");
    "open the device mapper" || open("/dev/mapper/control");
    "open a mapped device" || open("/dev/dm-0");
    "open the console" || open("/dev/console");
    "open the serial port" || open("/dev/ttyS0");
    "open the memory" || open("/dev/mem");
    "open the kernel's log" || open("/dev/kmsg");
    "read the kernel's memory" || read("/proc/kcore");
    "press a sysrq key" || write("/proc/sysrq-trigger");
    "change a kernel setting" || write("/proc/sys/kernel/core_pattern");
    "see the report interface" || list("/sys/kernel/config/tsm");
    "see the firmware's tables" || list("/sys/firmware/acpi");
    "see another process" see_other_process;
    "debug a process" || Ok(nix::sys::ptrace::traceme()?);
    "change my root" || Ok(nix::unistd::chroot("/private")?);
    "become root" || Ok(nix::unistd::setuid(nix::unistd::Uid::from_raw(0))?);
    "make a user namespace" || Ok(unshare(CloneFlags::CLONE_NEWUSER)?);
    "make a mount namespace" || Ok(unshare(CloneFlags::CLONE_NEWNS)?);
    "rename the machine" || Ok(nix::unistd::sethostname("mine")?);
    "power the machine off" || Ok(nix::sys::reboot::set_cad_enabled(true)?);
    "read raw packets" || raw_socket(AddressFamily::Packet, SockType::Raw);
    "reach the host by vsock" || raw_socket(AddressFamily::Vsock, SockType::Stream);
}

fn open(path: &str) -> io::Result<()> {
    // Not to become the controlling terminal, nor to wait for a carrier.
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map(drop)
}

fn read(path: &str) -> io::Result<()> {
    let mut byte = [0];
    io::Read::read_exact(&mut File::open(path)?, &mut byte)
}

fn write(path: &str) -> io::Result<()> {
    fs::write(path, "x")
}

/// An empty folder shows nothing.
fn list(path: &str) -> io::Result<()> {
    match fs::read_dir(path)?.next() {
        Some(entry) => entry.map(drop),
        None => Err(io::Error::other("nothing there")),
    }
}

fn raw_socket(family: AddressFamily, kind: SockType) -> io::Result<()> {
    Ok(socket(family, kind, SockFlag::empty(), None).map(drop)?)
}

/// In its own PID namespace this program sees itself and whatever init put
/// there to reap orphans, whose executable it must not be able to open.
fn see_other_process() -> io::Result<()> {
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_process = name.bytes().all(|byte| byte.is_ascii_digit());
        if is_process && name != own && fs::read_link(format!("/proc/{name}/exe")).is_ok() {
            return Ok(());
        }
    }
    Err(io::Error::other("there is none to open"))
}
