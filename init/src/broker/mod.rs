//! The client of the key broker: the KBS protocol ("RCAR"), version 0.4.0.
//!
//! Request, challenge, attestation, resource. The broker is known by its TLS
//! certificate before it hears anything; the guest is known by its evidence,
//! which is bound to a key made for this session. No refusal is tried again.

use alloc::format;
use alloc::string::String;
use core::net::SocketAddrV4;
use core::time::Duration;

use measured_boot::code::Code;
use measured_boot::evidence::{Evidence, ReportData, TeePublicKey, canonical_string};
use measured_boot::manifest::{Broker, Resource, Tee};
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToSec1Point;
use serde::Deserialize;
use serde_json::Value;

use crate::error::BootError;
use crate::network::{Interface, dns};
use crate::secret::SecretBytes;
use crate::tls;

mod connection;
mod error;
mod http;
mod jwe;
#[cfg(test)]
mod tests;
mod url;

use connection::{Connection, Limits};
pub use error::Error;
pub(crate) use error::printable;
use http::Request;
use url::Url;

const VERSION: &str = "0.4.0";
/// From the first packet to the last resource.
const OVERALL: Duration = Duration::from_secs(60);
/// Bodies larger than this are not read.
const MAX_CHALLENGE: usize = 16 * 1024;
const MAX_TOKEN: usize = 256 * 1024;
const MAX_RESOURCE: usize = 128 * 1024;
/// Longer than any nonce of a broker that speaks this version.
const MAX_NONCE: usize = 1024;

/// An authenticated broker's nonce and a fresh key: good for one attestation.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    nonce: String,
    key: SecretKey,
    public: TeePublicKey,
    tee: Tee,
}

/// The broker accepted the evidence; it may still refuse a resource.
#[derive(Debug)]
pub struct Attested {
    connection: Connection,
    key: SecretKey,
}

/// Finds the broker, authenticates it and asks for a nonce.
///
/// # Errors
/// Every code of DNS, TLS and `E_BROKER_*`.
pub fn connect(broker: &Broker, interface: &Interface, tee: Tee) -> Result<Session, BootError> {
    let limits = Limits::within(OVERALL);
    let action = format!("connect to {}", printable(&broker.url));
    let Some(url) = Url::parse(&broker.url) else {
        let cause = "got another URL than https://HOST[:PORT]";
        return Err(Error::new(Code::Manifest, cause).at(action));
    };
    let addresses = dns::resolve(interface.dns(), &url.host, limits.overall)?
        .into_iter()
        .map(|address| SocketAddrV4::new(address, url.port))
        .collect();
    Connection::new(broker, url, addresses, limits)
        .and_then(|connection| Session::open(connection, tee))
        .map_err(|e| e.at(action))
}

/// 200 of `/auth`. Other members are skipped without recursion.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Challenge {
    nonce: String,
    #[serde(default)]
    extra_params: Value,
}

/// 200 of `/attest`. What is in the token is the broker's business.
#[derive(Deserialize)]
struct Token<'a> {
    #[serde(rename = "token")]
    _token: &'a str,
}

impl Session {
    fn open(mut connection: Connection, tee: Tee) -> Result<Self, Error> {
        let tee_name = tee.as_str();
        let json =
            format!("{{\"version\":\"{VERSION}\",\"tee\":\"{tee_name}\",\"extra-params\":\"\"}}");
        let body = connection.call(post("/kbs/v0/auth", &json), MAX_CHALLENGE)?;
        let Challenge {
            nonce,
            extra_params,
        } = parse("challenge", &body)?;
        if nonce.is_empty() || nonce.len() > MAX_NONCE {
            return Err(Error::protocol("the nonce has no usable length"));
        }
        // Absent means SHA-384, which is all that ReportData does.
        match extra_params.get("selected-hash-algorithm") {
            None => {}
            Some(Value::String(name)) if name.eq_ignore_ascii_case("sha384") => {}
            Some(_) => return Err(Error::protocol("the broker asks for another hash")),
        }
        let key = tls::secret_key().map_err(|e| Error::new(Code::Entropy, e))?;
        let public = public_key(&key)?;
        Ok(Self {
            connection,
            nonce,
            key,
            public,
            tee,
        })
    }

    /// What the evidence must carry.
    pub fn report_data(&self) -> ReportData {
        ReportData::bind(&self.nonce, &self.public)
    }

    /// Presents the evidence. Consumes the session, since the broker judges one
    /// only once.
    ///
    /// # Errors
    /// `E_BROKER_REFUSED`, and what a connection can fail with.
    pub fn attest(mut self, evidence: Evidence) -> Result<Attested, BootError> {
        let action = "attest to the broker";
        if evidence.tee != self.tee {
            let cause = "the evidence is of another TEE than announced";
            return Err(Error::new(Code::Internal, cause).at(action));
        }
        let json = format!(
            "{{\"runtime-data\":{{\"nonce\":{},\"tee-pubkey\":{}}},\
             \"tee-evidence\":{{\"primary_evidence\":{},\"additional_evidence\":\"\"}}}}",
            canonical_string(&self.nonce),
            self.public.to_jwk(),
            evidence.json,
        );
        self.connection
            .call(post("/kbs/v0/attest", &json), MAX_TOKEN)
            .and_then(|body| parse::<Token<'_>>("token", &body).map(drop))
            .map_err(|e| e.at(action))?;
        Ok(Attested {
            connection: self.connection,
            key: self.key,
        })
    }
}

impl Attested {
    /// Fetches and decrypts one resource of at most `max_len` bytes.
    ///
    /// # Errors
    /// `E_BROKER_REFUSED`, `E_JWE_*`, `E_KEY_LENGTH` above `max_len`, and what a
    /// connection can fail with.
    pub fn fetch(&mut self, resource: &Resource, max_len: usize) -> Result<SecretBytes, BootError> {
        self.fetch_resource(resource, max_len)
            .map_err(|e| e.at(format!("fetch {resource}")))
    }

    fn fetch_resource(&mut self, resource: &Resource, limit: usize) -> Result<SecretBytes, Error> {
        let request = Request {
            method: "GET",
            path: &format!("/kbs/v0/resource/{}", resource.path()),
            json: None,
        };
        let body = self.connection.call(request, MAX_RESOURCE)?;
        let secret = jwe::decrypt(&body, &self.key)?;
        let got = secret.expose().len();
        if got > limit {
            let cause = format!("got {got} bytes, expected at most {limit}");
            return Err(Error::new(Code::KeyLength, cause));
        }
        Ok(secret)
    }
}

fn post<'a>(path: &'a str, json: &'a str) -> Request<'a> {
    Request {
        method: "POST",
        path,
        json: Some(json),
    }
}

/// serde_json bounds the depth of what it builds, so no answer exhausts the stack.
fn parse<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| {
        let cause = printable(&format!("{e}"));
        Error::protocol(format!("the {what} is malformed: {cause}"))
    })
}

/// The coordinates, each with its leading zeros (RFC 7518 section 6.2.1.2).
fn public_key(key: &SecretKey) -> Result<TeePublicKey, Error> {
    let point = key.public_key().to_sec1_point(false);
    match (point.x(), point.y()) {
        (Some(x), Some(y)) => Ok(TeePublicKey {
            x: (*x).into(),
            y: (*y).into(),
        }),
        _ => Err(Error::protocol("our own key has no coordinates")),
    }
}
