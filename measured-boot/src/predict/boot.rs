//! What one boot measures into the registers that its files determine.
//!
//! The events are those of the PC Client Platform Firmware Profile, in the
//! order of the log, by the PCR they go to. A TPM's register replays the events
//! of its PCR; an RTMR replays those of all the PCRs that belong to it ("UEFI
//! Specification" 2.10, section 38.4.1). So the files are hashed once for each
//! algorithm, whatever the TEE.

use rayon::prelude::*;
use sha2::Digest;
use sha2::digest::Output;

use super::{Error, LowMemory, Payload, authenticode, linux, uki};

/// What OVMF adds to the command line when there is an initrd, which the kernel
/// opens by this name.
const LOADER_WORD: &str = "initrd=initrd";
const BOOT_ACTION: &[u8] = b"Calling EFI Application from Boot Option";
const EXIT_ACTION: &[u8] = b"Exit Boot Services Invocation";
const EXITED_ACTION: &[u8] = b"Exit Boot Services Returned with Success";
const SEPARATOR: [u8; 4] = [0; 4];

/// Who measures; not every one of them knows every TEE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measurer {
    /// OVMF.
    Firmware,
    /// OVMF, the line between firmware and what it starts.
    Separator,
    /// systemd-stub.
    Stub,
    /// The kernel's EFI stub.
    Kernel,
}

/// One measured thing.
#[derive(Clone, Debug)]
pub(super) struct Event<D: Digest> {
    pub(super) pcr: u8,
    pub(super) by: Measurer,
    pub(super) digest: Output<D>,
}

/// The events of each boot that is possible: what QEMU writes into a kernel
/// depends on the machine, where OVMF puts its word on its version.
pub(super) fn boots<D: Digest>(
    payload: &Payload<'_>,
    memory: LowMemory,
) -> Result<Vec<Vec<Event<D>>>, Error>
where
    Output<D>: Send + Clone,
{
    match *payload {
        Payload::Direct {
            kernel,
            initrd,
            cmdline,
        } => {
            // OVMF 2022.11 to 2025.02 puts its word last, 2026.08 first.
            let lines = [
                format!("{cmdline} {LOADER_WORD}"),
                format!("{LOADER_WORD} {cmdline}"),
            ];
            let [last, first] = lines.map(|line| load_options(&line).map(D::digest));
            let (last, first) = (last?, first?);
            let (initrd, kernels) = rayon::join(
                || D::digest(initrd),
                || kernels::<D>(kernel, initrd.len(), memory),
            );
            let kernels = kernels?;
            let with = |line: Output<D>| {
                let initrd = &initrd;
                let kernels = kernels.iter().cloned();
                kernels.map(move |kernel| direct::<D>(kernel, line.clone(), initrd.clone()))
            };
            Ok(with(last).chain(with(first)).collect())
        }
        Payload::Uki(image) => {
            let uki = uki::Uki::parse(image)?;
            let cmdline = D::digest(load_options(uki.cmdline)?);
            Ok(vec![unified::<D>(image, &uki, cmdline)?])
        }
    }
}

/// Authenticode digests of the kernel: as the file is, then for each machine.
fn kernels<D: Digest>(
    kernel: &[u8],
    initrd_size: usize,
    memory: LowMemory,
) -> Result<Vec<Output<D>>, Error>
where
    Output<D>: Send,
{
    let mut machines = vec![None];
    machines.extend(memory.sizes().iter().map(Some));
    let digest = |machine: Option<&u32>| match machine {
        None => authenticode::digest::<D>(kernel),
        Some(memory) => {
            let image = linux::rewritten(kernel, Some(initrd_size), *memory)?;
            authenticode::digest::<D>(&image)
        }
    };
    machines.into_par_iter().map(digest).collect()
}

fn event<D: Digest>(pcr: u8, by: Measurer, digest: Output<D>) -> Event<D> {
    Event { pcr, by, digest }
}

/// What the kernel's EFI stub measures of these bytes.
pub(super) fn by_kernel<D: Digest>(bytes: &[u8]) -> Event<D> {
    event(9, Measurer::Kernel, D::digest(bytes))
}

/// QEMU hands kernel, initrd and command line to OVMF, which starts the kernel.
pub(super) fn direct<D: Digest>(
    kernel: Output<D>,
    cmdline: Output<D>,
    initrd: Output<D>,
) -> Vec<Event<D>> {
    let mut events = vec![event(4, Measurer::Firmware, kernel)];
    events.extend(ready_to_boot());
    events.push(event(9, Measurer::Kernel, cmdline));
    events.push(event(9, Measurer::Kernel, initrd));
    events.extend(exit_boot_services());
    events
}

/// OVMF starts the UKI from a disk; its stub starts the kernel.
fn unified<D: Digest>(
    image: &[u8],
    uki: &uki::Uki<'_>,
    cmdline: Output<D>,
) -> Result<Vec<Event<D>>, Error>
where
    Output<D>: Send,
{
    let (image, linux) = rayon::join(
        || authenticode::digest::<D>(image),
        || authenticode::digest::<D>(uki.linux),
    );
    let mut events: Vec<_> = ready_to_boot().into();
    events.push(event(4, Measurer::Firmware, image?));
    for (name, data) in &uki.measured {
        let name = D::new().chain_update(name).chain_update([0]).finalize();
        events.push(event(11, Measurer::Stub, name));
        events.push(event(11, Measurer::Stub, D::digest(data)));
    }
    // Without Secure Boot the stub has the firmware load the kernel.
    events.push(event(4, Measurer::Firmware, linux?));
    events.push(event(9, Measurer::Kernel, cmdline));
    events.push(by_kernel(uki.initrd));
    events.extend(exit_boot_services());
    Ok(events)
}

fn ready_to_boot<D: Digest>() -> [Event<D>; 2] {
    [
        event(4, Measurer::Firmware, D::digest(BOOT_ACTION)),
        event(4, Measurer::Separator, D::digest(SEPARATOR)),
    ]
}

fn exit_boot_services<D: Digest>() -> [Event<D>; 2] {
    [EXIT_ACTION, EXITED_ACTION].map(|action| event(5, Measurer::Firmware, D::digest(action)))
}

/// The kernel's load options, as its EFI stub measures them.
pub(super) fn load_options(cmdline: &str) -> Result<Vec<u8>, Error> {
    // OVMF widens byte by byte; QEMU reads "vga=" and changes the kernel by it.
    if !cmdline.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(Error::Cmdline {
            cause: "is not printable ASCII",
        });
    }
    if cmdline.contains("vga=") {
        return Err(Error::Cmdline {
            cause: "contains vga=, which the loader acts on",
        });
    }
    let text = [cmdline, "\0"].concat();
    Ok(text.encode_utf16().flat_map(u16::to_le_bytes).collect())
}

/// The register after `events`, from zero.
pub(super) fn replay<'a, D: Digest + 'a>(
    events: impl IntoIterator<Item = &'a Event<D>>,
) -> Output<D> {
    let extend = |register: Output<D>, event: &Event<D>| {
        D::new()
            .chain_update(register)
            .chain_update(&event.digest)
            .finalize()
    };
    events.into_iter().fold(Output::<D>::default(), extend)
}
