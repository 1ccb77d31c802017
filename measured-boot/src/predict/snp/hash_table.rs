//! The table with which OVMF checks what QEMU hands over: `SevHashTable` of
//! QEMU's `target/i386/sev.c`, read by `OvmfPkg/AmdSev/BlobVerifierLibSevHashes`.

use sha2::{Digest as _, Sha256};

use super::PAGE;

/// Bytes of the table, padded to a multiple of 16.
pub(super) const SIZE: usize = 176;
/// Bytes without the padding: what its length field says.
const LENGTH: u16 = 168;
/// Bytes of an entry: GUID, length, hash.
const ENTRY_LENGTH: u16 = 50;

// As stored: the first three fields of a GUID little-endian.
/// 9438d606-4f22-4cc9-b479-a793d411fd21
const TABLE: [u8; 16] = *b"\x06\xd6\x38\x94\x22\x4f\xc9\x4c\xb4\x79\xa7\x93\xd4\x11\xfd\x21";
/// 4de79437-abd2-427f-b835-d5b172d2045b
const KERNEL: [u8; 16] = *b"\x37\x94\xe7\x4d\xd2\xab\x7f\x42\xb8\x35\xd5\xb1\x72\xd2\x04\x5b";
/// 44baf731-3a2f-4bd7-9af1-41e29169781d
const INITRD: [u8; 16] = *b"\x31\xf7\xba\x44\x2f\x3a\xd7\x4b\x9a\xf1\x41\xe2\x91\x69\x78\x1d";
/// 97d02dd8-bd20-4c94-aa78-e7714d36ab2a
const CMDLINE: [u8; 16] = *b"\xd8\x2d\xd0\x97\x20\xbd\x94\x4c\xaa\x78\xe7\x71\x4d\x36\xab\x2a";

/// SHA-256 of each file of a measured direct boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashTable {
    /// The kernel file as the VMM has it.
    pub kernel: [u8; 32],
    /// The initrd; of no bytes when there is none.
    pub initrd: [u8; 32],
    /// The command line with its trailing NUL.
    pub cmdline: [u8; 32],
}

impl HashTable {
    /// Hashes the files. The NUL behind the command line is added here.
    pub fn new(kernel: &[u8], initrd: &[u8], cmdline: &[u8]) -> Self {
        let (kernel, initrd) = rayon::join(|| sha256(kernel), || sha256(initrd));
        Self {
            kernel,
            initrd,
            cmdline: Sha256::new()
                .chain_update(cmdline)
                .chain_update([0])
                .finalize()
                .into(),
        }
    }

    /// The table, with its padding.
    pub fn bytes(&self) -> [u8; SIZE] {
        let mut table = [0; SIZE];
        let entries = [
            (CMDLINE, self.cmdline),
            (INITRD, self.initrd),
            (KERNEL, self.kernel),
        ];
        let head = TABLE.into_iter().chain(LENGTH.to_le_bytes());
        let entries = entries.into_iter().flat_map(|(guid, hash)| {
            guid.into_iter()
                .chain(ENTRY_LENGTH.to_le_bytes())
                .chain(hash)
        });
        for (byte, value) in table.iter_mut().zip(head.chain(entries)) {
            *byte = value;
        }
        table
    }

    /// The page that holds the table, `offset` bytes behind its start.
    pub(super) fn page(&self, offset: usize) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        for (byte, value) in page.iter_mut().skip(offset).zip(self.bytes()) {
            *byte = value;
        }
        page
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
