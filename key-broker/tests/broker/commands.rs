//! The command line, as an administrator uses it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PublicKeyData, SubjectPublicKeyInfo,
};
use serde_json::Value;

use crate::guest::{SECRET, pcrs, reference_values};
use crate::soft_tpm::SoftTpm;

const BROKER: &str = env!("CARGO_BIN_EXE_key-broker");

fn run(dir: &Path, arguments: &str, input: &[u8]) -> Output {
    let mut child = Command::new(BROKER)
        .args(arguments.split(' '))
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses may not read its input.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

fn accepts(dir: &Path, arguments: &str, input: &[u8]) -> String {
    let output = run(dir, arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn rejects(dir: &Path, arguments: &str, input: &[u8], error: &str) {
    let output = run(dir, arguments, input);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments}");
    assert!(errors.contains(error), "{arguments}: {errors}");
}

/// What is demanded of machines, and what is stated about them.
#[test]
fn a_store_is_told_what_machines_must_be() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    accepts(dir, "init s", b"");
    let shown: Value = serde_json::from_str(&accepts(dir, "policy show s", b"")).unwrap();
    assert_eq!(shown["snp"]["products"], Value::Array(vec![]));
    assert_eq!(shown["tdx"]["tcb_statuses"][0], "UpToDate");
    let toml = "[snp]\nproducts = [\"Turin\"]\n\
                minimum_tcb.Turin = { fmc = 1, bootloader = 2, tee = 3, snp = 4, microcode = 5 }\n";
    fs::write(dir.join("p.toml"), toml).unwrap();
    let set = accepts(dir, "policy set s p.toml", b"");
    assert_eq!(set, "accepted products of AMD: Turin\n");
    fs::write(dir.join("bad.toml"), "[snp]\nproducts = [\"Milan\"]\n").unwrap();
    rejects(dir, "policy set s bad.toml", b"", "snp.minimum_tcb has not");
    fs::write(dir.join("bad.toml"), "[snp]\nvmpl = \"0\"\n").unwrap();
    rejects(dir, "policy set s bad.toml", b"", "cannot read policy");
    let shown: Value = serde_json::from_str(&accepts(dir, "policy show s", b"")).unwrap();
    assert_eq!(shown["snp"]["minimum_tcb"]["Turin"]["fmc"], 1);

    // Real ones, of AMD and Intel.
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../measured-boot/tests/vectors");
    let copy = |from: &str, to: &str| fs::copy(vectors.join(from), dir.join(to)).unwrap();
    copy("snp/turin-v5-routex.vcek.der", "vcek");
    copy("snp/vlek-v3-trustee.vlek.der", "vlek");
    copy("snp/milan-ark-crl-20220509.der", "crl");
    copy("tdx/phala-uptodate.collateral.json", "collateral");
    let lines = accepts(dir, "endorse s vcek vlek crl collateral", b"");
    for start in [
        "VCEK of Turin of chip ",
        "VLEK of Milan, for fmc 0, bootloader ",
        "CRL of ARK-Milan, ",
        "collateral of FMSPC b0c06f000000, until 2025-07-19T",
    ] {
        let found = lines.lines().any(|line| line.starts_with(start));
        assert!(found, "{start}: {lines}");
    }
    copy("snp/milan-v2-trustee.vcek-invalid-new.der", "forged");
    rejects(dir, "endorse s forged", b"", "VEK signature");
    rejects(dir, "endorse s p.toml", b"", "no CRL and no collateral");
    fs::write(dir.join("json"), "{}").unwrap();
    rejects(dir, "endorse s json", b"", "collateral format");
    assert_eq!(tree(&dir.join("s/endorsements")).len(), 4);

    let one = "put s kbs:///demo/one/key --file - --image demo";
    let (snp, tdx) = ("01".repeat(32), "01".repeat(48));
    accepts(dir, &format!("{one} --tee snp --instance {snp}"), SECRET);
    rejects(
        dir,
        &format!("{one} --tee tdx --instance {snp} --replace"),
        SECRET,
        "HOST_DATA",
    );
    accepts(
        dir,
        &format!("{one} --tee tdx --instance {tdx} --replace"),
        SECRET,
    );
    rejects(
        dir,
        &format!("{one} --tee tdx --instance 01"),
        SECRET,
        "64 or 96",
    );
    let listed = accepts(dir, "list s", b"");
    assert!(
        listed.contains(&format!("for demo on tdx, instance {tdx}")),
        "{listed}"
    );
    rejects(dir, "trust-root tdx s vcek", b"", "init --development");
    rejects(
        dir,
        "trust-root snp s --product Rome vcek vlek",
        b"",
        "Milan, Genoa or Turin",
    );
    accepts(dir, "init d --development", b"");
    rejects(
        dir,
        "trust-root snp d --product milan vcek vlek",
        b"",
        "root name",
    );
    accepts(dir, "trust-root tdx d vcek", b"");
}

fn tree(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            all.push(path.display().to_string());
        }
    }
    all.sort();
    all
}

#[test]
fn a_store_is_made_filled_and_listed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    assert_eq!(
        accepts(dir, "init s --name 10.0.2.2 --name broker.example.org", b""),
        "s/ca.pem\n"
    );
    rejects(dir, "init s", b"", "it is not empty");
    rejects(dir, "init t --name https://x", b"", "expected a DNS name");
    assert!(!dir.join("t").exists());

    let put = "put s kbs:///demo/boot/key --file - --image demo --tee tpm";
    accepts(dir, put, SECRET);
    rejects(dir, put, SECRET, "use --replace");
    rejects(
        dir,
        &format!("{put} --replace"),
        b"",
        "expected 1 to 65536 bytes",
    );
    rejects(
        dir,
        "put s kbs:///a/b --file - --image demo --tee tpm",
        SECRET,
        "kbs:///REPOSITORY",
    );
    rejects(
        dir,
        "put s kbs:///a/b/c --file - --image ../x --tee tpm",
        SECRET,
        "image name",
    );
    rejects(
        dir,
        "put s kbs:///a/b/c --file - --tee tpm",
        SECRET,
        "--image",
    );
    let big = vec![1; 65537];
    rejects(dir, &format!("{put} --replace"), &big, "larger than 65536");

    let values = reference_values("demo", 1, &pcrs(1)).to_json().unwrap();
    fs::write(dir.join("v.json"), values).unwrap();
    accepts(dir, "enroll s v.json", b"");
    accepts(dir, "enroll s v.json", b"");
    fs::write(
        dir.join("w.json"),
        reference_values("demo", 1, &pcrs(2)).to_json().unwrap(),
    )
    .unwrap();
    rejects(dir, "enroll s w.json", b"", "other reference values");
    fs::write(dir.join("ak.der"), SoftTpm::new(0, pcrs(1), 1).ak()).unwrap();
    let ak: Value =
        serde_json::from_str(&accepts(dir, "enroll-tpm s --ak ak.der --json", b"")).unwrap();
    rejects(
        dir,
        "enroll-tpm s --ak v.json",
        b"",
        "expected an RSA SubjectPublicKeyInfo",
    );
    rejects(dir, "enroll-tpm s", b"", "--swtpm");
    accepts(dir, "retire s demo 2", b"");
    rejects(
        dir,
        "retire s demo 1",
        b"",
        "expected at least the present one, 2",
    );
    rejects(dir, "retire s dmeo 1", b"", "no image of this name");

    let text = accepts(dir, "list s --json", b"");
    assert!(!text.contains("canary"));
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["images"][0]["retired"], true);
    assert_eq!(list["tpms"][0]["ak"], ak["ak"]);
    assert_eq!(list["resources"][0]["bytes"], 32);

    // Nobody else reads anything but the certificates' directory entry.
    for path in tree(&dir.join("s")) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || path.ends_with("/lock"), "{path}: {mode:o}");
    }
    accepts(dir, "remove s kbs:///demo/boot/key", b"");
    rejects(
        dir,
        "remove s kbs:///demo/boot/key",
        b"",
        "no such resource",
    );
    fs::set_permissions(dir.join("s"), fs::Permissions::from_mode(0o755)).unwrap();
    rejects(dir, "list s", b"", "got mode 0755, expected 0700");
}

#[test]
fn fifty_writers_at_once_leave_fifty_resources() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    accepts(dir, "init s", b"");
    std::thread::scope(|scope| {
        for tag in 0..50 {
            scope.spawn(move || {
                let put = format!("put s kbs:///a/b/t{tag} --file - --image demo --tee tpm");
                accepts(dir, &put, SECRET);
            });
        }
    });
    let list: Value = serde_json::from_str(&accepts(dir, "list s --json", b"")).unwrap();
    assert_eq!(list["resources"].as_array().unwrap().len(), 50);
    assert!(
        tree(&dir.join("s"))
            .iter()
            .all(|path| !path.contains("/.new-"))
    );
}

#[test]
fn a_certified_key_needs_its_ca_and_its_purpose() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    accepts(dir, "init s", b"");
    let spki = SoftTpm::new(0, pcrs(1), 1).ak();
    let spki = SubjectPublicKeyInfo::from_der(&spki).unwrap();
    assert!(!spki.der_bytes().is_empty());
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let leaf = |purpose| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![purpose];
        params.signed_by(&spki, &issuer).unwrap().pem()
    };
    let aik = ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3]);
    fs::write(dir.join("ak.pem"), leaf(aik)).unwrap();
    fs::write(
        dir.join("web.pem"),
        leaf(ExtendedKeyUsagePurpose::ServerAuth),
    )
    .unwrap();

    rejects(
        dir,
        "enroll-tpm s --ak-cert ak.pem",
        b"",
        "its chain does not hold",
    );
    accepts(dir, "trust-ak-ca s ca.pem", b"");
    accepts(dir, "enroll-tpm s --ak-cert ak.pem", b"");
    rejects(
        dir,
        "enroll-tpm s --ak-cert web.pem",
        b"",
        "its chain does not hold",
    );
}

#[test]
fn serves_until_told_to_stop() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    accepts(dir, "init s", b"");
    let mut child = Command::new(BROKER)
        .args([
            "serve",
            "s",
            "--listen",
            "127.0.0.1:0",
            "--port-file",
            "port",
            "--log",
            "log",
        ])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let port = (0..500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        fs::read_to_string(dir.join("port")).ok()
    });
    let port: u16 = port.unwrap().trim().parse().unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let kill = Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(kill.success());
    assert!(child.wait().unwrap().success());
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, format!("listening on 127.0.0.1:{port}\n"));
    let mode = fs::metadata(dir.join("log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
