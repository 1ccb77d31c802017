//! The protocol from the host's side, each step by itself, so that a test can
//! send what an honest guest never would.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use measured_boot::evidence::{ReportData, TeePublicKey};
use p256::SecretKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

/// A client of one broker.
#[derive(Debug)]
pub struct Client {
    port: u16,
    config: Arc<ClientConfig>,
}

/// What the broker answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Value of the session cookie, if one was set.
    pub cookie: Option<String>,
    /// The body, as JSON; null when it is none.
    pub body: Value,
}

/// A session as the broker opened it.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// `name=value` of the cookie.
    pub cookie: String,
    /// The nonce, as received.
    pub nonce: String,
}

impl Client {
    /// For the broker with this store, on this port of the loopback.
    ///
    /// # Errors
    /// The store has no CA.
    pub fn new(store: &Path, port: u16) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(
            CertificateDer::from_pem_file(store.join("ca.pem")).map_err(|e| anyhow!("{e:?}"))?,
        )?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            port,
            config: Arc::new(config),
        })
    }

    /// Opens a session.
    ///
    /// # Errors
    /// The broker did not.
    pub fn auth(&self) -> Result<Challenge> {
        let request = json!({ "version": "0.4.0", "tee": "tpm", "extra-params": "" });
        let answer = self.request("POST", "/kbs/v0/auth", None, Some(&request))?;
        match (answer.status, answer.cookie, answer.body["nonce"].as_str()) {
            (200, Some(cookie), Some(nonce)) => Ok(Challenge {
                cookie,
                nonce: nonce.into(),
            }),
            (status, ..) => bail!("got status {status} to auth: {}", answer.body),
        }
    }

    /// Sends evidence in a session, with a nonce and key of the caller's choice.
    ///
    /// # Errors
    /// No answer.
    pub fn attest(
        &self,
        cookie: &str,
        nonce: &str,
        key: &TeePublicKey,
        evidence: &Value,
    ) -> Result<Answer> {
        let jwk: Value = serde_json::from_str(&key.to_jwk())?;
        let request = json!({
            "runtime-data": { "nonce": nonce, "tee-pubkey": jwk },
            "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
        });
        self.request("POST", "/kbs/v0/attest", Some(cookie), Some(&request))
    }

    /// Asks for a resource.
    ///
    /// # Errors
    /// No answer.
    pub fn resource(&self, cookie: &str, path: &str) -> Result<Answer> {
        self.request(
            "GET",
            &format!("/kbs/v0/resource/{path}"),
            Some(cookie),
            None,
        )
    }

    /// One request in JSON on a connection of its own.
    ///
    /// # Errors
    /// No answer, or none in HTTP.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        cookie: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(cookie.map(|cookie| ("Cookie", cookie)));
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send(method, path, &headers, body.as_bytes())
    }

    /// One request of any kind on a connection of its own.
    ///
    /// # Errors
    /// No answer, or none in HTTP.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let mut connection = self.connect()?;
        let headers = [headers, &[("Connection", "close")]].concat();
        connection.exchange(method, path, &headers, body)
    }

    /// A connection for several requests, as init keeps one.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(30)))?;
        let name = ServerName::try_from("localhost")?;
        let tls = ClientConnection::new(Arc::clone(&self.config), name)?;
        Ok(Connection(StreamOwned::new(tls, tcp)))
    }
}

/// One connection to the broker.
#[derive(Debug)]
pub struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    /// One request and its answer.
    ///
    /// # Errors
    /// No answer, or none in HTTP.
    pub fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(&[head.as_bytes(), body].concat())?;
        let mut answer = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while !is_complete(&answer) {
            // A broker may close without TLS's goodbye; what counts is the
            // answer.
            match self.0.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => answer.extend(&buffer[..length]),
            }
        }
        parse(&String::from_utf8_lossy(&answer))
    }
}

/// Whether an answer with a length is there to its end.
fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| answer.len() >= end + 4 + length)
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("got no HTTP answer")?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|l| l.split(' ').nth(1))
        .context("got no status")?
        .parse()?;
    let cookie = lines
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        .and_then(|(_, value)| value.split(';').next())
        .map(str::to_owned);
    Ok(Answer {
        status,
        cookie,
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}

/// A fresh key as a guest makes one.
pub fn key() -> (SecretKey, TeePublicKey) {
    use p256::elliptic_curve::Generate;
    let secret = SecretKey::generate();
    let public = public_key(&secret);
    (secret, public)
}

fn public_key(secret: &SecretKey) -> TeePublicKey {
    use p256::elliptic_curve::sec1::ToSec1Point;
    let point = secret.public_key().to_sec1_point(false);
    let half = |range: core::ops::Range<usize>| {
        let bytes: &[u8] = point.as_bytes();
        bytes[range].try_into().unwrap_or([0; 32])
    };
    TeePublicKey {
        x: half(1..33),
        y: half(33..65),
    }
}

/// What a TPM has to sign for this session and key.
pub fn qualifying_data(nonce: &str, key: &TeePublicKey) -> [u8; 32] {
    *ReportData::bind(nonce, key).qualifying_data()
}
