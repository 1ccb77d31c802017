//! Which SNP reports are accepted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Freshness, check_listed};
use crate::base16;
use crate::manifest::Hex32;
use crate::reference_values::SnpValues;
use crate::verify::Table;
use crate::verify::snp::{Product, Tcb, VerifiedReport};

/// SMT allowed, bit 17 as always, nothing else: no debugging, no migration.
const GUEST_POLICY: u64 = 0x3_0000;
const POLICY_MIGRATE_MA: u64 = 1 << 18;
const POLICY_DEBUG: u64 = 1 << 19;

/// What an auditor demands of platforms, whatever image they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnpPolicy {
    /// `POLICY`, exactly (SEV-SNP Firmware ABI 56860, section 4.3). The launch
    /// digest does not cover it.
    pub guest_policy: u64,
    /// `VMPL`, exactly.
    pub vmpl: u32,
    /// Accepted products. Leaving out Milan is the only defence against the
    /// software that extracts its root seed.
    pub products: Vec<Product>,
    /// Lowest firmware by product, for the report and for the launch.
    pub minimum_tcb: BTreeMap<Product, Tcb>,
    /// Accepted chips, the certificate's HWID in lower-case hexadecimal; empty
    /// for any.
    pub chip_ids: Vec<String>,
}

impl Default for SnpPolicy {
    fn default() -> Self {
        Self {
            guest_policy: GUEST_POLICY,
            vmpl: 0,
            products: Product::ALL.to_vec(),
            minimum_tcb: BTreeMap::new(),
            chip_ids: Vec::new(),
        }
    }
}

/// What one image, instance and session must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpExpectation {
    /// Accepted launch digests; none is accepted where none is listed.
    pub launch_digests: Vec<[u8; 48]>,
    /// `HOST_DATA`, which names the instance.
    pub host_data: Option<Hex32>,
    /// `REPORT_DATA`.
    pub freshness: Freshness,
}

impl SnpExpectation {
    /// Of an image with these reference values.
    pub fn of(values: &SnpValues, host_data: Option<Hex32>, freshness: Freshness) -> Self {
        let digests = values.launch_digests.values();
        Self {
            launch_digests: digests.map(|digest| digest.0).collect(),
            host_data,
            freshness,
        }
    }
}

/// Compares every field that decides.
pub fn snp(
    verified: &VerifiedReport,
    policy: &SnpPolicy,
    expected: &SnpExpectation,
    table: &mut Table,
) {
    let report = verified.report();
    let digests: Vec<_> = expected
        .launch_digests
        .iter()
        .map(|digest| base16::encode(digest))
        .collect();
    let digests = match digests.is_empty() {
        true => "a reference value, none is given".to_owned(),
        false => digests.join(" or "),
    };
    let known = expected.launch_digests.contains(&report.measurement);
    table.compare(
        "launch digest",
        base16::encode(&report.measurement),
        digests,
        known,
    );
    expected.freshness.check(&report.report_data, table);
    let host_data: Vec<_> = expected.host_data.into_iter().collect();
    let text = |value: &Hex32| base16::encode(&value.0);
    check_listed(
        "host data",
        &Hex32(report.host_data),
        &host_data,
        text,
        table,
    );
    check_guest_policy(report.policy, policy.guest_policy, table);
    table.compare("VMPL", report.vmpl, policy.vmpl, report.vmpl == policy.vmpl);
    let products: Vec<_> = policy
        .products
        .iter()
        .map(|product| product.name())
        .collect();
    let product = verified.product();
    let accepted = policy.products.contains(&product);
    table.compare("product", product, products.join(" or "), accepted);
    for (name, tcb) in [
        ("minimum TCB", verified.reported_tcb()),
        ("minimum TCB at launch", verified.launch_tcb()),
    ] {
        let minimum = policy.minimum_tcb.get(&product);
        let ok = minimum.is_none_or(|minimum| tcb.is_at_least(*minimum));
        let minimum = minimum.map_or_else(|| "any, none is demanded".to_owned(), Tcb::to_string);
        table.compare(name, tcb, minimum, ok);
    }
    let chip = base16::encode(verified.hwid());
    check_listed("chip", &chip, &policy.chip_ids, String::clone, table);
}

/// Exactly the demanded bits; debugging and migration are told by name, and
/// refused even where the demanded policy has them.
fn check_guest_policy(got: u64, expected: u64, table: &mut Table) {
    table.compare(
        "guest policy",
        format!("{got:#x}"),
        format!("{expected:#x}"),
        got == expected,
    );
    for (name, bit) in [
        ("debugging", POLICY_DEBUG),
        ("migration agent", POLICY_MIGRATE_MA),
    ] {
        let allowed = got & bit != 0;
        let word = if allowed { "allowed" } else { "forbidden" };
        table.compare(
            &format!("guest policy: {name}"),
            word,
            "forbidden",
            !allowed,
        );
    }
}
