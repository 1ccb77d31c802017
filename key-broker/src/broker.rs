//! The three decisions of the protocol: a challenge, an attestation, a
//! resource. Bytes in, bytes out; the server around it only carries them.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use measured_boot::manifest::{Resource, Tee};
use p256::SecretKey;
use serde::Serialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::appraise::{self, Failure, require};
use crate::jwe::TeeKey;
use crate::log::{Check, Decision, Log, bounded};
use crate::protocol::{
    Attestation, COOKIE, Challenge, ERROR_TYPE, ErrorInformation, Request, VERSION,
};
use crate::refusal::Refusal;
use crate::session::{Attested, Sessions, fingerprint};
use crate::store::{self, Store};
use crate::token;

/// The other names of TEEs in the protocol (kbs-types 0.18).
const UNSUPPORTED_TEES: &[&str] = &[
    "az-snp-vtpm",
    "az-tdx-vtpm",
    "nvidia",
    "sgx",
    "snp",
    "tdx",
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
            log,
        })
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

    fn challenge(&self, body: &[u8], decision: &mut Decision) -> Result<Reply, Failure> {
        let request: Request =
            serde_json::from_slice(body).map_err(|e| Failure::new(Refusal::Request, e))?;
        decision.tee = Some(bounded(&request.tee));
        require(
            decision,
            Check::equal("version", request.version, VERSION),
            Refusal::Version,
        )?;
        let tee = match request.tee.as_str() {
            "tpm" => Tee::Tpm,
            "sample" | "sampledevice" => return Err(Refusal::TeeSample.into()),
            tee if UNSUPPORTED_TEES.contains(&tee) => return Err(Refusal::TeeUnsupported.into()),
            _ => return Err(Failure::new(Refusal::Request, "got an unknown tee")),
        };
        let opened = self.sessions.lock().open(tee)?;
        decision.session = Some(fingerprint(&opened.id));
        let challenge = Challenge {
            nonce: &opened.nonce,
            extra_params: "",
        };
        Ok(Reply {
            cookie: Some(self.cookie(&opened.id)),
            ..json(&challenge)?
        })
    }

    fn appraise(
        &self,
        cookie: Option<&str>,
        body: &[u8],
        decision: &mut Decision,
    ) -> Result<Reply, Failure> {
        let id = cookie.ok_or(Refusal::SessionMissing)?;
        let attestation: Attestation =
            serde_json::from_slice(body).map_err(|e| Failure::new(Refusal::Request, e))?;
        let (nonce, tee) = self.sessions.lock().use_nonce(id)?;
        decision.tee = Some(tee.as_str().into());

        let sent = &attestation.runtime_data;
        let check = Check::equal("nonce", sent.nonce.as_str(), nonce.as_str());
        require(decision, check, Refusal::Nonce)?;
        let key =
            TeeKey::from_jwk(&sent.tee_pubkey).map_err(|e| Failure::new(Refusal::TeeKey, e))?;
        if attestation.init_data.is_some() {
            return Err(Refusal::InitData.into());
        }
        let evidence = &attestation.tee_evidence;
        if !evidence.additional_evidence.is_empty() {
            return Err(Refusal::AdditionalEvidence.into());
        }
        let report_data = sent.tee_pubkey.bind(&nonce).ok_or(Refusal::TeeKey)?;
        let session = fingerprint(id);
        let appraised = match tee {
            Tee::Tpm => appraise::tpm(
                &self.store,
                evidence.primary_evidence.get(),
                &report_data,
                &session,
                decision,
            )?,
            Tee::Snp | Tee::Tdx => return Err(Refusal::TeeUnsupported.into()),
        };

        let issued = OffsetDateTime::now_utc();
        let claims = token::Claims {
            issued: issued.unix_timestamp(),
            expires: issued
                .saturating_add(self.lifetime_signed())
                .unix_timestamp(),
            image: &appraised.image,
            evidence: &appraised.evidence,
            report_data: &report_data,
            nonce: &nonce,
            key: &sent.tee_pubkey,
        };
        let token = token::sign(&self.token_key.0, &claims).ok_or(Refusal::Internal)?;
        let attested = Attested {
            session,
            image: appraised.image,
            tee,
            ak: appraised.ak,
            boot: appraised.boot,
            key,
            token: Sha256::digest(&token).into(),
        };
        self.sessions.lock().attested(id, attested)?;
        Ok(Reply {
            cookie: Some(self.cookie(id)),
            ..json(&serde_json::json!({ "token": token }))?
        })
    }

    fn release(
        &self,
        cookie: Option<&str>,
        bearer: Option<&str>,
        path: &str,
        decision: &mut Decision,
    ) -> Result<Reply, Failure> {
        let attested = self.session(cookie, bearer).ok_or(Refusal::TokenMissing)?;
        let (image, tee) = (&attested.image, attested.tee);
        decision.session = Some(attested.session.clone());
        decision.tee = Some(tee.as_str().into());
        decision.ak = Some(attested.ak.to_string());
        decision.image = Some(image.name.clone());
        decision.version = Some(image.version);

        let resource = Resource::from_path(path).ok_or(Refusal::ResourcePath)?;
        let (binding, value) = self
            .store
            .resource(&resource)?
            .ok_or(Refusal::ResourceUnknown)?;
        let bound = binding.images.contains(&image.name);
        let check = Check::new(
            "image",
            bound,
            image.name.as_str(),
            binding.images.join(" or "),
        );
        require(decision, check, Refusal::ResourceImage)?;
        let tees: Vec<_> = binding.tee.iter().map(|tee| tee.as_str()).collect();
        let check = Check::new(
            "tee",
            binding.tee.contains(&tee),
            tee.as_str(),
            tees.join(" or "),
        );
        require(decision, check, Refusal::ResourceTee)?;
        // The minimum of this moment: it may have been raised since the
        // session attested. The same holds for the attestation key.
        let minimum = self.store.minimum_version(&image.name)?;
        let check = Check::new(
            "version",
            image.version >= minimum,
            image.version.to_string(),
            format!("at least {minimum}"),
        );
        require(decision, check, Refusal::ImageRetired)?;
        let enrolled = self.store.is_enrolled(&attested.ak)?;
        let state = if enrolled { "enrolled" } else { "not enrolled" };
        require(
            decision,
            Check::equal("ak", state, "enrolled"),
            Refusal::AkUnknown,
        )?;

        let jwe = attested
            .key
            .encrypt(value.expose())
            .map_err(|e| Failure::new(Refusal::Internal, e))?;
        let reply = json(&jwe)?;
        // Last, so that a refusal above leaves this boot its right.
        let claimed = self
            .store
            .claim(&attested.ak, attested.boot, &attested.session)?;
        let check = Check::new(
            "boot",
            claimed,
            format!("reset count {}", attested.boot.reset_count),
            "a boot that gave resources to no other session",
        );
        require(decision, check, Refusal::BootLatched)?;
        Ok(reply)
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
