use core::time::Duration;
use std::format;
use std::io::{Read, Write};
use std::string::{String, ToString};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::vec::Vec;

use measured_boot::code::Code;
use measured_boot::evidence::{Evidence, ReportData, TeePublicKey};
use measured_boot::manifest::{Broker, Resource, Tee};
use p256::elliptic_curve::sec1::ToSec1Point;
use serde_json::Value;

use super::connection::Connection;
use super::jwe::tests::{encrypt, private_key, vectors};
use super::url::Url;
use super::{Attested, Session, connect};
use crate::error::BootError;
use crate::network::Interface;
use crate::network::deadline::Deadline;
use crate::tls::tests::{Authority, NAME, Peer, accept, listen};

const NONCE: &str = "YLUR3hH3ZkGgSDlTGGN2Qu3RxzcnpTx2132EVc0UNtE=";
const COOKIE: &str = "kbs-session-id=6998a99790884c4f8f9c23c8ae0dbe7d";
const RESOURCE: &str = "demo/boot/key";

/// One request as a server sees it.
fn read_request(peer: &mut Peer) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let length = peer.read(&mut buffer).ok().filter(|n| *n > 0)?;
        request.extend(&buffer[..length]);
        let text = String::from_utf8(request.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let expected = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() == expected {
                return Some(text);
            }
        }
    }
}

/// A broker whose `answer` is asked for the bytes that follow each request;
/// `None` closes the connection. Takes `connections` of them.
fn serve(
    connections: usize,
    mut answer: impl FnMut(&str) -> Option<Vec<u8>> + Send + 'static,
) -> (Broker, JoinHandle<()>, core::net::SocketAddrV4) {
    let authority = Authority::new();
    let config = authority.server();
    let (address, thread) = listen(connections, move |stream| {
        let mut peer = accept(&config, stream);
        while let Some(request) = read_request(&mut peer) {
            let Some(bytes) = answer(&request) else { break };
            if peer.write_all(&bytes).and_then(|()| peer.flush()).is_err() {
                break;
            }
        }
        peer.conn.send_close_notify();
        peer.flush().ok();
    });
    (authority.broker(), thread, address)
}

fn open(broker: &Broker, address: core::net::SocketAddrV4, overall: Deadline) -> Connection {
    let url = Url::parse(&format!("https://{NAME}")).unwrap();
    Connection::new(broker, url, [address].into(), overall).unwrap()
}

fn seconds(n: u64) -> Deadline {
    Deadline::after(Duration::from_secs(n))
}

fn ok(extra: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(format!("HTTP/1.1 200 OK\r\n{extra}Content-Length: {length}\r\n\r\n{body}").into_bytes())
}

fn challenge() -> Option<Vec<u8>> {
    let cookie = format!("set-cookie: {COOKIE}; Expires=Mon, 23 Nov 2026 16:44:51 GMT\r\n");
    ok(
        &cookie,
        &format!("{{\"nonce\":\"{NONCE}\",\"extra-params\":\"\"}}"),
    )
}

fn evidence() -> Evidence {
    Evidence {
        tee: Tee::Tpm,
        json: "{\"tpm_quote\":{}}".into(),
    }
}

/// A broker as stock as one can be: `jwk` is what it was attested with.
fn stock(jwk: &Mutex<Value>, request: &str) -> Option<Vec<u8>> {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let line = head.lines().next().unwrap();
    assert!(head.contains(&format!("\r\nHost: {NAME}\r\n")), "{head}");
    if line == "POST /kbs/v0/auth HTTP/1.1" {
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["version"], "0.4.0");
        assert_eq!(body["tee"], "tpm");
        assert_eq!(body["extra-params"], "");
        return challenge();
    }
    assert!(head.contains(&format!("\r\nCookie: {COOKIE}")), "{head}");
    if line == "POST /kbs/v0/attest HTTP/1.1" {
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["runtime-data"]["nonce"], NONCE);
        assert_eq!(
            body["tee-evidence"]["primary_evidence"]["tpm_quote"],
            serde_json::json!({})
        );
        assert_eq!(body["tee-evidence"]["additional_evidence"], "");
        *jwk.lock().unwrap() = body["runtime-data"]["tee-pubkey"].clone();
        return ok("", "{\"token\":\"a.b.c\"}");
    }
    assert_eq!(line, format!("GET /kbs/v0/resource/{RESOURCE} HTTP/1.1"));
    ok("", &encrypt(&[42; 32], &jwk.lock().unwrap()))
}

fn fetch(attested: &mut Attested, limit: usize) -> Result<Vec<u8>, BootError> {
    let resource = Resource::from_path(RESOURCE).unwrap();
    attested
        .fetch(&resource, limit)
        .map(|secret| secret.expose().to_vec())
}

#[test]
fn attests_and_fetches_from_a_stock_broker() {
    let jwk = Mutex::default();
    let (broker, thread, address) = serve(1, move |request| stock(&jwk, request));
    let session = Session::open(open(&broker, address, seconds(20)), Tee::Tpm).unwrap();
    assert_eq!(
        session.report_data(),
        ReportData::bind(NONCE, &session.public)
    );
    let mut attested = session.attest(evidence()).unwrap();
    assert_eq!(fetch(&mut attested, 32).unwrap(), [42; 32]);
    let error = fetch(&mut attested, 31).unwrap_err();
    assert_eq!(error.code(), Code::KeyLength);
    drop(attested);
    thread.join().unwrap();
}

#[test]
fn connects_again_when_the_broker_closes() {
    let jwk = Arc::new(Mutex::default());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    // Closes without a word before each second request of a connection.
    let mut idle = false;
    let (broker, thread, address) = serve(3, move |request| {
        idle = !idle;
        if !idle {
            return None;
        }
        seen.lock()
            .unwrap()
            .push(request.split(' ').nth(1).unwrap().to_string());
        stock(&jwk, request)
    });
    let session = Session::open(open(&broker, address, seconds(20)), Tee::Tpm).unwrap();
    let mut attested = session.attest(evidence()).unwrap();
    assert_eq!(fetch(&mut attested, 32).unwrap(), [42; 32]);
    drop(attested);
    thread.join().unwrap();
    let resource = format!("/kbs/v0/resource/{RESOURCE}");
    assert_eq!(
        *requests.lock().unwrap(),
        ["/kbs/v0/auth", "/kbs/v0/attest", resource.as_str()]
    );
}

#[test]
fn report_data_matches_recorded_handshakes() {
    let all = vectors();
    let handshakes = all["handshakes"].as_array().unwrap();
    let ours = handshakes.iter().filter(|h| h["kind"] == "P-256");
    let mut count = 0;
    for handshake in ours {
        let key = private_key(handshake["private_key_pkcs8_pem"].as_str().unwrap());
        let challenge: Value =
            serde_json::from_str(handshake["auth_response"].as_str().unwrap()).unwrap();
        let point = key.public_key().to_sec1_point(false);
        let public = TeePublicKey {
            x: (*point.x().unwrap()).into(),
            y: (*point.y().unwrap()).into(),
        };
        let data = ReportData::bind(challenge["nonce"].as_str().unwrap(), &public);
        let hex: String = data.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, handshake["runtime_data_sha384_hex"].as_str().unwrap());
        count += 1;
    }
    assert_eq!(count, 2);
}

/// The code and text with which `/auth` ends when the broker answers so.
fn refused(bytes: impl Into<Vec<u8>>) -> (Code, String) {
    let bytes = bytes.into();
    let (broker, thread, address) = serve(1, move |_| Some(bytes.clone()));
    let result = Session::open(open(&broker, address, seconds(20)), Tee::Tpm);
    let error = result.err().unwrap();
    thread.join().unwrap();
    (error.code, error.cause)
}

#[test]
fn tells_what_the_broker_said() {
    let all = vectors();
    for error in all["errors"].as_array().unwrap() {
        let body = error["body"].as_str().unwrap();
        let (status, length) = (&error["status"], body.len());
        let (code, text) = refused(format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        assert_eq!(code, Code::BrokerRefused, "{error}");
        let kind = body
            .split("/errors/")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert!(text.starts_with(&format!("refused: {kind}: ")), "{text}");
    }
    let body = "{\"type\":\"x/Policy\\u001b[2J\",\"detail\":\"\\r\\ninit: done\"}";
    let length = body.len();
    let (_, text) = refused(format!(
        "HTTP/1.1 403 X\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    assert_eq!(text, "refused: Policy\\u{1b}[2J: \\r\\ninit: done");
    let (code, text) = refused("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        (code, text.as_str()),
        (
            Code::BrokerRefused,
            "refused: status 404 without error information"
        )
    );
}

#[test]
fn rejects_answers_outside_the_protocol() {
    let body = |json: &str| ok("", json).unwrap();
    let deep = "[".repeat(10_000);
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let endless = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        chunk.repeat(40)
    );
    for (what, bytes, expected) in [
        (
            "redirect",
            b"HTTP/1.1 302 X\r\nLocation: https://x/\r\n\r\n".to_vec(),
            Code::BrokerRedirect,
        ),
        (
            "1 GB",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n".to_vec(),
            Code::BrokerSize,
        ),
        ("endless body", endless.into_bytes(), Code::BrokerSize),
        (
            "endless head",
            format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(20_000)).into(),
            Code::BrokerProtocol,
        ),
        (
            "server error",
            b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_vec(),
            Code::BrokerProtocol,
        ),
        (
            "no content",
            b"HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n".to_vec(),
            Code::BrokerProtocol,
        ),
        ("no JSON", body("hello"), Code::BrokerProtocol),
        ("deep JSON", body(&deep), Code::BrokerProtocol),
        (
            "deep member",
            body(&format!("{{\"nonce\":\"x\",\"extra-params\":{deep}")),
            Code::BrokerProtocol,
        ),
        (
            "no nonce",
            body("{\"extra-params\":\"\"}"),
            Code::BrokerProtocol,
        ),
        (
            "two nonces",
            body("{\"nonce\":\"a\",\"nonce\":\"b\"}"),
            Code::BrokerProtocol,
        ),
        (
            "empty nonce",
            body("{\"nonce\":\"\"}"),
            Code::BrokerProtocol,
        ),
        (
            "long nonce",
            body(&format!("{{\"nonce\":\"{}\"}}", "x".repeat(1025))),
            Code::BrokerProtocol,
        ),
        (
            "other hash",
            body("{\"nonce\":\"x\",\"extra-params\":{\"selected-hash-algorithm\":\"sha512\"}}"),
            Code::BrokerProtocol,
        ),
        (
            "trailing bytes",
            body("{\"nonce\":\"x\"}{}"),
            Code::BrokerProtocol,
        ),
    ] {
        assert_eq!(refused(bytes).0, expected, "{what}");
    }
}

#[test]
fn bounds_silent_and_slow_brokers() {
    let (broker, thread, address) = serve(1, |_| {
        ok("", "").map(|mut bytes| {
            // Promises more than it sends, so the client waits.
            bytes.truncate(20);
            bytes
        })
    });
    let mut connection = open(&broker, address, seconds(20));
    connection.answer = Duration::from_millis(300);
    let error = connection.call("/", None, 100).unwrap_err();
    drop(connection);
    assert_eq!(error.code, Code::BrokerTimeout);
    thread.join().unwrap();

    let (broker, thread, address) = serve(2, |_| ok("Connection: close\r\n", "x"));
    let overall = Deadline::after(Duration::from_millis(1500));
    let mut connection = open(&broker, address, overall);
    assert_eq!(connection.call("/", None, 100).unwrap(), b"x");
    std::thread::sleep(Duration::from_millis(1600));
    // Each answer is quick, the whole is not.
    let error = connection.call("/", None, 100).unwrap_err();
    assert_eq!(error.code, Code::BrokerTimeout);
    drop(connection);
    thread.join().unwrap();
}

#[test]
fn sends_nothing_to_an_unauthenticated_broker() {
    let (_, thread, address) = serve(1, |request| panic!("sent {request}"));
    let other = Authority::new().broker();
    let error = Session::open(open(&other, address, seconds(20)), Tee::Tpm)
        .err()
        .unwrap();
    assert_eq!(error.code, Code::TlsIssuer);
    thread.join().unwrap();
}

#[test]
fn rejects_evidence_of_another_tee() {
    let (broker, thread, address) = serve(1, |_| challenge());
    let session = Session::open(open(&broker, address, seconds(20)), Tee::Snp).unwrap();
    assert_eq!(
        session.attest(evidence()).err().unwrap().code(),
        Code::Internal
    );
    thread.join().unwrap();
}

#[test]
fn rejects_other_urls() {
    let broker = Broker {
        url: "http://127.0.0.1".into(),
        ..Authority::new().broker()
    };
    let error = connect(&broker, &Interface::default(), Tee::Tpm)
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::Manifest);
    assert!(
        error
            .to_string()
            .contains("broker: cannot connect to http://127.0.0.1: "),
        "{error}"
    );
}
