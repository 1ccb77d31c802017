//! SEV-SNP: each way to be refused, beside guests that get their key.

use key_broker::store::resources::{Binding, Instance};
use measured_boot::base16;
use measured_boot::manifest::{Resource, Tee};
use measured_boot::verify::snp::{Product, SigningKey};
use processor::snp::{Authority, MIGRATE_MA};
use processor::{Keys, NOT_AFTER, NOT_BEFORE};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::guest::{SECRET, body, member, put};
use crate::hardware::{Hardware, PRODUCT, SNP_KEY, TDX_KEY, policy};

const DEBUG: u64 = 1 << 19;

#[test]
fn releases_a_key_to_a_launch_that_is_as_it_should_be() {
    let site = Hardware::new();
    let (guest, reply) = site.attest_snp(|_| {});
    site.granted(&reply);
    let line = site.lines.last();
    assert_eq!(
        (&line["image"], &line["version"]),
        (&json!("demo"), &json!(2))
    );
    // All that was verified and validated, and the launch.
    assert!(line["checks"].as_array().unwrap().len() > 25, "{line}");
    assert_eq!(line["launch"].as_str().unwrap().len(), 64);
    assert_eq!(line["instance"], json!("00".repeat(32)));
    let reply = site.fetch(&guest, SNP_KEY);
    site.granted(&reply);
    assert_eq!(guest.decrypt(&reply.body), SECRET);
    // The same session may ask for more.
    site.granted(&site.fetch(&guest, SNP_KEY));
}

#[test]
fn accepts_every_product_version_and_kind_of_key() {
    for product in Product::ALL {
        let site = Hardware::of(product);
        for version in 3..=5 {
            for key in [SigningKey::Vcek, SigningKey::Vlek] {
                let (guest, reply) = site.attest_snp(|report| {
                    report.version = version;
                    report.signing_key = key;
                });
                site.granted(&reply);
                let reply = site.fetch(&guest, SNP_KEY);
                assert_eq!(guest.decrypt(&reply.body), SECRET);
            }
        }
        // An ASVK that was taken back ends VLEKs, and VCEKs go on.
        let crl = site.snp.crl(&[SigningKey::Vlek]).unwrap();
        site.forget("crl");
        site.endorse("crl.der", &crl);
        let (_, reply) = site.attest_snp(|report| report.signing_key = SigningKey::Vlek);
        site.refused(&reply, "R_REVOKED", &["ASVK revocation"]);
        site.granted(&site.attest_snp(|_| {}).1);
    }
}

#[test]
fn the_token_has_trustees_claims() {
    let site = Hardware::new();
    let (_, reply) = site.attest_snp(|report| report.host_data = [7; 32]);
    let token = body(&reply.body)["token"].as_str().unwrap().to_owned();
    let claims = json!({ "c": token.split('.').nth(1).unwrap() });
    let claims: Value = serde_json::from_slice(&member(&claims, "c")).unwrap();
    let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["init_data"], json!("07".repeat(32)));
    let snp = &evidence["snp"];
    for (claim, value) in [
        ("policy_debug_allowed", 0),
        ("policy_migrate_ma", 0),
        ("policy_smt_allowed", 1),
        ("policy_single_socket", 0),
        ("policy_abi_major", 0),
        ("policy_abi_minor", 0),
        ("reported_tcb_bootloader", 10),
        ("reported_tcb_tee", 1),
        ("reported_tcb_snp", 23),
        ("reported_tcb_microcode", 88),
    ] {
        assert_eq!(snp[claim], json!(value), "{claim}");
    }
    assert_eq!(snp["measurement"], json!(format!("02{}", "11".repeat(47))));
    assert_eq!(snp["chip_id"], json!("c1".repeat(64)));
}

#[test]
fn rejects_guests_that_their_host_can_look_into() {
    let site = Hardware::new();
    let refuse = |policy: u64, code, failed: &[&str]| {
        let (guest, reply) = site.attest_snp(|report| report.policy |= policy);
        site.refused(&reply, code, failed);
        site.refused(&site.fetch(&guest, SNP_KEY), "R_TOKEN_MISSING", &[]);
    };
    refuse(
        DEBUG,
        "R_DEBUG",
        &["guest policy", "guest policy: debugging"],
    );
    let failed = ["guest policy", "guest policy: migration agent"];
    refuse(MIGRATE_MA, "R_MIGRATION", &failed);
    refuse(1 << 20, "R_GUEST_POLICY", &["guest policy"]);
    let (_, reply) = site.attest_snp(|report| report.vmpl = 1);
    site.refused(&reply, "R_VMPL", &["VMPL"]);
    site.granted(&site.attest_snp(|_| {}).1);
}

#[test]
fn rejects_old_firmware() {
    let site = Hardware::new();
    let (_, reply) = site.attest_snp(|report| report.reported_tcb.microcode = 87);
    site.refused(&reply, "R_TCB", &["minimum TCB"]);
    let (_, reply) = site.attest_snp(|report| report.launch_tcb.snp = 22);
    site.refused(&reply, "R_TCB", &["minimum TCB at launch"]);
    // A certificate of newer firmware than the report shows.
    let guest = site.guest("snp");
    let report = site.report(&guest, |report| report.reported_tcb.microcode = 87);
    let new = site.report(&guest, |_| {});
    let vek = new.vek(&site.snp).unwrap();
    let reply = site.send_snp(&guest, report.sign(&site.snp).unwrap(), Some(vek));
    site.refused(&reply, "R_TCB", &["certificate TCB", "report signature"]);
}

#[test]
fn rejects_another_chip_and_another_product() {
    let site = Hardware::new();
    // The certificate of another chip.
    let guest = site.guest("snp");
    let report = site.report(&guest, |_| {});
    let other = site.report(&guest, |report| report.chip_id = [0xc2; 64]);
    let vek = other.vek(&site.snp).unwrap();
    let reply = site.send_snp(&guest, report.sign(&site.snp).unwrap(), Some(vek));
    site.refused(&reply, "R_CHIP", &["certificate HWID", "report signature"]);
    // A chip of its own right that is not on the list.
    let mut listed = policy();
    listed["snp"]["chip_ids"] = json!(["c1".repeat(64)]);
    site.set_policy(&listed);
    let (_, reply) = site.attest_snp(|report| report.chip_id = [0xc2; 64]);
    site.refused(&reply, "R_CHIP", &["chip"]);
    site.granted(&site.attest_snp(|_| {}).1);

    let mut turin = policy();
    let minimum = turin["snp"]["minimum_tcb"]["Genoa"].take();
    turin["snp"] = json!({ "products": ["Turin"], "minimum_tcb": { "Turin": minimum } });
    site.set_policy(&turin);
    site.refused(&site.attest_snp(|_| {}).1, "R_PRODUCT", &["product"]);
}

#[test]
fn without_a_policy_no_product_is_accepted() {
    let site = Hardware::new();
    std::fs::remove_file(site.dir.path().join("store/policy.json")).unwrap();
    site.refused(&site.attest_snp(|_| {}).1, "R_PRODUCT", &["product"]);
    // A policy says the firmware of each product that it accepts.
    for bad in [
        json!({ "snp": { "products": ["Genoa"] } }),
        json!({ "snp": {} }),
        json!({ "snp": { "product": [] } }),
        json!({ "tdx": { "tcb_statuses": ["Revoked"] }, "snp": { "products": [] } }),
        json!({ "snp": { "products": [], "chip_ids": ["C1"] } }),
    ] {
        let path = site.write("policy.json", bad.to_string().as_bytes());
        assert!(site.store.set_platform_policy(&path).is_err(), "{bad}");
    }
    let toml = "[snp]\nproducts = [\"Genoa\"]\n\
                minimum_tcb.Genoa = { bootloader = 10, tee = 1, snp = 23, microcode = 88 }\n";
    let path = site.write("policy.toml", toml.as_bytes());
    site.store.set_platform_policy(&path).unwrap();
    site.granted(&site.attest_snp(|_| {}).1);
}

#[test]
fn rejects_a_foreign_root() {
    let site = Hardware::new();
    let foreign = Authority::new(Keys::Foreign, PRODUCT).unwrap();
    let attest = || {
        let guest = site.guest("snp");
        let report = site.report(&guest, |_| {});
        let vek = report.vek(&foreign).unwrap();
        site.send_snp(&guest, report.sign(&foreign).unwrap(), Some(vek))
    };
    site.refused(&attest(), "R_CHAIN", &["VCEK signature"]);
    // A foreign signature under the right certificate.
    let guest = site.guest("snp");
    let report = site.report(&guest, |_| {});
    let vek = report.vek(&site.snp).unwrap();
    let reply = site.send_snp(&guest, report.sign(&foreign).unwrap(), Some(vek));
    site.refused(&reply, "R_SIGNATURE", &["report signature"]);
    // The roots of AMD do not stand for the test's.
    std::fs::remove_dir_all(site.dir.path().join("store/trust-roots")).unwrap();
    site.refused(&site.attest_snp(|_| {}).1, "R_CHAIN", &["VCEK signature"]);
}

#[test]
fn rejects_what_the_root_took_back_or_says_nothing_current_about() {
    let site = Hardware::new();
    site.granted(&site.attest_snp(|_| {}).1);
    let revoked = site.snp.crl(&[SigningKey::Vcek]).unwrap();
    site.forget("crl");
    site.refused(&site.attest_snp(|_| {}).1, "R_CRL", &["CRL"]);
    site.endorse("crl.der", &revoked);
    let (guest, reply) = site.attest_snp(|_| {});
    site.refused(&reply, "R_REVOKED", &["ASK revocation"]);
    site.refused(&site.fetch(&guest, SNP_KEY), "R_TOKEN_MISSING", &[]);

    // A list that says nothing against it, and is no newer, changes nothing.
    let clean = site.snp.crl(&[]).unwrap();
    site.endorse("clean.der", &clean);
    site.refused(&site.attest_snp(|_| {}).1, "R_REVOKED", &["ASK revocation"]);

    site.forget("crl");
    let ended = [NOT_BEFORE, NOT_BEFORE + 86_400];
    let old = site.snp.crl_of(&[], ended).unwrap();
    site.endorse("crl.der", &old);
    site.refused(&site.attest_snp(|_| {}).1, "R_CRL", &["CRL validity"]);
    // AMD publishes two lists of a product: the newer one, or one that has ended,
    // does not take back what the other says.
    let newer = site.snp.crl_of(&[], [NOT_BEFORE + 3600, NOT_AFTER]);
    site.endorse("newer.crl", &newer.unwrap());
    site.granted(&site.attest_snp(|_| {}).1);
    for validity in [[NOT_BEFORE, NOT_AFTER], ended] {
        let other = site.snp.crl_of(&[SigningKey::Vcek], validity).unwrap();
        site.endorse("other.crl", &other);
        site.refused(&site.attest_snp(|_| {}).1, "R_REVOKED", &["ASK revocation"]);
        let name = format!("{}.crl", base16::encode(&Sha256::digest(&other)));
        std::fs::remove_file(site.dir.path().join("store/endorsements").join(name)).unwrap();
        site.granted(&site.attest_snp(|_| {}).1);
    }
    // A foreign CRL of the same name is not kept.
    let foreign = Authority::new(Keys::Foreign, PRODUCT).unwrap();
    let path = site.write("foreign.der", &foreign.crl(&[]).unwrap());
    assert!(site.store.endorse(&path).is_err());
}

#[test]
fn uses_certificates_of_the_store_and_of_the_folder_and_no_others() {
    let site = Hardware::new();
    let send = |guest: &crate::guest::Guest| {
        let report = site.report(guest, |_| {});
        site.send_snp(guest, report.sign(&site.snp).unwrap(), None)
    };
    site.refused(&send(&site.guest("snp")), "R_VEK_MISSING", &["certificate"]);
    let report = site.report(&site.guest("snp"), |_| {});
    let vek = report.vek(&site.snp).unwrap();
    // Of another chip: as if there were none.
    let mut other = report.clone();
    other.chip_id = [0xc2; 64];
    site.endorse("other.der", &other.vek(&site.snp).unwrap());
    site.refused(&send(&site.guest("snp")), "R_VEK_MISSING", &["certificate"]);
    let line = site.endorse("vcek.der", &vek);
    assert!(
        line.starts_with("VCEK of Genoa of chip c1c1c1c1c1c1c1c1"),
        "{line}"
    );
    site.granted(&send(&site.guest("snp")));

    // What the guest sent is of no use, what is kept is.
    let guest = site.guest("snp");
    let report = site.report(&guest, |_| {});
    let useless = other.vek(&site.snp).unwrap();
    site.granted(&site.send_snp(&guest, report.sign(&site.snp).unwrap(), Some(useless)));

    site.forget("der");
    site.refused(&send(&site.guest("snp")), "R_VEK_MISSING", &["certificate"]);
    let folder = site.dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("README"), "not a certificate").unwrap();
    std::fs::write(folder.join("vcek.der"), &vek).unwrap();
    let site = site.with_folder(folder);
    let guest = site.guest("snp");
    let report = site.report(&guest, |_| {});
    site.granted(&site.send_snp(&guest, report.sign(&site.snp).unwrap(), None));

    // Neither is a certificate kept that no trusted root signed.
    let foreign = Authority::new(Keys::Foreign, PRODUCT).unwrap();
    let path = site.write("foreign.der", &report.vek(&foreign).unwrap());
    assert!(site.store.endorse(&path).is_err());
    let path = site.write("text", b"text");
    assert!(site.store.endorse(&path).is_err());
}

#[test]
fn rejects_another_launch_digest_and_names_the_closest_image() {
    let site = Hardware::new();
    let (_, reply) = site.attest_snp(|report| report.measurement[47] ^= 1);
    site.refused(&reply, "R_LAUNCH_DIGEST", &["launch digest"]);
    let line = site.lines.last();
    let mut checks = line["checks"].as_array().unwrap().iter();
    let got = checks.find(|check| check["ok"] == false).unwrap();
    assert_eq!(got["got"].as_str().unwrap().len(), 96);
    // Any of the predicted machines.
    site.granted(&site.attest_snp(|report| report.measurement = [0x12; 48]).1);
    site.store.retire("demo", 2).unwrap();
    let (_, reply) = site.attest_snp(|report| report.measurement[0] = 1);
    site.refused(&reply, "R_IMAGE_RETIRED", &["version"]);
}

#[test]
fn rejects_evidence_of_another_session() {
    let site = Hardware::new();
    let (old, new) = (site.guest("snp"), site.guest("snp"));
    let report = site.report(&old, |_| {});
    let (bytes, vek) = (
        report.sign(&site.snp).unwrap(),
        report.vek(&site.snp).unwrap(),
    );
    let reply = site.send_snp(&new, bytes, Some(vek.clone()));
    site.refused(&reply, "R_REPORT_DATA", &["report data"]);
    site.granted(&site.send_snp(&old, bytes, Some(vek.clone())));
    // A changed bit is no longer signed.
    let mut changed = bytes;
    changed[0x90] ^= 1;
    let reply = site.send_snp(&site.guest("snp"), changed, Some(vek));
    site.refused(&reply, "R_SIGNATURE", &["report signature"]);
}

#[test]
fn one_launch_gets_resources_in_one_session() {
    let site = Hardware::new();
    let attest = |id: [u8; 32]| site.attest_snp(|report| report.report_id = id);
    let ((first, one), (second, two)) = (attest([1; 32]), attest([1; 32]));
    site.granted(&one);
    site.granted(&two);
    site.granted(&site.fetch(&first, SNP_KEY));
    site.refused(&site.fetch(&second, SNP_KEY), "R_BOOT_LATCHED", &["launch"]);
    site.refused(&attest([1; 32]).1, "R_BOOT_LATCHED", &["released to"]);
    site.granted(&site.fetch(&first, SNP_KEY));
    // It is on disk: a broker that was restarted knows it.
    let log = key_broker::log::Log::writer(site.lines.clone());
    let lifetime = std::time::Duration::from_secs(300);
    let Hardware {
        dir,
        store,
        lines,
        snp,
        tdx,
        ..
    } = site;
    let broker = key_broker::broker::Broker::new(store.clone(), lifetime, 64, log).unwrap();
    let site = Hardware {
        dir,
        store,
        broker,
        lines,
        snp,
        tdx,
    };
    let attest = |id: [u8; 32]| site.attest_snp(|report| report.report_id = id);
    site.refused(&attest([1; 32]).1, "R_BOOT_LATCHED", &["released to"]);
    site.refused(&attest([0; 32]).1, "R_REPORT_ID", &["report id"]);
    let (next, reply) = attest([2; 32]);
    site.granted(&reply);
    site.granted(&site.fetch(&next, SNP_KEY));
}

#[test]
fn an_instance_gets_what_is_bound_to_it() {
    let site = Hardware::new();
    let bind = |path: &str, tee: Vec<Tee>, instance: &[u8]| {
        let binding = Binding {
            images: vec!["demo".into()],
            tee,
            instance: Instance::parse(&base16::encode(instance)),
        };
        let resource = Resource::from_path(path).unwrap();
        site.store.put(&resource, SECRET, binding, false)
    };
    bind("demo/one/key", vec![Tee::Snp], &[1; 32]).unwrap();
    bind("demo/two/key", vec![Tee::Snp], &[2; 32]).unwrap();
    let (guest, reply) = site.attest_snp(|report| report.host_data = [1; 32]);
    site.granted(&reply);
    let reply = site.fetch(&guest, "demo/two/key");
    site.refused(&reply, "R_RESOURCE_INSTANCE", &["instance"]);
    site.granted(&site.fetch(&guest, "demo/one/key"));
    site.granted(&site.fetch(&guest, SNP_KEY));
    // No instance is also another one.
    let (guest, _) = site.attest_snp(|_| {});
    let reply = site.fetch(&guest, "demo/one/key");
    site.refused(&reply, "R_RESOURCE_INSTANCE", &["instance"]);
    for (tee, instance) in [
        (vec![Tee::Tdx], &[1; 32][..]),
        (vec![Tee::Snp], &[1; 48]),
        (vec![Tee::Snp, Tee::Tdx], &[1; 32]),
        (vec![Tee::Tpm], &[1; 32]),
    ] {
        assert!(bind("demo/bad/key", tee, instance).is_err());
    }
}

#[test]
fn a_session_gets_nothing_with_another_tee() {
    let site = Hardware::new();
    put(&site.store, "demo/tpm/key", "demo", Tee::Tpm);
    let (guest, _) = site.attest_snp(|_| {});
    for path in [TDX_KEY, "demo/tpm/key"] {
        site.refused(&site.fetch(&guest, path), "R_RESOURCE_TEE", &["tee"]);
    }
    // A quote in a session that was opened for SNP, and the other way round.
    let guest = site.guest("snp");
    let quote = site.tdx.quote(&site.td(&guest, |_| {})).unwrap();
    site.refused(&site.send_tdx(&guest, quote, None), "R_EVIDENCE", &[]);
    let guest = site.guest("tdx");
    let report = site.report(&guest, |_| {});
    let reply = site.send_snp(&guest, report.sign(&site.snp).unwrap(), None);
    site.refused(&reply, "R_EVIDENCE", &[]);
    site.granted(&site.attest_snp(|_| {}).1);
}

#[test]
fn a_changed_policy_ends_the_sessions_before_it() {
    let site = Hardware::new();
    let (guest, _) = site.attest_snp(|_| {});
    let mut other = policy();
    other["snp"]["chip_ids"] = json!(["c2".repeat(64)]);
    site.set_policy(&other);
    let reply = site.fetch(&guest, SNP_KEY);
    site.refused(
        &reply,
        "R_POLICY_CHANGED",
        &["policy, roots and endorsements"],
    );
    site.set_policy(&policy());
    site.granted(&site.fetch(&guest, SNP_KEY));
}

#[test]
fn a_production_store_trusts_no_other_root() {
    let dir = tempfile::tempdir().unwrap();
    let options = key_broker::InitOptions::new(vec!["localhost".into()], 30);
    let path = dir.path().join("store");
    let store = key_broker::Store::init(&path, &options).unwrap();
    let authority = Authority::new(Keys::Test, PRODUCT).unwrap();
    let (ark, ask) = (dir.path().join("ark"), dir.path().join("ask"));
    std::fs::write(&ark, authority.ark()).unwrap();
    std::fs::write(&ask, authority.ask()).unwrap();
    let refused = store.trust_snp_root(PRODUCT, &ark, &ask).unwrap_err();
    assert!(
        refused.to_string().contains("init --development"),
        "{refused}"
    );
    assert!(store.trust_tdx_root(&ark).is_err());
    // A development store takes only what has the form of AMD's.
    let site = Hardware::new();
    assert!(site.store.trust_snp_root(PRODUCT, &ask, &ark).is_err());
    assert!(
        site.store
            .trust_snp_root(Product::Milan, &ark, &ask)
            .is_err()
    );
    site.store.trust_snp_root(PRODUCT, &ark, &ask).unwrap();
    // Roots that were copied into a production store stop it.
    std::fs::create_dir(path.join("trust-roots")).unwrap();
    let roots = site.dir.path().join("store/trust-roots");
    for entry in std::fs::read_dir(roots).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(
            entry.path(),
            path.join("trust-roots").join(entry.file_name()),
        )
        .unwrap();
    }
    assert!(store.endorse(&ark).is_err());
}
