//! A replacement for init, as a host could put one into the initrd.
//!
//! It has every ability of the real one, since it links the same library, and
//! does with them what `/instructions` in its initrd says. The point of the
//! tests that use it: the measurement is different, so the broker refuses; or
//! the measurement was enrolled on purpose, and something else must stop it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process;

use init::container::End;
use init::error::BootError;
use init::network::Interface;
use init::supervise::Outcome;
use init::tpm::Tpm;
use init::{attestation, console, halt, latch, mounts, network};
use measured_boot::base16;
use measured_boot::manifest::Manifest;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// What to do, written by the harness.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Instructions {
    /// The image's own manifest, so that the protocol is the same to the byte.
    manifest: Manifest,
    task: Task,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    /// Ask for all keys, as init does.
    Keys,
    /// Ask, close the latch as init does, then ask again.
    Twice,
    /// Ask, and ask again without closing the latch.
    Unlatched,
    /// Pass TPM commands from the host on this port to the TPM.
    Relay(u16),
}

fn main() -> ! {
    // Read before the early mounts hide the initrd.
    let instructions = std::fs::read("/instructions");
    match instructions
        .map_err(|e| format!("{e}"))
        .and_then(|text| run(&text))
    {
        Ok(()) => console::line("attacker: finished"),
        Err(cause) => console::line(format_args!("attacker: failed: {cause}")),
    }
    halt::power_off(&Outcome {
        end: End::Exited(0),
        out_of_memory: false,
    })
}

fn run(instructions: &[u8]) -> Result<(), String> {
    let text = |error: BootError| format!("{error}");
    mounts::mount_early().map_err(text)?;
    let Instructions { manifest, task } =
        serde_json::from_slice(instructions).map_err(|e| format!("{e}"))?;
    let interface = network::bring_up(manifest.network.as_ref()).map_err(text)?;
    match task {
        Task::Keys => ask(&manifest, interface.as_ref()).map(drop),
        Task::Twice => {
            let device = ask(&manifest, interface.as_ref())?;
            latch::close(device).map_err(text)?;
            ask(&manifest, interface.as_ref()).map(drop)
        }
        Task::Unlatched => {
            drop(ask(&manifest, interface.as_ref())?);
            ask(&manifest, interface.as_ref()).map(drop)
        }
        Task::Relay(port) => relay(port),
    }
}

/// Runs the whole protocol and prints what came of it. A key is printed as its
/// digest, which tells the test that it was the right one.
fn ask(
    manifest: &Manifest,
    interface: Option<&Interface>,
) -> Result<attestation::TeeDevice, String> {
    let device = attestation::open_tee(manifest).map_err(|e| format!("{e}"))?;
    let released = attestation::obtain_keys(manifest, device, interface).map_err(|error| {
        console::line(format_args!("attacker: refused: {error}"));
        format!("{error}")
    })?;
    console::line(format_args!(
        "attacker: released boot key: {}",
        released.boot_key.is_some()
    ));
    for secret in &released.secrets {
        let digest = base16::encode(&Sha256::digest(secret.value.expose()));
        console::line(format_args!(
            "attacker: released {} {digest}",
            secret.secret.resource
        ));
    }
    Ok(released.tee)
}

/// A pipe to the TPM: each way a 4-byte big-endian length, then the bytes.
fn relay(port: u16) -> Result<(), String> {
    let fail = |action: &str, cause: &dyn std::fmt::Display| format!("cannot {action}: {cause}");
    let mut tpm = Tpm::open().map_err(|e| format!("{e}"))?;
    let mut host =
        TcpStream::connect(("10.0.2.2", port)).map_err(|e| fail("connect to the host", &e))?;
    console::line("attacker: relaying");
    loop {
        let mut length = [0; 4];
        if host.read_exact(&mut length).is_err() {
            return Ok(());
        }
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|e| fail("size", &e))?;
        let mut command = vec![0; length.min(4096)];
        host.read_exact(&mut command)
            .map_err(|e| fail("read a command", &e))?;
        let response = measured_boot::tpm::Transport::transact(&mut tpm, &command)
            .map_err(|e| fail("run a command", &e))?;
        let length = u32::try_from(response.len()).unwrap_or_else(|_| process::abort());
        host.write_all(&length.to_be_bytes())
            .and_then(|()| host.write_all(&response))
            .map_err(|e| fail("answer", &e))?;
    }
}
