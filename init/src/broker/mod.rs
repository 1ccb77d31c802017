//! The client of the key broker: the KBS protocol ("RCAR"), version 0.4.0.
//!
//! Request, challenge, attestation, resource. The broker is known by its TLS
//! certificate before it hears anything; the guest is known by its evidence,
//! which is bound to a key made for this session. No refusal is tried again.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;

use measured_boot::code::Code;
use measured_boot::evidence::{Evidence, ReportData, TeePublicKey, canonical_string};
use measured_boot::manifest::{Broker, Resource, Tee};
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToSec1Point;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{BootError, Failure, printable};
use crate::network::Interface;
use crate::network::deadline::Deadline;
use crate::secret::SecretBytes;
use crate::tls;

mod connection;
mod http;
mod jwe;
#[cfg(test)]
mod tests;
mod url;

use connection::Connection;
use url::Url;

const STEP: &str = "broker";
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
pub(crate) struct Session {
    connection: Connection,
    nonce: String,
    key: SecretKey,
    public: TeePublicKey,
    tee: Tee,
}

/// The broker accepted the evidence; it may still refuse a resource.
pub(crate) struct Attested {
    connection: Connection,
    key: SecretKey,
}

/// Finds the broker, authenticates it and asks for a nonce.
///
/// # Errors
/// Every code of DNS, TLS and `E_BROKER_*`.
pub(crate) fn connect(
    broker: &Broker,
    interface: &Interface,
    tee: Tee,
) -> Result<Session, BootError> {
    let overall = Deadline::after(OVERALL);
    let failed = |e: Failure| e.at(STEP, format_args!("connect to {}", printable(&broker.url)));
    let url = Url::parse(&broker.url).ok_or_else(|| {
        let cause = "got another URL than https://HOST[:PORT]";
        failed(Failure::new(Code::Manifest, cause))
    })?;
    let addresses = interface.resolve(&url.host, overall)?;
    let with_port = |ip| SocketAddrV4::new(ip, url.port);
    let addresses = addresses.into_iter().map(with_port).collect();
    Connection::new(broker, url, addresses, overall)
        .and_then(|connection| Session::open(connection, tee))
        .map_err(failed)
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
    fn open(mut connection: Connection, tee: Tee) -> Result<Self, Failure> {
        let json = format!(
            "{{\"version\":\"{VERSION}\",\"tee\":\"{}\",\"extra-params\":\"\"}}",
            tee.as_str()
        );
        let body = connection.call("/kbs/v0/auth", Some(&json), MAX_CHALLENGE)?;
        let challenge: Challenge = parse("challenge", &body)?;
        if !(1..=MAX_NONCE).contains(&challenge.nonce.len()) {
            return Err(protocol("the nonce has no usable length"));
        }
        // Absent means SHA-384, which is all that ReportData does.
        match challenge.extra_params.get("selected-hash-algorithm") {
            None => {}
            Some(Value::String(name)) if name.eq_ignore_ascii_case("sha384") => {}
            Some(_) => return Err(protocol("the broker asks for another hash")),
        }
        let key = tls::secret_key().map_err(|e| Failure::new(Code::Entropy, e))?;
        Ok(Self {
            connection,
            nonce: challenge.nonce,
            public: public_key(&key)?,
            key,
            tee,
        })
    }

    /// What the evidence must carry.
    pub(crate) fn report_data(&self) -> ReportData {
        ReportData::bind(&self.nonce, &self.public)
    }

    /// Presents the evidence. Consumes the session, since the broker judges one
    /// only once.
    ///
    /// # Errors
    /// `E_BROKER_REFUSED`, and what a connection can fail with.
    pub(crate) fn attest(mut self, evidence: Evidence) -> Result<Attested, BootError> {
        let failed = |e: Failure| e.at(STEP, "attest to the broker");
        if evidence.tee != self.tee {
            let cause = "the evidence is of another TEE than announced";
            return Err(failed(Failure::new(Code::Internal, cause)));
        }
        let json = format!(
            "{{\"runtime-data\":{{\"nonce\":{},\"tee-pubkey\":{}}},\
             \"tee-evidence\":{{\"primary_evidence\":{},\"additional_evidence\":\"\"}}}}",
            canonical_string(&self.nonce),
            self.public.to_jwk(),
            evidence.json,
        );
        self.connection
            .call("/kbs/v0/attest", Some(&json), MAX_TOKEN)
            .and_then(|body| parse::<Token<'_>>("token", &body).map(drop))
            .map_err(failed)?;
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
    pub(crate) fn fetch(
        &mut self,
        resource: &Resource,
        max_len: usize,
    ) -> Result<SecretBytes, BootError> {
        let path = format!("/kbs/v0/resource/{}", resource.path());
        self.connection
            .call(&path, None, MAX_RESOURCE)
            .and_then(|body| jwe::decrypt(&body, &self.key))
            .and_then(|secret| match secret.expose().len() {
                length if length <= max_len => Ok(secret),
                length => Err(Failure::new(
                    Code::KeyLength,
                    format_args!("got {length} bytes, expected at most {max_len}"),
                )),
            })
            .map_err(|e| e.at(STEP, format_args!("fetch {resource}")))
    }
}

fn protocol(cause: impl fmt::Display) -> Failure {
    Failure::new(Code::BrokerProtocol, cause)
}

/// serde_json bounds the depth of what it builds, so no answer exhausts the stack.
fn parse<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| {
        let cause = printable(&format!("{e}"));
        protocol(format_args!("the {what} is malformed: {cause}"))
    })
}

/// The coordinates, each with its leading zeros (RFC 7518 section 6.2.1.2).
fn public_key(key: &SecretKey) -> Result<TeePublicKey, Failure> {
    let point = key.public_key().to_sec1_point(false);
    match (point.x(), point.y()) {
        (Some(x), Some(y)) => Ok(TeePublicKey {
            x: (*x).into(),
            y: (*y).into(),
        }),
        _ => Err(protocol("our own key has no coordinates")),
    }
}
