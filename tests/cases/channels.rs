//! Every other way into a running guest: there is none.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image_build::run::Machine;
use serde_json::json;
use tests::artifacts::{Parts, artifacts, run};
use tests::defences::{Attack, Verdict};
use tests::site::{Site, Spec, boot, expect_exit};

use crate::Fact;
use crate::scene::{self, Offline, said, verdict};

pub(crate) const ATTACKS: &[Attack] = &[Attack {
    name: "option-rom",
    attempt: option_rom,
    control: scene::chain,
}];

pub(crate) const FACTS: &[Fact] = &[
    ("channels/nothing-listens", nothing_listens),
    ("channels/no-shell-and-one-file-in-the-initrd", one_file),
    ("channels/serial-input-and-break", serial_input),
    ("channels/ctrl-alt-del", ctrl_alt_del),
    ("channels/guest-agent-and-extra-devices", extra_devices),
    ("channels/fw-cfg-and-smbios", host_tables),
    ("channels/tis-tpm", tis_tpm),
];

fn product() -> Result<&'static Parts> {
    Ok(&artifacts()?.product)
}

/// A card with an option ROM: code of the host's that the firmware runs.
fn option_rom(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut machine = site.machine(&image)?;
    // A card for which the guest's kernel has no driver, with the ROM that QEMU
    // ships for it.
    machine
        .arguments
        .extend(["-device".into(), "e1000e,mac=52:54:00:00:00:99".into()]);
    verdict(&boot(&machine)?)
}

/// From inside: no socket listens or is bound but for init's own clients; from
/// outside: no port of the guest answers.
fn nothing_listens() -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["network"])?)?;
    let report = boot(&site.machine(&image)?)?;
    scene::line(&report, "probe: sockets listed")?;
    for line in report.lines() {
        // State 0A is LISTEN (include/net/tcp_states.h).
        let listens = line.contains("socket: tcp") && line.split_whitespace().nth(5) == Some("0A");
        ensure!(!listens, "a socket listens: {line}");
        ensure!(
            !line.contains("socket: unix"),
            "a unix socket exists: {line}"
        );
    }
    expect_exit(&report, 0)?;

    // Ports of the host lead to ports of the guest; with nobody there, QEMU
    // closes at once.
    let site = Site::open(product()?)?;
    let mut machine = site.machine(&site.enrolled(&site.spec(&["wait"])?)?)?;
    let ports = [22, 80, 443, 1024, 2375, 8080, 10250];
    let forward: Vec<(u16, u16)> = ports
        .iter()
        .map(|guest| {
            Ok((
                std::net::TcpListener::bind(("127.0.0.1", 0))?
                    .local_addr()?
                    .port(),
                *guest,
            ))
        })
        .collect::<Result<_>>()?;
    machine.forward.extend(forward.iter().copied());
    let mut running = machine.start()?;
    running.wait_for("container: probe: waiting")?;
    for (host, guest) in forward {
        let mut stream = TcpStream::connect(("127.0.0.1", host))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        ensure!(answer.is_empty(), "port {guest} answered {answer:?}");
    }
    running.control("quit", &serde_json::Value::Null).ok();
    Ok(())
}

/// The initrd holds `init` and nothing else; no part of it is a shell.
fn one_file() -> Result<()> {
    let scene = Offline::new(product()?, &Spec::offline(&["exit", "0"]))?;
    let initrd = fs::File::open(scene.image.join("initrd.cpio"))?;
    let listed = Command::new("cpio")
        .args(["--list", "--quiet"])
        .stdin(initrd)
        .output()?;
    let names = String::from_utf8(listed.stdout)?;
    ensure!(names == "init\n", "the initrd lists {names:?}");
    let init = fs::read(&product()?.init)?;
    for word in ["/bin/sh", "/bin/bash", "busybox", "PATH="] {
        let found = init
            .windows(word.len())
            .any(|window| window == word.as_bytes());
        ensure!(!found, "init contains {word:?}");
    }
    let headers = String::from_utf8(run(Command::new("readelf")
        .arg("-l")
        .arg(&product()?.init))?)?;
    ensure!(!headers.contains("INTERP"), "init asks for an interpreter");
    Ok(())
}

fn waiting(change: impl FnOnce(&mut Machine)) -> Result<image_build::run::Running> {
    let scene = Offline::new(product()?, &Spec::offline(&["wait"]))?;
    let mut machine = scene.machine()?;
    change(&mut machine);
    let mut running = machine.start()?;
    running.wait_for("container: probe: waiting")?;
    Ok(running)
}

/// Ends a machine by its power button, and sees that nothing else had ended it.
fn still_there(running: image_build::run::Running) -> Result<()> {
    running.control("system_powerdown", &serde_json::Value::Null)?;
    let report = running.wait();
    said(&report, "probe: asked to end")?;
    expect_exit(&report, 42)
}

/// Typing, control characters, a BREAK and a sysrq letter on the console.
fn serial_input() -> Result<()> {
    let scene = Offline::new(product()?, &Spec::offline(&["wait"]))?;
    let mut machine = scene.machine()?;
    machine.serial_input = true;
    let mut running = machine.start()?;
    running.wait_for("container: probe: waiting")?;
    for text in [
        "\n",
        "root\n",
        "\u{3}",
        "\u{4}",
        "\u{1a}",
        "\u{1c}",
        "exec /bin/sh\n",
    ] {
        running.type_on_console(text.as_bytes())?;
    }
    running.control("chardev-send-break", &json!({ "id": "serial" }))?;
    running.type_on_console(b"b")?;
    std::thread::sleep(Duration::from_secs(2));
    still_there(running)
}

fn ctrl_alt_del() -> Result<()> {
    let running = waiting(|machine| {
        machine
            .arguments
            .extend(["-device".into(), "virtio-keyboard-pci".into()]);
    })?;
    let keys: Vec<_> = ["ctrl", "alt", "delete"]
        .iter()
        .map(|key| json!({ "type": "qcode", "data": key }))
        .collect();
    running.control("send-key", &json!({ "keys": keys }))?;
    std::thread::sleep(Duration::from_secs(2));
    still_there(running)
}

/// Devices a host may add: a guest-agent port, a vsock, a balloon, a random
/// number generator, a keyboard, a foreign disk.
fn extra_devices() -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["digest", "/private/note"])?)?;
    let disk = site.path().join("foreign.img");
    fs::write(&disk, vec![0xf0; 1 << 20])?;
    let mut machine = site.machine(&image)?;
    for argument in [
        "-device",
        "virtio-serial-pci",
        "-chardev",
        "null,id=agent",
        "-device",
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        "-device",
        "virtio-balloon-pci",
        "-device",
        "virtio-rng-pci",
        "-device",
        "virtio-keyboard-pci",
        "-drive",
        &format!("if=none,id=foreign,format=raw,file={}", disk.display()),
        "-device",
        "virtio-blk-pci,drive=foreign,serial=foreign",
    ] {
        machine.arguments.push(argument.into());
    }
    let report = boot(&machine)?;
    scene::line(&report, "probe: digest /private/note ")?;
    expect_exit(&report, 0)
}

/// Strings in fw_cfg and SMBIOS reach PCR 1 at most, which nothing judges.
fn host_tables() -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut machine = site.machine(&image)?;
    for argument in [
        "-fw_cfg",
        "name=opt/org.anchorhold/cmdline,string=init=/bin/sh",
        "-smbios",
        "type=1,manufacturer=host,product=init=/bin/sh,serial=rdinit=/bin/sh",
        "-smbios",
        "type=11,value=io.systemd.credential:shell=1",
    ] {
        machine.arguments.push(argument.into());
    }
    expect_exit(&boot(&machine)?, 0)
}

/// The other way a machine shows its TPM.
fn tis_tpm() -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut machine = site.machine(&image)?;
    machine.tpm.as_mut().context("no TPM")?.interface = image_build::run::TpmInterface::Tis;
    expect_exit(&boot(&machine)?, 0)
}
