use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use std::net::UdpSocket;
use std::thread;
use std::vec::Vec;

use super::{encode, parse, question, resolve};
use crate::network::deadline::Deadline;
use crate::network::tests::mutate;

const ID: [u8; 2] = [0x12, 0x34];
/// Where the question's name is.
const POINTER: [u8; 2] = [0xc0, 12];

fn name() -> Vec<u8> {
    encode("Broker.example").unwrap()
}

/// The answer with these flags and records (owner, type, data).
fn answer(flags: [u8; 2], records: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
    let mut message = question(ID, &name());
    message[2..4].copy_from_slice(&flags);
    message[7] = u8::try_from(records.len()).unwrap();
    for (owner, kind, data) in records {
        message.extend(*owner);
        message.extend([
            0,
            *kind,
            0,
            1,
            0,
            0,
            1,
            0,
            0,
            u8::try_from(data.len()).unwrap(),
        ]);
        message.extend(*data);
    }
    message
}

fn read(message: &[u8]) -> Option<Result<Vec<Ipv4Addr>, &'static str>> {
    parse(message, ID, &name())
}

const OK: [u8; 2] = [0x81, 0x80];
const ADDRESS: (&[u8], u8, &[u8]) = (&POINTER, 1, &[192, 0, 2, 1]);

#[test]
fn reads_addresses_and_aliases_in_any_order() {
    let expected = Some(Ok(Vec::from([Ipv4Addr::new(192, 0, 2, 1)])));
    assert_eq!(read(&answer(OK, &[ADDRESS])), expected);

    let alias = encode("kbs.example").unwrap();
    let records: [(&[u8], u8, &[u8]); 2] = [(&alias, 1, &[192, 0, 2, 1]), (&POINTER, 5, &alias)];
    assert_eq!(read(&answer(OK, &records)), expected);

    // kbs. and the question's second label, by a pointer.
    let compressed = [3, b'k', b'b', b's', 0xc0, 19];
    let records: [(&[u8], u8, &[u8]); 2] =
        [(&POINTER, 5, &compressed), (&alias, 1, &[192, 0, 2, 1])];
    assert_eq!(read(&answer(OK, &records)), expected);
}

#[test]
fn ignores_what_is_no_answer_to_the_question() {
    let good = answer(OK, &[ADDRESS]);
    for (what, at, byte) in [
        ("another id", 0, 9),
        ("a question", 2, 1),
        ("another opcode", 2, 0x91),
        ("no question", 5, 0),
        ("another name", 13, b'x'),
        ("another type", 29, 28),
        ("another class", 31, 3),
    ] {
        let mut message = good.clone();
        message[at] = byte;
        assert_eq!(read(&message), None, "{what}");
    }
    for length in 0..32 {
        assert_eq!(read(&good[..length]), None, "{length} bytes");
    }
}

#[test]
fn reports_names_without_address() {
    assert!(read(&answer([0x81, 0x83], &[])).unwrap().is_err());
    assert!(read(&answer([0x81, 0x82], &[ADDRESS])).unwrap().is_err());
    assert!(read(&answer(OK, &[])).unwrap().is_err());
    let other = encode("other.example").unwrap();
    assert!(
        read(&answer(OK, &[(&other, 1, &[192, 0, 2, 1])]))
            .unwrap()
            .is_err()
    );
    // An address of five bytes.
    assert!(
        read(&answer(OK, &[(&POINTER, 1, &[192, 0, 2, 1, 1])]))
            .unwrap()
            .is_err()
    );
}

#[test]
fn ends_loops() {
    let itself: (&[u8], u8, &[u8]) = (&POINTER, 5, &POINTER);
    assert!(read(&answer(OK, &[itself])).unwrap().is_err());
    // A pointer to itself: the first record begins at 32.
    assert!(
        read(&answer(OK, &[(&[0xc0, 32], 1, &[192, 0, 2, 1])]))
            .unwrap()
            .is_err()
    );
    // Forward, then back.
    assert!(
        read(&answer(OK, &[(&[0xc0, 34], 1, &[0xc0, 32, 2, 1])]))
            .unwrap()
            .is_err()
    );
}

#[test]
fn rejects_malformed_names() {
    let long = "a".repeat(64);
    let total = ["a"; 130].join(".");
    for host in ["", ".", "a..b", "a.", long.as_str(), total.as_str()] {
        assert_eq!(encode(host), None, "{host}");
    }
}

#[test]
fn literals_need_no_server() {
    let addresses = resolve(&[], "192.0.2.7", Deadline::after(Duration::ZERO)).unwrap();
    assert_eq!(addresses, [Ipv4Addr::new(192, 0, 2, 7)]);
}

#[test]
fn asks_until_somebody_answers() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = |socket: &UdpSocket| {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_addr().unwrap().port())
    };
    let servers = [address(&socket)];
    let thread = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (_, client) = socket.recv_from(&mut buffer).unwrap();
        // An answer with another identifier comes first and is ignored.
        let mut message = answer(OK, &[ADDRESS]);
        message[..2].copy_from_slice(&[!buffer[0], buffer[1]]);
        socket.send_to(&message, client).unwrap();
        message[..2].copy_from_slice(&buffer[..2]);
        socket.send_to(&message, client).unwrap();
    });
    let deadline = Deadline::after(Duration::from_secs(5));
    let addresses = resolve(&servers, "broker.example", deadline).unwrap();
    assert_eq!(addresses, [Ipv4Addr::new(192, 0, 2, 1)]);
    thread.join().unwrap();

    let deadline = Deadline::after(Duration::from_millis(50));
    assert!(resolve(&[address(&silent)], "broker.example", deadline).is_err());
}

#[test]
fn survives_mutations() {
    let alias = encode("kbs.example").unwrap();
    let valid = answer(
        OK,
        &[
            (&POINTER, 5, &[3, b'k', b'b', b's', 0xc0, 19]),
            (&alias, 1, &[1; 4]),
        ],
    );
    let mut read_some = 0;
    mutate(&valid, 20_000, |message| {
        if let Some(Ok(addresses)) = read(message) {
            assert!(addresses.len() <= 4);
            read_some += 1;
        }
    });
    assert!(read_some > 100, "{read_some}");
}
