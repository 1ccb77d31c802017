//! Which TDs are accepted.

use serde::{Deserialize, Serialize};

use super::{Freshness, check_listed};
use crate::base16;
use crate::reference_values::{Hex48, Register, TdxLog, TdxValues};
use crate::verify::Table;
use crate::verify::tdx::VerifiedQuote;

/// `SEPT_VE_DISABLE`: the host cannot inject #VE by unmapping pages.
const SEPT_VE_DISABLE: u64 = 1 << 28;
/// `TUD`, bits 0 to 7: any of them makes the TD's memory readable to the host
/// (Intel TDX Module ABI, `ATTRIBUTES`).
const TUD: u64 = 0xff;
const MIGRATABLE: u64 = 1 << 29;

/// What an auditor demands of platforms, whatever image they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TdxPolicy {
    /// Accepted TCB statuses, as Intel names them.
    pub tcb_statuses: Vec<String>,
    /// `ATTRIBUTES`, exactly.
    pub td_attributes: u64,
    /// `XFAM`, exactly; empty for any.
    pub xfam: Vec<u64>,
}

impl Default for TdxPolicy {
    fn default() -> Self {
        Self {
            tcb_statuses: vec!["UpToDate".to_owned()],
            td_attributes: SEPT_VE_DISABLE,
            xfam: Vec::new(),
        }
    }
}

/// What one image, instance and session must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxExpectation {
    /// Accepted values of MRTD; none is accepted where none is listed.
    pub mrtd: Vec<[u8; 48]>,
    /// Accepted values of each RTMR; `None` where the register is not judged.
    pub rtmrs: [Option<Vec<[u8; 48]>>; 4],
    /// `MRCONFIGID`, which names the instance.
    pub mr_config_id: Option<[u8; 48]>,
    /// `REPORTDATA`.
    pub freshness: Freshness,
}

impl TdxExpectation {
    /// Of an image with these reference values. Pinned registers are those of
    /// the one log that matches `rtmrs` in most of them, so that no mixture of
    /// two is accepted.
    pub fn of(
        values: &TdxValues,
        rtmrs: &[[u8; 48]; 4],
        mr_config_id: Option<[u8; 48]>,
        freshness: Freshness,
    ) -> Self {
        let matching = |log: &&TdxLog| {
            let equal =
                |(rtmr, value): (&u8, &Hex48)| rtmrs.get(usize::from(*rtmr)) == Some(&value.0);
            log.rtmrs.iter().filter(|entry| equal(*entry)).count()
        };
        let log = values.logs.iter().max_by_key(matching);
        let mut index = 0u8;
        let accept = |register| {
            let pinned = log.and_then(|log| log.rtmrs.get(&index));
            index = index.saturating_add(1);
            accepted(register, pinned)
        };
        Self {
            rtmrs: values.rtmrs.each_ref().map(accept),
            mrtd: accepted(&values.mrtd, None).unwrap_or_default(),
            mr_config_id,
            freshness,
        }
    }
}

/// `None` where the register is not judged.
fn accepted(register: &Register<Hex48>, pinned: Option<&Hex48>) -> Option<Vec<[u8; 48]>> {
    match register {
        Register::Predicted { values, .. } => Some(values.iter().map(|value| value.0).collect()),
        Register::Pinned { .. } => Some(pinned.iter().map(|value| value.0).collect()),
        Register::Ignored { .. } => None,
    }
}

/// Compares every field that decides.
pub fn tdx(
    verified: &VerifiedQuote,
    policy: &TdxPolicy,
    expected: &TdxExpectation,
    table: &mut Table,
) {
    let td = verified.td();
    check_register("MRTD", &td.mrtd, Some(&expected.mrtd), table);
    for (index, (got, expected)) in td.rtmrs.iter().zip(&expected.rtmrs).enumerate() {
        check_register(&format!("RTMR{index}"), got, expected.as_deref(), table);
    }
    expected.freshness.check(&td.report_data, table);
    let config: Vec<_> = expected.mr_config_id.into_iter().collect();
    check_listed(
        "MRCONFIGID",
        &td.mr_config_id,
        &config,
        |id| base16::encode(id),
        table,
    );
    let attributes = td.td_attributes;
    let demanded = policy.td_attributes;
    let (got, exact) = (format!("{attributes:#x}"), format!("{demanded:#x}"));
    table.compare("TD attributes", got, exact, attributes == demanded);
    for (name, bits) in [("debug", TUD), ("migration", MIGRATABLE)] {
        let set = attributes & bits != 0;
        let word = if set { "on" } else { "off" };
        table.compare(&format!("TD attributes: {name}"), word, "off", !set);
    }
    check_listed(
        "XFAM",
        &td.xfam,
        &policy.xfam,
        |xfam| format!("{xfam:#x}"),
        table,
    );
    for (name, value) in [
        ("MRSERVICETD", &td.mr_service_td[..]),
        ("service TD bound now", &td.cur_service_td_hash),
        ("MRSIGNERSEAM", &td.mr_signer_seam),
        ("SEAMATTRIBUTES", &td.seam_attributes),
    ] {
        let zero = value.iter().all(|byte| *byte == 0);
        table.compare(name, base16::encode(value), "zero", zero);
    }
    let status = verified.tcb_status();
    let mut got = status.to_owned();
    if !verified.advisory_ids().is_empty() {
        got = format!("{status} ({})", verified.advisory_ids().join(", "));
    }
    let accepted = policy
        .tcb_statuses
        .iter()
        .any(|accepted| accepted == status);
    table.compare(
        "TCB status",
        got,
        policy.tcb_statuses.join(" or "),
        accepted,
    );
}

fn check_register(name: &str, got: &[u8; 48], accepted: Option<&[[u8; 48]]>, table: &mut Table) {
    let (expected, ok) = match accepted {
        None => ("any value".to_owned(), true),
        Some([]) => ("a reference value, none is given".to_owned(), false),
        Some(values) => {
            let text: Vec<_> = values.iter().map(|value| base16::encode(value)).collect();
            (text.join(" or "), values.contains(got))
        }
    };
    table.compare(name, base16::encode(got), expected, ok);
}
