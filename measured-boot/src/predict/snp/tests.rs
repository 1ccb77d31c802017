use std::fs;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use sev::measurement::snp::{SnpMeasurementArgs, calc_snp_ovmf_hash, snp_calc_launch_digest};
use sev::measurement::vmsa::{GuestFeatures as SevFeatures, VMMType};

use super::{
    CPU_TYPES, CpuType, EcdsaPublicKey, Error, Firmware, GuestFeatures, HashTable, IdBlock,
    LaunchDigest, MAX_VCPUS, Machine, MachineError, Vmm, sev_digest, sev_es_digest,
};
use crate::base16;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/launch-digest");

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn file(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap()
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&file(name)).unwrap()
}

fn features(bits: u64) -> GuestFeatures {
    GuestFeatures::new(bits).unwrap()
}

fn cpu(name: &str) -> CpuType {
    name.parse().unwrap()
}

/// What a case asks for: the digest in hexadecimal, or the error.
fn answer(case: &serde_json::Value) -> Result<String, Error> {
    let firmware = file(case["ovmf"].as_str().unwrap());
    // Kernel and initrd of the cases are empty files.
    let kernel = case["kernel"].as_str().map(|path| {
        assert_eq!(path, "/dev/null");
        HashTable::new(b"", b"", case["append"].as_str().unwrap().as_bytes())
    });
    let cpu_type = case["vcpu_type"].as_str().map(cpu);
    let vmm = match case["vmm_type"].as_str() {
        None => cpu_type.map(Vmm::Qemu),
        Some(name) => Some(Vmm::from_name(name, None).unwrap()),
    };
    let machine = || {
        let vcpus = u32::try_from(case["vcpus"].as_u64().unwrap()).unwrap();
        let bits = case["guest_features"].as_u64().unwrap();
        Machine::new(vmm.unwrap(), vcpus, features(bits)).unwrap()
    };
    match case["mode"].as_str().unwrap() {
        "sev" => sev_digest(&firmware, kernel.as_ref()).map(|digest| base16::encode(&digest)),
        "sev_es" => sev_es_digest(&firmware, kernel.as_ref(), &machine())
            .map(|digest| base16::encode(&digest)),
        "sev_snp" => {
            let firmware = match case["snp_ovmf_hash_str"].as_str() {
                Some(hash) => {
                    Firmware::with_digest(&firmware, LaunchDigest::from_hex(hash).unwrap())
                }
                None => Firmware::read(&firmware),
            };
            let digest = machine().launch_digest(&firmware.unwrap(), kernel.as_ref());
            digest.map(|digest| digest.to_string())
        }
        mode => panic!("{mode}"),
    }
}

#[test]
fn launch_digest_matches_sev_snp_measure() {
    let vectors = json("launch-digests.json");
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        match (answer(case), case["expected_hex"].as_str()) {
            (Ok(digest), Some(expected)) => assert_eq!(digest, expected, "{name}"),
            (Err(error), None) => {
                let section = "no SNP_KERNEL_HASHES section";
                let entry = "no SEV_HASH_TABLE_RV entry";
                let expected = if name.contains("snp") { section } else { entry };
                assert!(error.to_string().contains(expected), "{name}: {error}");
            }
            (got, expected) => panic!("{name}: got {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn launch_digest_matches_older_ec2() {
    let vectors = json("launch-digests.json");
    let cases = vectors["ec2_old_virtee_sev"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    let firmware = Firmware::read(&file("ovmf_AmdSev_suffix.bin")).unwrap();
    let table = HashTable::new(b"", b"", b"");
    for case in cases {
        let bits = case["guest_features"].as_u64().unwrap();
        let machine = Machine::new(Vmm::Ec2RdxZero, 1, features(bits)).unwrap();
        let digest = machine.launch_digest(&firmware, Some(&table)).unwrap();
        assert_eq!(digest.to_string(), case["expected_hex"].as_str().unwrap());
    }
}

#[test]
fn signatures_match_sev_snp_measure() {
    let vectors = json("launch-digests.json");
    let signatures = vectors["cpu_sigs"].as_object().unwrap();
    assert_eq!(signatures.len(), 16);
    for (name, signature) in signatures {
        let expected = signature.as_str().unwrap();
        assert_eq!(format!("{:#x}", cpu(name).signature()), expected, "{name}");
    }
}

/// Debian's build is whole and has no hash table; the suffix has one.
fn oracle_firmware(folder: &Path) -> Vec<(PathBuf, bool)> {
    let large = folder.join("large.fd");
    let mut bytes: Vec<u8> = (0..63 * 4096u32).map(|i| (i % 251) as u8).collect();
    bytes.extend(file("ovmf_AmdSev_suffix.bin"));
    fs::write(&large, bytes).unwrap();
    vec![
        (path("ovmf_AmdSev_suffix.bin"), true),
        (path("ovmf_OvmfX64_suffix.bin"), false),
        (large, true),
    ]
}

#[test]
fn launch_digest_matches_the_sev_crate() {
    let folder = tempfile::tempdir().unwrap();
    let [kernel, initrd] = ["kernel", "initrd"].map(|name| folder.path().join(name));
    fs::write(&kernel, [1; 70_000]).unwrap();
    fs::write(&initrd, [2; 5000]).unwrap();
    let cmdline = "console=ttyS0 quiet";
    let table = HashTable::new(&[1; 70_000], &[2; 5000], cmdline.as_bytes());
    let mut compared = 0;
    for (ovmf, has_table) in oracle_firmware(folder.path()) {
        let firmware = Firmware::read(&fs::read(&ovmf).unwrap()).unwrap();
        let ours = firmware.digest().to_string();
        assert_eq!(ours, calc_snp_ovmf_hash(ovmf.clone()).unwrap().get_hex_ld());
        assert_eq!(firmware.checks_kernel(), has_table);
        for (vmm, theirs) in [
            (None, VMMType::QEMU),
            (Some(Vmm::Ec2RdxZero), VMMType::EC2),
            (Some(Vmm::Krun), VMMType::KRUN),
        ] {
            for name in [
                "EPYC-v4",
                "EPYC-Rome",
                "EPYC-Milan-v2",
                "EPYC-Genoa",
                "EPYC-Turin",
            ] {
                for (vcpus, bits) in [(1, 1), (2, 0x21), (5, 0x8001), (64, 1)] {
                    for kernel_given in [false, has_table] {
                        let expected = snp_calc_launch_digest(SnpMeasurementArgs {
                            vcpus,
                            vcpu_type: name.try_into().unwrap(),
                            ovmf_file: ovmf.clone(),
                            guest_features: SevFeatures(bits),
                            kernel_file: kernel_given.then(|| kernel.clone()),
                            initrd_file: kernel_given.then(|| initrd.clone()),
                            append: kernel_given.then_some(cmdline),
                            ovmf_hash_str: None,
                            vmm_type: Some(theirs),
                        })
                        .unwrap();
                        let vmm = vmm.unwrap_or(Vmm::Qemu(cpu(name)));
                        let machine = Machine::new(vmm, vcpus, features(bits)).unwrap();
                        let table = kernel_given.then_some(&table);
                        let digest = machine.launch_digest(&firmware, table).unwrap();
                        assert_eq!(digest.to_string(), expected.get_hex_ld());
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, 3 * 3 * 5 * 4 * 2);
}

#[test]
fn cpu_types_match_the_sev_crate() {
    for (name, cpu) in CPU_TYPES {
        let Ok(theirs) = sev::measurement::vcpu_types::CpuType::try_from(name) else {
            continue;
        };
        assert_eq!(
            i64::from(cpu.signature()),
            i64::from(theirs.sig()),
            "{name}"
        );
    }
    assert_eq!(CpuType::distinct().count(), 5);
}

#[test]
fn digests_of_all_vcpu_counts_share_their_start() {
    let firmware = Firmware::read(&file("ovmf_AmdSev_suffix.bin")).unwrap();
    let vmm = Vmm::Qemu(cpu("EPYC-Milan"));
    let launch = firmware.launch(None, vmm).unwrap();
    for (vcpus, digest) in (1..=20).zip(launch.digests(features(1))) {
        let machine = Machine::new(vmm, vcpus, features(1)).unwrap();
        assert_eq!(machine.launch_digest(&firmware, None), Ok(digest));
    }
}

#[test]
fn rejects_a_kernel_that_the_firmware_would_not_check() {
    let firmware = Firmware::read(&file("ovmf_OvmfX64_suffix.bin")).unwrap();
    let table = HashTable::new(b"kernel", b"", b"");
    let machine = Machine::new(Vmm::Gce, 1, features(1)).unwrap();
    let error = machine.launch_digest(&firmware, Some(&table)).unwrap_err();
    let section = "SNP_KERNEL_HASHES";
    assert_eq!(error, Error::MissingSection { section });
    assert!(machine.launch_digest(&firmware, None).is_ok());
}

#[test]
fn rejects_machines_that_cannot_be() {
    let vcpus = |vcpus| Machine::new(Vmm::Ec2, vcpus, features(1)).map(|m| m.vcpus());
    assert_eq!(vcpus(0), Err(MachineError::Vcpus { got: 0 }));
    assert_eq!(vcpus(MAX_VCPUS), Ok(MAX_VCPUS));
    assert!(vcpus(MAX_VCPUS + 1).is_err());
    for bits in [0, 0x20, 1 << 11 | 1, 1 << 13 | 1, 1 << 16 | 1, u64::MAX] {
        assert!(GuestFeatures::new(bits).is_err(), "{bits:#x}");
    }
    let no_type = Vmm::from_name("qemu", None);
    assert_eq!(no_type, Err(MachineError::NoCpuType));
    let unused = Vmm::from_name("gce", Some(cpu("EPYC")));
    assert_eq!(unused, Err(MachineError::UnusedCpuType { vmm: "gce" }));
    assert!(Vmm::from_name("QEMU", Some(cpu("EPYC"))).is_err());
    for name in ["epyc", "EPYC-Milan-v9", "0x", "0x+1", "0x1a00f11a0", "10"] {
        assert!(name.parse::<CpuType>().is_err(), "{name}");
    }
    assert_eq!(cpu("0xa00f11"), cpu("EPYC-Milan"));
}

#[test]
fn id_block_matches_sev_snp_measure_and_the_sev_crate() {
    let vectors = json("id-block.json");
    let block = |vectors: &serde_json::Value, digest: LaunchDigest| {
        let block = IdBlock {
            launch_digest: digest,
            family_id: [0; 16],
            image_id: [0; 16],
            guest_svn: 0,
            policy: 0x3_0000,
        };
        let expected = vectors["id_block_b64"].as_str().unwrap();
        assert_eq!(Base64::encode_string(&block.bytes()), expected);
    };
    let tool = &vectors["sev-snp-measure"];
    let digest = Base64::decode_vec(tool["launch_digest_b64"].as_str().unwrap()).unwrap();
    block(tool, LaunchDigest(digest.try_into().unwrap()));
    let library = &vectors["virtee-sev"];
    let digest = library["launch_digest_hex"].as_str().unwrap();
    block(library, LaunchDigest::from_hex(digest).unwrap());

    for (key, expected) in [
        ("id-key.der", "id_key_hash_b64"),
        ("author-key.der", "author_key_hash_b64"),
    ] {
        let digest = EcdsaPublicKey::from_der(&file(key)).unwrap().digest();
        let expected = tool[expected].as_str().unwrap();
        assert_eq!(Base64::encode_string(&digest), expected);
    }
}

#[test]
fn rejects_keys_that_are_no_p384_key() {
    let der = file("id-key.der");
    assert!(EcdsaPublicKey::from_der(&der[..der.len() - 1]).is_err());
    assert!(EcdsaPublicKey::from_der(&[&der[..], &[0]].concat()).is_err());
    let mut compressed = der;
    compressed[23] = 2;
    assert!(EcdsaPublicKey::from_der(&compressed).is_err());
}
