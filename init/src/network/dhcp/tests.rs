use core::net::Ipv4Addr;
use std::vec::Vec;

use super::{Answer, Lease, Transaction};
use crate::network::tests::mutate;

const TRANSACTION: Transaction = Transaction {
    xid: [1, 2, 3, 4],
    mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
};

const MASK: &[u8] = &[1, 4, 255, 255, 255, 0];
const ROUTER: &[u8] = &[3, 4, 10, 0, 2, 2];
const DNS: &[u8] = &[6, 4, 10, 0, 2, 3];
const TIME: &[u8] = &[51, 4, 0, 1, 81, 128];
const ACK: &[u8] = &[53, 1, 5];
const SERVER: &[u8] = &[54, 4, 10, 0, 2, 2];
const END: &[u8] = &[255];
const ALL: [&[u8]; 7] = [MASK, ROUTER, DNS, TIME, ACK, SERVER, END];

/// An answer as a server sends it, with these options.
fn answer(options: &[&[u8]]) -> Vec<u8> {
    let mut message = std::vec![2, 1, 6, 0, 1, 2, 3, 4];
    message.resize(16, 0);
    message.extend([10, 0, 2, 15]);
    message.resize(28, 0);
    message.extend(TRANSACTION.mac);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99]);
    for option in options {
        message.extend(*option);
    }
    message
}

fn lease() -> Lease {
    Lease {
        address: Ipv4Addr::new(10, 0, 2, 15),
        prefix: 24,
        router: Some(Ipv4Addr::new(10, 0, 2, 2)),
        dns: std::vec![Ipv4Addr::new(10, 0, 2, 3)],
        server: Ipv4Addr::new(10, 0, 2, 2),
        seconds: 86400,
    }
}

#[test]
fn accepts_a_complete_answer() {
    let parse = |options: &[&[u8]]| TRANSACTION.parse(&answer(options));
    assert_eq!(parse(&ALL), Some(Answer::Ack(lease())));
    let offer = [MASK, ROUTER, DNS, TIME, &[53, 1, 2], SERVER, END];
    assert_eq!(parse(&offer), Some(Answer::Offer(lease())));
    assert_eq!(parse(&[&[53, 1, 6], END]), Some(Answer::Nak));
}

#[test]
fn bounds_lists_and_times() {
    let endless: &[u8] = &[51, 4, 255, 255, 255, 255];
    let five: &[u8] = &[
        6, 20, 1, 1, 1, 1, 127, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4,
    ];
    let Some(Answer::Ack(lease)) = TRANSACTION.parse(&answer(&[
        MASK,
        five,
        endless,
        ACK,
        SERVER,
        &[0, 0, 12, 1, 65],
        END,
    ])) else {
        panic!("refused");
    };
    assert_eq!(lease.seconds, 604_800);
    assert_eq!(lease.router, None);
    assert_eq!(lease.dns, [1, 2, 3].map(|n| Ipv4Addr::new(n, n, n, n)));
}

#[test]
fn rejects_what_is_not_a_complete_answer_to_us() {
    let with = |at: usize, option: &'static [u8]| {
        let mut options = ALL;
        options[at] = option;
        answer(&options)
    };
    let patched = |at: usize, byte: u8| {
        let mut message = answer(&ALL);
        message[at] = byte;
        message
    };
    let cases: &[(&str, Vec<u8>)] = &[
        ("empty", Vec::new()),
        ("cut in the fixed part", answer(&ALL)[..239].to_vec()),
        ("cut before the end option", answer(&ALL[..6])),
        ("a request", patched(0, 1)),
        ("another hardware type", patched(1, 6)),
        ("another address length", patched(2, 16)),
        ("another transaction", patched(4, 9)),
        ("another client", patched(28, 9)),
        ("no magic cookie", patched(236, 9)),
        ("address 0.0.2.15", patched(16, 0)),
        ("address 127.0.2.15", patched(16, 127)),
        ("address 224.0.2.15", patched(16, 224)),
        ("address 255.0.2.15", patched(16, 255)),
        ("no mask", with(0, &[])),
        ("mask with a hole", with(0, &[1, 4, 255, 0, 255, 0])),
        ("mask 0", with(0, &[1, 4, 0, 0, 0, 0])),
        ("mask /7", with(0, &[1, 4, 254, 0, 0, 0])),
        ("short mask", with(0, &[1, 3, 255, 255, 255])),
        ("long mask", with(0, &[1, 5, 255, 255, 255, 0, 0])),
        ("ragged routers", with(1, &[3, 5, 10, 0, 2, 2, 9])),
        ("ragged name servers", with(2, &[6, 3, 10, 0, 2])),
        ("no lease time", with(3, &[])),
        ("short lease", with(3, &[51, 4, 0, 0, 0, 59])),
        ("no type", with(4, &[])),
        ("long type", with(4, &[53, 2, 5, 5])),
        ("type inform", with(4, &[53, 1, 8])),
        ("no server", with(5, &[])),
        ("server 0.0.0.0", with(5, &[54, 4, 0, 0, 0, 0])),
        ("an option twice", with(6, &[1, 4, 255, 255, 255, 0, 255])),
        ("an option over the end", with(6, &[12, 200, 65])),
        ("an option without length", with(6, &[12])),
    ];
    for (name, message) in cases {
        assert_eq!(TRANSACTION.parse(message), None, "{name}");
    }
}

#[test]
fn writes_messages_servers_read() {
    let discover = TRANSACTION.discover();
    assert_eq!(discover.len(), 300);
    assert_eq!(discover[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0]);
    assert_eq!(discover[28..34], TRANSACTION.mac);
    assert_eq!(
        discover[236..249],
        [99, 130, 83, 99, 53, 1, 1, 55, 3, 1, 3, 6, 255]
    );

    let request = TRANSACTION.request(&lease());
    let options = [
        53, 1, 3, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2, 55, 3, 1, 3, 6, 255,
    ];
    assert_eq!(request[240..261], options);
    assert_eq!(request[12..16], [0; 4]);

    let extend = TRANSACTION.extend(&lease());
    assert_eq!(extend[12..16], [10, 0, 2, 15]);
    assert_eq!(extend[10], 0);
    assert_eq!(extend[240..249], [53, 1, 3, 55, 3, 1, 3, 6, 255]);
}

#[test]
fn survives_mutations() {
    let mut read = 0;
    mutate(&answer(&ALL), 20_000, |message| {
        if let Some(Answer::Ack(lease) | Answer::Offer(lease)) = TRANSACTION.parse(message) {
            assert!((8..=32).contains(&lease.prefix) && lease.dns.len() <= 3);
            read += 1;
        }
    });
    // Some mutants must get past the first checks, or this tests nothing.
    assert!(read > 100, "{read}");
}
