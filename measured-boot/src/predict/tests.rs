//! Images and machines that are not what a prediction needs.

#![allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]

use std::collections::BTreeSet;

use sha2::Sha256;

use super::boot::load_options;
use super::{Error, LOW_MEMORY_MIB, LowMemory, Payload, authenticode, known_firmware};
use crate::base16;
use crate::manifest::Hex32;
use crate::reference_values::{FirmwareProfile, PCR_COUNT, Register, TpmValues};

/// Header and setup header of a kernel: a DOS stub that the boot protocol's
/// header overlays, a PE header at 0x40, two sections out of order.
pub(crate) fn kernel() -> Vec<u8> {
    let mut image = vec![0x90; 0x3000];
    let mut put = |offset: usize, bytes: &[u8]| {
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"MZ");
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x46, &2u16.to_le_bytes());
    put(0x54, &160u16.to_le_bytes());
    put(0x58, &0x20bu16.to_le_bytes());
    put(0x58 + 60, &0x1000u32.to_le_bytes());
    put(0x58 + 108, &6u32.to_le_bytes());
    put(0x58 + 112 + 32, &[0; 8]);
    for (section, size, offset) in [(0usize, 0x1000u32, 0x1800u32), (1, 0x800, 0x1000)] {
        put(0xf8 + 40 * section + 16, &size.to_le_bytes());
        put(0xf8 + 40 * section + 20, &offset.to_le_bytes());
    }
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x236, &0x23u16.to_le_bytes());
    image
}

fn tpm(
    kernel: &[u8],
    initrd: &[u8],
    cmdline: &str,
    firmware: Vec<FirmwareProfile>,
) -> Result<TpmValues, Error> {
    let payload = Payload::Direct {
        kernel,
        initrd,
        cmdline,
    };
    super::tpm(&payload, LowMemory::Usual, firmware)
}

fn flipped(offset: usize) -> Vec<u8> {
    let mut image = kernel();
    image[offset] ^= 0x10;
    image
}

fn predicted(values: &TpmValues, pcr: u8) -> &[Hex32] {
    match &values.pcrs[&pcr] {
        Register::Predicted { values, .. } => values,
        Register::Pinned { .. } | Register::Ignored { .. } => panic!("PCR {pcr} is not predicted"),
    }
}

#[test]
fn the_digest_covers_every_byte_but_checksum_and_certificates() {
    let digest = authenticode::digest::<Sha256>(&kernel()).unwrap();
    for outside in [0x58 + 64, 0x58 + 67, 0x58 + 112 + 32] {
        assert_eq!(
            authenticode::digest::<Sha256>(&flipped(outside)).unwrap(),
            digest,
            "{outside:#x}"
        );
    }
    // The last two are the file's tail, which no section covers.
    for inside in [
        2,
        0x200,
        0x58 + 59,
        0x58 + 68,
        0xfff,
        0x1000,
        0x1800,
        0x2800,
        0x2fff,
    ] {
        assert_ne!(
            authenticode::digest::<Sha256>(&flipped(inside)).unwrap(),
            digest,
            "{inside:#x}"
        );
    }
}

#[test]
fn the_digest_ends_where_the_certificates_begin() {
    let unsigned = authenticode::digest::<Sha256>(&kernel()).unwrap();
    let mut signed = kernel();
    signed.extend([7; 24]);
    assert_ne!(authenticode::digest::<Sha256>(&signed).unwrap(), unsigned);
    signed[0x58 + 112 + 32..][..8].copy_from_slice(&[0, 0x30, 0, 0, 24, 0, 0, 0]);
    assert_eq!(authenticode::digest::<Sha256>(&signed).unwrap(), unsigned);
}

#[test]
fn a_bad_image_is_refused_with_the_offset() {
    let offset = |image: &[u8]| {
        let error = authenticode::digest::<Sha256>(image).unwrap_err();
        let Error::Kernel { offset, .. } = error else {
            panic!("{error}")
        };
        offset
    };
    assert_eq!(offset(b"\x7fELF"), 0);
    assert_eq!(offset(b""), 0);
    assert_eq!(offset(&flipped(0x40)), 0x40);
    assert_eq!(offset(&flipped(0x58)), 0x58);
    let image = kernel();
    for length in 0..image.len() {
        // The tail past the last section may be cut; nothing else.
        let cut = authenticode::digest::<Sha256>(&image[..length]);
        assert_eq!(cut.is_ok(), length >= 0x2800, "{length:#x}");
    }
    let message = authenticode::digest::<Sha256>(&flipped(0x40))
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "cannot predict PCR 4: kernel at offset 0x40: got no PE signature"
    );
}

#[test]
fn no_image_makes_it_panic() {
    let mut state = 1u64;
    let mut random = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    };
    for _ in 0..5_000 {
        let mut image = kernel();
        for _ in 0..4 {
            image[random(0x250)] = u8::try_from(random(256)).unwrap();
        }
        image.truncate(random(0x3400));
        // Either verdict is right; reaching the next line is the test.
        let _either = tpm(&image, b"initrd", "console=ttyS0", Vec::new());
    }
}

#[test]
fn judges_every_register_once() {
    let values = tpm(
        &kernel(),
        b"initrd",
        "console=ttyS0",
        known_firmware().unwrap(),
    )
    .unwrap();
    assert!(values.pcrs.keys().copied().eq(0..PCR_COUNT));
    for pcr in [8, 10, 11, 12, 13, 14, 15, 16, 23] {
        assert_eq!(predicted(&values, pcr), [Hex32([0; 32])], "PCR {pcr}");
    }
    for pcr in 17..=22 {
        assert_eq!(predicted(&values, pcr), [Hex32([0xff; 32])], "PCR {pcr}");
    }
    let pinned = |(pcr, register): (&u8, &Register)| {
        matches!(register, Register::Pinned { .. }).then_some(*pcr)
    };
    let pinned: Vec<_> = values.pcrs.iter().filter_map(pinned).collect();
    assert_eq!(pinned, [0, 2, 3, 6, 7]);
    for profile in &values.firmware {
        assert!(
            profile.pcrs.keys().copied().eq(pinned.iter().copied()),
            "{}",
            profile.name
        );
    }
}

#[test]
fn every_input_changes_the_register_that_covers_it() {
    let of = |kernel: &[u8], initrd: &[u8], cmdline: &str| {
        let values = tpm(kernel, initrd, cmdline, Vec::new()).unwrap();
        (
            predicted(&values, 4).to_vec(),
            predicted(&values, 9).to_vec(),
        )
    };
    let (pcr4, pcr9) = of(&kernel(), b"initrd", "console=ttyS0");
    let distinct: BTreeSet<_> = pcr4.iter().map(|value| base16::encode(&value.0)).collect();
    assert_eq!(
        distinct.len(),
        1 + LOW_MEMORY_MIB.len(),
        "the file, and one per machine"
    );

    let other = of(&flipped(0x2000), b"initrd", "console=ttyS0");
    assert!(other.0.iter().all(|value| !pcr4.contains(value)));
    assert_eq!(other.1, pcr9);
    let other = of(&kernel(), b"initrx", "console=ttyS0");
    assert_eq!((&other.0, other.1 == pcr9), (&pcr4, false));
    let other = of(&kernel(), b"initrd", "console=ttyS1");
    assert_eq!((&other.0, other.1 == pcr9), (&pcr4, false));
}

#[test]
fn load_options_are_utf16_with_what_the_loader_appends() {
    let text: Vec<_> = "a=b initrd=initrd\0"
        .bytes()
        .flat_map(|byte| [byte, 0])
        .collect();
    assert_eq!(load_options("a=b initrd=initrd"), Ok(text));
    for cmdline in ["a\u{e9}", "a\nb", "a\0", "vga=ask"] {
        assert!(
            matches!(load_options(cmdline), Err(Error::Cmdline { .. })),
            "{cmdline:?}"
        );
    }
}

#[test]
fn rejects_what_the_machine_could_not_load() {
    let refused = |offset: usize| tpm(&flipped(offset), b"", "a", Vec::new()).unwrap_err();
    assert!(matches!(
        refused(0x202),
        Error::Kernel { offset: 0x202, .. }
    ));
    let huge = vec![0; 256 << 20];
    let error = tpm(&kernel(), &huge, "a", Vec::new()).unwrap_err();
    assert_eq!(
        error,
        Error::Initrd {
            size: 256 << 20,
            memory_mib: 256
        }
    );
}

#[test]
fn firmware_records_cover_every_memory_size_without_repeating_a_machine() {
    let firmware = known_firmware().unwrap();
    for memory in LOW_MEMORY_MIB {
        for vcpus in [1, 2, 4, 8] {
            let shape = format!(", {memory} MiB of low memory, {vcpus} vCPU");
            let of_shape = firmware
                .iter()
                .filter(|profile| profile.name.ends_with(&shape));
            assert_eq!(of_shape.count(), 1, "{shape}");
        }
    }
    let pcr0: BTreeSet<_> = firmware
        .iter()
        .map(|p| base16::encode(&p.pcrs[&0].0))
        .collect();
    assert_eq!(pcr0.len(), firmware.len());
}
