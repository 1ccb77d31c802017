//! What Intel says of a kind of platform: TCB levels, identity of the quoting
//! enclave, lists of revoked certificates.

use core::str::FromStr;
use core::time::Duration;

use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::quote::Quote;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{DerSignature, Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey;
use serde::Deserialize;
use x509_cert::der::{DateTime, Encode};

use crate::base16;
use crate::verify::certificate::{crl_times, time};
use crate::verify::{Refused, Roots, Table};

/// A collateral whose form is right; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    inner: QuoteCollateralV3,
    fmspc: String,
    /// See [`Self::order`].
    order: [u64; 5],
    /// What has an end, and when that is.
    ends: [(&'static str, String, u64); 4],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TcbInfo {
    fmspc: String,
    tcb_evaluation_data_number: u64,
    issue_date: String,
    next_update: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    issue_date: String,
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
        let mut inner: QuoteCollateralV3 = serde_json::from_slice(json).map_err(text)?;
        // Of the one machine it was fetched for, and preferred by `dcap-qvl` to
        // the chain in the quote, which may be another machine's of its kind.
        inner.pck_certificate_chain = None;
        let info: TcbInfo = serde_json::from_str(&inner.tcb_info).map_err(text)?;
        let identity: Identity = serde_json::from_str(&inner.qe_identity).map_err(text)?;
        let fmspc = info.fmspc.to_ascii_lowercase();
        if base16::decode::<6>(&fmspc).is_none() {
            return Err(format!("an FMSPC that is not 6 bytes: {:?}", info.fmspc));
        }
        let date = |what: &str, text: &str| match DateTime::from_str(text) {
            Ok(date) => Ok(date.unix_duration().as_secs()),
            Err(_) => Err(format!("{what} {text:?}")),
        };
        let crl = |name, der: &[u8]| {
            crl_times(der).ok_or_else(|| format!("a {name} that is no CRL with an end"))
        };
        let (pck_from, pck_until) = crl("PCK CRL", &inner.pck_crl)?;
        let (root_from, root_until) = crl("root CRL", &inner.root_ca_crl)?;
        let info_until = date("TCB info until", &info.next_update)?;
        let identity_until = date("QE identity until", &identity.next_update)?;
        Ok(Self {
            fmspc,
            order: [
                info.tcb_evaluation_data_number,
                date("TCB info of", &info.issue_date)?,
                date("QE identity of", &identity.issue_date)?,
                pck_from,
                root_from,
            ],
            ends: [
                ("TCB info", info.next_update, info_until),
                ("QE identity", identity.next_update, identity_until),
                ("PCK CRL", time(pck_until), pck_until),
                ("root CRL", time(root_until), root_until),
            ],
            inner,
        })
    }

    /// The kind of platform it is for, in lower-case hexadecimal.
    pub fn fmspc(&self) -> &str {
        &self.fmspc
    }

    /// What Intel published later has the greater one: its number of TCB
    /// evaluations, then the dates of TCB info, QE identity, PCK CRL and root CRL.
    pub fn order(&self) -> [u64; 5] {
        self.order
    }

    /// When the first of its parts ends, as Intel writes it.
    pub fn until(&self) -> &str {
        let first = self.ends.iter().min_by_key(|(_, _, end)| *end);
        first.map_or("", |(_, text, _)| text)
    }

    /// Whether a key that a trusted root certifies signed the TCB levels. The
    /// rest, times and revocation too, is verified with a quote only.
    ///
    /// # Errors
    /// It is of another root, or a signature does not verify.
    pub fn authenticate(&self, roots: &Roots) -> Result<(), Refused> {
        let table = &mut Table::default();
        let known =
            roots.tdx_root(self.issuers()).is_some() || Roots::intel_root_ends(self.issuers());
        let got = if known { "trusted" } else { "another" };
        table.require("collateral root", got, "a trusted root", known)?;
        let good = self.is_signed().unwrap_or(false);
        let got = if good { "good" } else { "does not verify" };
        let expected = "by a key that the root certifies";
        table.require("TCB info signature", got, expected, good)
    }

    /// By the first key of the chain in it, and that one's certificate by the last.
    fn is_signed(&self) -> Option<bool> {
        let chain = x509_cert::Certificate::load_pem_chain(self.issuers().as_bytes()).ok()?;
        let key = |certificate: &x509_cert::Certificate| {
            let key = certificate.tbs_certificate().subject_public_key_info();
            VerifyingKey::from_public_key_der(&key.to_der().ok()?).ok()
        };
        let (signer, root) = (chain.first()?, chain.last()?);
        let certified = DerSignature::try_from(signer.signature().as_bytes()?).ok()?;
        let certificate = signer.tbs_certificate().to_der().ok()?;
        let signature = Signature::from_slice(&self.inner.tcb_info_signature).ok()?;
        let info = self.inner.tcb_info.as_bytes();
        let good = key(root)?.verify(&certificate, &certified).is_ok()
            && key(signer)?.verify(info, &signature).is_ok();
        Some(good)
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
