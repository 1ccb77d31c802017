//! The third decision: whether an attested session gets a resource.

use measured_boot::manifest::Resource;

use super::{Broker, Reply, json};
use crate::appraise::{Failure, require};
use crate::log::{Check, Decision};
use crate::refusal::Refusal;
use crate::session::{Attested, Identity};
use crate::store::images::digest;

impl Broker {
    pub(super) fn release(
        &self,
        cookie: Option<&str>,
        bearer: Option<&str>,
        path: &str,
        decision: &mut Decision,
    ) -> Result<Reply, Failure> {
        let attested = self.session(cookie, bearer).ok_or(Refusal::TokenMissing)?;
        let (image, tee) = (&attested.image, attested.identity.tee());
        decision.session = Some(attested.session.clone());
        decision.tee = Some(tee.as_str().into());
        match &attested.identity {
            Identity::Tpm { ak, .. } => decision.ak = Some(ak.to_string()),
            Identity::Snp { report_id, .. } => decision.launch = Some(report_id.to_string()),
            Identity::Tdx { .. } => {}
        }
        let instance = attested.identity.instance().map(ToString::to_string);
        decision.instance.clone_from(&instance);
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
        if let Some(bound) = &binding.instance {
            let got = instance.unwrap_or_else(|| "none".into());
            let check = Check::equal("instance", got, bound.to_string());
            require(decision, check, Refusal::ResourceInstance)?;
        }
        // The minimum of this moment: it may have been raised since the
        // session attested. The same holds for what the machine is judged by.
        let minimum = self.store.minimum_version(&image.name)?;
        let check = Check::new(
            "version",
            image.version >= minimum,
            image.version.to_string(),
            format!("at least {minimum}"),
        );
        require(decision, check, Refusal::ImageRetired)?;
        self.check_still_believed(&attested, decision)?;

        let jwe = attested
            .key
            .encrypt(value.expose())
            .map_err(|e| Failure::new(Refusal::Internal, e))?;
        let reply = json(&jwe)?;
        // Last, so that a refusal above leaves this boot its right.
        self.claim(&attested, decision)?;
        Ok(reply)
    }

    fn check_still_believed(
        &self,
        attested: &Attested,
        decision: &mut Decision,
    ) -> Result<(), Failure> {
        let values = self.store.reference_values(&attested.image)?;
        let values = values.as_ref().map(digest).transpose();
        let values = values.map_err(|e| Failure::new(Refusal::Internal, e))?;
        let same = values == Some(attested.values);
        let got = if same { "as appraised" } else { "changed" };
        let check = Check::equal("reference values", got, "as appraised");
        require(decision, check, Refusal::PolicyChanged)?;
        let Identity::Tpm { ak, .. } = &attested.identity else {
            let same = self.store.platform()? == attested.platform;
            let got = if same { "as appraised" } else { "changed" };
            let check = Check::equal("policy, roots and endorsements", got, "as appraised");
            return require(decision, check, Refusal::PolicyChanged);
        };
        let enrolled = self.store.is_enrolled(ak)?;
        let state = if enrolled { "enrolled" } else { "not enrolled" };
        require(
            decision,
            Check::equal("ak", state, "enrolled"),
            Refusal::AkUnknown,
        )
    }

    /// Takes this launch's right to resources, for this session alone.
    fn claim(&self, attested: &Attested, decision: &mut Decision) -> Result<(), Failure> {
        let session = &attested.session;
        let (name, claimed, got) = match &attested.identity {
            Identity::Tpm { ak, boot } => {
                let claimed = self.store.claim(ak, *boot, session)?;
                ("boot", claimed, format!("reset count {}", boot.reset_count))
            }
            Identity::Snp { report_id, .. } => {
                let claimed = self.store.claim_launch(report_id, session)?;
                ("launch", claimed, report_id.to_string())
            }
            Identity::Tdx { .. } => return Ok(()),
        };
        let expected = format!("a {name} that gave resources to no other session");
        require(
            decision,
            Check::new(name, claimed, got, expected),
            Refusal::BootLatched,
        )
    }
}
