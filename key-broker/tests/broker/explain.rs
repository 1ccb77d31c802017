//! Why a guest was refused, from the log that the broker wrote.

use std::path::{Path, PathBuf};
use std::process::Command;

use key_broker::explain::{Candidates, Image, SnpMachine, explain, find};
use measured_boot::predict::snp::{Firmware, GuestFeatures, HashTable, Machine, Vmm};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::guest::{KEY, Site, pcrs};
use crate::hardware::Hardware;
use crate::soft_tpm::SoftTpm;

const CMDLINE: &str = "console=ttyS0 roothash=00 rootblocks=1";

fn image(name: &str, initrd: u8) -> Image {
    Image {
        name: name.into(),
        kernel: vec![0x90; 0x3000],
        initrd: vec![initrd; 5000],
        cmdline: CMDLINE.into(),
    }
}

fn folder(at: &Path, image: &Image) -> PathBuf {
    let folder = at.join(&image.name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("bzImage"), &image.kernel).unwrap();
    std::fs::write(folder.join("initrd.cpio"), &image.initrd).unwrap();
    std::fs::write(folder.join("cmdline"), &image.cmdline).unwrap();
    folder
}

/// What the kernel's stub extends: the command line, then the initrd.
fn pcr9(image: &Image) -> [u8; 32] {
    let line = format!("{CMDLINE} initrd=initrd\0");
    let line: Vec<_> = line.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let extend = |pcr: [u8; 32], bytes: &[u8]| {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        Sha256::digest([pcr, digest].concat()).into()
    };
    extend(extend([0; 32], &line), &image.initrd)
}

fn session(line: &serde_json::Value) -> String {
    line["session"].as_str().unwrap().to_owned()
}

#[test]
fn names_the_file_that_gives_another_register() {
    let site = Site::new();
    let (old, new) = (image("old", 7), image("new", 8));
    let mut tpm = SoftTpm::new(0, pcrs(2), 1);
    tpm.pcrs[9] = pcr9(&new);
    site.refused(&site.attest(&site.guest(), &tpm), "R_IMAGE_UNKNOWN");
    let session = session(&site.lines.last());
    // Another session, of which nothing must be said.
    site.attested(1);

    let log = site.dir.path().join("log");
    std::fs::write(&log, site.lines.text()).unwrap();
    let images = [folder(site.dir.path(), &old), folder(site.dir.path(), &new)];
    let run = |images: &[PathBuf], session: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_key-broker"));
        command.arg("explain").arg(site.dir.path().join("store"));
        command.arg(session).arg("--log").arg(&log);
        for image in images {
            command.arg("--image").arg(image);
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (ok, text) = run(&images, &session);
    assert!(ok, "{text}");
    assert!(text.contains("auth: granted\n"), "{text}");
    assert!(
        text.contains("attest: refused, R_IMAGE_UNKNOWN\n"),
        "{text}"
    );
    assert!(
        text.contains("The registers match no enrolled image."),
        "{text}"
    );
    assert!(text.contains("closest is demo version"), "{text}");
    let because = format!(
        "PCR 9: because the initrd is that of {}",
        images[1].display()
    );
    assert!(text.contains(&because), "{text}");
    assert_eq!(text.matches("refused,").count(), 1, "{text}");

    // With the image that is running alone, nothing is another's.
    let (_, text) = run(&images[1..], &session);
    assert!(text.contains("PCR 9: is what these files give"), "{text}");
    let (_, text) = run(&images[..1], &session);
    assert!(text.contains("PCR 9: nothing fits"), "{text}");
    let (_, text) = run(&[], &session);
    assert!(text.contains("PCR 9: not explained: say --image"), "{text}");
    let (ok, text) = run(&[], "0123456789abcdef");
    assert!(!ok && text.contains("cannot find session"), "{text}");
}

#[test]
fn tells_of_refused_resources_and_of_what_is_no_measurement() {
    let site = Site::new();
    let guest = site.attested(1);
    site.refused(&site.fetch(&guest, "demo/other/none"), "R_RESOURCE_UNKNOWN");
    assert_eq!(site.fetch(&guest, KEY).status, 200);
    let entries = find(site.lines.text().as_bytes(), &session(&site.lines.last())).unwrap();
    let candidates = Candidates::default();
    let texts: Vec<_> = entries
        .into_iter()
        .map(|entry| explain(entry, &candidates).to_string())
        .collect();
    let [auth, attest, refused, granted] = &texts[..] else {
        panic!("{texts:?}");
    };
    assert!(auth.ends_with("auth: granted") && attest.ends_with("attest: granted"));
    assert!(refused.contains("resource demo/other/none: refused, R_RESOURCE_UNKNOWN"));
    assert!(
        refused.contains("The broker has no such resource."),
        "{refused}"
    );
    assert!(
        granted.ends_with("resource demo/boot/key: granted"),
        "{granted}"
    );
    assert!(find(&b"not json\n"[..], "x").is_err());
}

#[test]
fn names_the_machine_that_gives_another_launch_digest() {
    let site = Hardware::new();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../measured-boot/tests/vectors");
    let file = std::fs::read(vectors.join("launch-digest/ovmf_AmdSev_suffix.bin")).unwrap();
    let image = image("demo", 7);
    let machine = SnpMachine {
        vmm: Vmm::Qemu("EPYC-Milan".parse().unwrap()),
        vcpus: 4,
        features: GuestFeatures::new(1).unwrap(),
    };
    let table = HashTable::new(&image.kernel, &image.initrd, &image.cmdline);
    let launched = |vcpus| {
        let firmware = Firmware::read(&file).unwrap();
        let machine = Machine::new(machine.vmm, vcpus, machine.features).unwrap();
        machine.launch_digest(&firmware, Some(&table)).unwrap().0
    };
    let refuse = |digest: [u8; 48], candidates: &Candidates| {
        let (_, reply) = site.attest_snp(|report| report.measurement = digest);
        site.refused(&reply, "R_LAUNCH_DIGEST", &["launch digest"]);
        let line = site.lines.last();
        assert_eq!(line["code"], json!("R_LAUNCH_DIGEST"));
        let entries = find(site.lines.text().as_bytes(), &session(&line)).unwrap();
        explain(entries.into_iter().last().unwrap(), candidates).to_string()
    };
    let candidates = Candidates {
        images: vec![image],
        firmware: vec![("OVMF".into(), file.clone())],
        snp: Some(machine),
    };
    let text = refuse(launched(7), &candidates);
    let because = "launch digest: because the number of vCPUs is 7, not 4";
    assert!(text.contains(because), "{text}");
    let text = refuse([0xee; 48], &candidates);
    assert!(text.contains("launch digest: nothing fits"), "{text}");
    let text = refuse(
        [0xee; 48],
        &Candidates {
            snp: None,
            ..candidates
        },
    );
    assert!(
        text.contains("launch digest: not explained: say --firmware"),
        "{text}"
    );
}
