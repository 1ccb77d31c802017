//! What Intel's rules, as `dcap-qvl` has them, make of what is signed.

use dcap_qvl::quote::Quote;
use dcap_qvl::verify::{QuoteVerifier, VerifiedReport};
use dcap_qvl::{QuoteCollateralV3, TcbStatus};

use super::{Authority, Collateral, Td};
use crate::Keys;

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;

fn verify(root: &[u8], quote: &[u8], collateral: &str, now: u64) -> Result<VerifiedReport, String> {
    let collateral: QuoteCollateralV3 = serde_json::from_str(collateral).unwrap();
    QuoteVerifier::new(root.to_vec())
        .allow_debug(true)
        .allow_service_td(true)
        .verify(quote, &collateral, now)
        .map_err(|error| format!("{error:#}"))
}

fn refusal(says: &Collateral, now: u64) -> String {
    let authority = Authority::new(Keys::Test).unwrap();
    let quote = authority.quote(&Td::default()).unwrap();
    let collateral = authority.collateral(says).unwrap();
    verify(authority.root(), &quote, &collateral, now).unwrap_err()
}

fn distinct(version: u16) -> Td {
    Td {
        version,
        mrtd: [1; 48],
        mr_config_id: [2; 48],
        mr_owner: [3; 48],
        mr_owner_config: [4; 48],
        rtmrs: [[5; 48], [6; 48], [7; 48], [8; 48]],
        report_data: [9; 64],
        ..Td::default()
    }
}

#[test]
fn quotes_of_both_versions_verify_and_say_what_was_meant() {
    let authority = Authority::new(Keys::Test).unwrap();
    let collateral = authority.collateral(&Collateral::default()).unwrap();
    for version in [4, 5] {
        let quote = authority.quote(&distinct(version)).unwrap();
        let verified = verify(authority.root(), &quote, &collateral, NOW).unwrap();
        assert_eq!(verified.status, "UpToDate");
        let td = verified.report.as_td10().unwrap();
        assert_eq!(td.mr_td, [1; 48]);
        assert_eq!(td.mr_config_id, [2; 48]);
        assert_eq!(td.mr_owner, [3; 48]);
        assert_eq!(td.mr_owner_config, [4; 48]);
        assert_eq!(
            [td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3],
            [[5; 48], [6; 48], [7; 48], [8; 48]]
        );
        assert_eq!(td.report_data, [9; 64]);
        assert_eq!(td.td_attributes, (1u64 << 28).to_le_bytes());
    }
    assert!(authority.quote(&distinct(3)).is_err());
}

#[test]
fn a_service_td_shows_in_version_5() {
    let authority = Authority::new(Keys::Test).unwrap();
    let td = Td {
        mr_service_td: [0xaa; 48],
        ..distinct(5)
    };
    let quote = Quote::parse(&authority.quote(&td).unwrap()).unwrap();
    assert_eq!(quote.report.as_td15().unwrap().mr_service_td, [0xaa; 48]);
}

#[test]
fn only_the_root_that_signed_verifies_and_only_unchanged_bytes() {
    let authority = Authority::new(Keys::Test).unwrap();
    let foreign = Authority::new(Keys::Foreign).unwrap();
    let collateral = authority.collateral(&Collateral::default()).unwrap();
    let quote = authority.quote(&Td::default()).unwrap();
    assert!(verify(foreign.root(), &quote, &collateral, NOW).is_err());
    let theirs = foreign.quote(&Td::default()).unwrap();
    assert!(verify(authority.root(), &theirs, &collateral, NOW).is_err());
    for offset in [48, 48 + 520, 48 + 584 + 4, 48 + 584 + 4 + 134] {
        let mut changed = quote.clone();
        changed[offset] ^= 1;
        assert!(verify(authority.root(), &changed, &collateral, NOW).is_err());
    }
}

#[test]
fn collateral_that_is_not_well_is_noticed() {
    let expired = Collateral {
        next_update: NOW - 1,
        ..Collateral::default()
    };
    assert!(refusal(&expired, NOW).to_lowercase().contains("expired"));
    let pck_revoked = Collateral {
        pck_revoked: true,
        ..Collateral::default()
    };
    assert!(refusal(&pck_revoked, NOW).contains("CertRevoked"));
    let ca_revoked = Collateral {
        platform_ca_revoked: true,
        ..Collateral::default()
    };
    assert!(refusal(&ca_revoked, NOW).contains("CertRevoked"));
    let revoked = Collateral {
        status: TcbStatus::Revoked,
        ..Collateral::default()
    };
    assert!(refusal(&revoked, NOW).contains("Revoked"));
}

#[test]
fn an_old_platform_verifies_with_its_status_and_advisories() {
    let authority = Authority::new(Keys::Test).unwrap();
    let says = Collateral {
        status: TcbStatus::OutOfDate,
        advisory_ids: vec!["INTEL-SA-00000".into()],
        ..Collateral::default()
    };
    let collateral = authority.collateral(&says).unwrap();
    let quote = authority.quote(&Td::default()).unwrap();
    let verified = verify(authority.root(), &quote, &collateral, NOW).unwrap();
    assert_eq!(verified.status, "OutOfDate");
    assert_eq!(verified.advisory_ids, says.advisory_ids);
}
