//! The latch on the broker's side: one boot of one TPM gets resources in one
//! session.
//!
//! init extends PCR 15 once it has its keys, so a later quote of the same boot
//! fails the reference values. This does not rest on init: a TPM's
//! `resetCount` grows with each TPM reset, which is each boot, and cannot be
//! set back. The broker keeps, per attestation key, the `resetCount` of the
//! last boot that got something, and which session got it. Another session with
//! the same or a lower count is refused; the next boot has a higher one.
//!
//! Not counted as new boots: TPM Restart and TPM Resume (`restartCount`), which
//! follow a `TPM2_Shutdown(STATE)`, and a TPM whose state was set back to an
//! older copy, or cleared. `key-broker forget-boots` is for the last two.

use serde::{Deserialize, Serialize};

use super::{Error, Store, attesters::AkId};

/// Which boot of a TPM, as it says itself in every quote (`TPMS_CLOCK_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Counts TPM resets.
    pub reset_count: u32,
    /// Counts TPM restarts and resumes since; recorded only.
    pub restart_count: u32,
}

/// The boot that got resources last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// Which boot.
    pub boot: Boot,
    /// Fingerprint of the session.
    pub session: String,
}

/// Whether `session` of `boot` may have resources, after `last` got some.
pub fn may_release(last: Option<&Released>, boot: Boot, session: &str) -> bool {
    match last {
        None => true,
        Some(last) if last.session == session => last.boot == boot,
        Some(last) => boot.reset_count > last.boot.reset_count,
    }
}

impl Store {
    /// The boot of this TPM that got resources last.
    pub(crate) fn released(&self, ak: &AkId) -> Result<Option<Released>, Error> {
        self.read_json(&file(ak))
    }

    /// Takes the right to resources for `session`, if [`may_release`] says so;
    /// it is on disk when this returns `true`.
    pub(crate) fn claim(&self, ak: &AkId, boot: Boot, session: &str) -> Result<bool, Error> {
        // The lock makes reading and writing one step, for threads as for
        // processes: each call opens the lock file anew.
        let _lock = self.lock()?;
        let last = self.released(ak)?;
        if !may_release(last.as_ref(), boot, session) {
            return Ok(false);
        }
        if last.is_none_or(|last| last.session != session) {
            let session = session.into();
            self.write_json(&file(ak), &Released { boot, session })?;
        }
        Ok(true)
    }

    /// Lets a TPM that was cleared or set back on purpose start over.
    ///
    /// # Errors
    /// No boot of this TPM is recorded.
    pub fn forget_boots(&self, ak: &AkId) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.remove_file(&file(ak))? {
            return Ok(());
        }
        Err(Error::refused("forget boots of", ak, "none is recorded"))
    }
}

fn file(ak: &AkId) -> String {
    format!("boots/{ak}.json")
}

#[cfg(test)]
mod tests {
    use super::{Boot, Released, may_release};

    fn boot(reset_count: u32) -> Boot {
        Boot {
            reset_count,
            restart_count: 0,
        }
    }

    #[test]
    fn only_a_later_boot_or_the_same_session_passes() {
        let last = Released {
            boot: boot(7),
            session: "one".into(),
        };
        assert!(may_release(None, boot(0), "one"));
        assert!(may_release(Some(&last), boot(7), "one"));
        assert!(may_release(Some(&last), boot(8), "two"));
        assert!(!may_release(Some(&last), boot(7), "two"));
        assert!(!may_release(Some(&last), boot(6), "two"));
        let resumed = Boot {
            restart_count: 1,
            ..boot(7)
        };
        assert!(!may_release(Some(&last), resumed, "two"));
    }
}
