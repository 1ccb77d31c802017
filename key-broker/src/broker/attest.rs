//! The first two decisions: a challenge, and whether evidence answers it.

use measured_boot::manifest::Tee;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{Broker, Reply, UNSUPPORTED_TEES, json};
use crate::appraise::{self, Context, Failure, require};
use crate::jwe::TeeKey;
use crate::log::{Check, Decision, bounded};
use crate::protocol::{Attestation, Challenge, Request, VERSION};
use crate::refusal::Refusal;
use crate::session::{Attested, fingerprint};
use crate::token;

impl Broker {
    pub(super) fn challenge(&self, body: &[u8], decision: &mut Decision) -> Result<Reply, Failure> {
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
            "snp" => Tee::Snp,
            "tdx" => Tee::Tdx,
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

    pub(super) fn appraise(
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
        let platform = self.store.platform()?;
        let context = Context {
            store: &self.store,
            directory: self.endorsements.as_deref(),
            report_data: &report_data,
            session: &session,
        };
        let primary = evidence.primary_evidence.get();
        let appraised = appraise::evidence(tee, primary, context, decision)?;

        let issued = OffsetDateTime::now_utc();
        let claims = token::Claims {
            issued: issued.unix_timestamp(),
            expires: issued
                .saturating_add(self.lifetime_signed())
                .unix_timestamp(),
            image: &appraised.image,
            verified: &appraised.verified,
            report_data: &report_data,
            nonce: &nonce,
            key: &sent.tee_pubkey,
        };
        let token = token::sign(&self.token_key.0, &claims).ok_or(Refusal::Internal)?;
        let attested = Attested {
            session,
            image: appraised.image,
            values: appraised.values,
            identity: appraised.identity,
            platform,
            key,
            token: Sha256::digest(&token).into(),
        };
        self.sessions.lock().attested(id, attested)?;
        Ok(Reply {
            cookie: Some(self.cookie(id)),
            ..json(&serde_json::json!({ "token": token }))?
        })
    }
}
