//! The command over image folders: what it prints, and how it ends.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise; clippy exempts only the test functions themselves"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use measured_boot::predict::snp::{Firmware, GuestFeatures, HashTable, Machine, Vmm};
use serde_json::Value;
use tempfile::TempDir;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/launch-digest");
const KERNEL: &[u8] = b"a kernel";
const INITRD: &[u8] = b"an initrd";
const CMDLINE: &str = "console=ttyS0 roothash=00 rootblocks=1";

fn vector(name: &str) -> PathBuf {
    Path::new(VECTORS).join(name)
}

fn image(cmdline: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("bzImage", KERNEL);
    write("initrd.cpio", INITRD);
    write("cmdline", cmdline.as_bytes());
    write("rootfs.img", b"");
    folder
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_measured-boot"));
    command.args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The command succeeded, or ended with `status`.
#[track_caller]
fn stdout(arguments: &[&str], status: i32) -> String {
    let output = run(arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{errors}");
    text(&output.stdout)
}

fn machine(firmware: &str) -> Vec<String> {
    let firmware = vector(firmware).display().to_string();
    let options = [
        "--vmm",
        "qemu",
        "--vcpus",
        "4",
        "--vcpu-type",
        "EPYC-Milan",
        "--guest-features",
        "0x1",
        "--firmware",
        &firmware,
    ];
    options.map(str::to_owned).into()
}

fn digest(vmm: Vmm, vcpus: u32, cmdline: &str) -> String {
    let firmware = Firmware::read(&fs::read(vector("ovmf_AmdSev_suffix.bin")).unwrap()).unwrap();
    let table = HashTable::new(KERNEL, INITRD, cmdline.as_bytes());
    let machine = Machine::new(vmm, vcpus, GuestFeatures::new(1).unwrap()).unwrap();
    let digest = machine.launch_digest(&firmware, Some(&table)).unwrap();
    digest.to_string()
}

fn qemu() -> Vmm {
    Vmm::Qemu("EPYC-Milan".parse().unwrap())
}

fn arguments<'a>(first: &[&'a str], machine: &'a [String]) -> Vec<&'a str> {
    let machine = machine.iter().map(String::as_str);
    first.iter().copied().chain(machine).collect()
}

#[test]
fn predicts_the_launch_digest_and_says_what_it_assumes() {
    let image = image(CMDLINE);
    let folder = image.path().to_str().unwrap();
    let machine = machine("ovmf_AmdSev_suffix.bin");
    let predict = arguments(&["predict", folder, "--tee", "snp"], &machine);
    let printed = stdout(&predict, 0);
    let expected = digest(qemu(), 4, CMDLINE);
    for part in [
        expected.as_str(),
        "qemu with vCPU type EPYC-Milan (0xa00f11)",
        "guest features  0x1 (SNPActive)",
        "does not rewrite its setup header",
        "kernel hashes at 0x810000, 0x1000 bytes",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }

    let range = machine.clone().into_iter();
    let range: Vec<_> = range
        .map(|word| if word == "4" { "3-5".into() } else { word })
        .collect();
    let first = ["predict", folder, "--json", "--tee", "snp"];
    let printed = stdout(&arguments(&first, &range), 0);
    let json: Value = serde_json::from_str(&printed).unwrap();
    let digests = json["launch_digests"].as_array().unwrap();
    let counts: Vec<_> = digests
        .iter()
        .map(|one| one["vcpus"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [3, 4, 5]);
    assert_eq!(digests[1]["launch_digest"], expected);
}

#[test]
fn predicts_identity_for_one_machine() {
    let image = image(CMDLINE);
    let folder = image.path().to_str().unwrap();
    let machine = machine("ovmf_AmdSev_suffix.bin");
    let key = vector("id-key.der").display().to_string();
    let first = [
        "predict",
        folder,
        "--tee",
        "snp",
        "--json",
        "--id-block-policy",
        "0x30000",
        "--id-key",
        &key,
    ];
    let json: Value = serde_json::from_str(&stdout(&arguments(&first, &machine), 0)).unwrap();
    let identity = &json["identity"];
    let key = identity["id_key_digest"].as_str().unwrap();
    assert!(key.starts_with("870b7e35c53f8a72d0d322f75ab2af"), "{key}");
    assert_eq!(identity["id_block"].as_str().unwrap().len(), 128);
}

#[test]
fn refuses_to_guess_the_machine() {
    let image = image(CMDLINE);
    let folder = image.path().to_str().unwrap();
    let machine = machine("ovmf_AmdSev_suffix.bin");
    for option in (0..machine.len()).step_by(2) {
        let mut fewer = machine.clone();
        let name = fewer.remove(option);
        fewer.remove(option);
        let output = run(&arguments(&["predict", folder, "--tee", "snp"], &fewer));
        let errors = text(&output.stderr);
        assert!(!output.status.success());
        let what = if name == "--vcpu-type" {
            "without a vCPU type"
        } else {
            &name
        };
        assert!(errors.contains(what), "{name}: {errors}");
    }
}

#[test]
fn refuses_a_firmware_that_would_not_check_the_kernel() {
    let image = image(CMDLINE);
    let folder = image.path().to_str().unwrap();
    let machine = machine("ovmf_OvmfX64_suffix.bin");
    let output = run(&arguments(&["predict", folder, "--tee", "snp"], &machine));
    assert!(!output.status.success());
    let errors = text(&output.stderr);
    assert!(errors.contains("no SNP_KERNEL_HASHES section"), "{errors}");
}

/// A report that shows this launch digest, and nothing else.
fn report(digest: &str) -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0] = 3;
    let digest: Vec<u8> = digest
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    report[0x90..0xc0].copy_from_slice(&digest);
    report
}

#[test]
fn explains_a_report_and_a_digest() {
    let (image, other) = (
        image(CMDLINE),
        image("console=ttyS0 roothash=11 rootblocks=1"),
    );
    let [folder, other_folder] = [&image, &other].map(|image| image.path().to_str().unwrap());
    let machine = machine("ovmf_AmdSev_suffix.bin");
    let file = image.path().join("report.bin");
    fs::write(&file, report(&digest(qemu(), 2, CMDLINE))).unwrap();
    let report = file.to_str().unwrap();
    let explain = |observed: &str, status| {
        let first = [
            "explain",
            "--image",
            folder,
            "--observed",
            observed,
            "--other-image",
            other_folder,
            "--most-changes",
            "2",
        ];
        stdout(&arguments(&first, &machine), status)
    };
    let printed = explain(report, 0);
    let because = "because the number of vCPUs is 2, not 4\n";
    assert!(printed.contains(because), "{printed}");

    let released = digest(qemu(), 4, "console=ttyS0 roothash=11 rootblocks=1");
    let because =
        format!("because the files are those of {other_folder} (differing: command line)");
    let printed = explain(&released, 0);
    assert!(printed.contains(&because), "{printed}");

    let printed = explain(&digest(qemu(), 4, CMDLINE), 0);
    assert!(printed.contains("is the predicted value"), "{printed}");
    let printed = explain(&"5a".repeat(48), 1);
    assert!(printed.contains("nothing fits"), "{printed}");
    assert!(printed.contains("511 vCPU counts"), "{printed}");
}

#[test]
fn explain_names_what_it_cannot_read() {
    let image = image(CMDLINE);
    let folder = image.path().to_str().unwrap();
    let machine = machine("ovmf_AmdSev_suffix.bin");
    let short = image.path().join("short.bin");
    fs::write(&short, [3; 100]).unwrap();
    let first = [
        "explain",
        "--image",
        folder,
        "--observed",
        short.to_str().unwrap(),
    ];
    let output = run(&arguments(&first, &machine));
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(errors.contains("got 100 bytes"), "{errors}");
}

#[test]
fn diff_ends_with_0_1_or_2() {
    let (a, b) = (
        image(CMDLINE),
        image("console=ttyS0 roothash=11 rootblocks=1"),
    );
    let [a, b] = [&a, &b].map(|image| image.path().to_str().unwrap());
    assert_eq!(stdout(&["diff", a, a], 0), "no measured byte differs\n");
    let printed = stdout(&["diff", a, b], 1);
    assert!(
        printed.contains("  roothash\n    a: 00\n    b: 11\n"),
        "{printed}"
    );
    let json: Value = serde_json::from_str(&stdout(&["diff", "--json", a, b], 1)).unwrap();
    assert_eq!(json["equal"], false);
    assert_eq!(json["differences"][0]["part"], "cmdline");
    fs::remove_file(Path::new(b).join("bzImage")).unwrap();
    let output = run(&["diff", a, b]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("bzImage"));
}
