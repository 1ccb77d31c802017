//! Reports of real processors, and what becomes of them when a byte changes.

use super::{Endorsements, Product, Revocation, SigningKey, VerifiedReport, verify};
use crate::base16;
use crate::manifest::Hex32;
use crate::verify::certificate::Certificate;
use crate::verify::validate::{Freshness, SnpExpectation, SnpPolicy, snp};
use crate::verify::{Refused, Roots, Table};

/// 2025-12-01: every certificate of the vectors is valid.
const NOW: u64 = 1_764_547_200;
/// 2022-10-15: inside the CRL of Milan and the oldest VCEK.
const IN_CRL: u64 = 1_665_792_000;

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/vectors/snp/{name}")).unwrap()
}

fn judge_at(report: &[u8], vek: &[u8], now: u64) -> (Result<VerifiedReport, Refused>, Table) {
    let mut table = Table::default();
    let revocation = Revocation::InsecureUnchecked;
    let endorsements = Endorsements {
        vek,
        revocation,
        roots: Roots::BUILT_IN,
    };
    let verdict = verify(report, &endorsements, now, &mut table);
    assert_eq!(verdict.is_ok(), table.holds());
    if let Err(refused) = &verdict {
        assert!(
            table
                .checks
                .iter()
                .any(|check| !check.ok && check.name == refused.name)
        );
    }
    (verdict, table)
}

fn judge(name: &str, key: &str) -> (Result<VerifiedReport, Refused>, Table) {
    judge_at(
        &vector(&format!("{name}.bin")),
        &vector(&format!("{name}.{key}.der")),
        NOW,
    )
}

fn good(name: &str, key: &str) -> VerifiedReport {
    let (verdict, _) = judge(name, key);
    verdict.unwrap_or_else(|refused| panic!("{name}: {refused}"))
}

/// What the report itself shows, with any guest policy it has.
fn expectation(verified: &VerifiedReport) -> (SnpPolicy, SnpExpectation) {
    let report = verified.report();
    let policy = SnpPolicy {
        guest_policy: report.policy,
        minimum_tcb: [(verified.product(), verified.reported_tcb())].into(),
        chip_ids: vec![base16::encode(verified.hwid())],
        ..SnpPolicy::default()
    };
    let expected = SnpExpectation {
        launch_digests: vec![report.measurement],
        host_data: Some(Hex32(report.host_data)),
        freshness: Freshness::ReportData(report.report_data.to_vec()),
    };
    (policy, expected)
}

fn failures(
    verified: &VerifiedReport,
    policy: &SnpPolicy,
    expected: &SnpExpectation,
) -> Vec<String> {
    let mut table = Table::default();
    snp(verified, policy, expected, &mut table);
    let failed = table.checks.into_iter().filter(|check| !check.ok);
    failed.map(|check| check.name).collect()
}

fn failed_rows(table: &Table) -> Vec<&str> {
    let failed = table.checks.iter().filter(|check| !check.ok);
    failed.map(|check| check.name.as_str()).collect()
}

#[test]
fn accepts_the_reports_of_real_processors() {
    for (name, key, version, product) in [
        ("genoa-v3-routex", "vcek", 3, Product::Genoa),
        ("genoa-v5-routex", "vcek", 5, Product::Genoa),
        ("milan-v2-enarx2022", "vcek", 2, Product::Milan),
        ("milan-v2-trustee", "vcek", 2, Product::Milan),
        ("milan-v2-virtee", "vcek", 2, Product::Milan),
        ("milan-v3-routex", "vcek", 3, Product::Milan),
        ("turin-v5-routex", "vcek", 5, Product::Turin),
        ("milan-v2-google", "vcek", 2, Product::Milan),
        ("vlek-v3-trustee", "vlek", 3, Product::Milan),
    ] {
        let verified = good(name, key);
        assert_eq!(
            (verified.report().version, verified.product()),
            (version, product),
            "{name}"
        );
        let (mut policy, expected) = expectation(&verified);
        let refused: &[&str] = match name {
            "milan-v2-google" => &["guest policy: debugging"],
            "vlek-v3-trustee" => &["VMPL"],
            _ => &[],
        };
        // Its launch was with newer firmware than it reports.
        policy.minimum_tcb.clear();
        assert_eq!(failures(&verified, &policy, &expected), refused, "{name}");
    }
    assert_eq!(good("turin-v5-routex", "vcek").hwid().len(), 8);
    assert_eq!(
        good("vlek-v3-trustee", "vlek").report().signing_key,
        SigningKey::Vlek
    );
}

#[test]
fn rejects_certificates_that_amd_did_not_sign() {
    let report = vector("milan-v2-trustee.bin");
    for name in ["vcek-invalid-legacy", "vcek-invalid-new"] {
        let vek = vector(&format!("milan-v2-trustee.{name}.der"));
        let (verdict, _) = judge_at(&report, &vek, NOW);
        assert_eq!(verdict.unwrap_err().name, "VCEK signature", "{name}");
    }
    let report = vector("milan-v2-virtee.bin");
    let mut vek = vector("milan-v2-virtee.vcek.der");
    vek[40] ^= 1;
    assert!(judge_at(&report, &vek, NOW).0.is_err());
}

#[test]
fn the_built_in_keys_are_signed_by_their_roots_and_the_roots_by_themselves() {
    for product in Product::ALL {
        let mut table = Table::default();
        let root = Certificate::parse("ARK", product.root(), &mut table).unwrap();
        assert_eq!(root.subject(), format!("ARK-{product}"));
        root.check_signature(&root, &mut table).unwrap();
        for key in [SigningKey::Vcek, SigningKey::Vlek] {
            let signer = Certificate::parse("ASK", product.signer(key), &mut table).unwrap();
            assert_eq!(signer.subject(), product.signer_name(key));
            signer.check_signature(&root, &mut table).unwrap();
        }
    }
}

#[test]
fn rejects_a_report_with_one_byte_changed() {
    let report = vector("genoa-v5-routex.bin");
    let vek = vector("genoa-v5-routex.vcek.der");
    for (offset, name) in [
        (0x0, "report field VERSION at offset 0x0"),
        (0x4, "report signature"),
        (0xa, "report field POLICY at offset 0x8"),
        (0xc, "report field POLICY at offset 0x8"),
        (0x8, "report signature"),
        (0x10, "report signature"),
        (0x30, "report signature"),
        (0x34, "report field SIGNATURE_ALGO at offset 0x34"),
        (0x40, "report signature"),
        (0x49, "report field KEY FLAGS at offset 0x48"),
        (0x4c, "report field RESERVED at offset 0x4c"),
        (0x50, "report signature"),
        (0x90, "report signature"),
        (0xc0, "report signature"),
        (0xe0, "report signature"),
        (0x110, "report signature"),
        (0x140, "report signature"),
        (0x160, "report signature"),
        (0x180, "certificate TCB"),
        (0x183, "reported TCB"),
        (0x186, "certificate TCB"),
        (0x187, "certificate TCB"),
        (0x188, "processor"),
        (0x18b, "report field RESERVED at offset 0x18b"),
        (0x19f, "report field RESERVED at offset 0x19f"),
        (0x1a0, "certificate HWID"),
        (0x1df, "certificate HWID"),
        (0x1e0, "report signature"),
        (0x1eb, "report field RESERVED at offset 0x1eb"),
        (0x1ef, "report field RESERVED at offset 0x1ef"),
        (0x1f0, "report signature"),
        (0x1f2, "launch TCB"),
        (0x1f8, "report signature"),
        (0x208, "report field RESERVED at offset 0x208"),
        (0x29f, "report field RESERVED at offset 0x29f"),
        (0x2a0, "report signature"),
        (0x2d0, "report field SIGNATURE.R at offset 0x2d0"),
        (0x2e8, "report signature"),
        (0x32f, "report field SIGNATURE.S at offset 0x32f"),
        (0x330, "report field RESERVED at offset 0x330"),
        (0x49f, "report field RESERVED at offset 0x49f"),
    ] {
        let mut altered = report.clone();
        altered[offset] ^= 2;
        let (verdict, _) = judge_at(&altered, &vek, NOW);
        let refused = verdict.unwrap_err();
        assert_eq!(refused.name, name, "offset {offset:#x}: {refused}");
    }
}

#[test]
fn rejects_every_changed_byte() {
    for (name, key) in [("turin-v5-routex", "vcek"), ("milan-v2-virtee", "vcek")] {
        let report = vector(&format!("{name}.bin"));
        let vek = vector(&format!("{name}.{key}.der"));
        // A prime step: each field is met, in a second rather than a minute.
        for offset in (0..report.len()).step_by(7) {
            let mut altered = report.clone();
            altered[offset] ^= 0x80;
            assert!(
                judge_at(&altered, &vek, NOW).0.is_err(),
                "{name} report byte {offset:#x}"
            );
        }
        for offset in (0..vek.len()).step_by(13) {
            let mut altered = vek.clone();
            altered[offset] ^= 0x80;
            assert!(
                judge_at(&report, &altered, NOW).0.is_err(),
                "{name} VEK byte {offset:#x}"
            );
        }
    }
}

#[test]
fn rejects_other_lengths() {
    let report = vector("genoa-v3-routex.bin");
    let vek = vector("genoa-v3-routex.vcek.der");
    let longer = [&report[..], &[0]].concat();
    for altered in [&report[..0], &report[..1183], &longer] {
        let refused = judge_at(altered, &vek, NOW).0.unwrap_err();
        assert_eq!(refused.name, "report length");
        assert_eq!(refused.got, format!("{} bytes", altered.len()));
        assert_eq!(refused.expected, "1184 bytes");
    }
    let longer = [&vek[..], &[0]].concat();
    for altered in [&vek[..0], &vek[..vek.len() - 1], &longer] {
        let refused = judge_at(&report, altered, NOW).0.unwrap_err();
        assert_eq!(refused.name, "VCEK format");
    }
}

#[test]
fn rejects_the_certificate_of_another_chip_and_says_why() {
    let report = vector("genoa-v5-routex.bin");
    let other = vector("genoa-v3-routex.vcek.der");
    let (verdict, table) = judge_at(&report, &other, NOW);
    assert!(verdict.is_err());
    let expected = ["certificate TCB", "certificate HWID", "report signature"];
    assert_eq!(failed_rows(&table), expected);
    // A key of the other kind.
    let vlek = vector("vlek-v3-trustee.vlek.der");
    let (verdict, _) = judge_at(&report, &vlek, NOW);
    assert_eq!(verdict.unwrap_err().name, "signing key");
}

#[test]
fn rejects_certificates_outside_their_validity() {
    let report = vector("genoa-v5-routex.bin");
    let vek = vector("genoa-v5-routex.vcek.der");
    for (now, name) in [
        (0, "ARK validity"),
        (IN_CRL, "ASK validity"),
        (1_700_000_000, "VCEK validity"),
        (2_000_000_000, "VCEK validity"),
    ] {
        let refused = judge_at(&report, &vek, now).0.unwrap_err();
        assert_eq!(refused.name, name);
    }
}

#[test]
fn looks_up_revocation_in_the_list_of_the_products_root() {
    let report = vector("milan-v2-enarx2022.bin");
    let vek = vector("milan-v2-enarx2022.vcek.der");
    let milan = vector("milan-ark-crl-20220509.der");
    let genoa = vector("genoa-ark-crl-20221031.der");
    let mut forged = milan.clone();
    *forged.last_mut().unwrap() ^= 1;
    let after = IN_CRL + 365 * 86400;
    for (lists, now, refused) in [
        (vec![genoa.clone(), milan.clone()], IN_CRL, None),
        (vec![genoa.clone()], IN_CRL, Some("CRL")),
        (vec![], IN_CRL, Some("CRL")),
        (vec![forged], IN_CRL, Some("CRL signature")),
        (vec![milan.clone()], after, Some("CRL validity")),
    ] {
        let mut table = Table::default();
        let revocation = Revocation::Lists(&lists);
        let endorsements = Endorsements {
            vek: &vek,
            revocation,
            roots: Roots::BUILT_IN,
        };
        let verdict = verify(&report, &endorsements, now, &mut table);
        let name = verdict.err().map(|refused| refused.name);
        assert_eq!(name.as_deref(), refused);
    }
}

#[test]
fn rejects_a_signing_key_that_amd_took_back() {
    // PkiPath: a SEQUENCE of ARK and the first ASK of Genoa, serial number 020001.
    let path = vector("enarx-genoa.pkipath");
    let ark_length = 1639;
    let revoked = &path[4 + ark_length..];
    let mut table = Table::default();
    let root = Certificate::parse("ARK", Product::Genoa.root(), &mut table).unwrap();
    let crl = vector("genoa-ark-crl-20221031.der");
    let in_window = 1_680_000_000;
    let current = Product::Genoa.signer(SigningKey::Vcek);
    let current = Certificate::parse("ASK", current, &mut table).unwrap();
    root.check_revocation(&crl, &current, in_window, &mut table)
        .unwrap();
    let revoked = Certificate::parse("ASK", revoked, &mut table).unwrap();
    revoked.check_signature(&root, &mut table).unwrap();
    let refused = root
        .check_revocation(&crl, &revoked, in_window, &mut table)
        .unwrap_err();
    assert_eq!(refused.name, "ASK revocation");
    assert_eq!(refused.got, "revoked: serial number 020001");
}

#[test]
fn each_demand_is_a_check_of_its_own() {
    let verified = good("genoa-v5-routex", "vcek");
    let (policy, expected) = expectation(&verified);
    assert!(failures(&verified, &policy, &expected).is_empty());
    let with_policy = |change: &dyn Fn(&mut SnpPolicy)| {
        let mut policy = policy.clone();
        change(&mut policy);
        failures(&verified, &policy, &expected)
    };
    assert_eq!(
        with_policy(&|p| p.guest_policy = 0x2_0000),
        ["guest policy"]
    );
    assert_eq!(with_policy(&|p| p.vmpl = 1), ["VMPL"]);
    assert_eq!(
        with_policy(&|p| p.products = vec![Product::Milan, Product::Turin]),
        ["product"]
    );
    assert_eq!(with_policy(&|p| p.products.clear()), ["product"]);
    assert_eq!(
        with_policy(&|p| p.chip_ids = vec!["00".repeat(64)]),
        ["chip"]
    );
    let parts: [fn(&mut super::Tcb) -> &mut u8; 5] = [
        |tcb| &mut tcb.fmc,
        |tcb| &mut tcb.bootloader,
        |tcb| &mut tcb.tee,
        |tcb| &mut tcb.snp,
        |tcb| &mut tcb.microcode,
    ];
    for part in parts {
        let refused = with_policy(&|p| {
            let minimum = p.minimum_tcb.get_mut(&Product::Genoa).unwrap();
            *part(minimum) += 1;
        });
        assert_eq!(refused, ["minimum TCB", "minimum TCB at launch"]);
    }
    let with_expectation = |change: &dyn Fn(&mut SnpExpectation)| {
        let mut expected = expected.clone();
        change(&mut expected);
        failures(&verified, &policy, &expected)
    };
    assert_eq!(
        with_expectation(&|e| e.launch_digests.clear()),
        ["launch digest"]
    );
    assert_eq!(
        with_expectation(&|e| e.launch_digests[0][47] ^= 1),
        ["launch digest"]
    );
    assert_eq!(
        with_expectation(&|e| e.host_data = Some(Hex32([1; 32]))),
        ["host data"]
    );
    let stale = Freshness::ReportData(vec![1; 48]);
    assert_eq!(
        with_expectation(&|e| e.freshness = stale.clone()),
        ["report data"]
    );
    assert!(with_expectation(&|e| e.freshness = Freshness::InsecureAny).is_empty());
}
