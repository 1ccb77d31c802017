//! The broker on a socket: TLS, HTTP, limits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use key_broker::log::Log;
use key_broker::{InitOptions, ServeOptions, Store, serve};
use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;

use crate::guest::{Guest, KEY, Lines, SECRET, Site, auth_body, pcrs};
use crate::soft_tpm::SoftTpm;

pub(crate) struct Server {
    pub(crate) site: Site,
    pub(crate) lines: Lines,
    pub(crate) address: SocketAddr,
    /// None when the broker is a process of its own.
    _runtime: Option<tokio::runtime::Runtime>,
}

/// A client's end of a connection.
pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(ServeOptions::default())
    }

    pub(crate) fn with(options: ServeOptions) -> Self {
        let site = Site::new();
        let lines = Lines::default();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let bind = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(bind).unwrap();
        let address = listener.local_addr().unwrap();
        let options = ServeOptions {
            log: Log::writer(lines.clone()),
            ..options
        };
        runtime.spawn(serve(site.store.clone(), listener, options));
        Self {
            site,
            lines,
            address,
            _runtime: Some(runtime),
        }
    }

    /// A broker that serves this site elsewhere.
    pub(crate) fn elsewhere(site: Site, address: SocketAddr) -> Self {
        Self {
            site,
            lines: Lines::default(),
            address,
            _runtime: None,
        }
    }

    pub(crate) fn tls(&self, ca: &Store, name: &str) -> std::io::Result<Tls> {
        connect(self.address, ca, name)
    }

    /// One request on one connection: status, head, body.
    pub(crate) fn request(&self, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = self.tls(&self.site.store, "localhost").unwrap();
        let length = body.len();
        let head = format!(
            "{head}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The server may refuse before it has read all.
        drop(stream.write_all(body));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        let end = answer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("an answer");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    pub(crate) fn guest(&self) -> Guest {
        let (status, head, body) = self.request("POST /kbs/v0/auth HTTP/1.1", &auth_body("tpm"));
        assert_eq!(status, 200);
        let (_, cookie) = head.split_once("set-cookie: kbs-session-id=").unwrap();
        let (id, rest) = cookie.split_once("; Expires=").unwrap();
        assert!(rest.contains(" GMT"), "{rest}");
        let nonce: Value = serde_json::from_slice(&body).unwrap();
        Guest::new(id, nonce["nonce"].as_str().unwrap())
    }

    pub(crate) fn attest(&self, guest: &Guest, tpm: &SoftTpm) -> u16 {
        let evidence = tpm.quote(guest.report_data().qualifying_data());
        let body = serde_json::to_vec(&guest.attest_body(&evidence)).unwrap();
        let cookie = format!("Cookie: a=b; kbs-session-id={}", guest.id);
        self.request(&format!("POST /kbs/v0/attest HTTP/1.1\r\n{cookie}"), &body)
            .0
    }

    pub(crate) fn fetch(&self, guest: &Guest) -> (u16, String, Vec<u8>) {
        let cookie = format!("Cookie: kbs-session-id={}", guest.id);
        self.request(
            &format!("GET /kbs/v0/resource/{KEY} HTTP/1.1\r\n{cookie}"),
            &[],
        )
    }
}

/// A connection to the server of `ca`, with exactly what init offers.
pub(crate) fn connect(address: SocketAddr, ca: &Store, name: &str) -> std::io::Result<Tls> {
    let pem = std::fs::read(ca.ca_path()).unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&pem).unwrap())
        .unwrap();
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![ring::kx_group::SECP256R1];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(60)))?;
    client.complete_io(&mut tcp)?;
    Ok(StreamOwned::new(client, tcp))
}

#[test]
fn serves_what_init_offers_and_nothing_to_another_ca_or_name() {
    let server = Server::start();
    let guest = server.guest();
    assert_eq!(server.attest(&guest, &SoftTpm::new(0, pcrs(2), 1)), 200);
    let (status, head, body) = server.fetch(&guest);
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(guest.decrypt(&body), SECRET);
    assert!(!server.lines.text().contains(&guest.id));

    let other = Store::init(
        &server.site.dir.path().join("other"),
        &InitOptions::new(vec!["localhost".into()], 30),
    );
    let error = server.tls(&other.unwrap(), "localhost").unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let error = server.tls(&server.site.store, "example.org").unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[test]
fn answers_what_is_outside_the_protocol_as_trustee_does() {
    let server = Server::start();
    let cases = [
        ("GET /kbs/v0/nosuch/a/b", 404, "PluginNotFound"),
        ("GET /other", 404, "InvalidRequestPath"),
        ("PATCH /kbs/v0/auth", 405, "HTTPFailed"),
        ("POST /kbs/v0/resource/demo/boot/key", 405, "HTTPFailed"),
        ("GET /kbs/v0/resource/demo/boot/key", 401, "TokenNotFound"),
        ("POST /kbs/v0/auth", 401, "SerdeError"),
    ];
    for (request, expected, kind) in cases {
        let (status, head, body) = server.request(&format!("{request} HTTP/1.1"), b"");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, expected, "{request}");
        let prefix = "https://github.com/confidential-containers/kbs/errors/";
        assert_eq!(body["type"], format!("{prefix}{kind}"), "{request}");
        assert!(!head.contains("content-type"), "{head}");
    }
    assert_eq!(server.lines.text().lines().count(), cases.len());
}

#[test]
fn rejects_an_oversize_body() {
    let server = Server::start();
    let body = vec![b' '; 2 * 1024 * 1024 + 1];
    assert_eq!(server.request("POST /kbs/v0/attest HTTP/1.1", &body).0, 413);
    // At the bound it is read, and refused for what it is.
    let (status, _, answer) = server.request("POST /kbs/v0/auth HTTP/1.1", &body[1..]);
    assert_eq!(status, 401);
    assert!(String::from_utf8(answer).unwrap().contains("R_REQUEST"));
}

#[test]
fn plain_http_gets_nothing() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .write_all(b"GET /kbs/v0/auth HTTP/1.1\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(server.lines.text(), "");
}
