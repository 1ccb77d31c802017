//! PID 1 of the guest. This file is the boot, in order; each step is a module.
//!
//! A step takes what the steps before it proved and returns what it proves. The
//! proofs cannot be made outside their modules, so the order cannot be changed
//! without changing a type. Every failure ends in [`halt::fail_closed`]: one
//! line on the console, then power off.
#![no_std]
#![no_main]

mod runtime;

use core::convert::Infallible;

use init::error::BootError;
use init::{
    attestation, boot_filesystem, cmdline, container, entropy, halt, latch, mounts, network,
    rootfs, storage, supervise, volumes, workload,
};

fn main() -> ! {
    let Err(error) = boot();
    halt::fail_closed(&error)
}

/// Boots the guest. Returns only to say why it could not.
fn boot() -> Result<Infallible, BootError> {
    // What this machine is, by what was measured.
    let early = mounts::mount_early()?;
    let entropy = entropy::require()?;
    let cmdline = cmdline::read(&early)?;
    let root = rootfs::open(&early, &entropy, &cmdline)?;
    let manifest = workload::read(&root)?;

    // Prove it, and get what it is entitled to.
    let tee = attestation::open_tee(&manifest)?;
    let interface = network::bring_up(manifest.network.as_ref())?;
    let released = attestation::obtain_keys(&manifest, tee, interface.as_ref())?;
    let boot_files = boot_filesystem::open(manifest.boot.as_ref(), released.boot_key)?;
    let volumes = volumes::open(&manifest.volumes, released.volume_keys)?;

    // From here on nobody can get the keys again, and a bad block is the end.
    let latched = latch::close(released.tee)?;
    let storage = storage::hand_over(latched, root, boot_files, volumes)?;

    // Run the container, and end with it.
    let container = container::prepare(&manifest, &storage, released.secrets, interface.as_ref())?;
    let running = container::start(container)?;
    let outcome = supervise::run(running, interface)?;
    storage.close()?;
    halt::power_off(&outcome)
}
