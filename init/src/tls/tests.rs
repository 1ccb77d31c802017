use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::vec::Vec;

use measured_boot::code::Code;
use measured_boot::manifest::{Broker, Bytes};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, ServerName};

use super::{TlsStream, client_config};
use crate::error::Failure;
use crate::network::deadline::Deadline;

/// The name in the test certificates.
pub(crate) const NAME: &str = "broker.example";
pub(crate) type Peer = StreamOwned<ServerConnection, TcpStream>;

/// A certificate authority of one test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { issuer, der }
    }

    pub(crate) fn broker(&self) -> Broker {
        Broker {
            url: "https://broker.example".into(),
            ca: Bytes(self.der.clone()),
            not_before: 0,
        }
    }

    /// A server's configuration with a certificate for [`NAME`] and 127.0.0.1.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.custom_server(&[&TLS13], |_| {})
    }

    fn custom_server(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([NAME.into(), "127.0.0.1".into()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                [certificate.der().clone()].into(),
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            );
        Arc::new(config.unwrap())
    }
}

/// A listener on loopback whose first connections `serve` gets, in order.
pub(crate) fn listen(
    connections: usize,
    mut serve: impl FnMut(TcpStream) + Send + 'static,
) -> (SocketAddrV4, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        for _ in 0..connections {
            serve(listener.accept().unwrap().0);
        }
    });
    (SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), thread)
}

pub(crate) fn accept(config: &Arc<ServerConfig>, stream: TcpStream) -> Peer {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

fn dial(broker: &Broker, name: &str, address: SocketAddrV4) -> Result<TlsStream, Failure> {
    let name = ServerName::try_from(std::string::String::from(name)).unwrap();
    let deadline = Deadline::after(Duration::from_secs(5));
    TlsStream::connect(&client_config(broker)?, name, &[address], deadline)
}

/// Connects to a server with this configuration; for errors their code. Who
/// refuses a certificate says so.
fn shake_hands(broker: &Broker, name: &str, config: Arc<ServerConfig>) -> Result<(), Code> {
    let (sender, receiver) = mpsc::channel();
    let (address, thread) = listen(1, move |stream| {
        let mut peer = accept(&config, stream);
        let heard = match peer.conn.complete_io(&mut peer.sock) {
            Ok(_) => std::string::String::new(),
            Err(error) => std::format!("{error}"),
        };
        sender.send(heard).unwrap();
    });
    let result = dial(broker, name, address).map(drop).map_err(|e| e.code);
    thread.join().unwrap();
    let heard = receiver.recv().unwrap();
    match result {
        Ok(()) => assert_eq!(heard, ""),
        Err(Code::TlsProtocol) => assert_ne!(heard, ""),
        Err(_) => assert!(heard.contains("fatal alert"), "{heard}"),
    }
    result
}

#[test]
fn exchanges_data_of_any_size() {
    let authority = Authority::new();
    let config = authority.server();
    let (address, thread) = listen(1, move |stream| {
        let mut peer = accept(&config, stream);
        let mut received = std::vec![0; 100_000];
        peer.read_exact(&mut received).unwrap();
        peer.write_all(&received).unwrap();
        peer.conn.send_close_notify();
        peer.flush().unwrap();
    });
    let mut stream = dial(&authority.broker(), NAME, address).unwrap();
    let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    stream.deadline = Deadline::after(Duration::from_secs(20));
    stream.write(&sent).unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        stream.read(&mut received).unwrap();
    }
    assert!(received == sent);
    let error = stream.read(&mut received).unwrap_err();
    assert_eq!(error.code, Code::BrokerConnect);
    assert_eq!(error.cause, "the peer closed the connection");
    thread.join().unwrap();
}

#[test]
fn accepts_only_the_right_name_issuer_and_time() {
    let authority = Authority::new();
    let broker = authority.broker();
    let tls13 = [&TLS13];
    let expired = |p: &mut CertificateParams| p.not_after = date_time_ymd(2020, 1, 1);
    let future = |p: &mut CertificateParams| p.not_before = date_time_ymd(2200, 1, 1);
    let wrong_name = |p: &mut CertificateParams| p.subject_alt_names.clear();
    let ends_2100 = |p: &mut CertificateParams| p.not_after = date_time_ymd(2100, 1, 1);
    // 2150, whatever the machine's clock says.
    let late = Broker {
        not_before: 5_680_281_600,
        ..authority.broker()
    };
    let server = |change: fn(&mut CertificateParams)| authority.custom_server(&tls13, change);
    for (what, broker, name, config, expected) in [
        ("name", &broker, NAME, authority.server(), Ok(())),
        ("address", &broker, "127.0.0.1", authority.server(), Ok(())),
        (
            "other CA",
            &broker,
            NAME,
            Authority::new().server(),
            Err(Code::TlsIssuer),
        ),
        (
            "other name",
            &broker,
            "other.example",
            authority.server(),
            Err(Code::TlsName),
        ),
        (
            "other address",
            &broker,
            "127.0.0.2",
            authority.server(),
            Err(Code::TlsName),
        ),
        (
            "no name",
            &broker,
            NAME,
            server(wrong_name),
            Err(Code::TlsName),
        ),
        (
            "expired",
            &broker,
            NAME,
            server(expired),
            Err(Code::TlsExpired),
        ),
        (
            "future",
            &broker,
            NAME,
            server(future),
            Err(Code::TlsNotYetValid),
        ),
        ("before the floor", &broker, NAME, server(ends_2100), Ok(())),
        (
            "after the floor",
            &late,
            NAME,
            server(ends_2100),
            Err(Code::TlsExpired),
        ),
        (
            "TLS 1.2",
            &broker,
            NAME,
            authority.custom_server(&[&TLS12], |_| {}),
            Err(Code::TlsProtocol),
        ),
    ] {
        assert_eq!(shake_hands(broker, name, config), expected, "{what}");
    }
}

#[test]
fn rejects_an_unusable_authority() {
    let broker = Broker {
        ca: Bytes([1, 2, 3].into()),
        ..Authority::new().broker()
    };
    let error = client_config(&broker).unwrap_err();
    assert_eq!(error.code, Code::Manifest);
}

#[test]
fn rejects_peers_that_do_not_speak_tls() {
    let authority = Authority::new();
    type Case = (&'static str, fn(TcpStream));
    let serve: [Case; 4] = [
        ("garbage", |mut s| {
            s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap()
        }),
        ("closed at once", drop),
        ("closed in the handshake", |mut s| {
            s.read_exact(&mut [0; 64]).unwrap();
            s.write_all(&[22, 3, 3, 0, 100, 2, 0]).unwrap();
        }),
        ("endless handshake message", |mut s| {
            // A server hello of 16 MiB - 1, in empty promises.
            let mut record = std::vec![22, 3, 3, 0x40, 0];
            record.resize(5 + 0x4000, 0);
            record[5..9].copy_from_slice(&[2, 0xff, 0xff, 0xff]);
            while s.write_all(&record).is_ok() {}
        }),
    ];
    for (what, serve) in serve {
        let (address, thread) = listen(1, serve);
        let code = dial(&authority.broker(), NAME, address).err().unwrap().code;
        // Where bytes are left unread, the kernel resets the connection.
        assert!(
            matches!(code, Code::TlsProtocol | Code::BrokerConnect),
            "{what}: {code}"
        );
        thread.join().unwrap();
    }
}

#[test]
fn reads_a_server_that_sends_byte_by_byte() {
    let authority = Authority::new();
    let config = authority.server();
    let (address, thread) = listen(1, move |mut stream| {
        stream.set_nodelay(true).unwrap();
        let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut answered = false;
        while connection.is_handshaking() || !answered {
            if !connection.is_handshaking() {
                connection.writer().write_all(b"hello").unwrap();
                answered = true;
            }
            let mut bytes = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut bytes).unwrap();
            }
            for byte in bytes {
                stream.write_all(&[byte]).unwrap();
            }
            if connection.is_handshaking() {
                connection.read_tls(&mut stream).unwrap();
                connection.process_new_packets().unwrap();
            }
        }
    });
    let mut stream = dial(&authority.broker(), NAME, address).unwrap();
    let mut received = Vec::new();
    while received.len() < 5 {
        stream.read(&mut received).unwrap();
    }
    assert_eq!(received, b"hello");
    thread.join().unwrap();
}

#[test]
fn reports_refused_and_silent_peers() {
    let broker = Authority::new().broker();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free);
    assert_eq!(
        dial(&broker, NAME, address).err().unwrap().code,
        Code::BrokerConnect
    );

    let (address, thread) = listen(1, |mut stream| {
        stream.read_to_end(&mut Vec::new()).ok();
    });
    let name = ServerName::try_from(NAME).unwrap();
    let deadline = Deadline::after(Duration::from_millis(100));
    let config = client_config(&broker).unwrap();
    let error = TlsStream::connect(&config, name, &[address], deadline)
        .err()
        .unwrap();
    assert_eq!(error.code, Code::BrokerTimeout);
    thread.join().unwrap();
}

#[test]
fn tries_every_address() {
    let authority = Authority::new();
    let config = authority.server();
    let (address, thread) = listen(1, move |stream| {
        let mut peer = accept(&config, stream);
        peer.conn.complete_io(&mut peer.sock).unwrap();
    });
    let closed = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 9), address.port());
    let name = ServerName::try_from(NAME).unwrap();
    let deadline = Deadline::after(Duration::from_secs(5));
    let config = client_config(&authority.broker()).unwrap();
    TlsStream::connect(&config, name, &[closed, address], deadline).unwrap();
    thread.join().unwrap();
}
