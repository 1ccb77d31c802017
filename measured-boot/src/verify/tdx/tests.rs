//! Quotes of real TDs, and what becomes of them when a byte changes.

use dcap_qvl::quote::Quote;

use super::{Collateral, Td, VerifiedQuote, verify};
use crate::verify::validate::{Freshness, TdxExpectation, TdxPolicy, tdx};
use crate::verify::{Refused, Roots, Table};

/// Inside the collateral of the same name.
const PHALA: u64 = 1_752_833_763;
const MARCH_2026: u64 = 1_776_204_369;

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/vectors/tdx/{name}")).unwrap()
}

fn judge_bytes(quote: &[u8], collateral: &[u8], now: u64) -> Result<VerifiedQuote, Refused> {
    let mut table = Table::default();
    let verdict = verify(quote, collateral, Roots::BUILT_IN, now, &mut table);
    assert_eq!(verdict.is_ok(), table.holds());
    if let Err(refused) = &verdict {
        assert_eq!(table.checks.last().unwrap().name, refused.name);
    }
    verdict
}

fn judge(quote: &str, collateral: &str, now: u64) -> Result<VerifiedQuote, Refused> {
    judge_bytes(
        &vector(quote),
        &vector(&format!("{collateral}.collateral.json")),
        now,
    )
}

/// As if it had been verified, for the checks after that.
fn unverified(quote: &str) -> VerifiedQuote {
    let quote = Quote::parse(&vector(quote)).unwrap();
    VerifiedQuote {
        td: super::td(&quote.report).unwrap(),
        tcb_status: "UpToDate".to_owned(),
        advisory_ids: Vec::new(),
    }
}

fn expectation(td: &Td) -> TdxExpectation {
    TdxExpectation {
        mrtd: vec![td.mrtd],
        rtmrs: td.rtmrs.map(|rtmr| Some(vec![rtmr])),
        mr_config_id: Some(td.mr_config_id),
        freshness: Freshness::ReportData(td.report_data.to_vec()),
    }
}

fn failures(quote: &VerifiedQuote, policy: &TdxPolicy, expected: &TdxExpectation) -> Vec<String> {
    let mut table = Table::default();
    tdx(quote, policy, expected, &mut table);
    let failed = table.checks.into_iter().filter(|check| !check.ok);
    failed.map(|check| check.name).collect()
}

#[test]
fn accepts_quotes_of_up_to_date_platforms() {
    for (quote, collateral, now) in [
        ("phala-uptodate.quote.dat", "phala-uptodate", PHALA),
        ("google.quote-v5.dat", "90c06f-mar2026", MARCH_2026),
    ] {
        let verified = judge(quote, collateral, now).unwrap_or_else(|e| panic!("{quote}: {e}"));
        assert_eq!(verified.tcb_status(), "UpToDate", "{quote}");
        let expected = expectation(verified.td());
        let refused = failures(&verified, &TdxPolicy::default(), &expected);
        assert!(refused.is_empty(), "{quote}: {refused:?}");
    }
}

#[test]
fn takes_the_chain_in_the_quote_whoever_the_collateral_was_fetched_for() {
    let quote = vector("phala-uptodate.quote.dat");
    let collateral = vector("phala-uptodate.collateral.json");
    let mut fetched: serde_json::Value = serde_json::from_slice(&collateral).unwrap();
    fetched["pck_certificate_chain"] = fetched["pck_crl_issuer_chain"].clone();
    let fetched = serde_json::to_vec(&fetched).unwrap();
    let verified = judge_bytes(&quote, &fetched, PHALA).unwrap();
    assert_eq!(verified.tcb_status(), "UpToDate");
}

#[test]
fn what_intel_did_not_sign_is_not_authentic() {
    let parse = |json: &[u8]| Collateral::parse(json, &mut Table::default()).unwrap();
    let mut orders = Vec::new();
    for name in ["phala-uptodate", "90c06f-mar2026"] {
        let json = vector(&format!("{name}.collateral.json"));
        let collateral = parse(&json);
        assert_eq!(collateral.authenticate(Roots::BUILT_IN), Ok(()), "{name}");
        orders.push(collateral.order());
        let text = String::from_utf8(json).unwrap();
        let altered = text.replace("EvaluationDataNumber\\\":1", "EvaluationDataNumber\\\":2");
        assert_ne!(altered, text);
        let refused = parse(altered.as_bytes()).authenticate(Roots::BUILT_IN);
        assert_eq!(refused.unwrap_err().name, "TCB info signature");
    }
    assert!(orders.is_sorted(), "{orders:?}");
}

#[test]
fn rejects_quotes_of_other_platforms_and_times() {
    let crypto = "quote signature, chain and collateral";
    for (quote, collateral, now, name, cause) in [
        (
            "phala-uptodate.quote.dat",
            "phala-uptodate",
            1_795_000_000,
            "TCB info validity",
            "2025-07-19",
        ),
        (
            "phala-uptodate.quote.dat",
            "phala-uptodate",
            1_700_000_000,
            crypto,
            "",
        ),
        (
            "phala-uptodate.quote.dat",
            "90c06f-mar2026",
            MARCH_2026,
            crypto,
            "",
        ),
        (
            "phala-outdated.quote.dat",
            "phala-outdated",
            PHALA,
            crypto,
            "",
        ),
        (
            "v5-trustee.dat",
            "90c06f-mar2026",
            MARCH_2026,
            crypto,
            "TCB level",
        ),
        ("v4-trustee.dat", "90c06f-mar2026", MARCH_2026, crypto, ""),
        (
            "sgx-phala.quote.dat",
            "sgx-phala",
            PHALA,
            "quote version",
            "3",
        ),
    ] {
        let refused = judge(quote, collateral, now).unwrap_err();
        assert_eq!(refused.name, name, "{quote}: {refused}");
        assert!(refused.got.contains(cause), "{quote}: {refused}");
    }
}

#[test]
fn a_service_td_and_an_old_platform_are_each_a_check() {
    let quote = judge("v5-alibaba.dat", "90c06f-mar2026", MARCH_2026).unwrap();
    assert_eq!(quote.tcb_status(), "OutOfDate");
    assert!(quote.advisory_ids().contains(&"INTEL-SA-01036".to_owned()));
    let mut policy = TdxPolicy::default();
    let expected = expectation(quote.td());
    assert_eq!(
        failures(&quote, &policy, &expected),
        ["MRSERVICETD", "TCB status"]
    );
    policy.tcb_statuses.push("OutOfDate".to_owned());
    assert_eq!(failures(&quote, &policy, &expected), ["MRSERVICETD"]);
}

#[test]
fn refuses_sgx_in_every_version() {
    let mut quote = vector("google.quote-v5.dat");
    quote[4] = 0;
    let collateral = vector("90c06f-mar2026.collateral.json");
    let refused = judge_bytes(&quote, &collateral, MARCH_2026).unwrap_err();
    assert_eq!(
        (refused.name.as_str(), refused.got.as_str()),
        ("TEE type", "0x0")
    );
}

#[test]
fn names_debugging_and_service_tds() {
    let policy = TdxPolicy::default();
    for (quote, refused) in [
        (
            "v4-trustee.dat",
            &["TD attributes", "TD attributes: debug"][..],
        ),
        ("v5-alibaba.dat", &["MRSERVICETD"]),
        ("v5-trustee.dat", &["MRSERVICETD"]),
        ("google.quote-v5.dat", &[]),
    ] {
        let quoted = unverified(quote);
        assert_eq!(
            failures(&quoted, &policy, &expectation(quoted.td())),
            refused,
            "{quote}"
        );
    }
}

#[test]
fn rejects_changed_bytes() {
    let quote = vector("phala-uptodate.quote.dat");
    let collateral = vector("phala-uptodate.collateral.json");
    // Header, TD report, signature, key, QE report, two certificates. The third is
    // Intel's root, which nobody reads: the built-in one counts.
    let report_data = 48 + 520;
    for offset in (0..3800usize).step_by(311).chain([48, report_data, 3800]) {
        let mut altered = quote.clone();
        altered[offset] ^= 1;
        let verdict = judge_bytes(&altered, &collateral, PHALA);
        assert!(verdict.is_err(), "offset {offset:#x}");
    }
    for length in [0, 47, 635, 636, 4935] {
        let refused = judge_bytes(&quote[..length], &collateral, PHALA).unwrap_err();
        assert_eq!(refused.name, "quote length");
    }
    let mut trailing = quote.clone();
    *trailing.last_mut().unwrap() = 1;
    let refused = judge_bytes(&trailing, &collateral, PHALA).unwrap_err();
    assert_eq!(refused.name, "bytes after the quote");
    assert_eq!(refused.got, "70 bytes after offset 0x1348");
    let refused = judge_bytes(&quote, b"{}", PHALA).unwrap_err();
    assert_eq!(refused.name, "collateral format");
}

#[test]
fn each_demand_is_a_check_of_its_own() {
    let good = unverified("google.quote-v5.dat");
    let expected = expectation(good.td());
    type Change = (fn(&mut VerifiedQuote), &'static [&'static str]);
    let changed: [Change; 16] = [
        (|q| q.td.mrtd[0] ^= 1, &["MRTD"]),
        (|q| q.td.rtmrs[0][47] ^= 1, &["RTMR0"]),
        (|q| q.td.rtmrs[1][47] ^= 1, &["RTMR1"]),
        (|q| q.td.rtmrs[2][47] ^= 1, &["RTMR2"]),
        (|q| q.td.rtmrs[3][47] ^= 1, &["RTMR3"]),
        (|q| q.td.report_data[63] ^= 1, &["report data"]),
        (|q| q.td.mr_config_id[0] ^= 1, &["MRCONFIGID"]),
        (
            |q| q.td.td_attributes |= 1,
            &["TD attributes", "TD attributes: debug"],
        ),
        (
            |q| q.td.td_attributes |= 0x80,
            &["TD attributes", "TD attributes: debug"],
        ),
        (
            |q| q.td.td_attributes |= 1 << 29,
            &["TD attributes", "TD attributes: migration"],
        ),
        (|q| q.td.td_attributes = 0, &["TD attributes"]),
        (|q| q.td.mr_service_td[0] = 1, &["MRSERVICETD"]),
        (
            |q| q.td.cur_service_td_hash[0] = 1,
            &["service TD bound now"],
        ),
        (|q| q.td.mr_signer_seam[0] = 1, &["MRSIGNERSEAM"]),
        (|q| q.td.seam_attributes[0] = 1, &["SEAMATTRIBUTES"]),
        (|q| q.tcb_status = "OutOfDate".to_owned(), &["TCB status"]),
    ];
    for (change, refused) in changed {
        let mut quote = good.clone();
        change(&mut quote);
        assert_eq!(failures(&quote, &TdxPolicy::default(), &expected), refused);
    }
    let policy = TdxPolicy {
        xfam: vec![3],
        ..TdxPolicy::default()
    };
    assert_eq!(failures(&good, &policy, &expected), ["XFAM"]);
    let nothing = TdxExpectation {
        mrtd: Vec::new(),
        rtmrs: [Some(Vec::new()), None, None, None],
        ..expected
    };
    assert_eq!(
        failures(&good, &TdxPolicy::default(), &nothing),
        ["MRTD", "RTMR0"]
    );
}
