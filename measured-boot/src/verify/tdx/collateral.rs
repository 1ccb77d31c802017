//! What Intel says of a kind of platform: TCB levels, identity of the quoting
//! enclave, lists of revoked certificates.

use core::str::FromStr;
use core::time::Duration;

use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::quote::Quote;
use serde::Deserialize;
use x509_cert::der::DateTime;

use crate::base16;
use crate::verify::certificate::time;
use crate::verify::{Refused, Roots, Table};

/// A collateral whose form is right; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    inner: QuoteCollateralV3,
    fmspc: String,
    /// What has an end, and when that is.
    ends: [(&'static str, String, u64); 2],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TcbInfo {
    fmspc: String,
    next_update: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    next_update: String,
}

impl Collateral {
    /// Reads the JSON of `dcap-qvl`.
    ///
    /// # Errors
    /// It is something else; the row in `table` says what.
    pub fn parse(json: &[u8], table: &mut Table) -> Result<Self, Refused> {
        match Self::read(json) {
            Ok(collateral) => Ok(collateral),
            Err(cause) => table.refuse("collateral format", cause, "JSON of a collateral"),
        }
    }

    fn read(json: &[u8]) -> Result<Self, String> {
        let text = |error: serde_json::Error| error.to_string();
        let inner: QuoteCollateralV3 = serde_json::from_slice(json).map_err(text)?;
        let info: TcbInfo = serde_json::from_str(&inner.tcb_info).map_err(text)?;
        let identity: Identity = serde_json::from_str(&inner.qe_identity).map_err(text)?;
        let fmspc = info.fmspc.to_ascii_lowercase();
        if base16::decode::<6>(&fmspc).is_none() {
            return Err(format!("an FMSPC that is not 6 bytes: {:?}", info.fmspc));
        }
        let end = |name, text: String| match DateTime::from_str(&text) {
            Ok(end) => Ok((name, text, end.unix_duration().as_secs())),
            Err(_) => Err(format!("{name} until {text:?}")),
        };
        Ok(Self {
            fmspc,
            ends: [
                end("TCB info", info.next_update)?,
                end("QE identity", identity.next_update)?,
            ],
            inner,
        })
    }

    /// The kind of platform it is for, in lower-case hexadecimal.
    pub fn fmspc(&self) -> &str {
        &self.fmspc
    }

    /// When the first of its parts ends, as Intel writes it.
    pub fn until(&self) -> &str {
        let first = self.ends.iter().min_by_key(|(_, _, end)| *end);
        first.map_or("", |(_, text, _)| text)
    }

    /// Whether a trusted root is at the end of its chain; signatures are
    /// verified with a quote only.
    ///
    /// # Errors
    /// It is of another root.
    pub fn check_root(&self, roots: &Roots) -> Result<(), Refused> {
        let table = &mut Table::default();
        let known =
            roots.tdx_root(self.issuers()).is_some() || Roots::intel_root_ends(self.issuers());
        table.require("collateral root", "another", "a trusted root", known)
    }

    pub(super) fn inner(&self) -> &QuoteCollateralV3 {
        &self.inner
    }

    /// The chain of the key that signed the TCB levels, PEM.
    pub(super) fn issuers(&self) -> &str {
        &self.inner.tcb_info_issuer_chain
    }

    /// By name, before `dcap-qvl` checks it again among all else.
    pub(super) fn check_validity(&self, now: u64, table: &mut Table) -> Result<(), Refused> {
        let expected = DateTime::from_unix_duration(Duration::from_secs(now));
        let expected = expected.map_or_else(|_| time(now), |now| now.to_string());
        for (name, text, end) in &self.ends {
            table.require(
                &format!("{name} validity"),
                format!("until {text}"),
                format!("a time not before {expected}"),
                now <= *end,
            )?;
        }
        Ok(())
    }
}

/// The kind of platform a quote says it is of, in lower-case hexadecimal;
/// nothing of it is verified. `None` where its certificates do not tell.
pub fn fmspc(quote: &[u8]) -> Option<String> {
    let quote = Quote::parse(quote).ok()?;
    let fmspc = dcap_qvl::intel::quote_fmspc(&quote).ok()?;
    Some(base16::encode(&fmspc))
}
