//! What vendors state, in the store and in the folder: the last word counts,
//! and what is of no use harms nobody.

use dcap_qvl::tcb_info::TcbStatus;
use key_broker::store::resources::Binding;
use measured_boot::base16;
use measured_boot::manifest::{Resource, Tee};
use processor::tdx::{Authority, Collateral};
use processor::{Keys, NOT_BEFORE};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

use crate::guest::{SECRET, Site, pcrs, put, reference_values};
use crate::hardware::{Hardware, SNP_KEY, TDX_KEY, values};

const CRYPTO: &str = "quote signature, chain and collateral";
const PAST: u64 = NOT_BEFORE + 86_400;

fn with_folder() -> (Hardware, PathBuf) {
    let site = Hardware::new();
    let folder = site.dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    (site.with_folder(folder.clone()), folder)
}

#[test]
fn an_older_collateral_hides_nothing_that_a_newer_one_says() {
    let out_of_date = Collateral {
        status: TcbStatus::OutOfDate,
        ..Collateral::default()
    };
    let revoked = Collateral {
        pck_revoked: true,
        ..Collateral::default()
    };
    let revoked_tcb = Collateral {
        status: TcbStatus::Revoked,
        ..Collateral::default()
    };
    let ended = Collateral {
        next_update: PAST,
        ..Collateral::default()
    };
    for (mut newer, code, failed) in [
        (out_of_date, "R_TCB_STATUS", "TCB status"),
        (revoked, "R_REVOKED", CRYPTO),
        (revoked_tcb, "R_REVOKED", CRYPTO),
        (ended, "R_COLLATERAL_EXPIRED", "TCB info validity"),
    ] {
        newer.evaluation = 18;
        let (site, folder) = with_folder();
        let [old, new] =
            [&Collateral::default(), &newer].map(|says| site.tdx.collateral(says).unwrap());
        site.granted(&site.attest_tdx(|_| {}).1);
        // The older one in the store, then in the folder, then both in the folder.
        fs::write(folder.join("m.json"), &new).unwrap();
        site.refused(&site.attest_tdx(|_| {}).1, code, &[failed]);
        fs::write(folder.join("m.json"), &old).unwrap();
        site.granted(&site.attest_tdx(|_| {}).1);
        site.endorse("new.json", new.as_bytes());
        site.refused(&site.attest_tdx(|_| {}).1, code, &[failed]);
        site.forget("json");
        site.granted(&site.attest_tdx(|_| {}).1);
        for name in ["a.json", "z.json"] {
            fs::write(folder.join(name), &new).unwrap();
            site.refused(&site.attest_tdx(|_| {}).1, code, &[failed]);
            fs::remove_file(folder.join(name)).unwrap();
        }
    }
}

#[test]
fn a_revocation_stands_and_an_unsigned_collateral_has_no_say() {
    let (site, folder) = with_folder();
    let newest = Collateral {
        evaluation: 99,
        status: TcbStatus::OutOfDate,
        ..Collateral::default()
    };
    let foreign = Authority::new(Keys::Foreign).unwrap();
    let forged = foreign.collateral(&newest).unwrap();
    fs::write(folder.join("forged.json"), forged).unwrap();
    let mut altered = serde_json::to_value(site.tdx.collateral(&Collateral::default()).unwrap());
    let text = altered.as_mut().unwrap().as_str().unwrap();
    let altered = text.replace("EvaluationDataNumber\\\":17", "EvaluationDataNumber\\\":99");
    assert_ne!(altered, text);
    fs::write(folder.join("altered.json"), &altered).unwrap();
    site.granted(&site.attest_tdx(|_| {}).1);
    let path = site.write("altered.json", altered.as_bytes());
    let error = site.store.endorse(&path).unwrap_err().to_string();
    assert!(error.contains("TCB info signature"), "{error}");
    let older = Collateral {
        evaluation: 16,
        platform_ca_revoked: true,
        ..Collateral::default()
    };
    fs::write(folder.join("z.json"), site.tdx.collateral(&older).unwrap()).unwrap();
    site.refused(&site.attest_tdx(|_| {}).1, "R_REVOKED", &[CRYPTO]);
}

#[test]
fn an_older_collateral_does_not_replace_the_one_that_is_kept() {
    let site = Hardware::new();
    let newer = Collateral {
        evaluation: 18,
        status: TcbStatus::OutOfDate,
        ..Collateral::default()
    };
    site.collateral(&newer);
    site.collateral(&newer);
    let old = site.tdx.collateral(&Collateral::default()).unwrap();
    let path = site.write("old.json", old.as_bytes());
    let error = site.store.endorse(&path).unwrap_err().to_string();
    assert!(error.contains("older"), "{error}");
    site.refused(&site.attest_tdx(|_| {}).1, "R_TCB_STATUS", &["TCB status"]);
}

#[test]
fn the_lists_in_a_collateral_end_it_too() {
    let site = Hardware::new();
    let line_of = |says: &Collateral| {
        let json = site.tdx.collateral(says).unwrap();
        site.endorse("collateral.json", json.as_bytes())
    };
    let info = line_of(&Collateral {
        next_update: PAST,
        ..Collateral::default()
    });
    for (pck_crl_until, root_crl_until, failed) in [
        (PAST, processor::NOT_AFTER, "PCK CRL validity"),
        (processor::NOT_AFTER, PAST, "root CRL validity"),
    ] {
        let line = line_of(&Collateral {
            pck_crl_until,
            root_crl_until,
            ..Collateral::default()
        });
        assert_eq!(line, info);
        let (_, reply) = site.attest_tdx(|_| {});
        site.refused(&reply, "R_COLLATERAL_EXPIRED", &[failed]);
    }
}

#[test]
fn a_useless_file_in_the_folder_refuses_nobody() {
    let (site, folder) = with_folder();
    let send = || {
        let guest = site.guest("snp");
        let report = site.report(&guest, |_| {});
        let vek = report.vek(&site.snp).unwrap();
        (
            site.send_snp(&guest, report.sign(&site.snp).unwrap(), None),
            vek,
        )
    };
    let (reply, vek) = send();
    site.refused(&reply, "R_VEK_MISSING", &["certificate"]);
    fs::write(folder.join(".vcek.der"), &vek).unwrap();
    let mib = vec![0; 1 << 20];
    fs::write(folder.join("large"), [&mib[..], &[0]].concat()).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("dangling")).unwrap();
    site.refused(&send().0, "R_VEK_MISSING", &["certificate"]);
    fs::write(folder.join("vcek.der"), &vek).unwrap();
    site.granted(&send().0);
    for index in 0..16 {
        fs::write(folder.join(format!("{index}")), &mib).unwrap();
    }
    site.refused(&send().0, "R_INTERNAL", &[]);
}

#[test]
fn a_policy_of_tdx_alone_accepts_no_processor_of_amd() {
    let site = Hardware::new();
    site.set_policy(&json!({ "tdx": { "tcb_statuses": ["UpToDate"] } }));
    site.granted(&site.attest_tdx(|_| {}).1);
    site.refused(&site.attest_snp(|_| {}).1, "R_PRODUCT", &["product"]);
}

#[test]
fn new_reference_values_and_endorsements_end_the_sessions_before_them() {
    let site = Hardware::new();
    let (snp, tdx) = (site.attest_snp(|_| {}).0, site.attest_tdx(|_| {}).0);
    site.granted(&site.fetch(&snp, SNP_KEY));
    site.granted(&site.fetch(&tdx, TDX_KEY));
    let mut other = values(2);
    other.snp.as_mut().unwrap().assumptions.push("other".into());
    let enroll = |values: &measured_boot::reference_values::ReferenceValues| {
        site.store.enroll(&values.to_json().unwrap(), true).unwrap();
    };
    enroll(&other);
    for (guest, key) in [(&snp, SNP_KEY), (&tdx, TDX_KEY)] {
        let reply = site.fetch(guest, key);
        site.refused(&reply, "R_POLICY_CHANGED", &["reference values"]);
    }
    enroll(&values(2));
    site.granted(&site.fetch(&tdx, TDX_KEY));
    // Other values of another version concern nobody here.
    let mut other = values(1);
    other.snp.as_mut().unwrap().assumptions.push("other".into());
    enroll(&other);
    site.granted(&site.fetch(&snp, SNP_KEY));
    site.collateral(&Collateral {
        evaluation: 18,
        ..Collateral::default()
    });
    let failed = ["policy, roots and endorsements"];
    for (guest, key) in [(&snp, SNP_KEY), (&tdx, TDX_KEY)] {
        site.refused(&site.fetch(guest, key), "R_POLICY_CHANGED", &failed);
    }

    let site = Site::new();
    let guest = site.attested(1);
    let other = reference_values("demo", 2, &pcrs(9));
    let json = other.to_json().unwrap();
    site.store.enroll(&json, true).unwrap();
    let reply = site.fetch(&guest, "demo/boot/key");
    site.refused(&reply, "R_POLICY_CHANGED");
}

#[test]
fn a_launch_that_got_its_key_is_one_of_256_folders() {
    let site = Hardware::new();
    let (guest, _) = site.attest_snp(|report| report.report_id = [0xab; 32]);
    site.granted(&site.fetch(&guest, SNP_KEY));
    let name = format!("store/launches/ab/{}.json", base16::encode(&[0xab; 32]));
    assert!(site.dir.path().join(name).is_file());
    let (_, reply) = site.attest_snp(|report| report.report_id = [0xab; 32]);
    site.refused(&reply, "R_BOOT_LATCHED", &["released to"]);
}

#[test]
fn a_resource_is_for_a_tpm_or_for_processors() {
    let site = Hardware::new();
    put(&site.store, "demo/tpm/key", "demo", Tee::Tpm);
    for (tee, ok) in [
        (vec![Tee::Tpm, Tee::Snp], false),
        (vec![Tee::Tdx, Tee::Tpm], false),
        (vec![Tee::Snp, Tee::Tdx], true),
        (vec![Tee::Tpm, Tee::Tpm], true),
    ] {
        let binding = Binding {
            images: vec!["demo".into()],
            tee,
            instance: None,
        };
        let resource = Resource::from_path("demo/some/key").unwrap();
        let kept = site.store.put(&resource, SECRET, binding, true);
        assert_eq!(kept.is_ok(), ok, "{kept:?}");
    }
}
