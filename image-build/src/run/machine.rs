//! The machine before it starts: which files, which devices, which clock.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::accel::Accel;
use super::process::{Missing, Process, find_missing, install_command};
use super::running::Running;
use super::tpm::Swtpm;
use crate::build::UKI;

/// The emulator.
pub(super) const QEMU: &str = "qemu-system-x86_64";

/// Why a machine does not start or does not do what is asked.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as run::Error"
)]
pub enum Error {
    /// Tools or firmware are not installed.
    #[error("cannot start a machine: {} missing; install with: {}", list(.0), install_command(.0))]
    Missing(Vec<Missing>),
    /// The folder is not one that `image-build build` wrote.
    #[error("cannot boot image {}: {file}: {cause}", folder.display())]
    Image {
        /// The image's folder.
        folder: PathBuf,
        /// Which file.
        file: &'static str,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The image attests with hardware that this launcher does not set up.
    #[error(
        "cannot boot image {}: it attests with {allowed}, and this machine has a TPM at best; \
         start it on such hardware, or give QEMU the arguments for it (--qemu-arg)",
        folder.display()
    )]
    Tee {
        /// The image's folder.
        folder: PathBuf,
        /// What its manifest allows.
        allowed: String,
    },
    /// A file or process on the host.
    #[error("cannot {action}: {cause}")]
    Host {
        /// Verb and object.
        action: String,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The software TPM.
    #[error("{0}")]
    Tpm(String),
    /// The machine ended before it wrote what was waited for.
    #[error("cannot find \"{text}\" on the console: the machine ended or its deadline passed")]
    Ended {
        /// What was waited for.
        text: String,
    },
}

fn list(missing: &[Missing]) -> String {
    let names: Vec<_> = missing.iter().map(Missing::to_string).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

/// One virtio disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Name by which the guest finds it.
    pub serial: String,
    /// Raw image.
    pub file: PathBuf,
    /// Whether the guest may write.
    pub writable: bool,
}

impl Disk {
    /// A disk the guest can only read.
    pub fn read_only(serial: &str, file: impl Into<PathBuf>) -> Self {
        Self {
            serial: serial.into(),
            file: file.into(),
            writable: false,
        }
    }
}

/// UEFI firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// The code, mapped read-only.
    pub code: PathBuf,
    /// The variables a fresh machine starts with; each boot gets a copy.
    pub vars: PathBuf,
}

impl Default for Firmware {
    /// OVMF as Debian's package `ovmf` installs it.
    fn default() -> Self {
        Self {
            code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            vars: "/usr/share/OVMF/OVMF_VARS_4M.fd".into(),
        }
    }
}

/// How the guest sees its TPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TpmInterface {
    /// Command response buffer.
    #[default]
    Crb,
    /// FIFO, as a discrete TPM has it.
    Tis,
}

/// A software TPM whose state outlives the boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tpm {
    /// Folder of swtpm's state; made when it holds no TPM.
    pub state: PathBuf,
    /// The device in the guest.
    pub interface: TpmInterface,
}

/// Where the console is shown while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// Nowhere.
    #[default]
    Nowhere,
    /// On standard output.
    Stdout,
    /// On standard error.
    Stderr,
}

/// A machine that has not started. Every field may be replaced; nothing is read
/// before [`Machine::start`].
#[derive(Clone, Debug)]
pub struct Machine {
    /// A unified kernel image on a disk; then the next three are not used.
    pub uki: Option<PathBuf>,
    /// Kernel for QEMU's direct boot.
    pub kernel: PathBuf,
    /// The initrd.
    pub initrd: PathBuf,
    /// Kernel command line; QEMU appends ` initrd=initrd`.
    pub cmdline: String,
    /// virtio disks, in the order of their PCI slots.
    pub disks: Vec<Disk>,
    /// The firmware.
    pub firmware: Firmware,
    /// Where the copy of the variables is kept; a temporary file otherwise.
    pub kept_vars: Option<PathBuf>,
    /// Memory in MiB.
    pub memory: u32,
    /// How the processor is run.
    pub accel: Accel,
    /// The TPM, if the machine has one.
    pub tpm: Option<Tpm>,
    /// Whether there is a network card, on QEMU's user network.
    pub network: bool,
    /// Ports of the host's loopback that lead to ports of the guest.
    pub forward: Vec<(u16, u16)>,
    /// Whether [`Running::type_on_console`] has a console to type on.
    pub serial_input: bool,
    /// Every packet of the network card, in pcap format.
    pub pcap: Option<PathBuf>,
    /// What the real-time clock shows at start, as QEMU's `-rtc base=` takes it.
    pub clock: Option<String>,
    /// A second control socket (QMP) for the user.
    pub monitor: Option<PathBuf>,
    /// More arguments for QEMU, after all others.
    pub arguments: Vec<OsString>,
    /// Where the raw console goes.
    pub serial_log: Option<PathBuf>,
    /// Where the console is shown.
    pub show: Show,
    /// How long the machine may run.
    pub deadline: Option<Duration>,
}

impl Machine {
    /// The machine that boots an image as `image-build build` wrote it: its
    /// kernel, initrd, command line and disks; network, no TPM, no deadline.
    ///
    /// # Errors
    /// A file of the image is missing or not readable.
    pub fn new(image: &Path) -> Result<Self, Error> {
        let failed = |file| {
            move |cause| Error::Image {
                folder: image.into(),
                file,
                cause,
            }
        };
        for file in ["bzImage", "initrd.cpio", "rootfs.img"] {
            fs::metadata(image.join(file)).map_err(failed(file))?;
        }
        let cmdline = fs::read_to_string(image.join("cmdline")).map_err(failed("cmdline"))?;
        let cmdline = cmdline.strip_suffix('\n').unwrap_or(&cmdline);
        let boot = image.join("boot.img");
        let mut disks = vec![Disk::read_only("rootfs", image.join("rootfs.img"))];
        if boot.exists() {
            disks.push(Disk::read_only("boot", boot));
        }
        let kernel = image.join("bzImage");
        let mut machine = Self::bare(kernel, image.join("initrd.cpio"), cmdline);
        machine.disks = disks;
        machine.uki = Some(image.join(UKI)).filter(|file| file.exists());
        Ok(machine)
    }

    /// A machine with a kernel, an initrd and a network card, and no disk.
    pub fn bare(kernel: PathBuf, initrd: PathBuf, cmdline: &str) -> Self {
        Self {
            uki: None,
            kernel,
            initrd,
            cmdline: cmdline.into(),
            disks: Vec::new(),
            firmware: Firmware::default(),
            kept_vars: None,
            memory: 1024,
            accel: Accel::default(),
            tpm: None,
            network: true,
            forward: Vec::new(),
            serial_input: false,
            pcap: None,
            clock: None,
            monitor: None,
            arguments: Vec::new(),
            serial_log: None,
            show: Show::default(),
            deadline: None,
        }
    }

    /// Gives the machine a TPM with state in this folder.
    #[must_use]
    pub fn with_tpm(mut self, state: impl Into<PathBuf>) -> Self {
        self.tpm = Some(Tpm {
            state: state.into(),
            interface: TpmInterface::default(),
        });
        self
    }

    /// Takes away the disk with this serial.
    #[must_use]
    pub fn without_disk(mut self, serial: &str) -> Self {
        self.disks.retain(|disk| disk.serial != serial);
        self
    }

    /// Puts another file behind the disk with this serial.
    #[must_use]
    pub fn with_disk_file(mut self, serial: &str, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        for disk in self.disks.iter_mut().filter(|disk| disk.serial == serial) {
            disk.file.clone_from(&file);
        }
        self
    }

    /// Starts the TPM and QEMU. Both end with the returned value, and with the
    /// thread that called this.
    ///
    /// # Errors
    /// Tools are missing, a file cannot be prepared, or a process does not start.
    pub fn start(&self) -> Result<Running, Error> {
        self.check_tools()?;
        let accel = self.accel.resolve(&self.firmware);
        // Socket names must fit into 107 bytes (sockaddr_un), so not below a
        // TMPDIR of any length.
        let scratch = tempfile::Builder::new()
            .prefix("anchorhold-")
            .tempdir_in("/tmp")
            .map_err(host("make a folder in /tmp"))?;
        let vars = match &self.kept_vars {
            Some(file) => file.clone(),
            None => scratch.path().join("vars.fd"),
        };
        fs::copy(&self.firmware.vars, &vars)
            .map_err(host(format!("copy {}", self.firmware.vars.display())))?;
        let serial_log = match &self.serial_log {
            Some(file) => {
                let log = fs::File::create(file);
                Some(log.map_err(host(format!("write {}", file.display())))?)
            }
            None => None,
        };
        let tpm = match &self.tpm {
            Some(tpm) => Some(Swtpm::start(&tpm.state, scratch.path()).map_err(Error::Tpm)?),
            None => None,
        };
        let system_partition = match &self.uki {
            Some(uki) => Some(system_partition(uki, scratch.path())?),
            None => None,
        };
        let control = scratch.path().join("qmp.sock");
        let socket = tpm.as_ref().map(Swtpm::socket);
        let qemu = Process::start(QEMU, |command| {
            self.set_arguments(command, accel, &vars, &control, socket);
            if let Some(folder) = &system_partition {
                // First, whatever else the firmware could start from.
                let drive = option(
                    "if=none,id=esp,format=raw,readonly=on,file=fat:",
                    folder,
                    "",
                );
                command.arg("-drive").arg(drive);
                command.args(["-device", "virtio-blk-pci,drive=esp,serial=esp,bootindex=0"]);
            }
        })
        .map_err(host("start QEMU"))?;
        Running::new(self, accel, qemu, tpm, serial_log, control, scratch)
    }

    fn check_tools(&self) -> Result<(), Error> {
        let mut needed = vec![(Path::new(QEMU), "qemu-system-x86")];
        needed.push((&self.firmware.code, "ovmf"));
        needed.push((&self.firmware.vars, "ovmf"));
        if self.tpm.is_some() {
            needed.push((Path::new("swtpm"), "swtpm"));
            needed.push((Path::new("swtpm_setup"), "swtpm-tools"));
        }
        let missing = find_missing(&needed);
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Error::Missing(missing))
        }
    }

    fn set_arguments(
        &self,
        command: &mut Command,
        accel: &str,
        vars: &Path,
        control: &Path,
        tpm: Option<&Path>,
    ) {
        let input = if self.serial_input {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .args(["-machine", "q35", "-accel", accel, "-cpu", "max"])
            .args(["-m", &self.memory.to_string()])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(["-chardev", "stdio,id=serial,signal=off"])
            .args(["-serial", "chardev:serial"])
            .args(firmware_arguments(&self.firmware.code, vars));
        if self.uki.is_none() {
            command
                .args([OsStr::new("-kernel"), self.kernel.as_os_str()])
                .args([OsStr::new("-initrd"), self.initrd.as_os_str()])
                .args(["-append", &self.cmdline]);
        }
        for socket in [Some(control), self.monitor.as_deref()]
            .into_iter()
            .flatten()
        {
            let address = option("unix:", socket, ",server=on,wait=off");
            command.arg("-qmp").arg(address);
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let read_only = if disk.writable { "off" } else { "on" };
            let start = format!("if=none,id=disk{number},format=raw,readonly={read_only},file=");
            let serial = disk.serial.replace(',', ",,");
            let device = format!("virtio-blk-pci,drive=disk{number},serial={serial}");
            command.arg("-drive").arg(option(&start, &disk.file, ""));
            command.args(["-device", &device]);
        }
        if self.network {
            // Without `romfile=` the card's option ROM would be measured into PCR 2.
            let mut user = String::from("user,id=net0");
            for (host, guest) in &self.forward {
                user.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
            }
            command.args(["-netdev", &user]);
            command.args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
        }
        if let Some(file) = &self.pcap {
            let dump = option("filter-dump,id=dump0,netdev=net0,file=", file, "");
            command.arg("-object").arg(dump);
        }
        if let (Some(socket), Some(kind)) = (tpm, &self.tpm) {
            let model = match kind.interface {
                TpmInterface::Crb => "tpm-crb,tpmdev=tpm0",
                TpmInterface::Tis => "tpm-tis,tpmdev=tpm0",
            };
            command.arg("-chardev");
            command.arg(option("socket,id=tpm,path=", socket, ""));
            command.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", model]);
        }
        if let Some(clock) = &self.clock {
            command.args(["-rtc", &format!("base={clock}")]);
        }
        command.args(&self.arguments);
    }
}

/// A folder that QEMU shows the guest as a disk with a FAT filesystem, on which
/// firmware finds the UKI as a removable disk's boot loader ("UEFI
/// Specification" 2.10, section 3.5.1.1).
fn system_partition(uki: &Path, scratch: &Path) -> Result<PathBuf, Error> {
    let root = scratch.join("esp");
    let folder = root.join("EFI/BOOT");
    let copied =
        fs::create_dir_all(&folder).and_then(|()| fs::copy(uki, folder.join("BOOTX64.EFI")));
    copied.map_err(host(format!("copy {}", uki.display())))?;
    Ok(root)
}

/// The two flash chips: code, and variables that the guest may write.
pub(super) fn firmware_arguments(code: &Path, vars: &Path) -> [OsString; 4] {
    [
        "-drive".into(),
        option("if=pflash,format=raw,unit=0,readonly=on,file=", code, ""),
        "-drive".into(),
        option("if=pflash,format=raw,unit=1,file=", vars, ""),
    ]
}

/// A file name inside one of QEMU's options, where a comma must be doubled.
fn option(start: &str, file: &Path, end: &str) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut text = start.as_bytes().to_vec();
    for &byte in file.as_os_str().as_bytes() {
        text.push(byte);
        if byte == b',' {
            text.push(byte);
        }
    }
    text.extend_from_slice(end.as_bytes());
    OsString::from_vec(text)
}

/// Puts what was being done in front of the system's error.
pub(super) fn host(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let action = action.into();
    move |cause| Error::Host { action, cause }
}

#[cfg(test)]
mod tests {
    use super::{Disk, Machine, option};
    use std::path::Path;
    use std::process::Command;

    fn arguments(machine: &Machine) -> Vec<String> {
        let mut command = Command::new("qemu");
        let control = Path::new("/tmp/q");
        machine.set_arguments(
            &mut command,
            "tcg",
            Path::new("/v"),
            control,
            Some(Path::new("/t")),
        );
        let text = |a: &std::ffi::OsStr| a.to_str().unwrap().to_owned();
        command.get_args().map(text).collect()
    }

    #[test]
    fn file_names_with_commas_stay_whole() {
        assert_eq!(
            option("file=", Path::new("/a,b/c"), ",x=y"),
            "file=/a,,b/c,x=y"
        );
    }

    #[test]
    fn image_folder_becomes_kernel_initrd_command_line_and_disks() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["bzImage", "initrd.cpio", "rootfs.img"] {
            assert!(Machine::new(folder.path()).is_err());
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let error = Machine::new(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cmdline: "), "{error}");
        std::fs::write(folder.path().join("cmdline"), "console=ttyS0 x\n").unwrap();
        let without_boot = Machine::new(folder.path()).unwrap();
        assert_eq!(without_boot.cmdline, "console=ttyS0 x");
        assert_eq!(without_boot.disks.len(), 1);
        std::fs::write(folder.path().join("boot.img"), "").unwrap();
        let machine = Machine::new(folder.path()).unwrap();
        let serials: Vec<_> = machine.disks.iter().map(|disk| &disk.serial).collect();
        assert_eq!(serials, ["rootfs", "boot"]);
    }

    #[test]
    fn devices_are_there_exactly_when_asked_for() {
        let mut machine = Machine::bare("/k".into(), "/i".into(), "console=ttyS0");
        let has =
            |machine: &Machine, text: &str| arguments(machine).iter().any(|a| a.starts_with(text));
        assert!(has(&machine, "virtio-net-pci,netdev=net0,romfile="));
        assert!(!has(&machine, "tpm-"));
        assert!(!has(&machine, "virtio-blk-pci"));
        machine = machine.with_tpm("/state");
        machine.network = false;
        machine.disks.push(Disk::read_only("rootfs", "/r"));
        machine.arguments.push("-extra".into());
        assert!(!has(&machine, "virtio-net-pci"));
        assert!(has(&machine, "tpm-crb,tpmdev=tpm0"));
        assert!(has(&machine, "virtio-blk-pci,drive=disk0,serial=rootfs"));
        assert!(has(
            &machine,
            "if=none,id=disk0,format=raw,readonly=on,file=/r"
        ));
        assert_eq!(arguments(&machine).last().unwrap(), "-extra");
        let machine = machine.with_disk_file("rootfs", "/other");
        assert!(has(
            &machine,
            "if=none,id=disk0,format=raw,readonly=on,file=/other"
        ));
        assert!(!has(&machine.without_disk("rootfs"), "virtio-blk-pci"));
    }
}
