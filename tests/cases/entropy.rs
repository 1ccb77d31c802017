//! A machine whose processor gives no random numbers of its own.

use anyhow::Result;
use tests::artifacts::Parts;
use tests::defences::{Attack, Verdict};
use tests::site::{Site, boot};

use crate::scene::{self, verdict};

pub(crate) const ATTACKS: &[Attack] = &[Attack {
    name: "no-rdrand",
    attempt,
    control: scene::chain,
}];

/// Whatever else the kernel seeds itself from, the host sees or chooses.
fn attempt(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut machine = site.machine(&image)?;
    // QEMU takes the last one.
    machine.arguments = vec!["-cpu".into(), "max,rdrand=off".into()];
    let packets = site.path().join("packets.pcap");
    machine.pcap = Some(packets.clone());
    let verdict = verdict(&boot(&machine)?)?;
    if matches!(verdict, Verdict::Stopped(_)) {
        scene::no_packet(&packets)?;
    }
    Ok(verdict)
}
