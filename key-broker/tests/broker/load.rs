//! Many clients, slow clients, large bodies: the broker stays right and small.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use key_broker::ServeOptions;
use key_broker::store::attesters::Origin;
use serde_json::Value;

use crate::guest::{SECRET, Site, auth_body, pcrs};
use crate::process::Process;
use crate::server::Server;
use crate::soft_tpm::SoftTpm;
use crate::wire::{Message, Wire};

const GUESTS: usize = 1_000;
const TPMS: usize = 8;

/// The guests of one TPM take turns at the resource: a later boot's ends an
/// earlier one's right to it. Those of different TPMs do not wait.
#[derive(Default)]
struct Turns {
    next: Mutex<usize>,
    moved: Condvar,
}

impl Turns {
    fn take(&self, turn: usize, act: impl FnOnce()) {
        let mut next = self.next.lock().unwrap();
        while *next != turn {
            next = self.moved.wait(next).unwrap();
        }
        act();
        *next += 1;
        self.moved.notify_all();
    }
}

#[test]
fn a_thousand_guests_at_once_each_get_their_own() {
    let server = Server::start();
    let keys: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..TPMS).map(|_| scope.spawn(SoftTpm::new_key)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let tpm = |index: usize| {
        let boot = u32::try_from(index / TPMS).unwrap();
        SoftTpm::with_key(keys[index % TPMS], pcrs(2), boot)
    };
    for index in 0..TPMS {
        let ak = tpm(index).ak();
        server.site.store.enroll_ak(&ak, Origin::Given).unwrap();
    }
    let turns: Vec<Turns> = (0..TPMS).map(|_| Turns::default()).collect();
    let start = Instant::now();
    let first = std::thread::scope(|scope| {
        let handshake = |index: usize| {
            let guest = server.guest();
            assert_eq!(server.attest(&guest, &tpm(index)), 200);
            turns[index % TPMS].take(index / TPMS, || {
                let (status, _, body) = server.fetch(&guest);
                assert_eq!(status, 200);
                assert_eq!(guest.decrypt(&body), SECRET);
            });
            guest
        };
        let threads: Vec<_> = (0..GUESTS)
            .map(|index| scope.spawn(move || handshake(index)))
            .collect();
        let mut guests = threads.into_iter().map(|t| t.join().unwrap());
        let first = guests.next().unwrap();
        assert_eq!(guests.count(), GUESTS - 1);
        first
    });
    eprintln!("{GUESTS} handshakes in {:?}", start.elapsed());
    let lines = server.lines.take();
    for action in ["auth", "attest", "resource"] {
        let action = format!("\"action\":\"{action}\"");
        assert_eq!(
            lines.lines().filter(|l| l.contains(&action)).count(),
            GUESTS
        );
    }
    assert!(!lines.contains("\"refuse\""));
    // The first boot of its TPM is long over.
    assert_eq!(server.fetch(&first).0, 401);
}

/// Sends byte after byte, and says after what time the server had enough, and
/// what it said.
fn drip(stream: &mut (impl Read + Write), bytes: impl Iterator<Item = u8>) -> (Duration, String) {
    let start = Instant::now();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    for byte in bytes {
        if stream
            .write_all(&[byte])
            .and_then(|()| stream.flush())
            .is_err()
        {
            break;
        }
        // The wait between two bytes is the stream's read timeout.
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend(&buffer[..length]),
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind()) => {}
            Err(_) => break,
        }
        assert!(start.elapsed() < Duration::from_secs(120), "nobody ends it");
    }
    (
        start.elapsed(),
        String::from_utf8_lossy(&answer).into_owned(),
    )
}

const STEP: Duration = Duration::from_millis(500);

fn slow_handshake(server: &Server) -> (Duration, String) {
    let mut tcp = TcpStream::connect(server.address).unwrap();
    tcp.set_read_timeout(Some(STEP)).unwrap();
    // A record of a ClientHello of 4 KiB, which never becomes complete.
    let hello = [0x16, 3, 1, 0x10, 0, 1, 0, 0x0f, 0xfc, 3, 3];
    drip(&mut tcp, hello.into_iter().chain(std::iter::repeat(7)))
}

fn slow_request(server: &Server, fast: &[u8], slow: &[u8]) -> (Duration, String) {
    let mut tls = server.tls(&server.site.store, "localhost").unwrap();
    tls.sock.set_read_timeout(Some(STEP)).unwrap();
    tls.write_all(fast).unwrap();
    drip(&mut tls, slow.iter().copied().cycle())
}

/// 120 of the 128 places are taken by clients that are as slow as they can be.
#[test]
fn slow_clients_are_cut_off_while_others_are_served() {
    let server = Server::start();
    let over = AtomicBool::new(false);
    let (slow, served) = std::thread::scope(|scope| {
        let (server, over) = (&server, &over);
        let slow: Vec<_> = (0..120)
            .map(|index| {
                scope.spawn(move || match index % 4 {
                    0 => slow_handshake(server),
                    1 => slow_request(server, b"", b"GET /kbs/v0/resource/demo/boot/key"),
                    2 => slow_request(server, b"GET / HTTP/1.1\r\nX: ", b"y"),
                    _ => slow_request(
                        server,
                        b"POST /kbs/v0/attest HTTP/1.1\r\nContent-Length: 9000\r\n\r\n{",
                        b" ",
                    ),
                })
            })
            .collect();
        let honest = scope.spawn(move || {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                let guest = server.guest();
                let boot = u32::try_from(times.len()).unwrap();
                assert_eq!(server.attest(&guest, &SoftTpm::new(0, pcrs(2), boot)), 200);
                assert_eq!(guest.decrypt(&server.fetch(&guest).2), SECRET);
                times.push(start.elapsed());
            }
            times
        });
        let slow: Vec<_> = slow.into_iter().map(|t| t.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        (slow, honest.join().unwrap())
    });
    for (index, (time, answer)) in slow.iter().enumerate() {
        // Ten seconds; the rest is for a machine that is busy.
        let seconds = time.as_secs_f64();
        assert!(
            (8.0..30.0).contains(&seconds),
            "{index}: {seconds} s, {answer}"
        );
        let timeout = answer.starts_with("HTTP/1.1 408") && answer.contains("R_TIMEOUT");
        // Only what got as far as a body is answered.
        assert_eq!(timeout, index % 4 == 3, "{index}: {answer}");
    }
    let slowest = served.iter().max().unwrap();
    eprintln!(
        "{} guests served beside 120 slow clients, the slowest in {slowest:?}",
        served.len()
    );
    assert!(served.len() >= 5, "{served:?}");
    assert!(*slowest < Duration::from_secs(8), "{served:?}");
    let lines = server.lines.take();
    let timeouts = lines.lines().filter(|line| line.contains("R_TIMEOUT"));
    assert_eq!(timeouts.count(), 30);
}

#[test]
fn above_the_limit_of_sessions_is_a_code_until_old_ones_expire() {
    let lifetime = Duration::from_secs(8);
    let server = Server::with(ServeOptions {
        session: lifetime,
        sessions: 6,
        ..ServeOptions::default()
    });
    let start = Instant::now();
    let guests: Vec<_> = (0..6)
        .map(|boot| {
            let guest = server.guest();
            assert_eq!(server.attest(&guest, &SoftTpm::new(0, pcrs(2), boot)), 200);
            guest
        })
        .collect();
    let (status, _, body) = server.request("POST /kbs/v0/auth HTTP/1.1", &auth_body("tpm"));
    assert!(
        start.elapsed() < lifetime,
        "too slow a machine to say anything"
    );
    assert_eq!(status, 401);
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("R_SESSIONS_FULL:")
    );
    // Nobody was pushed out.
    assert_eq!(server.fetch(&guests[0]).0, 200);
    std::thread::sleep(lifetime);
    assert_eq!(server.fetch(&guests[5]).0, 401);
    let guest = server.guest();
    assert_eq!(server.attest(&guest, &SoftTpm::new(0, pcrs(2), 9)), 200);
    assert_eq!(guest.decrypt(&server.fetch(&guest).2), SECRET);
}

/// In KiB. The bound for bodies is that of 128 connections with 2 MiB each,
/// twice over for what a buffer holds while it grows, and a reserve.
const SESSIONS_BOUND: u64 = 24 * 1024;
const BODIES_BOUND: u64 = (2 * 128 * 2 + 128) * 1024;

#[test]
fn memory_is_bounded_whatever_clients_send() {
    let site = Site::new();
    let (process, address) = Process::serve(site.dir.path());
    let server = Server::elsewhere(site, address);
    drop(server.guest());
    let base = process.memory("VmRSS");

    // One and a half times as many sessions as are kept.
    let mut wire = Wire::new(&server);
    let message = Message::new("POST", "/kbs/v0/auth", &auth_body("tpm"));
    let mut first = None;
    for _ in 0..6_144 {
        let answer = wire.exchange(&message).unwrap();
        assert_eq!(answer.status, 200);
        first.get_or_insert(answer);
    }
    let flooded = process.memory("VmRSS");
    let first = first.unwrap();
    let id = first.head.split("kbs-session-id=").nth(1).unwrap();
    let challenge: Value = serde_json::from_slice(&first.body).unwrap();
    let pushed_out = crate::guest::Guest::new(&id[..32], challenge["nonce"].as_str().unwrap());
    assert_eq!(
        server.attest(&pushed_out, &SoftTpm::new(0, pcrs(2), 1)),
        401
    );
    assert!(process.said().contains("R_SESSION_UNKNOWN"));

    // More connections than there are places, each with the largest body.
    let body = vec![b'['; 2 * 1024 * 1024];
    std::thread::scope(|scope| {
        for index in 0..160 {
            let (server, body) = (&server, &body);
            scope.spawn(move || {
                let path = ["auth", "attest"][index % 2];
                let head = format!("POST /kbs/v0/{path} HTTP/1.1");
                assert_eq!(server.request(&head, body).0, 401);
            });
        }
    });
    let peak = process.memory("VmHWM");
    eprintln!(
        "KiB: {base} at first, {flooded} with all sessions, at most {peak} with large bodies"
    );
    assert!(flooded < base + SESSIONS_BOUND, "{base} {flooded}");
    assert!(peak < base + BODIES_BOUND, "{base} {peak}");
    // And it still works.
    let guest = server.guest();
    assert_eq!(server.attest(&guest, &SoftTpm::new(0, pcrs(2), 2)), 200);
    assert_eq!(guest.decrypt(&server.fetch(&guest).2), SECRET);
}
