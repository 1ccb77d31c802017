//! A TPM that answers what it likes.

#![allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]

use alloc::vec;
use alloc::vec::Vec;

use super::{
    Ak, Attest, Error, Transport, create_ak, extend, flush, pcr_digest, quote, read_pcrs,
    rsassa_signature,
};

/// Answers from a list, then not at all; keeps what it was sent.
struct Script {
    answers: Vec<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

impl Script {
    fn new(answers: &[&[u8]]) -> Self {
        let answers = answers.iter().rev().map(|answer| answer.to_vec()).collect();
        Self {
            answers,
            sent: Vec::new(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Silent;

impl Transport for Script {
    type Error = Silent;

    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, Silent> {
        self.sent.push(command.to_vec());
        self.answers.pop().ok_or(Silent)
    }
}

fn frame(tag: u16, rc: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 10).unwrap();
    [
        &tag.to_be_bytes()[..],
        &size.to_be_bytes(),
        &rc.to_be_bytes(),
        body,
    ]
    .concat()
}

fn with_session(parameters: &[u8]) -> Vec<u8> {
    let size = u32::try_from(parameters.len()).unwrap().to_be_bytes();
    frame(
        0x8002,
        0,
        &[&size[..], parameters, &[0, 0, 1, 0, 0]].concat(),
    )
}

fn refusal(rc: u32) -> Vec<u8> {
    frame(0x8001, rc, &[])
}

#[test]
fn commands_are_the_bytes_of_the_specification() {
    let mut tpm = Script::new(&[&with_session(&[]), &frame(0x8001, 0, &[])]);
    extend(&mut tpm, 15, &[0xee; 32]).unwrap();
    flush(
        &mut tpm,
        Ak {
            handle: [0x80, 0, 0, 0],
            public_der: Vec::new(),
        },
    )
    .unwrap();
    assert_eq!(read_pcrs(&mut tpm), Err(Error::Transport(Silent)));
    let extend = [
        &[0x80, 2, 0, 0, 0, 65, 0, 0, 1, 0x82, 0, 0, 0, 15][..],
        &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
        &[0, 0, 0, 1, 0, 0x0b],
        &[0xee; 32],
    ];
    assert_eq!(tpm.sent[0], extend.concat());
    assert_eq!(
        tpm.sent[1],
        [0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65, 0x80, 0, 0, 0]
    );
    let read = [
        0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7e, 0, 0, 0, 1, 0, 0x0b, 3, 1, 0, 0,
    ];
    assert_eq!(tpm.sent[2], read);
}

#[test]
fn warnings_are_retried_within_a_bound() {
    for rc in [0x908, 0x90a, 0x922] {
        let mut tpm = Script::new(&[&refusal(rc), &refusal(rc), &with_session(&[])]);
        assert_eq!(extend(&mut tpm, 0, &[0; 32]), Ok(()));
        let busy = refusal(rc);
        let mut tpm = Script::new(&[&busy[..]; 100]);
        let error = Error::Refused {
            command: "TPM2_PCR_Extend",
            rc,
        };
        assert_eq!(extend(&mut tpm, 0, &[0; 32]), Err(error));
        assert_eq!(tpm.sent.len(), 8);
    }
    let mut tpm = Script::new(&[&refusal(0x101), &with_session(&[])]);
    assert!(matches!(
        extend(&mut tpm, 0, &[0; 32]),
        Err(Error::Refused { rc: 0x101, .. })
    ));
}

#[test]
fn rejects_frames_outside_the_specification() {
    let good = with_session(&[]);
    let changed = |offset: usize, value: u8| {
        let mut frame = good.clone();
        frame[offset] = value;
        frame
    };
    let mut trailing = good.clone();
    trailing.push(0);
    let mut declared = trailing.clone();
    declared[5] += 1;
    let frames = [
        ("empty", Vec::new()),
        ("header cut", good[..9].to_vec()),
        ("session cut", frame(0x8002, 0, &[0, 0, 0, 0, 0, 0, 1, 0])),
        ("other tag", changed(1, 1)),
        ("size too small", changed(5, 18)),
        ("size too large", changed(5, 20)),
        ("byte after the frame", trailing),
        ("byte after the session", declared),
        ("parameters nobody asked for", with_session(&[0])),
        ("parameter size past the end", changed(13, 6)),
        ("nonce in the session", changed(15, 1)),
        ("HMAC in the session", changed(18, 1)),
        ("refusal with a body", frame(0x8001, 0x101, &[0])),
        ("refusal with a session tag", frame(0x8002, 0x101, &[])),
        ("refusal of a TPM 1.2", frame(0x00c4, 0x1e, &[])),
        ("larger than any answer", with_session(&[0; 4096])),
    ];
    for (name, frame) in frames {
        let verdict = extend(&mut Script::new(&[&frame]), 0, &[0; 32]);
        assert!(
            matches!(verdict, Err(Error::Malformed { .. })),
            "{name}: {verdict:?}"
        );
    }
}

fn pcr_answer(counter: u32, bank: u16, octets: [u8; 3], digests: &[u8], size: u16) -> Vec<u8> {
    let mut body = [
        &counter.to_be_bytes()[..],
        &[0, 0, 0, 1],
        &bank.to_be_bytes(),
        &[3],
    ]
    .concat();
    body.extend(octets);
    body.extend(u32::try_from(digests.len()).unwrap().to_be_bytes());
    for digest in digests {
        body.extend(size.to_be_bytes());
        body.resize(body.len() + usize::from(size), *digest);
    }
    frame(0x8001, 0, &body)
}

/// The answer to a request for one register.
fn register(pcr: u8, value: u8) -> Vec<u8> {
    let [first, second, third, _] = (1_u32 << pcr).to_le_bytes();
    pcr_answer(7, 0x0b, [first, second, third], &[value], 32)
}

/// All registers, each full of its number.
fn registers() -> Vec<Vec<u8>> {
    (0..24).map(|pcr| register(pcr, pcr)).collect()
}

fn script(answers: &[Vec<u8>]) -> Script {
    let answers: Vec<_> = answers.iter().map(Vec::as_slice).collect();
    Script::new(&answers)
}

#[test]
fn registers_are_read_in_order() {
    let pcrs = read_pcrs(&mut script(&registers())).unwrap();
    assert_eq!(
        pcrs,
        core::array::from_fn(|pcr| [u8::try_from(pcr).unwrap(); 32])
    );
}

#[test]
fn a_quote_of_other_values_than_were_read_is_no_quote() {
    let ak = Ak {
        handle: [0x80, 0, 0, 0],
        public_der: Vec::new(),
    };
    let quoted = |pcrs: &super::Pcrs| {
        let message = [&b"message"[..], &pcr_digest(pcrs)].concat();
        let size = u16::try_from(message.len()).unwrap().to_be_bytes();
        with_session(&[&size[..], &message, b"signature"].concat())
    };
    let mut pcrs = core::array::from_fn(|pcr| [u8::try_from(pcr).unwrap(); 32]);
    let good = quoted(&pcrs);
    pcrs[23] = [0; 32];
    let moved = quoted(&pcrs);

    // One moves in between: all are read again.
    let answers = [registers(), vec![moved.clone()], registers(), vec![good]].concat();
    let parts = quote(&mut script(&answers), &ak, &[0; 32]).unwrap();
    assert_eq!(parts.pcrs[23], [23; 32]);
    assert_eq!(parts.signature, b"signature");
    let answers = [registers(), vec![moved]].concat();
    let answers: Vec<_> = (0..100).flat_map(|_| answers.clone()).collect();
    let mut tpm = script(&answers);
    assert_eq!(quote(&mut tpm, &ak, &[0; 32]), Err(Error::Moving));
    assert_eq!(tpm.sent.len(), 8 * 25);
}

#[test]
fn rejects_registers_that_were_not_asked_for() {
    for (name, answer) in [
        ("none", pcr_answer(1, 0x0b, [0, 0, 0], &[], 32)),
        ("another", register(1, 0)),
        ("more", pcr_answer(1, 0x0b, [3, 0, 0], &[0; 2], 32)),
        ("another bank", pcr_answer(1, 4, [1, 0, 0], &[0], 20)),
        ("a digest too few", pcr_answer(1, 0x0b, [1, 0, 0], &[], 32)),
        (
            "a digest too many",
            pcr_answer(1, 0x0b, [1, 0, 0], &[0; 2], 32),
        ),
        (
            "a digest of another size",
            pcr_answer(1, 0x0b, [1, 0, 0], &[0], 20),
        ),
        ("a longer digest", pcr_answer(1, 0x0b, [1, 0, 0], &[0], 33)),
    ] {
        let verdict = read_pcrs(&mut Script::new(&[&answer]));
        assert!(
            matches!(verdict, Err(Error::Malformed { .. })),
            "{name}: {verdict:?}"
        );
    }
}

#[test]
fn twenty_thousand_mutated_answers_do_not_panic() {
    let mut all = registers();
    let first = all.remove(0);
    let message = include_bytes!("../../tests/vectors/quote_rsa.msg");
    let signature = include_bytes!("../../tests/vectors/quote_rsa.sig");
    let size = u16::try_from(message.len()).unwrap().to_be_bytes();
    let quoted = with_session(&[&size[..], message, signature].concat());
    let created = include_bytes!("../../tests/vectors/create-primary.bin");
    let ak = create_ak(&mut Script::new(&[created])).unwrap();

    let mut state = 0x5eed_u64;
    let mut random = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    };
    let mut refused = 0;
    for round in 0..20_000 {
        let mut answer = [&first[..], &quoted, created][round % 3].to_vec();
        for _ in 0..=random(3) {
            let at = random(answer.len());
            match random(4) {
                0 => answer[at] ^= 1 << random(8),
                1 => answer[at] = [0, 0xff, 0x80, 0x7f][random(4)],
                2 => answer.truncate(at + 1),
                _ => answer.insert(at, 0),
            }
        }
        // Half of them with a header that fits, to get past the first check.
        if random(2) == 0 && answer.len() >= 6 {
            let size = u32::try_from(answer.len()).unwrap().to_be_bytes();
            answer[2..6].copy_from_slice(&size);
        }
        let failed = match round % 3 {
            0 => read_pcrs(&mut script(&[&[answer.clone()], &all[..]].concat())).is_err(),
            1 => quote(
                &mut script(&[&registers()[..], &[answer.clone()]].concat()),
                &ak,
                &[0; 32],
            )
            .is_err(),
            _ => create_ak(&mut Script::new(&[&answer])).is_err(),
        };
        refused += u32::from(failed);
        if let Some(inner) = answer.get(16..) {
            // The verifier's parsers, without the frame around them.
            let _either = (
                Attest::parse(inner).is_ok(),
                rsassa_signature(inner).is_ok(),
            );
        }
    }
    // A flipped bit in a digest or in the creation data is no error of form.
    assert!((10_000..20_000).contains(&refused), "{refused}");
}
