//! What a host can write on the kernel command line.

use anyhow::{Result, ensure};
use tests::artifacts::{Parts, artifacts};
use tests::defences::{Attack, Verdict};
use tests::site::{Site, boot, stop_code};

use crate::scene::{self, verdict};

pub(crate) const ATTACKS: &[Attack] = &[Attack {
    name: "cmdline-grammar",
    attempt: grammar,
    control: scene::chain,
}];

/// What published attacks and a careless operator put there.
const HOSTILE: &[(&str, &str)] = &[
    ("init", "init=/bin/sh"),
    ("dash-dash", "-- --debug"),
    ("second-console", "console=tty0"),
    (
        "second-roothash",
        "roothash=0000000000000000000000000000000000000000000000000000000000000000",
    ),
    ("second-rootblocks", "rootblocks=1"),
    ("loglevel", "loglevel=8"),
    ("debug", "debug"),
    ("ignore-loglevel", "ignore_loglevel"),
    ("earlyprintk", "earlyprintk=serial,keep"),
    ("mitigations", "mitigations=off"),
    ("nokaslr", "nokaslr"),
    ("iommu", "iommu=off"),
    ("dm-create", "dm-mod.create=\"x,,,rw,0 8 linear 254:0 0\""),
    ("ip", "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off"),
    ("acpi-rsdp", "acpi_rsdp=0x1000"),
    ("memmap", "memmap=64M$0x10000000"),
    ("sysctl", "sysctl.kernel.core_pattern=|/bin/sh"),
    ("systemd", "systemd.debug_shell=1"),
    ("environment", "LD_PRELOAD=/x"),
    ("clocksource", "clocksource=acpi_pm"),
    ("second-initrd", "initrd=other"),
];

/// A parameter that would do nothing, appended: accepted by a parser that reads
/// only what it knows.
fn grammar(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let spec = tests::site::Spec::offline(&["exit", "0"]);
    let image = site.build(&spec, &parts.init)?;
    let mut machine = site.machine(&image)?;
    machine.cmdline += " unknown=1";
    verdict(&boot(&machine)?)
}

pub(crate) fn facts() -> Vec<(String, impl FnOnce() -> Result<()> + Send + 'static)> {
    let stopped_by_init = HOSTILE
        .iter()
        .map(|(name, parameter)| (*name, *parameter, "E_CMDLINE"));
    // The kernel finds no such program in the initrd and gives up before init.
    let stopped_by_kernel = [("rdinit", "rdinit=/bin/sh", "panic")];
    stopped_by_init
        .chain(stopped_by_kernel)
        .map(|(name, parameter, code)| {
            (format!("cmdline/{name}"), move || refused(parameter, code))
        })
        .collect()
}

/// Stopped with its code, and no packet was sent before.
fn refused(parameter: &str, code: &str) -> Result<()> {
    let parts = &artifacts()?.product;
    let site = Site::open(parts)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut machine = site.machine(&image)?;
    machine.cmdline = format!("{} {parameter}", machine.cmdline);
    let pcap = site.path().join("packets.pcap");
    machine.pcap = Some(pcap.clone());
    let got = stop_code(&boot(&machine)?)?;
    ensure!(got == code, "got {got}, expected {code}");
    scene::no_packet(&pcap)
}
