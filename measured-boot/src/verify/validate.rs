//! Verified evidence against what an auditor accepts.
//!
//! Every comparison is made and told, whether one before it held or not.

mod snp;
mod tdx;

pub use self::snp::{SnpExpectation, SnpPolicy, snp};
pub use self::tdx::{TdxExpectation, TdxPolicy, tdx};

use serde::{Deserialize, Serialize};

use super::Table;
use crate::base16;

/// What is demanded of platforms, whatever image they run: one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlatformPolicy {
    /// Of processors of AMD.
    pub snp: SnpPolicy,
    /// Of processors of Intel.
    pub tdx: TdxPolicy,
}

/// The data that must be in the evidence, so that it is of this session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// These bytes. SNP and TDX fill up to 64 with zeros.
    ReportData(Vec<u8>),
    /// Any: a recording of old evidence is accepted.
    InsecureAny,
}

impl Freshness {
    fn check(&self, got: &[u8; 64], table: &mut Table) {
        let (expected, ok) = match self {
            Self::ReportData(expected) => {
                let rest = got.strip_prefix(&expected[..]);
                let ok = rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
                (base16::encode(expected), ok)
            }
            Self::InsecureAny => ("any value: freshness is not checked".to_owned(), true),
        };
        table.compare("report data", base16::encode(got), expected, ok);
    }
}

/// A value that must be one of some, or may be anything where none is listed.
fn check_listed<T: PartialEq>(
    name: &str,
    got: &T,
    listed: &[T],
    text: impl Fn(&T) -> String,
    table: &mut Table,
) {
    let expected: Vec<_> = listed.iter().map(&text).collect();
    let expected = match listed {
        [] => "any, none is demanded".to_owned(),
        _ => expected.join(" or "),
    };
    let ok = listed.is_empty() || listed.contains(got);
    table.compare(name, text(got), expected, ok);
}
