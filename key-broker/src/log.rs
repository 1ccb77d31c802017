//! One line of JSON per decision.
//!
//! A grant is written before the key leaves; a grant that cannot be written
//! down becomes a refusal. No line holds key material, a token or a session
//! cookie: sessions appear as a fingerprint.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::refusal::Refusal;

/// Longest text of a request that is copied into the log, in characters.
const MAX_TEXT: usize = 200;

/// One comparison the broker made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was compared.
    pub check: String,
    /// Whether it came out right.
    pub ok: bool,
    /// What the guest sent or showed.
    pub got: String,
    /// What would have been right.
    pub expected: String,
}

impl Check {
    /// Compares for equality.
    pub fn equal(check: &str, got: impl Into<String>, expected: impl Into<String>) -> Self {
        let (got, expected) = (got.into(), expected.into());
        Self::new(check, got == expected, got, expected)
    }

    /// A comparison made elsewhere.
    pub fn new(check: &str, ok: bool, got: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            ok,
            got: bounded(&got.into()),
            expected: bounded(&expected.into()),
        }
    }
}

/// What the broker decided about one request, and from what.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Decision {
    /// `auth`, `attest` or `resource`; `http` for what is none of them.
    pub action: &'static str,
    /// Address and port of the client.
    pub peer: String,
    /// Fingerprint of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Kind of TEE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tee: Option<String>,
    /// SHA-256 of the attestation key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ak: Option<String>,
    /// `REPORT_ID` of a SNP guest: one launch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<String>,
    /// `HOST_DATA` or `MRCONFIGID`: which instance the host started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The image whose reference values matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Every comparison, in order.
    pub checks: Vec<Check>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(flatten)]
    what: &'a Decision,
}

/// Where the lines go.
pub struct Log(Mutex<Box<dyn Write + Send>>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Writes to standard error.
    pub fn stderr() -> Self {
        Self::writer(io::stderr())
    }

    /// Appends to `path`, created with mode 0600.
    ///
    /// # Errors
    /// What the file system says.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file: File = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self::writer(file))
    }

    /// Writes to anything.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(writer)))
    }

    /// Writes one line, in one call.
    ///
    /// # Errors
    /// What the writer says.
    pub fn record(
        &self,
        what: &Decision,
        refusal: Option<Refusal>,
        detail: Option<&str>,
    ) -> io::Result<()> {
        let detail = detail.map(bounded);
        let line = Line {
            time: OffsetDateTime::now_utc()
                .format(&Rfc3339)
                .map_err(io::Error::other)?,
            decision: if refusal.is_some() { "refuse" } else { "grant" },
            code: refusal.map(Refusal::as_str),
            detail: detail.as_deref(),
            what,
        };
        let mut json = serde_json::to_vec(&line)?;
        json.push(b'\n');
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(&json)?;
        writer.flush()
    }
}

/// Text of a request, cut to what a log line can bear, and with control
/// characters escaped: a terminal would obey them.
pub(crate) fn bounded(text: &str) -> String {
    let mut bounded = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == MAX_TEXT {
            bounded.push_str("...");
            break;
        }
        match character.is_control() {
            true => bounded.extend(character.escape_default()),
            false => bounded.push(character),
        }
    }
    bounded
}

#[cfg(test)]
mod tests {
    use super::{MAX_TEXT, bounded};

    #[test]
    fn text_of_a_request_is_cut_and_commands_no_terminal() {
        assert_eq!(bounded("a\u{1b}[2J\n\u{9b}ü"), "a\\u{1b}[2J\\n\\u{9b}ü");
        let longest = "ü".repeat(MAX_TEXT);
        assert_eq!(bounded(&longest), longest);
        assert_eq!(bounded(&format!("{longest}x")), format!("{longest}..."));
    }
}
