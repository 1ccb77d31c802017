//! The latch of SEV-SNP: one launch gets resources in one session.
//!
//! `REPORT_ID` is made by the secure processor when it launches a guest and is
//! the same in every report of that guest (SEV-SNP Firmware ABI 56860, section
//! 7.3). So a report that is asked for later, by whatever runs in the guest
//! then, shows the id of a launch that has its keys already, and is refused.
//! There is no order of ids, so all are kept; a launch that got something costs
//! one file, in one of 256 folders.
//!
//! A TDX quote has nothing of the kind: nothing in it differs between two
//! launches of one TD. There is no such latch for TDX.

use serde::{Deserialize, Serialize};

use super::{Error, Store};

/// `REPORT_ID` of an attestation report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportId(pub [u8; 32]);

impl ReportId {
    /// A guest that has none: no processor launches such a one.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Launch {
    session: String,
}

impl Store {
    /// The session in which this launch got resources.
    pub(crate) fn launch(&self, id: &ReportId) -> Result<Option<String>, Error> {
        let launch: Option<Launch> = self.read_json(&file(id))?;
        Ok(launch.map(|launch| launch.session))
    }

    /// Takes the right to resources for `session`, if no other session of this
    /// launch has it; it is on disk when this returns `true`.
    pub(crate) fn claim_launch(&self, id: &ReportId, session: &str) -> Result<bool, Error> {
        // As for boots: the lock makes reading and writing one step.
        let _lock = self.lock()?;
        match self.launch(id)? {
            Some(last) => Ok(last == session),
            None => {
                let session = session.into();
                let name = file(id);
                let json = serde_json::to_vec(&Launch { session })
                    .map_err(|e| Error::invalid("write", &self.path(&name), e))?;
                self.write_unswept(&name, &json)?;
                Ok(true)
            }
        }
    }
}

fn file(id: &ReportId) -> String {
    let id = id.to_string();
    let shard = id.get(..2).unwrap_or_default();
    format!("launches/{shard}/{id}.json")
}
