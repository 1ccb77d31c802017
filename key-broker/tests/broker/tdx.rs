//! TDX: each way to be refused, beside TDs that get their key.

use dcap_qvl::tcb_info::TcbStatus;
use key_broker::store::resources::{Binding, Instance};
use measured_boot::base16;
use measured_boot::manifest::{Resource, Tee};
use processor::tdx::{Authority, Collateral};
use processor::{Keys, NOT_BEFORE};
use serde_json::{Value, json};

use crate::guest::{SECRET, body, member};
use crate::hardware::{Hardware, SNP_KEY, TDX_KEY, policy};

const CRYPTO: &str = "quote signature, chain and collateral";

#[test]
fn releases_a_key_to_a_td_that_is_as_it_should_be() {
    let site = Hardware::new();
    for version in [4, 5] {
        let (guest, reply) = site.attest_tdx(|td| td.version = version);
        site.granted(&reply);
        let line = site.lines.last();
        assert_eq!(
            (&line["image"], &line["version"]),
            (&json!("demo"), &json!(2))
        );
        let reply = site.fetch(&guest, TDX_KEY);
        site.granted(&reply);
        assert_eq!(guest.decrypt(&reply.body), SECRET);
        site.refused(&site.fetch(&guest, SNP_KEY), "R_RESOURCE_TEE", &["tee"]);
    }
}

#[test]
fn the_token_has_trustees_claims() {
    let site = Hardware::new();
    let (_, reply) = site.attest_tdx(|td| td.mr_config_id = [7; 48]);
    let token = body(&reply.body)["token"].as_str().unwrap().to_owned();
    let claims = json!({ "c": token.split('.').nth(1).unwrap() });
    let claims: Value = serde_json::from_slice(&member(&claims, "c")).unwrap();
    let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["init_data"], json!("07".repeat(48)));
    let tdx = &evidence["tdx"];
    assert_eq!(tdx["tcb_status"], "UpToDate");
    assert_eq!(tdx["td_attributes"]["debug"], false);
    assert_eq!(tdx["td_attributes"]["septve_disable"], true);
    for (claim, value) in [
        ("mr_td", "d0"),
        ("rtmr_0", "aa"),
        ("rtmr_1", "02"),
        ("rtmr_2", "22"),
    ] {
        assert_eq!(
            tdx["quote"]["body"][claim],
            json!(value.repeat(48)),
            "{claim}"
        );
    }
}

#[test]
fn rejects_tds_that_others_can_look_into() {
    let site = Hardware::new();
    let (guest, reply) = site.attest_tdx(|td| td.td_attributes |= 1);
    site.refused(
        &reply,
        "R_DEBUG",
        &["TD attributes", "TD attributes: debug"],
    );
    site.refused(&site.fetch(&guest, TDX_KEY), "R_TOKEN_MISSING", &[]);
    let (_, reply) = site.attest_tdx(|td| td.td_attributes |= 1 << 29);
    site.refused(&reply, "R_MIGRATION", &[CRYPTO]);
    let (_, reply) = site.attest_tdx(|td| td.td_attributes = 0);
    site.refused(&reply, "R_GUEST_POLICY", &[CRYPTO]);
    // Debugging by another bit of its byte.
    let (_, reply) = site.attest_tdx(|td| td.td_attributes |= 1 << 4);
    site.refused(
        &reply,
        "R_DEBUG",
        &["TD attributes", "TD attributes: debug"],
    );
    let (_, reply) = site.attest_tdx(|td| {
        td.version = 5;
        td.mr_service_td = [1; 48];
    });
    site.refused(&reply, "R_SERVICE_TD", &["MRSERVICETD"]);
    let mut strict = policy();
    strict["tdx"]["xfam"] = json!([0x3]);
    site.set_policy(&strict);
    site.refused(&site.attest_tdx(|_| {}).1, "R_GUEST_POLICY", &["XFAM"]);
    site.set_policy(&policy());
    site.granted(&site.attest_tdx(|_| {}).1);
}

#[test]
fn rejects_platforms_by_what_the_collateral_says() {
    let site = Hardware::new();
    let with = |says: Collateral| {
        site.forget("json");
        site.collateral(&says);
        site.attest_tdx(|_| {}).1
    };
    let old = Collateral {
        status: TcbStatus::OutOfDate,
        advisory_ids: vec!["INTEL-SA-00001".into()],
        ..Collateral::default()
    };
    site.refused(&with(old), "R_TCB_STATUS", &["TCB status"]);
    assert!(site.lines.text().contains("INTEL-SA-00001"));
    let expired = Collateral {
        next_update: NOT_BEFORE + 86_400,
        ..Collateral::default()
    };
    site.refused(
        &with(expired),
        "R_COLLATERAL_EXPIRED",
        &["TCB info validity"],
    );
    let revoked = Collateral {
        pck_revoked: true,
        ..Collateral::default()
    };
    site.refused(&with(revoked), "R_REVOKED", &[CRYPTO]);
    let revoked = Collateral {
        platform_ca_revoked: true,
        ..Collateral::default()
    };
    site.refused(&with(revoked), "R_REVOKED", &[CRYPTO]);
    site.granted(&with(Collateral::default()));
    site.forget("json");
    site.refused(&site.attest_tdx(|_| {}).1, "R_COLLATERAL", &["collateral"]);
}

#[test]
fn rejects_a_foreign_root() {
    let site = Hardware::new();
    let foreign = Authority::new(Keys::Foreign).unwrap();
    let guest = site.guest("tdx");
    let quote = foreign.quote(&site.td(&guest, |_| {})).unwrap();
    site.refused(
        &site.send_tdx(&guest, quote.clone(), None),
        "R_CHAIN",
        &[CRYPTO],
    );
    let collateral = foreign.collateral(&Collateral::default()).unwrap();
    let path = site.write("foreign.json", collateral.as_bytes());
    assert!(site.store.endorse(&path).is_err());
    // Its own collateral makes it no better.
    let folder = site.dir.path().join("store/endorsements");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            std::fs::write(path, &collateral).unwrap();
        }
    }
    let guest = site.guest("tdx");
    let quote = foreign.quote(&site.td(&guest, |_| {})).unwrap();
    site.refused(&site.send_tdx(&guest, quote, None), "R_CHAIN", &[CRYPTO]);
    site.forget("json");
    site.collateral(&Collateral::default());
    std::fs::remove_dir_all(site.dir.path().join("store/trust-roots")).unwrap();
    site.refused(&site.attest_tdx(|_| {}).1, "R_CHAIN", &[CRYPTO]);
}

#[test]
fn rejects_other_measurements() {
    let site = Hardware::new();
    let (_, reply) = site.attest_tdx(|td| td.mrtd[0] ^= 1);
    site.refused(&reply, "R_LAUNCH_DIGEST", &["MRTD"]);
    for (index, name) in [(1, "RTMR1"), (2, "RTMR2"), (3, "RTMR3")] {
        let (_, reply) = site.attest_tdx(|td| td.rtmrs[index][47] ^= 1);
        site.refused(&reply, "R_IMAGE_UNKNOWN", &[name]);
        let detail = site.lines.last()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("closest is demo version 2"), "{detail}");
    }
    // RTMR0 is of the machine, and not judged.
    site.granted(&site.attest_tdx(|td| td.rtmrs[0] = [1; 48]).1);
    site.store.retire("demo", 2).unwrap();
    let (_, reply) = site.attest_tdx(|td| td.rtmrs[1] = [1; 48]);
    site.refused(&reply, "R_IMAGE_RETIRED", &["version"]);
}

#[test]
fn rejects_evidence_of_another_session_and_altered_evidence() {
    let site = Hardware::new();
    let (old, new) = (site.guest("tdx"), site.guest("tdx"));
    let quote = site.tdx.quote(&site.td(&old, |_| {})).unwrap();
    let reply = site.send_tdx(&new, quote.clone(), None);
    site.refused(&reply, "R_REPORT_DATA", &["report data"]);
    let mut altered = quote.clone();
    altered[48 + 136] ^= 1;
    let reply = site.send_tdx(&site.guest("tdx"), altered, None);
    site.refused(&reply, "R_CHAIN", &[CRYPTO]);
    let reply = site.send_tdx(&site.guest("tdx"), vec![], None);
    site.refused(&reply, "R_COLLATERAL", &["collateral"]);
    site.granted(&site.send_tdx(&old, quote, None));
}

#[test]
fn rejects_a_log_that_does_not_give_the_registers() {
    let site = Hardware::new();
    let guest = site.guest("tdx");
    let quote = site.tdx.quote(&site.td(&guest, |_| {})).unwrap();
    let reply = site.send_tdx(&guest, quote, Some(b"no log".to_vec()));
    site.refused(&reply, "R_EVENT_LOG", &["event log"]);
    // It is not read before the quote is of this session.
    let (guest, other) = (site.guest("tdx"), site.guest("tdx"));
    let quote = site.tdx.quote(&site.td(&other, |_| {})).unwrap();
    let reply = site.send_tdx(&guest, quote, Some(b"no log".to_vec()));
    site.refused(&reply, "R_REPORT_DATA", &["report data"]);
    // A log of SHA-1 alone says nothing of these registers, zero or not.
    let guest = site.guest("tdx");
    let zero = site.td(&guest, |td| td.rtmrs = [[0; 48]; 4]);
    let quote = site.tdx.quote(&zero).unwrap();
    let reply = site.send_tdx(&guest, quote, Some(vec![0; 64]));
    site.refused(&reply, "R_EVENT_LOG", &["RTMR1", "RTMR2", "event log"]);
}

#[test]
fn an_instance_gets_what_is_bound_to_it() {
    let site = Hardware::new();
    let binding = Binding {
        images: vec!["demo".into()],
        tee: vec![Tee::Tdx],
        instance: Instance::parse(&base16::encode(&[1_u8; 48])),
    };
    let resource = Resource::from_path("demo/one/key").unwrap();
    site.store.put(&resource, SECRET, binding, false).unwrap();
    let (guest, _) = site.attest_tdx(|_| {});
    let reply = site.fetch(&guest, "demo/one/key");
    site.refused(&reply, "R_RESOURCE_INSTANCE", &["instance"]);
    let (guest, _) = site.attest_tdx(|td| td.mr_config_id = [1; 48]);
    site.granted(&site.fetch(&guest, "demo/one/key"));
}
