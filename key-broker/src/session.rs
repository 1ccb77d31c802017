//! Sessions: one nonce, one attempt to attest, then resources until it ends.
//!
//! In memory only: when the broker restarts, guests begin anew. The number is
//! bounded; a flood of new sessions pushes out old ones that did not attest,
//! never attested ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use measured_boot::manifest::{Image, Tee};
use sha2::{Digest, Sha256};

use crate::jwe::TeeKey;
use crate::refusal::Refusal;
use crate::store::attesters::AkId;
use crate::store::boots::Boot;
use crate::store::launches::ReportId;
use crate::store::resources::Instance;

/// What a session has proved. Holding one says its evidence was appraised.
#[derive(Debug)]
pub struct Attested {
    /// Fingerprint of the session.
    pub session: String,
    /// Which image runs.
    pub image: Image,
    /// Which machine it runs on, by evidence of which TEE.
    pub identity: Identity,
    /// Digest of the reference values it was compared with.
    pub values: [u8; 32],
    /// Which platform policy it was appraised by, with which roots and with
    /// which endorsements of the store.
    pub platform: [u8; 32],
    /// For whom resources are encrypted.
    pub key: TeeKey,
    /// SHA-256 of the token.
    pub token: [u8; 32],
}

/// What tells one launch from another, as far as the TEE tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A boot of a TPM.
    Tpm {
        /// Which TPM.
        ak: AkId,
        /// Which boot of it.
        boot: Boot,
    },
    /// A launch of a guest by AMD's secure processor.
    Snp {
        /// Which launch.
        report_id: ReportId,
        /// `HOST_DATA`.
        instance: Instance,
    },
    /// A TD. Nothing in a quote is of one launch alone.
    Tdx {
        /// `MRCONFIGID`.
        instance: Instance,
    },
}

impl Identity {
    /// Whose evidence it is.
    pub fn tee(&self) -> Tee {
        match self {
            Self::Tpm { .. } => Tee::Tpm,
            Self::Snp { .. } => Tee::Snp,
            Self::Tdx { .. } => Tee::Tdx,
        }
    }

    /// What the host said which instance this is; a TPM is itself one.
    pub fn instance(&self) -> Option<&Instance> {
        match self {
            Self::Tpm { .. } => None,
            Self::Snp { instance, .. } | Self::Tdx { instance } => Some(instance),
        }
    }
}

enum State {
    Challenged {
        nonce: String,
        tee: Tee,
    },
    /// Attestation was tried; another try needs another session.
    Used,
    Attested(Arc<Attested>),
}

struct Session {
    opened: Instant,
    state: State,
}

/// All sessions.
pub(crate) struct Sessions {
    table: HashMap<String, Session>,
    lifetime: Duration,
    limit: usize,
}

/// A new session, for the answer.
pub(crate) struct Opened {
    pub(crate) id: String,
    pub(crate) nonce: String,
}

impl Sessions {
    pub(crate) fn new(lifetime: Duration, limit: usize) -> Self {
        Self {
            table: HashMap::new(),
            lifetime,
            limit,
        }
    }

    /// Opens a session with a fresh nonce.
    pub(crate) fn open(&mut self, tee: Tee) -> Result<Opened, Refusal> {
        if self.table.len() >= self.limit {
            self.evict()?;
        }
        let mut id = [0; 16];
        let mut nonce = [0; 32];
        getrandom::fill(&mut id).map_err(|_| Refusal::Internal)?;
        getrandom::fill(&mut nonce).map_err(|_| Refusal::Internal)?;
        let (id, nonce) = (base16::encode(&id), Base64::encode_string(&nonce));
        let state = State::Challenged {
            nonce: nonce.clone(),
            tee,
        };
        let opened = Instant::now();
        self.table.insert(id.clone(), Session { opened, state });
        Ok(Opened { id, nonce })
    }

    fn evict(&mut self) -> Result<(), Refusal> {
        let lifetime = self.lifetime;
        self.table.retain(|_, s| s.opened.elapsed() < lifetime);
        if self.table.len() < self.limit {
            return Ok(());
        }
        let oldest = self
            .table
            .iter()
            .filter(|(_, session)| !matches!(session.state, State::Attested(_)))
            .min_by_key(|(_, session)| session.opened)
            .map(|(id, _)| id.clone());
        let id = oldest.ok_or(Refusal::SessionsFull)?;
        self.table.remove(&id);
        Ok(())
    }

    /// Uses up the session's nonce, whatever comes of it: Trustee would answer
    /// a second attestation with the first one's token, unseen; we refuse it.
    pub(crate) fn use_nonce(&mut self, id: &str) -> Result<(String, Tee), Refusal> {
        let session = self.live(id)?;
        match std::mem::replace(&mut session.state, State::Used) {
            State::Challenged { nonce, tee } => Ok((nonce, tee)),
            State::Used => Err(Refusal::SessionUsed),
            State::Attested(attested) => {
                session.state = State::Attested(attested);
                Err(Refusal::SessionUsed)
            }
        }
    }

    /// Records a success. The session may have been evicted meanwhile.
    pub(crate) fn attested(&mut self, id: &str, attested: Attested) -> Result<(), Refusal> {
        self.live(id)?.state = State::Attested(Arc::new(attested));
        Ok(())
    }

    /// What the session with this cookie has proved.
    pub(crate) fn by_id(&mut self, id: &str) -> Option<Arc<Attested>> {
        match &self.live(id).ok()?.state {
            State::Attested(attested) => Some(Arc::clone(attested)),
            State::Challenged { .. } | State::Used => None,
        }
    }

    /// What the session that was given this token has proved. A token is as
    /// good as its session, and ends with it.
    pub(crate) fn by_token(&self, token: &str) -> Option<Arc<Attested>> {
        let digest = <[u8; 32]>::from(Sha256::digest(token));
        self.table
            .values()
            .filter(|session| session.opened.elapsed() < self.lifetime)
            .find_map(|session| match &session.state {
                State::Attested(attested) if attested.token == digest => Some(Arc::clone(attested)),
                State::Attested(_) | State::Challenged { .. } | State::Used => None,
            })
    }

    fn live(&mut self, id: &str) -> Result<&mut Session, Refusal> {
        let session = self.table.get_mut(id).ok_or(Refusal::SessionUnknown)?;
        if session.opened.elapsed() >= self.lifetime {
            return Err(Refusal::SessionExpired);
        }
        Ok(session)
    }
}

/// Names a session in the log; the cookie itself would be a right to use it.
pub(crate) fn fingerprint(id: &str) -> String {
    let mut text = base16::encode(&Sha256::digest(id));
    text.truncate(16);
    text
}

#[cfg(test)]
mod tests {
    use super::{Refusal, Sessions, Tee};
    use std::time::Duration;

    #[test]
    fn a_flood_pushes_out_the_oldest_and_stays_bounded() {
        let mut sessions = Sessions::new(Duration::from_secs(60), 3);
        let first = sessions.open(Tee::Tpm).unwrap();
        let rest: Vec<_> = (0..3).map(|_| sessions.open(Tee::Tpm).unwrap()).collect();
        assert_eq!(sessions.table.len(), 3);
        assert_eq!(
            sessions.use_nonce(&first.id).unwrap_err(),
            Refusal::SessionUnknown
        );
        assert_eq!(sessions.use_nonce(&rest[0].id).unwrap().0, rest[0].nonce);
    }

    #[test]
    fn a_nonce_is_used_once_and_expires() {
        let mut sessions = Sessions::new(Duration::from_secs(60), 3);
        let id = sessions.open(Tee::Tpm).unwrap().id;
        assert!(sessions.use_nonce(&id).is_ok());
        assert_eq!(sessions.use_nonce(&id).unwrap_err(), Refusal::SessionUsed);

        let mut sessions = Sessions::new(Duration::ZERO, 3);
        let id = sessions.open(Tee::Tpm).unwrap().id;
        assert_eq!(
            sessions.use_nonce(&id).unwrap_err(),
            Refusal::SessionExpired
        );
    }
}
