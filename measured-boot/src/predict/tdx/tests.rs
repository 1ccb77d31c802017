//! Firmware that is not what a prediction needs, and registers of real TDs.

use std::io::Read;

use sha2::digest::Output;
use sha2::{Digest, Sha384};

use super::{Event, Measurer, PageOrder, metadata, mrtd, replay, tdx, variables_digest};
use crate::base16;
use crate::predict::boot::direct;
use crate::predict::{Error, LowMemory, Payload, Td};
use crate::reference_values::{Register, TdxLog};

/// Where the metadata's descriptor is in [`firmware()`], and its sections.
const DESCRIPTOR: usize = 0x7e00;
const SECTIONS: usize = DESCRIPTOR + 16;

/// As OVMF is laid out: variables, code, and the code's end with the metadata,
/// the table of GUIDed entries, and the reset vector.
fn firmware() -> Vec<u8> {
    let mut file: Vec<u8> = (0..0x8000u32).map(|at| ((at * 7) >> 3) as u8).collect();
    let mut at = 0;
    let mut put = |file: &mut Vec<u8>, start: usize, parts: &[&[u8]]| {
        at = start;
        for part in parts {
            file[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        at
    };
    put(
        &mut file,
        DESCRIPTOR,
        &[
            b"TDVF",
            &(16u32 + 4 * 32).to_le_bytes(),
            &1u32.to_le_bytes(),
            &4u32.to_le_bytes(),
        ],
    );
    for (index, (data, address, memory, kind, attributes)) in [
        (
            (0x2000u32, 0x6000u32),
            0xffff_a000u64,
            0x6000u64,
            0u32,
            1u32,
        ),
        ((0, 0x2000), 0xffff_8000, 0x2000, 1, 0),
        ((0, 0), 0x80_9000, 0x2000, 2, 0),
        ((0, 0), 0x81_0000, 0x3000, 3, 0),
    ]
    .into_iter()
    .enumerate()
    {
        put(
            &mut file,
            SECTIONS + 32 * index,
            &[
                &data.0.to_le_bytes(),
                &data.1.to_le_bytes(),
                &address.to_le_bytes(),
                &memory.to_le_bytes(),
                &kind.to_le_bytes(),
                &attributes.to_le_bytes(),
            ],
        );
    }
    let guid = |text: &str| base16::decode::<16>(text).unwrap();
    // Another entry first, so that the table is walked.
    put(
        &mut file,
        TABLE,
        &[
            &(0x8000 - DESCRIPTOR as u32).to_le_bytes(),
            &22u16.to_le_bytes(),
            &guid("35657ae44a989847865e4685a7bf8ec2"),
            &[0; 4],
            &22u16.to_le_bytes(),
            &guid("de71f7007e1acb4f890e68c77e2fb44e"),
            &62u16.to_le_bytes(),
            &guid("de82b596b21ff745baeaa366c55a082d"),
        ],
    );
    file
}

/// Where the table of GUIDed entries starts.
const TABLE: usize = 0x8000 - 32 - 62;

fn changed(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = firmware();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

/// All that is hashed, one call of the TDX module after the other.
fn transcript(file: &[u8], order: PageOrder) -> Vec<u8> {
    let add = |page: u64| {
        let mut buffer = [0; 128];
        buffer[..12].copy_from_slice(b"MEM.PAGE.ADD");
        buffer[16..24].copy_from_slice(&page.to_le_bytes());
        buffer.to_vec()
    };
    let extend = |page: u64| {
        let data = &file[usize::try_from(page - 0xffff_8000).unwrap()..][..4096];
        let mut all = Vec::new();
        for (index, chunk) in data.chunks(256).enumerate() {
            let mut buffer = [0; 128];
            buffer[..9].copy_from_slice(b"MR.EXTEND");
            buffer[16..24].copy_from_slice(&(page + 256 * index as u64).to_le_bytes());
            all.extend(buffer);
            all.extend(chunk);
        }
        all
    };
    let bfv = (0..6).map(|page| 0xffff_a000 + 0x1000 * page);
    let mut all: Vec<u8> = match order {
        PageOrder::EachPage => bfv
            .flat_map(|page| [add(page), extend(page)].concat())
            .collect(),
        PageOrder::EachSection => bfv
            .clone()
            .flat_map(add)
            .chain(bfv.flat_map(extend))
            .collect(),
    };
    for page in [
        0xffff_8000,
        0xffff_9000,
        0x80_9000,
        0x80_a000,
        0x81_0000,
        0x81_1000,
        0x81_2000,
    ] {
        all.extend(add(page));
    }
    all
}

#[test]
fn mrtd_is_the_hash_of_every_call_in_the_order_of_the_vmm() {
    for order in [PageOrder::EachPage, PageOrder::EachSection] {
        let expected: [u8; 48] = Sha384::digest(transcript(&firmware(), order)).into();
        assert_eq!(mrtd(&firmware(), order), Ok(expected), "{order:?}");
    }
}

/// The firmware of Ubuntu 25.04, for which virtee/tdx-measure has this value.
#[test]
fn mrtd_of_a_released_firmware_is_what_another_tool_computes() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/vectors/tdx/ovmf-2025.02-3ubuntu2.fd.gz"
    );
    let mut file = Vec::new();
    let compressed = std::fs::File::open(path).unwrap();
    flate2::read::GzDecoder::new(compressed)
        .read_to_end(&mut file)
        .unwrap();
    let expected = "7357a10d2e2724dffe68813e3cc4cfcde6814d749f2fb62e3953e54f6e0b50a2\
                    19786afe2cd478f684b52c61837e1114";
    let of = |order| base16::encode(&mrtd(&file, order).unwrap());
    assert_eq!(of(PageOrder::EachPage), expected);
    assert_ne!(of(PageOrder::EachSection), expected);
}

#[test]
fn only_extended_contents_count() {
    let of = |file: &[u8]| mrtd(file, PageOrder::EachPage).unwrap();
    let genuine = of(&firmware());
    assert_eq!(of(&changed(0x1fff, b"x")), genuine, "variables");
    assert_ne!(of(&changed(0x2000, b"x")), genuine, "code");
    assert_ne!(of(&changed(0x7fff, b"x")), genuine, "reset vector");
    let moved = changed(SECTIONS + 3 * 32 + 8, &0x82_0000u64.to_le_bytes());
    assert_ne!(of(&moved), genuine, "address of memory without data");
    let digest = |file: &[u8]| variables_digest(file).unwrap().unwrap();
    assert_ne!(digest(&changed(0x1fff, b"x")), digest(&firmware()));
}

#[test]
fn memory_that_the_td_adds_itself_is_not_measured() {
    let mut file = changed(SECTIONS + 3 * 32 + 24, &[4, 0, 0, 0, 2, 0, 0, 0]);
    // The metadata lies inside the measured code: compare two addresses.
    let one = mrtd(&file, PageOrder::EachPage).unwrap();
    let sections = metadata::sections(&file).unwrap();
    assert!(!sections[3].added);
    file[SECTIONS + 3 * 32 + 10] ^= 1;
    let moved = metadata::sections(&file).unwrap();
    let same_code = mrtd::mrtd(&changed(0, &[]), &sections, PageOrder::EachPage);
    assert_eq!(
        mrtd::mrtd(&firmware(), &moved, PageOrder::EachPage),
        same_code
    );
    assert_ne!(one, same_code);
}

#[test]
fn refuses_metadata_by_field_and_offset() {
    let section = |index: usize, field: usize| SECTIONS + 32 * index + field;
    let cases: &[(&str, usize, usize, &[u8])] = &[
        ("GUIDed table footer", 0x8000 - 48, 0x8000 - 48, &[0]),
        ("GUIDed table length", 0x8000 - 50, 0x8000 - 50, &[0, 0]),
        (
            "GUIDed table length",
            0x8000 - 50,
            0x8000 - 50,
            &[0xff, 0xff],
        ),
        ("GUIDed entry length", TABLE + 26, TABLE + 26, &[0, 0]),
        ("GUIDed entry length", TABLE + 26, TABLE + 26, &[0xff, 0]),
        ("GUIDed table", TABLE, TABLE + 6, &[0]),
        ("TDX metadata offset", TABLE, TABLE, &[0xff; 4]),
        ("TDX metadata signature", DESCRIPTOR, DESCRIPTOR, b"X"),
        ("TDX metadata length", DESCRIPTOR + 4, DESCRIPTOR + 4, &[0]),
        ("TDX metadata version", DESCRIPTOR + 8, DESCRIPTOR + 8, &[2]),
        ("TDX section count", DESCRIPTOR + 12, DESCRIPTOR + 12, &[0]),
        (
            "TDX section count",
            DESCRIPTOR + 12,
            DESCRIPTOR + 12,
            &[0xff; 4],
        ),
        (
            "TDX section data offset",
            section(0, 0),
            section(0, 0),
            &[1],
        ),
        ("TDX section data size", section(0, 4), section(0, 4), &[1]),
        ("TDX section data size", section(2, 4), section(2, 4), &[1]),
        ("TDX section address", section(3, 8), section(3, 8), &[1]),
        (
            "TDX section memory size",
            section(3, 16),
            section(3, 8),
            &[0, 0, 0, 0, 1],
        ),
        (
            "TDX section memory size",
            section(3, 16),
            section(3, 16),
            &[1],
        ),
        (
            "TDX section memory size",
            section(3, 16),
            section(3, 16),
            &[0; 8],
        ),
        (
            "TDX section memory size",
            section(3, 16),
            section(3, 16),
            &[0, 0, 0, 0, 0, 0, 0, 0xff],
        ),
        ("TDX section type", section(3, 24), section(3, 24), &[8]),
        (
            "TDX section attributes",
            section(3, 28),
            section(3, 28),
            &[3],
        ),
        (
            "TDX section attributes",
            section(3, 28),
            section(3, 28),
            &[4],
        ),
        (
            "TDX section attributes",
            section(3, 28),
            section(3, 28),
            &[2],
        ),
        (
            "TDX section attributes",
            section(2, 28),
            section(2, 28),
            &[1],
        ),
        // Memory, then data, of another section.
        (
            "TDX section",
            section(3, 0),
            section(3, 8),
            &[0, 0xa0, 0x80],
        ),
        ("TDX section", section(1, 0), section(1, 0), &[0, 0x20]),
        ("TDX sections", SECTIONS, section(0, 28), &[0]),
    ];
    for (expected, at, offset, bytes) in cases {
        let result = mrtd(&changed(*offset, bytes), PageOrder::EachPage);
        match result {
            Err(Error::Tdvf { field, offset, .. }) => {
                assert_eq!((field, offset), (*expected, *at), "{offset:#x}");
            }
            other => panic!("{expected} at {at:#x}: {other:?}"),
        }
    }
    let message = mrtd(&changed(section(3, 24), &[8]), PageOrder::EachPage)
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "cannot predict MRTD: TDX section type at offset 0x7e88: got 8, expected 0 to 7"
    );
}

#[test]
fn no_firmware_makes_it_panic() {
    let mut state = 1u64;
    let mut random = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    };
    let genuine = firmware();
    let mut refused = 0;
    for round in 0..20_000 {
        let mut file = genuine.clone();
        for _ in 0..1 + round % 4 {
            let start = [DESCRIPTOR, TABLE][random(2)];
            file[start + random(if start == TABLE { 62 } else { 144 })] ^= 1 << random(8);
        }
        if round % 5 == 0 {
            file.truncate(random(file.len()));
        }
        // Either verdict is right; reaching the next line is the test.
        refused += usize::from(metadata::sections(&file).is_err());
    }
    assert!(refused > 10_000, "{refused}");
    for length in 0..200 {
        assert!(mrtd(&genuine[..length], PageOrder::EachPage).is_err());
    }
}

/// A log of a TD as far as it is a direct boot's, and what the TD reported.
struct Log {
    kernel: &'static str,
    load_options: &'static str,
    initrd: &'static str,
    separator: bool,
    rtmr1: &'static str,
    rtmr2: &'static str,
}

/// From the CCEL and the TDREPORT of one TD (confidential-dot-ai/attestation-rs,
/// `tdx_ccel_live.bin`, MIT), and from a CCEL alone (confidential-containers/
/// trustee, `CCEL_data_ovmf`, Apache-2.0).
const LOGS: [Log; 2] = [
    Log {
        kernel: "ffbcfc53f1c1cf14c639723822616e626319449681572e15abc701d5006722b1bf405943d87ec63b315b4abedbb4e95e",
        load_options: "9ef512aa411d4daf001123b04e9e8de66213c207d78b824e777fa4432a00c58aaa9b3a79ea0932088264651203a5ae38",
        initrd: "47f68b638aaa3b3f0c91e6f364987a8b27c2588d099e76f642132c49562c6abf92966122e121c0e9bcd5e945d9885f90",
        separator: true,
        rtmr1: "7fc19ed7b5726f078d331c4125a5d4664bcf811bcce0eaa78caa9e3bf4f721091171b51b9af1c497d1c4ac19a4c9af16",
        rtmr2: "4070333e094dec303a5034cc332c969780f9e65e48251331da55f08f8f7d19053444a43d3ff44bd2c97b672527b95e2d",
    },
    Log {
        kernel: "a2ccae1e7d6c668ca325bb09c882d8ce44d26d714ba6f58d2e8083fe291a704646afe24a2368bca3341728d78ec80a80",
        load_options: "4230f84885a6f3f305e91a1955045398bd9edd8ffd2aaf2aab8ad3ac53476c4ac82a3675ef559c4ae949a06e84119fc2",
        initrd: "b15af9286108d3d8c9f794a51409e55bad6334f5d96a1e4469f8df2d75fd69aac648d939e13daf6800e82e6c1f6628c4",
        separator: false,
        rtmr1: "775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc210c13c6",
        rtmr2: "94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d2241de43cd58d9e8b49c503bbf25f34a",
    },
];

#[test]
fn runtime_registers_of_real_tds_are_the_events_predicted_here() {
    for log in LOGS {
        let digest = |text: &str| -> Output<Sha384> { base16::decode::<48>(text).unwrap().into() };
        let events = direct::<Sha384>(
            digest(log.kernel),
            digest(log.load_options),
            digest(log.initrd),
        );
        let rtmr = |pcrs: std::ops::RangeInclusive<u8>| {
            let counts = |event: &&Event<Sha384>| {
                pcrs.contains(&event.pcr) && (log.separator || event.by != Measurer::Separator)
            };
            base16::encode(&replay(events.iter().filter(counts)))
        };
        assert_eq!(rtmr(2..=6), log.rtmr1);
        assert_eq!(rtmr(8..=15), log.rtmr2);
    }
}

#[test]
fn every_input_changes_the_register_that_covers_it() {
    let kernel = crate::predict::tests::kernel();
    let of = |firmware: &[u8], kernel: &[u8], initrd: &[u8], cmdline: &str| {
        let payload = Payload::Direct {
            kernel,
            initrd,
            cmdline,
        };
        let td = Td {
            firmware,
            order: PageOrder::EachPage,
            memory: LowMemory::of(2048),
        };
        tdx(&payload, &td, Vec::new()).unwrap()
    };
    let genuine = of(&firmware(), &kernel, b"initrd", "a");
    let Register::Predicted { values, .. } = &genuine.rtmrs[1] else {
        panic!("RTMR1 is not predicted");
    };
    assert_eq!(values.len(), 4, "two kernels, with and without separator");
    assert!(matches!(genuine.rtmrs[0], Register::Ignored { .. }));

    let other = of(&changed(0x2000, b"x"), &kernel, b"initrd", "a");
    assert_ne!(other.mrtd, genuine.mrtd);
    assert_eq!(other.rtmrs, genuine.rtmrs);
    let mut changed_kernel = kernel.clone();
    changed_kernel[0x2000] ^= 1;
    let other = of(&firmware(), &changed_kernel, b"initrd", "a");
    assert_ne!(other.rtmrs[1], genuine.rtmrs[1]);
    assert_eq!(
        (&other.mrtd, &other.rtmrs[2]),
        (&genuine.mrtd, &genuine.rtmrs[2])
    );
    for other in [
        of(&firmware(), &kernel, b"initrx", "a"),
        of(&firmware(), &kernel, b"initrd", "b"),
    ] {
        assert_ne!(other.rtmrs[2], genuine.rtmrs[2]);
        assert_eq!(other.rtmrs[1], genuine.rtmrs[1]);
    }
}

#[test]
fn a_log_pins_the_register_that_is_not_predicted() {
    let kernel = crate::predict::tests::kernel();
    let payload = Payload::Direct {
        kernel: &kernel,
        initrd: b"initrd",
        cmdline: "a",
    };
    let file = firmware();
    let td = Td {
        firmware: &file,
        order: PageOrder::EachPage,
        memory: LowMemory::Usual,
    };
    let log = TdxLog {
        name: "q35, 2 vCPU".to_owned(),
        rtmrs: [(0, crate::reference_values::Hex48([7; 48]))].into(),
    };
    let values = tdx(&payload, &td, vec![log]).unwrap();
    assert!(matches!(values.rtmrs[0], Register::Pinned { .. }));
    assert_eq!(values.logs.len(), 1);
}
