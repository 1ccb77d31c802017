//! Each cause is built into an observed value, and must be named, alone.

#![allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]

use sha2::{Digest as _, Sha256};

use super::files::Release;
use super::snp::{Build, Question, VCPUS_TRIED};
use super::{Answer, Change, log, tdx, tpm};
use crate::event_log::{self, Tcb};
use crate::predict::linux::{LOW_MEMORY_MIB, rewritten};
use crate::predict::snp::{
    CpuType, Error, Firmware, GuestFeatures, HashTable, LaunchDigest, Machine, Vmm,
};
use crate::predict::tests::kernel;
use crate::predict::{self, known_firmware};

const AMD_SEV: &[u8] = include_bytes!("../../tests/vectors/launch-digest/ovmf_AmdSev_suffix.bin");
const OVMF: &[u8] = include_bytes!("../../tests/vectors/launch-digest/ovmf_OvmfX64_suffix.bin");
const INITRD: &[u8] = &[7; 5000];
const CMDLINE: &[u8] = b"console=ttyS0 roothash=00 rootblocks=1";

fn cpu(name: &str) -> CpuType {
    name.parse().unwrap()
}

fn features(bits: u64) -> GuestFeatures {
    GuestFeatures::new(bits).unwrap()
}

/// QEMU, 4 vCPUs.
fn machine() -> Machine {
    Machine::new(Vmm::Qemu(cpu("EPYC-Milan")), 4, features(1)).unwrap()
}

/// Two builds that differ in a byte of code, and one without a hash table.
fn firmware() -> Vec<Build> {
    let mut other = AMD_SEV.to_vec();
    other[0] ^= 1;
    let builds = [("predicted", AMD_SEV), ("other", &other), ("plain", OVMF)];
    let build = |(name, file): (&str, &[u8])| Build {
        name: name.into(),
        firmware: Firmware::read(file).unwrap(),
    };
    builds.map(build).into()
}

/// Files of three releases.
struct Files {
    kernels: [Vec<u8>; 2],
    initrds: [Vec<u8>; 2],
}

impl Files {
    fn new() -> Self {
        let mut newer = kernel();
        newer[0x2000] ^= 1;
        Self {
            kernels: [kernel(), newer],
            initrds: [INITRD.to_vec(), vec![8; 9000]],
        }
    }

    /// The second differs in kernel and initrd, the third in the command line.
    fn releases(&self) -> [Release<'_>; 3] {
        let [kernel, newer_kernel] = &self.kernels;
        let [initrd, newer_initrd] = &self.initrds;
        let first = Release {
            name: "v1",
            kernel,
            initrd,
            cmdline: CMDLINE,
        };
        let second = Release {
            name: "v2",
            kernel: newer_kernel,
            initrd: newer_initrd,
            ..first
        };
        let third = Release {
            name: "v3",
            cmdline: b"console=ttyS0 roothash=11 rootblocks=1",
            ..first
        };
        [first, second, third]
    }

    fn table(&self) -> HashTable {
        let [first, ..] = self.releases();
        HashTable::new(first.kernel, first.initrd, first.cmdline)
    }
}

fn explain(observed: LaunchDigest) -> Answer {
    let files = Files::new();
    let question = Question {
        machine: machine(),
        firmware: &firmware(),
        releases: &files.releases(),
        most_changes: 3,
    };
    question.explain(observed).unwrap()
}

#[track_caller]
fn assert_explained(observed: LaunchDigest, expected: &[Change]) {
    let answer = explain(observed);
    assert_eq!(answer.causes, [expected]);
    assert_eq!(answer.levels.len(), expected.len() + 1);
}

/// The digest of a machine and a hash table on the predicted firmware.
fn observe(machine: Machine, table: &HashTable) -> LaunchDigest {
    let firmware = Firmware::read(AMD_SEV).unwrap();
    machine.launch_digest(&firmware, Some(table)).unwrap()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[test]
fn names_no_change_for_the_predicted_value() {
    let answer = explain(observe(machine(), &Files::new().table()));
    assert_eq!(answer.causes, [vec![]]);
    assert_eq!(answer.candidates(), 1);
}

#[test]
fn names_the_number_of_vcpus() {
    let table = Files::new().table();
    let predicted = machine();
    for to in [1, 3, 5, 511, VCPUS_TRIED] {
        let observed = Machine::new(predicted.vmm, to, predicted.features).unwrap();
        let cause = Change::Vcpus { from: 4, to };
        assert_explained(observe(observed, &table), &[cause]);
    }
}

#[test]
fn names_the_vcpu_type_and_the_vmm() {
    let table = Files::new().table();
    let from = machine().vmm;
    for to in [
        Vmm::Qemu(cpu("EPYC-v4")),
        Vmm::Qemu(cpu("EPYC-Turin")),
        Vmm::Ec2,
        Vmm::Ec2RdxZero,
        Vmm::Gce,
        Vmm::Krun,
    ] {
        let observed = Machine::new(to, 4, features(1)).unwrap();
        let cause = Change::Vmm { from, to };
        assert_explained(observe(observed, &table), &[cause]);
    }
}

#[test]
fn names_the_guest_features() {
    let table = Files::new().table();
    for bits in [0x21, 0x201, 0x8021] {
        let observed = Machine::new(machine().vmm, 4, features(bits)).unwrap();
        let cause = Change::Features {
            from: features(1),
            to: features(bits),
        };
        assert_explained(observe(observed, &table), &[cause]);
    }
}

#[test]
fn names_the_firmware_build() {
    let table = Files::new().table();
    let builds = firmware();
    let observed = machine().launch_digest(&builds[1].firmware, Some(&table));
    let name = "other".into();
    assert_explained(observed.unwrap(), &[Change::Firmware { name }]);
    // A build without the section starts any kernel: two changes.
    let observed = machine().launch_digest(&builds[2].firmware, None).unwrap();
    let name = "plain".into();
    let causes = [Change::NoKernelHashes, Change::Firmware { name }];
    assert_explained(observed, &causes);
}

#[test]
fn names_what_was_measured_of_the_files() {
    let table = Files::new().table();
    let line = |suffix: &[u8]| HashTable {
        cmdline: sha256(&[CMDLINE, suffix].concat()),
        ..table
    };
    let cases = [
        (line(b""), vec![Change::NoNul]),
        (
            line(b" initrd=initrd\0"),
            vec![Change::Suffix { present: true }],
        ),
        (
            line(b" initrd=initrd"),
            vec![Change::Suffix { present: true }, Change::NoNul],
        ),
        (
            HashTable {
                initrd: sha256(b""),
                ..table
            },
            vec![Change::NoInitrd],
        ),
    ];
    for (table, expected) in cases {
        assert_explained(observe(machine(), &table), &expected);
    }
    let firmware = Firmware::read(AMD_SEV).unwrap();
    let unmeasured = machine().launch_digest(&firmware, None).unwrap();
    assert_explained(unmeasured, &[Change::NoKernelHashes]);
}

#[test]
fn names_the_rewritten_setup_header_and_the_memory_size() {
    let table = Files::new().table();
    for memory_mib in LOW_MEMORY_MIB {
        let image = rewritten(&kernel(), Some(INITRD.len()), memory_mib).unwrap();
        let kernel = sha256(&image);
        let observed = observe(machine(), &HashTable { kernel, ..table });
        let memory_mib = Some(memory_mib);
        assert_explained(observed, &[Change::SetupHeader { memory_mib }]);
    }
    let image = rewritten(&kernel(), None, 512).unwrap();
    let bare = HashTable {
        kernel: sha256(&image),
        initrd: sha256(b""),
        ..table
    };
    let memory_mib = None;
    let causes = [Change::SetupHeader { memory_mib }, Change::NoInitrd];
    assert_explained(observe(machine(), &bare), &causes);
}

#[test]
fn names_another_release_or_one_file_of_it() {
    let files = Files::new();
    let [_, second, third] = files.releases();
    let whole = |release: &Release<'_>, differing| Change::Release {
        release: release.name.into(),
        differing,
    };
    let table = HashTable::new(second.kernel, second.initrd, second.cmdline);
    let cause = whole(&second, vec!["kernel", "initrd"]);
    assert_explained(observe(machine(), &table), &[cause]);
    let table = HashTable::new(third.kernel, third.initrd, third.cmdline);
    let cause = whole(&third, vec!["command line"]);
    assert_explained(observe(machine(), &table), &[cause]);
    let table = HashTable::new(&files.kernels[0], second.initrd, CMDLINE);
    let cause = Change::File {
        file: "initrd",
        release: "v2".into(),
    };
    assert_explained(observe(machine(), &table), &[cause]);
}

#[test]
fn names_three_changes_at_once() {
    let mut table = Files::new().table();
    table.initrd = sha256(b"");
    let observed = Machine::new(machine().vmm, 64, features(0x21)).unwrap();
    let causes = [
        Change::NoInitrd,
        Change::Features {
            from: features(1),
            to: features(0x21),
        },
        Change::Vcpus { from: 4, to: 64 },
    ];
    assert_explained(observe(observed, &table), &causes);
}

#[test]
fn says_what_it_ruled_out_when_nothing_fits() {
    let answer = explain(LaunchDigest([0x5a; 48]));
    assert_eq!(answer.causes, [] as [Vec<Change>; 0]);
    let tried: Vec<_> = answer.levels.iter().map(|level| level.candidates).collect();
    // One change: 511 vCPU counts, 91 feature sets, 8 VMMs and types, one other
    // firmware that checks the kernel, 6 headers, no initrd, suffix, no NUL, no
    // hashes, v2 and its two files, v3.
    assert_eq!(tried[..2], [1, 511 + 91 + 8 + 1 + 6 + 4 + 4]);
    assert!(tried[2] > 50_000 && tried[3] > 500_000, "{tried:?}");
    let alternatives: Vec<_> = answer.alternatives.iter().map(|(_, n)| *n).collect();
    assert_eq!(alternatives, [511, 91, 8, 2, 14]);
}

#[test]
fn rejects_a_prediction_that_cannot_be() {
    let files = Files::new();
    let question = Question {
        machine: machine(),
        firmware: &firmware()[2..],
        releases: &files.releases()[..1],
        most_changes: 1,
    };
    let section = "SNP_KERNEL_HASHES";
    let error = question.explain(LaunchDigest([0; 48])).unwrap_err();
    assert_eq!(error, Error::MissingSection { section });
}

#[test]
fn explains_pcr_9_by_initrd_and_command_line() {
    let files = Files::new();
    let releases = files.releases();
    let explain = |observed| tpm::explain(9, &observed, &releases, &[]).unwrap().causes;
    let line = |suffix: &[u8]| [CMDLINE, suffix].concat();
    let full = line(b" initrd=initrd\0");
    let of = |line: &[u8], initrd| explain(predict::pcr9(line, initrd));
    assert_eq!(of(&full, Some(INITRD)), [vec![]]);
    // OVMF appends nothing when there is no initrd.
    let bare = [Change::NoInitrd, Change::Suffix { present: false }];
    assert_eq!(of(&line(b"\0"), None), [bare]);
    assert_eq!(
        of(&line(b" initrd=initrd"), Some(INITRD)),
        [[Change::NoNul]]
    );
    let [_, second, third] = releases;
    let file = |file, release: &Release<'_>| Change::File {
        file,
        release: release.name.into(),
    };
    let newer = [file("initrd", &second)];
    assert_eq!(of(&full, Some(second.initrd)), [newer]);
    let other = [third.cmdline, b" initrd=initrd\0"].concat();
    assert_eq!(of(&other, Some(INITRD)), [[file("command line", &third)]]);
    assert_eq!(explain([3; 32]), [] as [Vec<Change>; 0]);
}

#[test]
fn explains_pcr_4_by_kernel_and_memory() {
    let files = Files::new();
    let releases = files.releases();
    let explain = |observed| tpm::explain(4, &observed, &releases, &[]).unwrap().causes;
    let of = |image: &[u8]| explain(predict::pcr4(image).unwrap());
    assert_eq!(of(&kernel()), [vec![]]);
    let memory_mib = Some(1024);
    let image = rewritten(&kernel(), Some(INITRD.len()), 1024).unwrap();
    assert_eq!(of(&image), [[Change::SetupHeader { memory_mib }]]);
    let image = rewritten(&kernel(), None, 0).unwrap();
    let memory_mib = None;
    let bare = [Change::SetupHeader { memory_mib }, Change::NoInitrd];
    assert_eq!(of(&image), [bare]);
    let release = "v2".to_owned();
    let file = "kernel";
    assert_eq!(of(&files.kernels[1]), [[Change::File { file, release }]]);
}

#[test]
fn explains_pcr_0_by_recorded_firmware() {
    let profiles = known_firmware().unwrap();
    let observed = profiles[1].pcrs[&0].0;
    let answer = tpm::explain(0, &observed, &[], &profiles).unwrap();
    let name = profiles[1].name.clone();
    assert_eq!(answer.causes, [[Change::Firmware { name }]]);
    assert_eq!(tpm::explain(7, &observed, &[], &profiles), None);
}

/// A log with these SHA-256 events, each a PCR and what was measured.
fn event_log(events: &[(u32, [u8; 32])]) -> Vec<u8> {
    let mut spec = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    spec.extend([1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let mut log = [0u32, 3].map(u32::to_le_bytes).concat();
    log.extend([0; 20]);
    log.extend(u32::try_from(spec.len()).unwrap().to_le_bytes());
    log.extend(spec);
    for (pcr, digest) in events {
        log.extend([*pcr, 0x8000_0003, 1].map(u32::to_le_bytes).concat());
        log.extend([0x0b, 0]);
        log.extend(digest);
        log.extend([0; 4]);
    }
    log
}

#[test]
fn names_the_first_event_that_differs() {
    let files = Files::new();
    let releases = files.releases();
    let wide = |line: &[u8]| -> Vec<u8> { line.iter().flat_map(|byte| [*byte, 0]).collect() };
    let image = |kernel: &[u8]| {
        predict::kernel_digest::<Sha256>(kernel)
            .unwrap()
            .try_into()
            .unwrap()
    };
    let line = [CMDLINE, b" initrd=initrd\0"].concat();
    let plain = [
        (4, image(&kernel())),
        (4, sha256(b"Calling EFI Application from Boot Option")),
        (4, sha256(&[0; 4])),
        (9, sha256(&wide(&line))),
        (9, sha256(INITRD)),
    ];
    let compare = |events: &[(u32, [u8; 32])]| {
        let bytes = event_log(events);
        let parsed = event_log::parse(&bytes).unwrap();
        log::compare(&parsed, &releases).unwrap()
    };
    let same = compare(&plain);
    assert_eq!((same.tcb, same.matching), (Tcb::Tpm, 5));
    assert_eq!(same.divergences, []);

    let mut other = plain;
    other[0].1 = image(&files.kernels[1]);
    other[4].1 = [9; 32];
    let found = compare(&other).divergences;
    let told = |one: &log::Divergence| (one.register.clone(), one.position, one.got.clone());
    let kernel = "the kernel of v2, as the file is".to_owned();
    assert_eq!(told(&found[0]), ("PCR 4".into(), 1, Some(kernel)));
    assert_eq!(told(&found[1]), ("PCR 9".into(), 2, None));
    assert_eq!(found[1].expected.as_deref(), Some("the initrd of v1"));
    assert!(found[0].event.as_ref().unwrap().0 < found[1].event.as_ref().unwrap().0);

    let shorter = compare(&plain[..4]).divergences;
    assert_eq!(shorter[0].event, None);
    let longer = compare(&[&plain[..], &[(4, sha256(b"a shell"))]].concat()).divergences;
    assert_eq!((longer[0].position, longer[0].expected.clone()), (4, None));
}

#[test]
fn explains_rtmrs_by_kernel_and_command_line() {
    let files = Files::new();
    let releases = files.releases();
    let explain = |register, observed| tdx::explain(register, &observed, &releases, &[]).causes;
    let image = rewritten(&kernel(), Some(INITRD.len()), 512).unwrap();
    let memory_mib = Some(512);
    for separator in [true, false] {
        let rtmr1 = predict::rtmr1(&image, separator).unwrap();
        let cause = Change::SetupHeader { memory_mib };
        assert_eq!(explain(tdx::Register::Rtmr1, rtmr1), [[cause]]);
    }
    let line = [CMDLINE, b" initrd=initrd"].concat();
    let rtmr2 = predict::rtmr2(&line, Some(INITRD));
    assert_eq!(explain(tdx::Register::Rtmr2, rtmr2), [[Change::NoNul]]);
    let nothing = [] as [Vec<Change>; 0];
    assert_eq!(explain(tdx::Register::Rtmr2, [1; 48]), nothing);
    assert_eq!(explain(tdx::Register::Mrtd, [1; 48]), nothing);
}
