//! Logs of real machines: their registers, and what becomes of altered ones.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise; clippy exempts only the test functions themselves"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use measured_boot::base16;
use measured_boot::event_log::{Bank, EventLog, Padding, Tcb, parse};

fn vector(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let path = folder.join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn replay(name: &str, tcb: Tcb) -> Vec<Bank> {
    let log = vector(&format!("event-logs/{name}"));
    parse(&log).unwrap().replay(tcb).unwrap()
}

/// Register values in hexadecimal, by bank and index.
fn in_hex(banks: &[Bank]) -> BTreeMap<String, BTreeMap<u32, String>> {
    let registers = |bank: &Bank| {
        let hex = bank.registers.iter();
        hex.map(|(index, value)| (*index, base16::encode(value)))
            .collect()
    };
    let banks = banks.iter();
    banks
        .map(|bank| (bank.algorithm.to_string(), registers(bank)))
        .collect()
}

#[test]
fn registers_of_tpm_logs_are_those_of_the_machine() {
    let expected: serde_json::Value =
        serde_json::from_slice(&vector("event-logs/expected-pcrs.json")).unwrap();
    let mut compared = 0;
    for (name, expected) in expected.as_object().unwrap() {
        let got = in_hex(&replay(name, Tcb::Tpm));
        for bank in ["sha1", "sha256", "sha384"] {
            let Some(pcrs) = expected.get(bank) else {
                continue;
            };
            for (pcr, value) in pcrs.as_object().unwrap() {
                let got = &got[bank][&pcr.parse().unwrap()];
                assert_eq!(got, value.as_str().unwrap(), "{name} {bank} PCR {pcr}");
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn registers_of_a_uki_boot_are_those_its_tpm_showed() {
    let got = in_hex(&replay("uki-plain.bin", Tcb::Tpm));
    let text = String::from_utf8(vector("pcrs.txt")).unwrap();
    let mut compared = 0;
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let index = words[1].parse().unwrap();
        // PCR 10 is IMA's, which is not in the firmware's log.
        if let (Some(bank), 0..=9 | 11) = (got.get(words[0]), index) {
            let untouched = "0".repeat(words[2].len());
            let got = bank.get(&index).unwrap_or(&untouched);
            assert_eq!(*got, words[2].to_lowercase(), "{line}");
            compared += 1;
        }
    }
    assert_eq!(compared, 33);
}

#[test]
fn registers_of_a_ccel_are_those_of_the_report_beside_it() {
    let report = vector("event-logs/live-tdreport-pair.tdreport.bin");
    let got = &replay("live-tdreport-pair.ccel.bin", Tcb::Tdx)[0].registers;
    for rtmr in 0..4usize {
        let at = 512 + 208 + 48 * rtmr;
        let untouched = vec![0; 48];
        let index = u32::try_from(rtmr + 1).unwrap();
        let got = got.get(&index).unwrap_or(&untouched);
        assert_eq!(got, &report[at..at + 48], "RTMR{rtmr}");
    }
}

#[test]
fn registers_of_a_google_ccel_are_the_published_ones() {
    let expected: serde_json::Value =
        serde_json::from_slice(&vector("event-logs/google-expected.json")).unwrap();
    let got = in_hex(&replay("google-cos-113-intel-tdx.bin", Tcb::Tdx));
    for rtmr in 0..3u32 {
        let expected = &expected["cos-113-intel-tdx.bin"][format!("rtmr{rtmr}")];
        assert_eq!(got["sha384"][&(rtmr + 1)], expected.as_str().unwrap());
    }
}

#[test]
fn a_ccel_reads_as_another_program_reads_it() {
    let expected: serde_json::Value =
        serde_json::from_slice(&vector("event-logs/trustee-CCEL_data_ovmf_out.json")).unwrap();
    let expected = expected["uefi_event_logs"].as_array().unwrap();
    let log = vector("event-logs/trustee-CCEL_data_ovmf.bin");
    let log = parse(&log).unwrap();
    // It counts the header as an event, or not; all others are the same.
    let expected = &expected[expected.len() - log.events.len()..];
    assert_eq!((log.events.len(), log.padding), (20, Padding::Ones));
    for (event, expected) in log.events.iter().zip(expected) {
        assert_eq!(
            u64::from(event.register),
            expected["index"].as_u64().unwrap()
        );
        assert_eq!(
            event.kind.to_string(),
            expected["type_name"].as_str().unwrap()
        );
        let digest = expected["digests"][0]["digest"].as_str().unwrap();
        assert_eq!(base16::encode(event.digests[0].value), digest);
    }
}

#[test]
fn a_log_reads_the_same_without_its_padding() {
    let padded = vector("event-logs/google-cos-113-intel-tdx.bin");
    let padded = parse(&padded).unwrap();
    assert_eq!((padded.padding, padded.end), (Padding::Ones, 0x46b5));
    let whole = vector("event-logs/google-cos-113-intel-tdx.bin");
    let cut = parse(&whole[..padded.end]).unwrap();
    assert_eq!(cut.padding, Padding::None);
    assert_eq!(cut.events, padded.events);
    let unpadded = vector("event-logs/google-CCEL_unpadded.data.bin");
    let unpadded = parse(&unpadded).unwrap();
    assert_eq!(
        (unpadded.padding, unpadded.events.len()),
        (Padding::None, 19)
    );
}

#[test]
fn another_separator_in_a_real_log_is_refused() {
    let whole = vector("event-logs/google-cos-113-intel-tdx.bin");
    let log = parse(&whole).unwrap();
    let separator = log
        .events
        .iter()
        .position(|event| event.kind.0 == 4)
        .unwrap();
    let (from, to) = (
        log.events[separator].offset,
        log.events[separator + 1].offset,
    );
    let doubled = [&whole[..to], &whole[from..to], &whole[to..log.end]].concat();
    let error = parse(&doubled).unwrap().replay(Tcb::Tdx).unwrap_err();
    assert_eq!(error.cause, "got a third separator, of RTMR1");
}

/// Marsaglia's xorshift: the same mutations on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

/// Lengths and counts that parsers get wrong.
const NUMBERS: [u32; 8] = [
    0,
    1,
    23,
    24,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    u32::MAX,
];

fn mutate(log: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if log.is_empty() {
            return;
        }
        let at = random.below(log.len());
        match random.below(5) {
            0 => log[at] ^= 1 << random.below(8),
            1 => log[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => log.truncate(at),
            3 => {
                let to = at + random.below(log.len() - at).min(64);
                let part = log[at..to].to_vec();
                log.splice(at..at, part);
            }
            _ => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let to = (at + 4).min(log.len());
                log[at..to].copy_from_slice(&number[..to - at]);
            }
        }
    }
}

/// Every accepted log is covered by its events, without gap or overlap.
fn check_extent(log: &EventLog<'_>, length: usize) {
    let mut next = log.events.first().map_or(log.end, |event| event.offset);
    for event in &log.events {
        assert_eq!(event.offset, next);
        let digests: usize = event.digests.iter().map(|digest| digest.value.len()).sum();
        next += match log.format {
            measured_boot::event_log::Format::Sha1 => 12 + digests + event.data.len(),
            measured_boot::event_log::Format::CryptoAgile => {
                16 + 2 * event.digests.len() + digests + event.data.len()
            }
        };
    }
    assert_eq!(next, log.end);
    assert!(next <= length);
}

#[test]
fn altered_logs_are_refused_with_an_offset_or_read_whole() {
    const ROUNDS: usize = 110_000;
    let logs = [
        "uki-plain.bin",
        "google-CCEL_unpadded.data.bin",
        "trustee-CCEL_data_ovmf.bin",
        "glinux-alex.bin",
    ]
    .map(|name| {
        let whole = vector(&format!("event-logs/{name}"));
        let end = parse(&whole).unwrap().end;
        // Some padding is enough to alter.
        whole[..whole.len().min(end + 64)].to_vec()
    });
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut refused, mut read) = (0, 0);
    for round in 0..ROUNDS {
        let mut log = logs[round % logs.len()].clone();
        mutate(&mut log, &mut random);
        match parse(&log) {
            Err(error) => {
                assert!(error.offset <= log.len(), "{error}");
                refused += 1;
            }
            Ok(parsed) => {
                check_extent(&parsed, log.len());
                let descriptions = parsed.events.iter().map(|event| event.description());
                assert!(descriptions.map(|text| text.len()).max() <= Some(103));
                // Hashing is slow without optimisation; one in eight is enough.
                if round % 8 == 0 {
                    for tcb in [Tcb::Tpm, Tcb::Tdx] {
                        if let Err(error) = parsed.replay(tcb) {
                            assert!(error.offset <= log.len(), "{error}");
                        }
                    }
                }
                read += 1;
            }
        }
    }
    assert!(
        refused > ROUNDS / 10 && read > ROUNDS / 10,
        "{refused} {read}"
    );
}
