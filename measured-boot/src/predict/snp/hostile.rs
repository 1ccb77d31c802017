//! Firmware files that no build makes: refused, or measured, never a panic.

use super::{Error, Firmware, HashTable, Launch, SectionKind, Vmm};

const AMD_SEV: &[u8] =
    include_bytes!("../../../tests/vectors/launch-digest/ovmf_AmdSev_suffix.bin");
const OVMF: &[u8] = include_bytes!("../../../tests/vectors/launch-digest/ovmf_OvmfX64_suffix.bin");

// Offsets in AMD_SEV, whose metadata begins 0x554 bytes before the end.
const METADATA: usize = 4096 - 0x554;
const SECTIONS: usize = METADATA + 16;
const FOOTER: usize = 4096 - 32 - 18;
/// The first entry before the footer: SEV_ES_RESET_BLOCK, 4 bytes and a header.
const RESET_BLOCK: usize = FOOTER - 22;

fn edited(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = AMD_SEV.to_vec();
    file[offset..][..bytes.len()].copy_from_slice(bytes);
    file
}

fn offset_of(needle: &[u8]) -> usize {
    let mut windows = AMD_SEV.windows(needle.len());
    windows.position(|window| window == needle).unwrap()
}

#[track_caller]
fn refused(file: &[u8], expected: (&str, usize, &str)) {
    match Firmware::read(file) {
        Err(Error::Firmware {
            field, offset, got, ..
        }) => assert_eq!((field, offset, got.as_str()), expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_the_field_and_offset_of_what_it_rejects() {
    let (metadata, sections) = (METADATA, SECTIONS);
    refused(b"", ("size", 0, "0"));
    refused(&AMD_SEV[1..], ("size", 4095, "4095"));
    let nine = vec![0; 9 << 20];
    refused(&nine, ("size", 9 << 20, "9437184"));
    let zeros = "0".repeat(32);
    refused(&[0; 4096], ("GUID of the table", FOOTER, &zeros));
    refused(
        &edited(FOOTER, &[17, 0]),
        ("size of the table", FOOTER, "17"),
    );
    let past = edited(FOOTER, &[0xff, 0xff]);
    refused(&past, ("size of the table", FOOTER, "65535"));
    let entry = RESET_BLOCK + 4;
    refused(&edited(entry, &[17, 0]), ("size of an entry", entry, "17"));
    refused(&edited(entry, &[0, 2]), ("size of an entry", entry, "512"));
    let reset = edited(RESET_BLOCK, &[0; 4]);
    refused(&reset, ("SEV_ES_RESET_BLOCK", RESET_BLOCK, "0"));

    let signature = edited(metadata, b"ASEW");
    let got = "41534557";
    refused(&signature, ("signature of the SEV metadata", metadata, got));
    let size = edited(metadata + 4, &[99]);
    let field = "size of the SEV metadata";
    refused(&size, (field, metadata + 4, "99"));
    let version = edited(metadata + 8, &[2]);
    let field = "version of the SEV metadata";
    refused(&version, (field, metadata + 8, "2"));
    let number = edited(metadata + 12, &[0xff; 4]);
    let field = "number of SEV metadata sections";
    refused(&number, (field, metadata + 12, "4294967295"));

    let unknown = edited(sections + 8, &[5]);
    refused(&unknown, ("type of a section", sections + 8, "0x5"));
    let unaligned = edited(sections, &[1]);
    refused(&unaligned, ("address of a section", sections, "0x800001"));
    let empty = edited(sections + 4, &[0; 4]);
    refused(&empty, ("size of a section", sections + 4, "0x0"));
    let odd = edited(sections + 4, &[1]);
    refused(&odd, ("size of a section", sections + 4, "0x9001"));
    // The third is the secrets page.
    let two_pages = edited(sections + 24 + 5, &[0x20]);
    let at = sections + 24 + 4;
    refused(&two_pages, ("size of a section", at, "0x2000"));
    let overlapping = edited(sections + 12, &0x80_8000u32.to_le_bytes());
    let got = "0x808000 to 0x80b000";
    refused(&overlapping, ("address of a section", sections + 12, got));
    let inside = edited(sections, &0xffff_8000u32.to_le_bytes());
    let got = "0xffff8000 to 0x100001000";
    refused(&inside, ("address of a section", sections, got));
    let huge = edited(sections + 4 + 72, &0x7000_0000u32.to_le_bytes());
    let got = "0x70010000";
    let at = sections + 72;
    refused(&huge, ("size of a section", at, got));
}

#[test]
fn rejects_entries_that_are_twice_or_missing() {
    let table = offset_of(&[0x1f, 0x37, 0x55, 0x72]);
    // Without that entry the section is there, and nothing reads the table in it.
    assert!(checks(AMD_SEV) && !checks(&edited(table, &[0])));
    let reset = RESET_BLOCK + 6;
    let missing = Firmware::read(&edited(reset, &[0])).unwrap_err();
    let entry = "SEV_ES_RESET_BLOCK";
    assert_eq!(missing, Error::MissingEntry { entry });
    // The next entry before it, 8 bytes and a header, under the same GUID.
    let guid = AMD_SEV[reset..][..16].to_vec();
    let next = RESET_BLOCK - 18;
    let field = "GUID of an entry";
    let got = crate::base16::encode(&guid);
    refused(&edited(next + 2, &guid), (field, next, &got));
}

#[test]
fn rejects_a_hash_table_outside_its_section() {
    let base = offset_of(&[0x00, 0x0c, 0x81, 0x00, 0x00, 0x04, 0x00, 0x00]);
    let field = "SEV_HASH_TABLE_RV";
    let got = "0x811c00 to 0x812000";
    refused(&edited(base + 1, &[0x1c]), (field, base, got));
    let small = edited(base + 4, &[175, 0]);
    refused(&small, ("size of the hash table", base + 4, "175"));
    // A base of zero: the build looks for no table, so a kernel is refused.
    let none = edited(base, &[0; 4]);
    assert!(!checks(&none));
    assert!(launch(&none, true).is_err());
}

fn checks(file: &[u8]) -> bool {
    Firmware::read(file).is_ok_and(|firmware| firmware.checks_kernel())
}

fn launch(file: &[u8], kernel: bool) -> Result<Launch, Error> {
    let table = HashTable::new(b"kernel", b"initrd", b"cmdline");
    Firmware::read(file)?.launch(kernel.then_some(&table), Vmm::Ec2)
}

/// A small generator: the same files in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn mutant(&mut self) -> Vec<u8> {
        let mut file = [AMD_SEV, OVMF][self.below(2)].to_vec();
        if self.below(4) == 0 {
            file = [&[0x5a; 4096][..], &file].concat();
        }
        let end = file.len();
        for _ in 0..=self.below(3) {
            // What is parsed lies in the last 0x560 bytes.
            let offset = end - 1 - self.below(0x560);
            match self.below(5) {
                0 => file[offset] ^= 1 << self.below(8),
                1 => file[offset] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => {
                    let from = end - 0x560 + self.below(0x500);
                    let length = (1 + self.below(64)).min(end - offset).min(end - from);
                    file.copy_within(from..from + length, offset);
                }
                3 => {
                    let word = [0, 1, u32::MAX, 0x8000_0000, 4096, 0x1000_0000][self.below(6)];
                    let at = offset.min(end - 4);
                    file[at..at + 4].copy_from_slice(&word.to_le_bytes());
                }
                _ => {
                    let length = self.below(32).min(end - offset);
                    file[offset..offset + length].fill(0);
                }
            }
        }
        match self.below(12) {
            0 => file.truncate(self.below(file.len() + 1)),
            1 => {
                let cut = self.below(file.len() / 4096 + 1) * 4096;
                file.drain(..cut);
            }
            2 => file.extend([0; 512]),
            _ => {}
        }
        file
    }
}

#[test]
fn no_mutated_firmware_panics() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..10_000 {
        let file = random.mutant();
        match Firmware::read(&file) {
            Ok(firmware) => {
                read += 1;
                let total: u64 = firmware.sections().map(|(.., size)| size).sum();
                assert!(total <= 8 << 20);
                let hashes = SectionKind::KernelHashes;
                let has_hashes = firmware.sections().any(|(kind, ..)| kind == hashes);
                let kernel = launch(&file, true);
                assert_eq!(kernel.is_ok(), firmware.checks_kernel());
                assert!(kernel.is_err() || has_hashes);
                assert!(launch(&file, false).is_ok());
            }
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(text.starts_with("cannot predict launch digest: "), "{text}");
            }
        }
    }
    // Both happen often, so that neither half of the test is empty.
    assert!(read > 1000 && refused > 1000, "{read} {refused}");
}

#[test]
fn every_truncation_is_refused() {
    for length in 0..AMD_SEV.len() {
        assert!(Firmware::read(&AMD_SEV[..length]).is_err(), "{length}");
    }
}
