//! Certificates and CRLs by themselves, before a report needs them.

use super::root::Product;
use super::{OID_HWID, Report, SigningKey, Tcb, hwid};
use crate::base16;
use crate::verify::certificate::{Certificate, crl_outline};
use crate::verify::{Refused, Roots, Table};

/// A VCEK or VLEK that a trusted chain certifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vek {
    /// Of which product.
    pub product: Product,
    /// Which kind.
    pub key: SigningKey,
    /// Of which firmware.
    pub tcb: Tcb,
    /// Of which chip, in hexadecimal; empty for a VLEK.
    pub hwid: String,
}

impl Vek {
    /// Reads and verifies a certificate, DER; not its time, which may be over
    /// before a report needs it.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(der: &[u8], roots: &Roots) -> Result<Self, Refused> {
        let table = &mut Table::default();
        let vek = Certificate::parse("VEK", der, table)?;
        let key = match vek.subject().as_str() {
            "SEV-VCEK" => SigningKey::Vcek,
            "SEV-VLEK" => SigningKey::Vlek,
            other => return table.refuse("signing key", other, "SEV-VCEK or SEV-VLEK"),
        };
        let Some(product) = Product::of_issuer(&vek.issuer(), key) else {
            return table.refuse("issuer", vek.issuer(), "a key of a known product");
        };
        let [root, signer] = roots.snp_issuers(&vek, product, key, table)?;
        signer.check_signature(&root, table)?;
        vek.check_signature(&signer, table)?;
        let Some(tcb) = Tcb::from_certificate(product, &vek) else {
            return table.refuse("certificate TCB", "none that is complete", "one");
        };
        let hwid = hwid(&vek, product.hwid_length()).unwrap_or_default();
        Ok(Self {
            product,
            key,
            tcb,
            hwid: base16::encode(hwid),
        })
    }
}

/// Whether a certificate, DER, is of the chip and firmware that a report, not
/// verified, says it is of. For choosing: whether the report is what it says
/// is for [`super::verify`].
pub fn matches(report: &[u8], vek: &[u8]) -> bool {
    let table = &mut Table::default();
    let Ok(report) = Report::parse(report, table) else {
        return false;
    };
    let Ok(vek) = Certificate::parse("VEK", vek, table) else {
        return false;
    };
    let key = report.signing_key;
    let Some(product) = Product::of_issuer(&vek.issuer(), key) else {
        return false;
    };
    let certified = Tcb::from_certificate(product, &vek);
    let same_tcb =
        certified.is_some() && certified == Tcb::from_bytes(product, report.reported_tcb);
    let same_chip = match key {
        SigningKey::Vcek => {
            let hwid = hwid(&vek, product.hwid_length());
            hwid.is_some_and(|hwid| report.chip_id.starts_with(hwid))
        }
        SigningKey::Vlek => vek.extension(OID_HWID).is_none(),
    };
    same_tcb && same_chip
}

/// A CRL that a trusted root signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    /// The root.
    pub issuer: String,
    /// From when it holds.
    pub from: String,
    /// Until when it holds.
    pub until: String,
}

impl Crl {
    /// Reads and verifies a CRL, DER, but not its time.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(der: &[u8], roots: &Roots) -> Result<Self, Refused> {
        let table = &mut Table::default();
        let Some((issuer, from, until)) = crl_outline(der) else {
            return table.refuse("CRL format", "something else", "a CRL with a next update");
        };
        let signed = roots
            .snp_roots()
            .iter()
            .any(|root| root.signed_crl_der(der));
        let got = format!("a CRL of {issuer}");
        table.require("CRL signature", got, "by a trusted root", signed)?;
        Ok(Self {
            issuer,
            from,
            until,
        })
    }
}
