//! Unified kernel images that the stub would not start, or that it would start
//! with other measurements than are known.

#![allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]

use super::Uki;
use crate::base16;
use crate::manifest::Hex32;
use crate::predict::{Error, LowMemory, Payload, tests, tpm};
use crate::reference_values::Register;

/// Section headers of [`image()`].
const TABLE: usize = 0x148;

/// A PE image with the sections of a UKI, `.linux` a kernel.
fn image() -> Vec<u8> {
    let kernel = tests::kernel();
    let sections: [(&[u8; 8], &[u8]); 5] = [
        (
            b".sdmagic",
            b"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\0",
        ),
        (b".osrel\0\0", b"ID=test\n"),
        (b".cmdline", b"console=ttyS0 a=b"),
        (b".initrd\0", b"the initrd"),
        (b".linux\0\0", &kernel),
    ];
    let mut image = vec![0; 0x400];
    let put = |image: &mut Vec<u8>, offset: usize, bytes: &[u8]| {
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(&mut image, 0, b"MZ");
    put(&mut image, 0x3c, &0x40u32.to_le_bytes());
    put(&mut image, 0x40, b"PE\0\0");
    put(&mut image, 0x46, &5u16.to_le_bytes());
    put(&mut image, 0x54, &240u16.to_le_bytes());
    put(&mut image, 0x58, &0x20bu16.to_le_bytes());
    put(&mut image, 0x58 + 60, &0x400u32.to_le_bytes());
    put(&mut image, 0x58 + 108, &16u32.to_le_bytes());
    for (index, (name, data)) in sections.into_iter().enumerate() {
        let header = TABLE + 40 * index;
        let size = data.len().next_multiple_of(0x200);
        let number = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
        let offset = image.len();
        put(&mut image, header, name);
        put(&mut image, header + 8, &number(data.len()));
        put(&mut image, header + 16, &number(size));
        put(&mut image, header + 20, &number(offset));
        image.extend_from_slice(data);
        image.resize(offset + size, 0);
    }
    image
}

fn predicted(image: &[u8], pcr: u8) -> Vec<Hex32> {
    let values = tpm(&Payload::Uki(image), LowMemory::Usual, Vec::new()).unwrap();
    match &values.pcrs[&pcr] {
        Register::Predicted { values, .. } => values.clone(),
        Register::Pinned { .. } | Register::Ignored { .. } => panic!("PCR {pcr} is not predicted"),
    }
}

fn changed(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image();
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn every_section_counts_in_the_registers_that_cover_it() {
    let image = image();
    let genuine = |pcr| predicted(&image, pcr);
    let at = |text: &[u8]| image.windows(text.len()).position(|w| w == text).unwrap();
    for (text, by) in [
        (b"ID=test".as_slice(), [true, false, true]),
        (b"console=".as_slice(), [true, true, true]),
        (b"the initrd".as_slice(), [true, true, true]),
        (b"HdrS".as_slice(), [true, false, true]),
    ] {
        let mut other = image.clone();
        other[at(text)] ^= 1;
        let differs = [4, 9, 11].map(|pcr| predicted(&other, pcr) != genuine(pcr));
        assert_eq!(differs, by, "{text:?}");
    }
    for pcr in [4, 9, 11] {
        assert_eq!(genuine(pcr).len(), 1, "PCR {pcr}");
    }
}

/// Digests of a UKI boot that was logged, with systemd-stub 252.39, OVMF and
/// swtpm: each section of the image, and the register afterwards.
#[test]
fn pcr_11_of_a_logged_boot_is_the_events_predicted_here() {
    use crate::predict::boot::{Event, Measurer, replay};
    use sha2::{Digest as _, Sha256};
    let sections = [
        (
            ".linux",
            "51349501a3d1ff83836437d2b365fd2d57f2feb8642d315e5181dec23d4c3275",
        ),
        (
            ".osrel",
            "c239476111c66732084ffebc3dd3c9265537f0b9926ce8598d9bed265660ae0e",
        ),
        (
            ".cmdline",
            "bf87325a60e1acdd8425bfcc5195abac68655d1ee0f6983a8aef25277ca34a00",
        ),
        (
            ".initrd",
            "ae0bd4356302cda2222ef86f84a6cd33122b1aaaa8bb121263f5627569f6557f",
        ),
    ];
    let image = image();
    let names = Uki::parse(&image).unwrap().measured;
    let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, sections.map(|(name, _)| name));
    let event = |digest: [u8; 32]| Event::<Sha256> {
        pcr: 11,
        by: Measurer::Stub,
        digest: digest.into(),
    };
    let events = sections.map(|(name, digest)| {
        let name = Sha256::digest([name.as_bytes(), b"\0"].concat());
        [event(name.into()), event(base16::decode(digest).unwrap())]
    });
    assert_eq!(
        base16::encode(&replay(events.iter().flatten())),
        "842b6d31bf6b3efe9b122374ea09b67795a8639198a097c5da4831fcd7ee5ab3"
    );
}

#[test]
fn refuses_what_the_stub_would_not_start_as_predicted() {
    let refused =
        |offset: usize, bytes: &[u8]| Uki::parse(&changed(offset, bytes)).unwrap_err().to_string();
    let section = |index: usize, field: usize| TABLE + 40 * index + field;
    for (message, offset, bytes) in [
        ("PE header at offset 0x0", 0, b"X".as_slice()),
        ("PE header at offset 0x40", 0x40, b"X"),
        (
            "section name at offset 0x170: got twice",
            section(1, 0),
            b".sdmagic",
        ),
        (
            "section table at offset 0x0: got no .linux",
            section(4, 0),
            b"x",
        ),
        (
            "section table at offset 0x0: got no .initrd",
            section(3, 0),
            b"\0",
        ),
        (
            "section's virtual size at offset 0x1c0",
            section(3, 0),
            b".initrd\0\xff\xff",
        ),
        (
            "section's offset at offset 0x1c0",
            section(3, 20),
            b"\xff\xff",
        ),
        ("got systemd-stub 257.39", 0x400 + 30, b"257"),
        ("got systemd-stub none", 0x400, b"X"),
    ] {
        let got = refused(offset, bytes);
        assert!(got.contains(message), "{got}: expected {message}");
    }
    let cmdline = image().windows(8).position(|w| w == b"console=").unwrap();
    let with_control = changed(cmdline, b"\n");
    let payload = Payload::Uki(&with_control);
    let error = tpm(&payload, LowMemory::Usual, Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Cmdline { .. }), "{error}");
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
    let genuine = image();
    for round in 0..5_000 {
        let mut image = genuine.clone();
        for _ in 0..1 + round % 4 {
            image[random(0x440)] = u8::try_from(random(256)).unwrap();
        }
        if round % 3 == 0 {
            image.truncate(random(genuine.len()));
        }
        // Either verdict is right; reaching the next line is the test.
        let _either = tpm(&Payload::Uki(&image), LowMemory::Usual, Vec::new());
    }
}
