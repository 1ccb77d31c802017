//! Why a guest was refused, from the decision log.
//!
//! The log has every comparison, got and expected. Where what differs is a
//! measurement and the files it was predicted from are at hand, the change that
//! reproduces the observed value is searched for, by [`measured_boot::explain`].

mod measurement;

use std::fmt;
use std::fs;
use std::io::{self, BufRead};
use std::path::Path;

use measured_boot::explain::Answer;
use serde::Deserialize;

pub use self::measurement::SnpMachine;

use crate::refusal::Refusal;

/// Files of an image folder; larger ones are not read.
const LARGEST: u64 = 1 << 30;

/// An image that may have been started.
#[derive(Clone, Debug)]
pub struct Image {
    /// For people.
    pub name: String,
    /// `bzImage`.
    pub kernel: Vec<u8>,
    /// `initrd.cpio`.
    pub initrd: Vec<u8>,
    /// `cmdline`.
    pub cmdline: Vec<u8>,
}

impl Image {
    /// Reads the folder that the builder wrote.
    ///
    /// # Errors
    /// One of the files cannot be read.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let read = |name: &str| read(&folder.join(name));
        Ok(Self {
            name: folder.display().to_string(),
            kernel: read("bzImage")?,
            initrd: read("initrd.cpio")?,
            cmdline: read("cmdline")?,
        })
    }
}

/// Reads a file to try.
///
/// # Errors
/// It cannot be read, or is too large to be one.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |cause: String| Error::File(path.display().to_string(), cause);
    let length = fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if length > LARGEST {
        return Err(failed("it is larger than 1 GiB".into()));
    }
    fs::read(path).map_err(|e| failed(e.to_string()))
}

/// What may have been measured. The first image and the first firmware are
/// those of the prediction.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Images.
    pub images: Vec<Image>,
    /// Firmware files, by name.
    pub firmware: Vec<(String, Vec<u8>)>,
    /// What SNP was predicted for.
    pub snp: Option<SnpMachine>,
}

/// One comparison of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Comparison {
    /// What was compared.
    pub check: String,
    /// Whether it came out right.
    pub ok: bool,
    /// What the guest sent or showed.
    pub got: String,
    /// What would have been right.
    pub expected: String,
}

/// One line of the log, as far as it is needed here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// When.
    pub time: String,
    /// `auth`, `attest`, `resource` or `http`.
    pub action: String,
    /// `grant` or `refuse`.
    pub decision: String,
    /// The code of a refusal.
    pub code: Option<String>,
    /// Its cause.
    pub detail: Option<String>,
    /// Fingerprint of the session.
    pub session: Option<String>,
    /// The image whose reference values matched.
    pub image: Option<String>,
    /// What was asked for.
    pub resource: Option<String>,
    /// Every comparison.
    pub checks: Vec<Comparison>,
}

/// The lines of one session, in order.
///
/// # Errors
/// The log cannot be read, a line of it is not one of this broker's, or no
/// line is of the session.
pub fn find(log: impl BufRead, session: &str) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    for (number, line) in (1_u64..).zip(log.lines()) {
        let line = line.map_err(Error::Log)?;
        if line.trim().is_empty() {
            continue;
        }
        let entry: Entry = serde_json::from_str(&line).map_err(|e| Error::Line(number, e))?;
        if entry.session.as_deref() == Some(session) {
            found.push(entry);
        }
    }
    if found.is_empty() {
        return Err(Error::Session(session.into()));
    }
    Ok(found)
}

/// What was wrong with one request.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The decision.
    pub entry: Entry,
    /// What reproduces each measurement that differs.
    pub measurements: Vec<Measured>,
}

/// One measurement that differs.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// What was found, or why nothing was searched for.
    pub answer: Result<Answer, String>,
}

/// Explains a line of the log.
pub fn explain(entry: Entry, candidates: &Candidates) -> Explanation {
    let failed = entry.checks.iter().filter(|check| !check.ok);
    let measurements = failed
        .filter_map(|check| measurement::explain(&check.check, &check.got, candidates))
        .collect();
    Explanation {
        entry,
        measurements,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = &self.entry;
        let object = entry.resource.as_deref().unwrap_or_default();
        let what = format!("{} {} {object}", entry.time, entry.action);
        let what = what.trim_end();
        let Some(code) = &entry.code else {
            return write!(f, "{what}: granted");
        };
        write!(f, "{what}: refused, {code}")?;
        let known = Refusal::ALL.iter().find(|known| known.as_str() == code);
        if let Some(known) = known {
            write!(f, "\n  {}", known.meaning())?;
        }
        if let Some(detail) = &entry.detail
            && known.is_none_or(|known| known.meaning() != detail)
        {
            write!(f, "\n  {detail}")?;
        }
        for check in entry.checks.iter().filter(|check| !check.ok) {
            let Comparison {
                check,
                got,
                expected,
                ..
            } = check;
            write!(
                f,
                "\n  {check}\n    got      {got}\n    expected {expected}"
            )?;
        }
        let wrong = entry.checks.iter().filter(|check| !check.ok).count();
        let all = entry.checks.len();
        write!(f, "\n  {wrong} of {all} checks fail")?;
        for measured in &self.measurements {
            write!(f, "\n  {measured}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        let answer = match &self.answer {
            Ok(answer) => answer,
            Err(cause) => return write!(f, "{name}: not explained: {cause}"),
        };
        let tried = answer.candidates();
        match answer.causes.as_slice() {
            [] => write!(f, "{name}: nothing fits, of {tried} candidates"),
            [cause] if cause.is_empty() => {
                write!(
                    f,
                    "{name}: is what these files give; they are not the enrolled ones"
                )
            }
            causes => {
                let one = |cause: &Vec<_>| {
                    let changes: Vec<_> = cause.iter().map(ToString::to_string).collect();
                    changes.join(", and ")
                };
                let causes: Vec<_> = causes.iter().map(one).collect();
                write!(f, "{name}: because {}", causes.join("; or because "))
            }
        }
    }
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as explain::Error"
)]
pub enum Error {
    /// The log cannot be read.
    #[error("cannot read the log: {0}")]
    Log(io::Error),
    /// A line that is no decision.
    #[error("cannot read line {0} of the log: {1}")]
    Line(u64, serde_json::Error),
    /// No line has it.
    #[error("cannot find session {0} in the log: expected the fingerprint that its lines have")]
    Session(String),
    /// A file to try.
    #[error("cannot read {0}: {1}")]
    File(String, String),
}
