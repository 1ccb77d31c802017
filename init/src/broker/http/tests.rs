use std::string::String;
use std::vec::Vec;

use measured_boot::code::Code;

use super::{Response, read_response, request};
use crate::error::Failure;
use crate::network::tests::mutate;

/// Bytes in pieces of a given size; then the end.
fn pieces(mut bytes: &[u8], size: usize) -> impl FnMut(&mut Vec<u8>) -> Result<(), Failure> {
    move |buffer| {
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        bytes = rest;
        buffer.extend(piece);
        if piece.is_empty() {
            Err(Failure::new(Code::BrokerConnect, "closed"))
        } else {
            Ok(())
        }
    }
}

fn read(bytes: &[u8]) -> Result<Response, Code> {
    let whole = read_response(pieces(bytes, usize::MAX), 100).map_err(|e| e.code);
    let split = read_response(pieces(bytes, 1), 100).map_err(|e| e.code);
    assert_eq!(whole, split, "{}", String::from_utf8_lossy(bytes));
    whole
}

fn body(bytes: &[u8]) -> Vec<u8> {
    read(bytes).unwrap().body
}

#[test]
fn writes_requests() {
    let path = "/kbs/v0/auth";
    assert_eq!(
        request("kbs:8443", None, path, Some("{}")),
        "POST /kbs/v0/auth HTTP/1.1\r\nHost: kbs:8443\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    );
    assert_eq!(
        request("kbs", Some("kbs-session-id=1"), path, None),
        "GET /kbs/v0/auth HTTP/1.1\r\nHost: kbs\r\nAccept: application/json\r\n\
         Cookie: kbs-session-id=1\r\n\r\n"
    );
}

#[test]
fn reads_bodies_of_both_framings() {
    assert_eq!(
        body(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        b"hello"
    );
    assert_eq!(body(b"HTTP/1.1 200 \r\ncontent-length:0\r\n\r\n"), b"");
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n\
        5\r\nhello\r\n00000001;x=y\r\n!\r\n0\r\n\r\n";
    assert_eq!(body(chunked), b"hello!");
}

#[test]
fn reads_the_session_cookie_without_its_attributes() {
    let cookie = |line: &str| {
        let text = std::format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 0\r\n\r\n");
        read(text.as_bytes()).map(|r| r.cookie)
    };
    let id = "kbs-session-id=6998a99790884c4f8f9c23c8ae0dbe7d";
    let recorded = std::format!("set-cookie: {id}; Expires=Mon, 23 Nov 2026 16:44:51 GMT");
    assert_eq!(cookie(&recorded), Ok(Some(id.into())));
    assert_eq!(cookie("Set-Cookie: other=1"), Ok(None));
    assert_eq!(
        cookie("Set-Cookie: kbs-session-id="),
        Err(Code::BrokerProtocol)
    );
    assert_eq!(
        cookie("Set-Cookie: kbs-session-id=a b"),
        Err(Code::BrokerProtocol)
    );
    let long = std::format!("Set-Cookie: kbs-session-id={}", "a".repeat(300));
    assert_eq!(cookie(&long), Err(Code::BrokerProtocol));
}

#[test]
fn notices_when_the_connection_ends() {
    let close = |head: &str| {
        read(std::format!("{head}\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .unwrap()
            .close
    };
    assert!(!close("HTTP/1.1 200 OK\r\nConnection: keep-alive"));
    assert!(close("HTTP/1.1 200 OK\r\nConnection: foo, Close"));
}

#[test]
fn rejects_redirects_whatever_they_hold() {
    for rest in ["Location: /x\r\n", "Content-Length: 1000000000\r\n", ""] {
        for status in ["301", "302", "304", "307", "308"] {
            let head = std::format!("HTTP/1.1 {status} Moved\r\n{rest}\r\n");
            assert_eq!(read(head.as_bytes()), Err(Code::BrokerRedirect), "{head}");
        }
    }
}

#[test]
fn rejects_bodies_over_the_bound() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
    ] {
        assert_eq!(read(text.as_bytes()), Err(Code::BrokerSize), "{text}");
    }
    let many = "1\r\nx\r\n".repeat(101);
    let text = std::format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{many}");
    assert_eq!(read(text.as_bytes()), Err(Code::BrokerSize));
}

#[test]
fn rejects_malformed_answers() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for text in [
        "\r\n\r\n".into(),
        "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 100 Continue\r\n\r\n".into(),
        "HTTP/1.1 700 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n".into(),
        std::format!("{ok}\r\n"),
        std::format!("{ok}Content-Length: 0\r\nContent-Length: 0\r\n\r\n"),
        std::format!("{ok}Content-Length: 1\r\n Content-Length: 0\r\n\r\nx"),
        std::format!("{ok}Content-Length : 0\r\n\r\n"),
        std::format!("{ok}Content-Length: +1\r\n\r\nx"),
        std::format!("{ok}Content-Length: 1, 1\r\n\r\nx"),
        std::format!("{ok}Content-Length:\r\n\r\n"),
        std::format!("{ok}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        std::format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        std::format!("{ok}Content-Length: 0\r\nX: \u{7f}\r\n\r\n"),
        std::format!("{ok}Content-Length: 0\r\nno colon\r\n\r\n"),
        std::format!("{ok}Content-Length: 5\r\n\r\nhell"),
        std::format!("{ok}X: {}", "x".repeat(20_000)),
        std::format!("{chunked}x\r\n"),
        std::format!("{chunked}-1\r\n"),
        std::format!("{chunked}\r\n"),
        std::format!("{chunked}000000001\r\nx\r\n"),
        std::format!("{chunked}1\r\nxy\r\n0\r\n\r\n"),
        std::format!("{chunked}0\r\nTrailer: 1\r\n\r\n"),
        std::format!("{chunked}1{}", ";".repeat(500)),
        std::format!("{chunked}5\r\nhel"),
    ] {
        assert_eq!(read(text.as_bytes()), Err(Code::BrokerProtocol), "{text:?}");
    }
}

#[test]
fn tells_a_stale_connection_from_a_broken_answer() {
    assert_eq!(read(b""), Err(Code::BrokerConnect));
    assert_eq!(read(b"H"), Err(Code::BrokerProtocol));
}

#[test]
fn survives_mutations() {
    let valid: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: kbs-session-id=1; A\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x\r\n!\r\n0\r\n\r\n",
    ];
    for valid in valid {
        let mut accepted = 0;
        mutate(valid, 20_000, |mutant| {
            if let Ok(response) = read_response(pieces(mutant, 7), 100) {
                assert!(response.body.len() <= 100);
                accepted += 1;
            }
        });
        assert!(accepted > 100, "{accepted}");
    }
}
