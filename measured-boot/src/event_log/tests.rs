//! Hostile logs: each is refused, with the offset of what is wrong.

use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::{Algorithm, Format, Padding, Tcb, parse};

const SHA1: u16 = 4;
const SHA256: u16 = 0xb;
const SM3: u16 = 0x12;

const NO_ACTION: u32 = 3;
const SEPARATOR: u32 = 4;
const ACTION: u32 = 5;

/// A crypto-agile log with the header that declares `algorithms`.
fn agile(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (id, size) in algorithms {
        data.extend(id.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    sha1_event(0, NO_ACTION, &[0; 20], &data)
}

fn sha1_event(register: u32, kind: u32, digest: &[u8; 20], data: &[u8]) -> Vec<u8> {
    let size = u32::try_from(data.len()).unwrap().to_le_bytes();
    let numbers = [register.to_le_bytes(), kind.to_le_bytes()].concat();
    [&numbers, &digest[..], &size, data].concat()
}

fn event(register: u32, kind: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut bytes = [register.to_le_bytes(), kind.to_le_bytes()].concat();
    bytes.extend(u32::try_from(digests.len()).unwrap().to_le_bytes());
    for (id, digest) in digests {
        bytes.extend(id.to_le_bytes());
        bytes.extend(*digest);
    }
    bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    bytes.extend(data);
    bytes
}

fn sha256_event(register: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    event(register, kind, &[(SHA256, &[7; 32])], data)
}

fn locality(value: &[u8]) -> Vec<u8> {
    let data = [&b"StartupLocality\0"[..], value].concat();
    sha256_event(0, NO_ACTION, &data)
}

fn refusal(log: &[u8]) -> (usize, String) {
    let error = parse(log).unwrap_err();
    (error.offset, error.cause)
}

fn replay_refusal(tcb: Tcb, events: &[Vec<u8>]) -> (usize, String) {
    let log = [agile(&[(SHA256, 32)]), events.concat()].concat();
    let error = parse(&log).unwrap().replay(tcb).unwrap_err();
    (error.offset, error.cause)
}

fn header_length() -> usize {
    agile(&[(SHA256, 32)]).len()
}

#[test]
fn accepts_padding_of_zeros_of_ones_and_none() {
    let log = [agile(&[(SHA256, 32)]), sha256_event(14, ACTION, b"x")].concat();
    let padded = |byte: u8, count| [log.clone(), vec![byte; count]].concat();
    for (log, padding) in [
        (log.clone(), Padding::None),
        (padded(0, 1), Padding::Zeros),
        (padded(0, 4096), Padding::Zeros),
        (padded(0xff, 3), Padding::Ones),
    ] {
        let parsed = parse(&log).unwrap();
        assert_eq!(parsed.padding, padding);
        assert_eq!((parsed.events.len(), parsed.end), (1, header_length() + 51));
    }
}

#[test]
fn rejects_what_is_hidden_in_padding() {
    let log = agile(&[(SHA256, 32)]);
    for byte in [0, 0xff] {
        let mut padded = [log.clone(), vec![byte; 64]].concat();
        *padded.last_mut().unwrap() = 1;
        let (offset, cause) = refusal(&padded);
        assert!(offset >= log.len(), "{offset}");
        assert!(
            cause.contains("digest count") || cause.contains("register index"),
            "{cause}"
        );
    }
}

#[test]
fn rejects_every_truncation() {
    let log = [agile(&[(SHA256, 32)]), sha256_event(14, ACTION, b"hello")].concat();
    let header = header_length();
    for length in 0..log.len() {
        // The header alone is a whole log without events.
        assert_eq!(parse(&log[..length]).is_err(), length != header, "{length}");
    }
}

#[test]
fn rejects_lengths_beyond_the_log() {
    let mut log = [agile(&[(SHA256, 32)]), sha256_event(14, ACTION, b"hello")].concat();
    let size = log.len() - 9;
    for length in [6u32, 0x8000_0000, u32::MAX] {
        log[size..size + 4].copy_from_slice(&length.to_le_bytes());
        let (offset, cause) = refusal(&log);
        assert_eq!(offset, size + 4);
        assert_eq!(
            cause,
            format!("event data: got 5 bytes to the end, expected {length}")
        );
    }
}

#[test]
fn rejects_registers_that_no_machine_has() {
    for register in [24, 0x100, u32::MAX] {
        let log = [agile(&[(SHA256, 32)]), sha256_event(register, ACTION, b"x")].concat();
        let expected = format!("register index: got {register}, expected 0 to 23");
        assert_eq!(refusal(&log), (header_length(), expected));
    }
    for register in [0, 5, 23] {
        let (offset, cause) = replay_refusal(Tcb::Tdx, &[sha256_event(register, ACTION, b"x")]);
        assert_eq!(offset, header_length());
        assert_eq!(
            cause,
            format!("register index: got {register}, expected 1 to 4")
        );
    }
}

#[test]
fn rejects_other_digests_than_the_declared_ones() {
    let one = (SHA256, &[7; 32][..]);
    let other = (SHA1, &[7; 20][..]);
    let both = [(SHA1, 20), (SHA256, 32)];
    for (declared, digests, expected) in [
        (&both[1..], &[][..], "digest count: got 0, expected 1"),
        (&both[1..], &[one, other], "digest count: got 2, expected 1"),
        (&both, &[one], "digest count: got 1, expected 2"),
        (
            &both[1..],
            &[other],
            "got digest of sha1, which the log does not declare",
        ),
        (
            &both,
            &[one, one],
            "digests: got one algorithm twice, expected sha1 too",
        ),
    ] {
        let log = [agile(declared), event(14, ACTION, digests, b"x")].concat();
        assert_eq!(refusal(&log).1, expected);
    }
    let log = [agile(&both), event(14, ACTION, &[one, other], b"x")].concat();
    let parsed = parse(&log).unwrap();
    assert_eq!(parsed.events[0].digest(Algorithm::Sha1), Some(other.1));
    assert_eq!(parsed.events[0].digest(Algorithm::Sha256), Some(one.1));
}

#[test]
fn rejects_algorithms_that_are_not_declared_soundly() {
    for (algorithms, expected) in [
        (&[][..], "got 0 algorithms, expected 1 to 16"),
        (&[(SHA256, 32); 17], "got 17 algorithms, expected 1 to 16"),
        (&[(SHA256, 32), (SHA256, 32)], "sha256 is declared twice"),
        (
            &[(SHA256, 20)],
            "sha256: got digests of 20 bytes, expected 32",
        ),
        (
            &[(SM3, 0)],
            "algorithm 0x0012: got digests of 0 bytes, expected 64",
        ),
        (
            &[(SM3, 65)],
            "algorithm 0x0012: got digests of 65 bytes, expected 64",
        ),
    ] {
        let (offset, cause) = refusal(&agile(algorithms));
        assert!((32..96).contains(&offset), "{offset}");
        assert_eq!(cause, expected);
    }
    let mut trailing = agile(&[(SHA256, 32)]);
    trailing[28] += 1;
    trailing.push(0);
    let expected = "got 1 bytes after the specification identifier event, expected none";
    assert_eq!(refusal(&trailing).1, expected);
}

#[test]
fn reads_past_digests_of_an_unknown_algorithm_without_replaying_them() {
    let digests = [(SM3, &[1; 32][..]), (SHA256, &[7; 32][..])];
    let log = [
        agile(&[(SM3, 32), (SHA256, 32)]),
        event(14, ACTION, &digests, b"x"),
    ]
    .concat();
    let banks = parse(&log).unwrap().replay(Tcb::Tpm).unwrap();
    assert_eq!(banks.len(), 1);
    let expected = Sha256::digest([[0; 32], [7; 32]].concat()).to_vec();
    assert_eq!(banks[0].registers[&14], expected);
}

#[test]
fn replays_a_log_of_sha1_format() {
    let separators = (0..8).map(|pcr| sha1_event(pcr, SEPARATOR, &[9; 20], &[0; 4]));
    let log: Vec<u8> = separators.collect::<Vec<_>>().concat();
    let parsed = parse(&[log, vec![0; 100]].concat()).map(|log| {
        assert_eq!((log.format, log.events.len()), (Format::Sha1, 8));
        log.replay(Tcb::Tpm).unwrap()
    });
    let expected = Sha1::digest([[0; 20], [9; 20]].concat()).to_vec();
    let banks = parsed.unwrap();
    assert_eq!(banks[0].algorithm, Algorithm::Sha1);
    assert!((0..8).all(|pcr| banks[0].registers[&pcr] == expected));
}

#[test]
fn begins_pcr_0_with_the_startup_locality() {
    let separator = sha256_event(0, SEPARATOR, &[0; 4]);
    let log = [agile(&[(SHA256, 32)]), locality(&[3]), separator].concat();
    let banks = parse(&log).unwrap().replay(Tcb::Tpm).unwrap();
    let mut initial = [0; 64];
    initial[31] = 3;
    initial[32..].fill(7);
    assert_eq!(banks[0].registers[&0], Sha256::digest(initial).to_vec());
}

#[test]
fn rejects_a_false_startup_locality() {
    let at = header_length();
    let next = at + locality(&[3]).len();
    let separator = sha256_event(0, SEPARATOR, &[0; 4]);
    let mut of_pcr_1 = locality(&[3]);
    of_pcr_1[0] = 1;
    for (tcb, events, offset, expected) in [
        (
            Tcb::Tpm,
            vec![locality(&[1])],
            at,
            "got 1, expected 0, 3 or 4",
        ),
        (Tcb::Tpm, vec![locality(&[])], at, "got 0 bytes, expected 1"),
        (
            Tcb::Tpm,
            vec![locality(&[3, 0])],
            at,
            "got 2 bytes, expected 1",
        ),
        (
            Tcb::Tpm,
            vec![locality(&[3]), locality(&[3])],
            next,
            "got it twice",
        ),
        (
            Tcb::Tpm,
            vec![of_pcr_1],
            at,
            "got PCR 1, expected PCR 0 of a TPM",
        ),
        (
            Tcb::Tdx,
            vec![locality(&[3])],
            at,
            "got MRTD, expected PCR 0 of a TPM",
        ),
        (
            Tcb::Tpm,
            vec![separator.clone(), locality(&[3])],
            at + separator.len(),
            "got it after PCR 0 was extended",
        ),
    ] {
        let refusal = replay_refusal(tcb, &events);
        assert_eq!(refusal, (offset, format!("startup locality: {expected}")));
    }
}

#[test]
fn extends_nothing_for_no_action() {
    let log = [
        agile(&[(SHA256, 32)]),
        sha256_event(0, NO_ACTION, b"SP800-155 Event3"),
    ]
    .concat();
    let banks = parse(&log).unwrap().replay(Tcb::Tpm).unwrap();
    assert!(banks[0].registers.is_empty());
}

#[test]
fn rejects_missing_and_repeated_separators() {
    let separator = |register| sha256_event(register, SEPARATOR, &[0; 4]);
    let size = separator(0).len();
    let at = header_length();
    assert_eq!(
        replay_refusal(Tcb::Tpm, &[separator(0), separator(1), separator(0)]),
        (at + 2 * size, "got a second separator of PCR 0".to_owned())
    );
    let action = sha256_event(4, ACTION, b"x");
    assert_eq!(
        replay_refusal(Tcb::Tpm, &[separator(0), action.clone()]),
        (
            at + size + action.len(),
            "got the end of the log, expected a separator of PCR 4".to_owned()
        )
    );
    for (events, expected) in [
        ([1, 1, 1], "got a third separator, of RTMR0"),
        ([1, 1, 2], "got a third separator, of RTMR1"),
        ([2, 2, 1], "got a third separator, of RTMR0"),
    ] {
        let (offset, cause) = replay_refusal(Tcb::Tdx, &events.map(separator));
        assert_eq!((offset, cause.as_str()), (at + 2 * size, expected));
    }
    assert_eq!(
        replay_refusal(Tcb::Tdx, &[separator(2), separator(2)]),
        (at + size, "got a second separator, of RTMR1".to_owned())
    );
}

#[test]
fn describes_an_event_in_printable_characters() {
    let name: Vec<u8> = "Boot\u{e9}0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let variable = [
        &[1; 16][..],
        &6u64.to_le_bytes(),
        &9u64.to_le_bytes(),
        &name,
    ]
    .concat();
    let long = "a".repeat(101);
    for (kind, data, expected) in [
        (0x8000_0002, &variable[..], "Boot.0"),
        // A name that is longer than the data.
        (0x8000_0002, &variable[..35], ""),
        (0x6, b"\xec\";\x8f\x0d\0\0\0Linux initrd\0", "Linux initrd"),
        (0xd, b"grub_cmd: \x1b[31mset\0", "grub_cmd: "),
        (SEPARATOR, b"abcd", ""),
        (ACTION, long.as_bytes(), &format!("{}...", "a".repeat(100))),
    ] {
        let log = [agile(&[(SHA256, 32)]), sha256_event(14, kind, data)].concat();
        assert_eq!(parse(&log).unwrap().events[0].description(), expected);
    }
}

#[test]
fn a_log_of_zeros_costs_no_more_than_its_length() {
    // Each 32 zeros are an event that measures nothing, and look like padding.
    let mut log = vec![0; 4 << 20];
    log.extend(sha1_event(1, SEPARATOR, &[9; 20], &[0; 4]));
    let begun = std::time::Instant::now();
    let parsed = parse(&log).unwrap();
    assert!(begun.elapsed().as_secs() < 10);
    assert_eq!(parsed.events.len(), (4 << 20) / 32 + 1);
    assert_eq!((parsed.end, parsed.padding), (log.len(), Padding::None));
}
