//! TDX: Intel's quoting enclave signed this quote, on a platform that Intel
//! certifies; the collateral says how up to date that platform is.
//!
//! `dcap-qvl` verifies signatures, chains, CRLs and the TCB level, by the
//! caller's clock and by Intel's root, which is compiled in. What it would decide
//! about the TD itself is left to [`super::validate`], where it has a name.

mod collateral;

#[cfg(test)]
mod tests;

use dcap_qvl::configs::RustCryptoConfig;
use dcap_qvl::quote::Report;
use dcap_qvl::verify::QuoteVerifier;

pub use self::collateral::{Collateral, fmspc};

use super::{Refused, Roots, Table};

/// Bytes before the TD report: header, and in version 5 the body's type and size.
const HEADER_LEN: usize = 48;
/// `TEE_TYPE_TDX`.
const TEE_TYPE_TDX: u32 = 0x81;
/// Least bytes of a quote: header, TD report 1.0, length of the signature.
const SHORTEST: usize = HEADER_LEN + 584 + 4;

/// The fields of a TD report that are judged (Intel TDX DCAP Quoting Library
/// API 0.9, appendix A.3).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of appendix A.3")]
pub struct Td {
    pub mr_signer_seam: [u8; 48],
    pub seam_attributes: [u8; 8],
    pub td_attributes: u64,
    pub xfam: u64,
    pub mrtd: [u8; 48],
    pub mr_config_id: [u8; 48],
    pub mr_owner: [u8; 48],
    pub mr_owner_config: [u8; 48],
    pub rtmrs: [[u8; 48]; 4],
    pub report_data: [u8; 64],
    /// Zero where the quote has no such field: of a service TD that could
    /// migrate or change this one.
    pub mr_service_td: [u8; 48],
    /// The service TD bound now, in a TDX 1.5 extended report; else zero.
    pub cur_service_td_hash: [u8; 48],
}

/// A quote of a platform that Intel certifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedQuote {
    td: Td,
    tcb_status: String,
    advisory_ids: Vec<String>,
}

impl VerifiedQuote {
    /// The signed fields.
    pub fn td(&self) -> &Td {
        &self.td
    }

    /// The worse of platform and quoting enclave, as Intel names it: `UpToDate` is best.
    pub fn tcb_status(&self) -> &str {
        &self.tcb_status
    }

    /// Intel's advisories that are open at this TCB level.
    pub fn advisory_ids(&self) -> &[String] {
        &self.advisory_ids
    }
}

/// Verifies a quote of version 4 or 5 with its collateral (the JSON of
/// `dcap-qvl`) at the time `now`, in seconds since 1970.
///
/// # Errors
/// The first check that fails; it is also the last row of `table`.
pub fn verify(
    quote: &[u8],
    collateral: &[u8],
    roots: &Roots,
    now: u64,
    table: &mut Table,
) -> Result<VerifiedQuote, Refused> {
    let quote = check_form(quote, table)?;
    let collateral = Collateral::parse(collateral, table)?;
    collateral.check_validity(now, table)?;
    let verifier = match roots.tdx_root(collateral.issuers()) {
        Some(root) => QuoteVerifier::<RustCryptoConfig>::new(root.to_vec()),
        None => QuoteVerifier::<RustCryptoConfig>::new_prod(),
    };
    // Debugging and service TDs are refused by our own policy, by name.
    let verifier = verifier.allow_debug(true).allow_service_td(true);
    let name = "quote signature, chain and collateral";
    let expected = "good at the given time, by a trusted root";
    let verified = match verifier.verify(quote, collateral.inner(), now) {
        Ok(verified) => verified,
        Err(error) => return table.refuse(name, format!("{error:#}"), expected),
    };
    table.require(name, "good", expected, true)?;
    let Some(td) = td(&verified.report) else {
        return table.refuse("TEE type", "an SGX enclave", "a TD");
    };
    Ok(VerifiedQuote {
        td,
        tcb_status: verified.status,
        advisory_ids: verified.advisory_ids,
    })
}

/// Version, type and length: what is behind the quote may only be zeros, with
/// which some drivers fill their buffer.
fn check_form<'a>(quote: &'a [u8], table: &mut Table) -> Result<&'a [u8], Refused> {
    let length = format!("{} bytes", quote.len());
    let least = format!("at least {SHORTEST} bytes");
    table.require("quote length", length, least, quote.len() >= SHORTEST)?;
    let version = number(quote, 0) & 0xffff;
    table.require("quote version", version, "4 or 5", matches!(version, 4 | 5))?;
    let tee = number(quote, 4);
    let expected = format!("{TEE_TYPE_TDX:#x} (TDX)");
    table.require(
        "TEE type",
        format!("{tee:#x}"),
        expected,
        tee == TEE_TYPE_TDX,
    )?;
    let body = match version {
        4 => 584,
        // Body type and size: 6 bytes, the size at offset 2.
        _ => usize::try_from(number(quote, HEADER_LEN.saturating_add(2)))
            .unwrap_or(usize::MAX)
            .saturating_add(6),
    };
    let at = HEADER_LEN.saturating_add(body);
    let signature = usize::try_from(number(quote, at)).unwrap_or(usize::MAX);
    let end = at.saturating_add(4).saturating_add(signature);
    let Some((whole, rest)) = quote.split_at_checked(end) else {
        let expected = format!("{end} bytes, by the size at offset {at:#x}");
        return table.refuse("quote length", format!("{} bytes", quote.len()), expected);
    };
    let zero = rest.iter().all(|byte| *byte == 0);
    let got = format!("{} bytes after offset {end:#x}", rest.len());
    table.require("bytes after the quote", got, "none but zeros", zero)?;
    Ok(whole)
}

fn number(bytes: &[u8], offset: usize) -> u32 {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    u32::from_le_bytes(field.copied().unwrap_or([0xff; 4]))
}

fn td(report: &Report) -> Option<Td> {
    let base = report.as_td10()?;
    let extended = report.as_td15_ex();
    Some(Td {
        mr_signer_seam: base.mr_signer_seam,
        seam_attributes: base.seam_attributes,
        td_attributes: u64::from_le_bytes(base.td_attributes),
        xfam: u64::from_le_bytes(base.xfam),
        mrtd: base.mr_td,
        mr_config_id: base.mr_config_id,
        mr_owner: base.mr_owner,
        mr_owner_config: base.mr_owner_config,
        rtmrs: [base.rt_mr0, base.rt_mr1, base.rt_mr2, base.rt_mr3],
        report_data: base.report_data,
        mr_service_td: report.as_td15().map_or([0; 48], |td| td.mr_service_td),
        cur_service_td_hash: extended.map_or([0; 48], |td| td.cur_service_td_hash),
    })
}
