//! SEV-SNP: the processor's key signed this report, and AMD's key that key.
//!
//! Only signatures, chain and what the certificate says about the report are
//! verified here; whether the report is one we want is for [`super::validate`].

mod endorsement;
mod report;
mod root;
mod tcb;

#[cfg(test)]
mod tests;

use p384::ecdsa::signature::Verifier;
use p384::ecdsa::{Signature, VerifyingKey};
use p384::pkcs8::DecodePublicKey;

pub use self::endorsement::{Crl, Vek, matches};
pub use self::report::{Cpuid, REPORT_LEN, Report, SigningKey};
pub use self::root::{Product, Root};
pub use self::tcb::Tcb;

use self::report::SIGNED_LEN;
use super::certificate::Certificate;
use super::{Refused, Roots, Table};
use crate::base16;

/// AMD's arc for certificates of SEV-SNP (VCEK specification 57230).
const OID_PRODUCT: &str = "1.3.6.1.4.1.3704.1.2";
const OID_HWID: &str = "1.3.6.1.4.1.3704.1.4";
/// DER's tag of an `OCTET STRING`.
const OCTET_STRING: u8 = 0x04;

/// What AMD states about the key that signed a report.
#[derive(Clone, Debug)]
pub struct Endorsements<'a> {
    /// The certificate of the VCEK or VLEK, DER.
    pub vek: &'a [u8],
    /// Whether AMD took the key's issuer back.
    pub revocation: Revocation<'a>,
    /// What the chain may end at.
    pub roots: &'a Roots,
}

/// Where revocations are looked up.
#[derive(Clone, Debug)]
pub enum Revocation<'a> {
    /// In these CRLs, DER. One of the product's root must be among them and
    /// current; what any of that root takes back, however old, is revoked.
    Lists(&'a [Vec<u8>]),
    /// Nowhere: a signing key that AMD took back is accepted.
    InsecureUnchecked,
}

/// A report that a processor of AMD signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedReport {
    report: Report,
    product: Product,
    reported_tcb: Tcb,
    launch_tcb: Tcb,
}

impl VerifiedReport {
    /// The signed fields.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What the certificate says the processor is.
    pub fn product(&self) -> Product {
        self.product
    }

    /// The firmware the key was derived for.
    pub fn reported_tcb(&self) -> Tcb {
        self.reported_tcb
    }

    /// What names the chip: `CHIP_ID`, without the zeros that follow it on Turin.
    pub fn hwid(&self) -> &[u8] {
        let length = self.product.hwid_length();
        self.report.chip_id.get(..length).unwrap_or_default()
    }

    /// The firmware at the guest's launch.
    pub fn launch_tcb(&self) -> Tcb {
        self.launch_tcb
    }
}

/// Whether a certificate, DER, says that its key is a VCEK or VLEK.
pub fn is_vek(der: &[u8]) -> bool {
    let certificate = Certificate::parse("VEK", der, &mut Table::default());
    certificate.is_ok_and(|vek| matches!(vek.subject().as_str(), "SEV-VCEK" | "SEV-VLEK"))
}

/// Whether this is a CRL, DER, whoever made it.
pub fn is_crl(der: &[u8]) -> bool {
    super::certificate::crl_outline(der).is_some()
}

/// Verifies a report of versions 2 to 5 at the time `now`, in seconds since 1970.
///
/// # Errors
/// The first check that fails; it is also in `table`.
pub fn verify(
    report: &[u8],
    endorsements: &Endorsements<'_>,
    now: u64,
    table: &mut Table,
) -> Result<VerifiedReport, Refused> {
    let parsed = Report::parse(report, table)?;
    let signing_key = parsed.signing_key;
    let vek = Certificate::parse(&signing_key.to_string(), endorsements.vek, table)?;
    let expected = format!("SEV-{signing_key}");
    table.require(
        "signing key",
        vek.subject(),
        &expected,
        vek.subject() == expected,
    )?;
    let product = check_chain(&vek, signing_key, endorsements, now, table)?;
    // Before the signature, which fails without a reason when the certificate
    // is that of another chip or another firmware.
    let reported_tcb = read_tcb("reported TCB", product, parsed.reported_tcb, table)?;
    let launch_tcb = read_tcb("launch TCB", product, parsed.launch_tcb, table)?;
    check_product(&parsed, product, &vek, table);
    check_tcb(reported_tcb, product, &vek, table);
    check_hwid(&parsed, product, &vek, table);
    let signed = report.get(..SIGNED_LEN).unwrap_or_default();
    check_signature(signed, &parsed, &vek, table);
    if let Some(refused) = table.first_failure() {
        return Err(refused);
    }
    Ok(VerifiedReport {
        report: parsed,
        product,
        reported_tcb,
        launch_tcb,
    })
}

/// VEK by ASK or ASVK, that by ARK, all valid and not taken back.
fn check_chain(
    vek: &Certificate,
    signing_key: SigningKey,
    endorsements: &Endorsements<'_>,
    now: u64,
    table: &mut Table,
) -> Result<Product, Refused> {
    let Some(product) = Product::of_issuer(&vek.issuer(), signing_key) else {
        let names = Product::ALL.map(|product| product.signer_name(signing_key));
        return table.refuse("issuer", vek.issuer(), names.join(" or "));
    };
    let [root, signer] = endorsements
        .roots
        .snp_issuers(vek, product, signing_key, table)?;
    signer.check_signature(&root, table)?;
    vek.check_signature(&signer, table)?;
    for certificate in [&root, &signer, vek] {
        certificate.check_validity(now, table)?;
    }
    match endorsements.revocation {
        Revocation::Lists(lists) => {
            root.check_lists(lists, &signer, table)?;
            let Some(list) = root.newest_crl(lists, now) else {
                let got = format!("{} CRLs, none of it", lists.len());
                return table.refuse("CRL", got, format!("a CRL of {}", root.subject()));
            };
            root.check_revocation(list, &signer, now, table)?;
        }
        Revocation::InsecureUnchecked => {
            table.compare("CRL", "none", "none: revocation is not checked", true);
        }
    }
    Ok(product)
}

/// ECDSA P-384 with SHA-384 over the report's first 672 bytes, as received.
fn check_signature(signed: &[u8], report: &Report, vek: &Certificate, table: &mut Table) {
    let key = VerifyingKey::from_public_key_der(&vek.public_key());
    let (r, s) = report.signature;
    let signature = Signature::from_scalars(r, s);
    let good = match (key, signature) {
        (Ok(key), Ok(signature)) => key.verify(signed, &signature).is_ok(),
        _ => false,
    };
    let got = if good { "good" } else { "does not verify" };
    let expected = format!("P-384 with SHA-384 by the {}", report.signing_key);
    table.compare("report signature", got, expected, good);
}

/// The certificate's product, and the processor's own word for it.
fn check_product(report: &Report, product: Product, vek: &Certificate, table: &mut Table) {
    let name = vek.extension(OID_PRODUCT).and_then(tcb::ia5_string);
    let name = name.unwrap_or("no product name");
    let is_product = name.split('-').next() == Some(product.name());
    table.compare("certificate product", name, product.name(), is_product);
    if let Some(cpuid) = report.cpuid {
        let got = format!("family {:#x}, model {:#x}", cpuid.family, cpuid.model);
        let ok = product.has_cpuid(cpuid);
        table.compare("processor", got, format!("one of {}", product.name()), ok);
    }
}

fn read_tcb(
    name: &str,
    product: Product,
    bytes: [u8; 8],
    table: &mut Table,
) -> Result<Tcb, Refused> {
    match Tcb::from_bytes(product, bytes) {
        Some(tcb) => Ok(tcb),
        None => table.refuse(name, base16::encode(&bytes), "reserved bytes zero"),
    }
}

/// The firmware that the certificate was issued for is the firmware reported.
fn check_tcb(reported: Tcb, product: Product, vek: &Certificate, table: &mut Table) {
    let certified = Tcb::from_certificate(product, vek);
    let got = certified.map_or_else(|| "none that is complete".to_owned(), |tcb| tcb.to_string());
    let expected = format!("{reported} (REPORTED_TCB)");
    table.compare(
        "certificate TCB",
        got,
        expected,
        certified == Some(reported),
    );
}

/// A VCEK is of one chip: 64 bytes of `CHIP_ID`, or 8 and zeros on Turin.
fn check_hwid(report: &Report, product: Product, vek: &Certificate, table: &mut Table) {
    let extension = vek.extension(OID_HWID);
    if report.signing_key == SigningKey::Vlek {
        let got = extension.map_or("none", |_| "one");
        table.compare(
            "certificate HWID",
            got,
            "none in a VLEK",
            extension.is_none(),
        );
        return;
    }
    let hwid_length = product.hwid_length();
    let (hwid, rest) = report
        .chip_id
        .split_at_checked(hwid_length)
        .unwrap_or_default();
    let unwrapped = self::hwid(vek, hwid_length).unwrap_or_default();
    let expected = format!("{} (CHIP_ID)", base16::encode(hwid));
    table.compare(
        "certificate HWID",
        base16::encode(unwrapped),
        expected,
        unwrapped == hwid,
    );
    let zero = rest.iter().all(|byte| *byte == 0);
    table.compare(
        "CHIP_ID",
        base16::encode(&report.chip_id),
        "zeros after the HWID",
        zero,
    );
}

/// The chip of a VCEK. Newer certificates wrap it in an OCTET STRING.
fn hwid(vek: &Certificate, length: usize) -> Option<&[u8]> {
    let extension = vek.extension(OID_HWID)?;
    match extension {
        [OCTET_STRING, inner_length, inner @ ..]
            if usize::from(*inner_length) == inner.len() && inner.len() == length =>
        {
            Some(inner)
        }
        _ => Some(extension),
    }
}
