//! Brokers that misbehave: in who they are, or in what they answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use time::{Duration as Span, OffsetDateTime};

/// What is wrong with a broker's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nothing.
    Good,
    /// Issued by another CA of the same name.
    OtherCa,
    /// For another address.
    OtherName,
    /// Valid only before the given moment, seconds since 1970.
    ExpiredAt(i64),
    /// Valid only after it.
    ValidFrom(i64),
}

/// What a broker does once TLS stands.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Accepts TCP, then says nothing, not even in TLS.
    SilentTcp,
    /// Finishes TLS, reads, says nothing.
    Silent,
    /// Sends its answer one byte per interval.
    Slow(Duration, Vec<u8>),
    /// Sends this whole answer to every request.
    Answers(Vec<u8>),
    /// Sends this head, then zeros without end.
    Endless(Vec<u8>),
    /// Sends these bytes instead of TLS.
    Garbage(Vec<u8>),
    /// Answers request 1, 2, 3, ... by the list; the last one again and again.
    Script(Vec<Vec<u8>>),
}

/// A misbehaving broker on the loopback; serves until the process ends.
#[derive(Debug)]
pub struct Hostile {
    /// Its port.
    pub port: u16,
    /// The CA certificate a guest is given, PEM.
    pub ca: String,
    received: Arc<Mutex<Vec<u8>>>,
    handshakes: Arc<AtomicUsize>,
}

impl Hostile {
    /// Starts one. Guests reach it as 10.0.2.2.
    ///
    /// # Errors
    /// No port, or no certificate.
    pub fn start(identity: Identity, behaviour: Behaviour) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (ca, config) = certificates(identity)?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let handshakes = Arc::new(AtomicUsize::new(0));
        let server = Server {
            config,
            behaviour,
            received: Arc::clone(&received),
            handshakes: Arc::clone(&handshakes),
            requests: Arc::new(AtomicUsize::new(0)),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream).ok());
            }
        });
        Ok(Self {
            port,
            ca,
            received,
            handshakes,
        })
    }

    /// Every decrypted byte a guest sent.
    pub fn received(&self) -> Vec<u8> {
        self.received
            .lock()
            .map(|bytes| bytes.clone())
            .unwrap_or_default()
    }

    /// Connections on which a guest finished the TLS handshake.
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Server {
    config: Arc<ServerConfig>,
    behaviour: Behaviour,
    received: Arc<Mutex<Vec<u8>>>,
    handshakes: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn serve(&self, mut tcp: TcpStream) -> Result<()> {
        match &self.behaviour {
            Behaviour::SilentTcp => {
                std::thread::sleep(Duration::from_secs(600));
                return Ok(());
            }
            Behaviour::Garbage(bytes) => {
                tcp.write_all(bytes)?;
                std::thread::sleep(Duration::from_secs(5));
                return Ok(());
            }
            _ => {}
        }
        let mut tls = ServerConnection::new(Arc::clone(&self.config))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        self.handshakes.fetch_add(1, Ordering::SeqCst);
        let mut stream = StreamOwned::new(tls, tcp);
        while self.read_request(&mut stream)? {
            let number = self.requests.fetch_add(1, Ordering::SeqCst);
            self.answer(&mut stream, number)?;
        }
        Ok(())
    }

    /// Reads until the end of a request: its head, and as much body as it says.
    fn read_request(&self, stream: &mut impl Read) -> Result<bool> {
        let mut request = Vec::new();
        let mut buffer = [0; 16384];
        loop {
            let length = stream.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                return Ok(false);
            };
            request.extend_from_slice(bytes);
            if let Ok(mut received) = self.received.lock() {
                received.extend_from_slice(bytes);
            }
            let text = String::from_utf8_lossy(&request);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .filter_map(|line| line.split_once(':'))
                    .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                    .and_then(|(_, value)| value.trim().parse().ok())
                    .unwrap_or(0);
                if body.len() >= length {
                    return Ok(true);
                }
            }
        }
    }

    fn answer(&self, stream: &mut impl Write, number: usize) -> Result<()> {
        match &self.behaviour {
            Behaviour::SilentTcp | Behaviour::Silent | Behaviour::Garbage(_) => {
                std::thread::sleep(Duration::from_secs(600));
            }
            Behaviour::Slow(interval, answer) => {
                for byte in answer {
                    stream.write_all(&[*byte])?;
                    stream.flush()?;
                    std::thread::sleep(*interval);
                }
            }
            Behaviour::Answers(answer) => stream.write_all(answer)?,
            Behaviour::Script(answers) => {
                if let Some(answer) = answers.get(number).or(answers.last()) {
                    stream.write_all(answer)?;
                }
            }
            Behaviour::Endless(head) => {
                stream.write_all(head)?;
                loop {
                    stream.write_all(&[b'0'; 16384])?;
                }
            }
        }
        stream.flush()?;
        Ok(())
    }
}

/// An HTTP answer with a JSON body.
pub fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn certificates(identity: Identity) -> Result<(String, Arc<ServerConfig>)> {
    let ca = authority()?;
    let other = authority()?;
    let issuer = if identity == Identity::OtherCa {
        &other
    } else {
        &ca
    };
    let name = if identity == Identity::OtherName {
        "10.9.9.9"
    } else {
        "10.0.2.2"
    };
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    match identity {
        Identity::ExpiredAt(end) => params.not_after = OffsetDateTime::from_unix_timestamp(end)?,
        Identity::ValidFrom(start) => {
            params.not_before = OffsetDateTime::from_unix_timestamp(start)?
        }
        Identity::Good | Identity::OtherCa | Identity::OtherName => {
            params.not_before = OffsetDateTime::now_utc() - Span::days(1);
            params.not_after = OffsetDateTime::now_utc() + Span::days(365);
        }
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((ca.pem(), Arc::new(config)))
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Test CA");
    params.not_before = OffsetDateTime::from_unix_timestamp(946_684_800)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(4_102_444_800)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(CertifiedIssuer::self_signed(params, key)?)
}
