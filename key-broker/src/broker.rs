//! The three decisions of the protocol: a challenge, an attestation, a
//! resource. Bytes in, bytes out; the server around it only carries them.

mod attest;
mod release;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p256::SecretKey;
use serde::Serialize;
use time::OffsetDateTime;

use crate::appraise::Failure;
use crate::log::{Decision, Log, bounded};
use crate::protocol::{COOKIE, ERROR_TYPE, ErrorInformation, VERSION};
use crate::refusal::Refusal;
use crate::session::{Attested, Sessions, fingerprint};
use crate::store::{self, Store};

/// The other names of TEEs in the protocol (kbs-types 0.18).
const UNSUPPORTED_TEES: &[&str] = &[
    "az-snp-vtpm",
    "az-tdx-vtpm",
    "nvidia",
    "sgx",
    "cca",
    "csv",
    "se",
    "hygondcu",
    "nvidia-dpu",
    "nvidiadpu",
];

/// An answer, before it is HTTP.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `Set-Cookie`.
    pub cookie: Option<String>,
    /// JSON. A refusal's has no content type, as Trustee's.
    pub body: Vec<u8>,
}

/// Decides. Shared by all connections.
#[derive(Debug)]
pub struct Broker {
    store: Store,
    token_key: TokenKey,
    sessions: SessionTable,
    lifetime: Duration,
    endorsements: Option<PathBuf>,
    log: Log,
}

struct TokenKey(SecretKey);
struct SessionTable(Mutex<Sessions>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(redacted)")
    }
}

impl std::fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionTable(redacted)")
    }
}

impl SessionTable {
    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Decides from `store`, with sessions of `lifetime`, at most `limit`.
    ///
    /// # Errors
    /// The token key cannot be read.
    pub fn new(
        store: Store,
        lifetime: Duration,
        limit: usize,
        log: Log,
    ) -> Result<Self, store::Error> {
        Ok(Self {
            token_key: TokenKey(store.token_key()?),
            store,
            sessions: SessionTable(Mutex::new(Sessions::new(lifetime, limit))),
            lifetime,
            endorsements: None,
            log,
        })
    }

    /// Looks for certificates, CRLs and collateral in `dir`, too, at each
    /// attestation.
    #[must_use]
    pub fn with_endorsements(mut self, dir: Option<PathBuf>) -> Self {
        self.endorsements = dir;
        self
    }

    /// `POST /kbs/v0/auth`: opens a session.
    pub fn auth(&self, peer: SocketAddr, body: &[u8]) -> Reply {
        let mut decision = decision("auth", peer);
        let result = self.challenge(body, &mut decision);
        self.answer(&decision, result)
    }

    /// `POST /kbs/v0/attest`: appraises evidence, once per session.
    pub fn attest(&self, peer: SocketAddr, cookie: Option<&str>, body: &[u8]) -> Reply {
        let mut decision = decision("attest", peer);
        decision.session = cookie.map(fingerprint);
        let result = self.appraise(cookie, body, &mut decision);
        self.answer(&decision, result)
    }

    /// `GET /kbs/v0/resource/...`: releases a resource, encrypted for the key
    /// the session attested.
    pub fn resource(
        &self,
        peer: SocketAddr,
        cookie: Option<&str>,
        bearer: Option<&str>,
        path: &str,
    ) -> Reply {
        let mut decision = decision("resource", peer);
        decision.resource = Some(bounded(path));
        let result = self.release(cookie, bearer, path, &mut decision);
        self.answer(&decision, result)
    }

    /// Refuses what is not a well-formed request of the protocol.
    pub fn refuse(&self, peer: SocketAddr, what: &str, refusal: Refusal) -> Reply {
        let mut decision = decision("http", peer);
        decision.resource = Some(bounded(what));
        self.answer(&decision, Err(refusal.into()))
    }

    /// The cookie's session first, then the token's, as Trustee does.
    fn session(&self, cookie: Option<&str>, bearer: Option<&str>) -> Option<Arc<Attested>> {
        let mut sessions = self.sessions.lock();
        let by_cookie = cookie.and_then(|id| sessions.by_id(id));
        by_cookie.or_else(|| sessions.by_token(bearer?))
    }

    /// Writes the decision down, then gives the answer. What cannot be written
    /// down is not done.
    fn answer(&self, decision: &Decision, result: Result<Reply, Failure>) -> Reply {
        let (refusal, detail) = match &result {
            Ok(_) => (None, None),
            Err(failure) => (Some(failure.refusal), Some(failure.detail.as_str())),
        };
        let recorded = self.log.record(decision, refusal, detail);
        match (result, recorded) {
            (Ok(reply), Ok(())) => reply,
            (Ok(_), Err(error)) => {
                // Nowhere else to say it; and nobody to tell if this fails, too.
                drop(writeln!(
                    io::stderr(),
                    "key-broker: cannot write the log: {error}"
                ));
                refusal_reply(decision.action, Refusal::Internal)
            }
            (Err(failure), _) => refusal_reply(decision.action, failure.refusal),
        }
    }

    /// As Trustee writes it: no attribute but `Expires`.
    fn cookie(&self, id: &str) -> String {
        let at = OffsetDateTime::now_utc().saturating_add(self.lifetime_signed());
        let short = |name: String| name.chars().take(3).collect::<String>();
        format!(
            "{COOKIE}={id}; Expires={}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
            short(at.weekday().to_string()),
            at.day(),
            short(at.month().to_string()),
            at.year(),
            at.hour(),
            at.minute(),
            at.second()
        )
    }

    fn lifetime_signed(&self) -> time::Duration {
        time::Duration::try_from(self.lifetime).unwrap_or(time::Duration::MAX)
    }
}

fn decision(action: &'static str, peer: SocketAddr) -> Decision {
    Decision {
        action,
        peer: peer.to_string(),
        ..Decision::default()
    }
}

fn json(value: &impl Serialize) -> Result<Reply, Failure> {
    Ok(Reply {
        status: 200,
        cookie: None,
        body: serde_json::to_vec(value).map_err(|e| Failure::new(Refusal::Internal, e))?,
    })
}

/// The guest is told the code and its meaning; the log alone has the values.
fn refusal_reply(action: &str, refusal: Refusal) -> Reply {
    let context = match action {
        "auth" => "Attestation error: RCAR handshake Auth failed: ",
        "attest" => "Attestation error: RCAR handshake Attest failed: ",
        _ => "",
    };
    let mut detail = format!("{context}{refusal}: {}", refusal.meaning());
    if refusal == Refusal::Version {
        // Trustee tells the version, and clients look for it.
        detail.push_str(&format!(
            " KBS Client Protocol Version Mismatch: expect ={VERSION}"
        ));
    }
    let information = ErrorInformation {
        kind: format!("{ERROR_TYPE}{}", refusal.kind()),
        detail,
    };
    Reply {
        status: refusal.status(),
        cookie: None,
        body: serde_json::to_vec(&information).unwrap_or_default(),
    }
}
