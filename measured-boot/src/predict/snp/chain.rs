//! How one page changes the digest: `PAGE_INFO` (56860, section 8.17.2, table 67).

use sha2::{Digest as _, Sha384};

use super::LaunchDigest;

/// Bytes of `PAGE_INFO`.
const PAGE_INFO: u16 = 0x70;
/// Contents of pages that the secure processor or the firmware fills itself.
const UNMEASURED: [u8; 48] = [0; 48];

/// Where the secure processor takes a VMSA to be: all address bits of the page
/// set, up to bit 51 as KVM gives it.
pub(super) const VMSA_ADDRESS: u64 = 0xffff_ffff_f000;

/// `PAGE_TYPE` (56860, table 66), without the types that no VMM here uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageType {
    Normal,
    Vmsa,
    Zero,
    Unmeasured,
    Secrets,
    Cpuid,
}

impl LaunchDigest {
    /// Before the first page.
    pub(super) const START: Self = Self([0; 48]);

    /// The digest after a page whose contents count.
    pub(super) fn with_page(self, kind: PageType, address: u64, contents: &[u8; 48]) -> Self {
        let mut hash = Sha384::new();
        hash.update(self.0);
        hash.update(contents);
        hash.update(PAGE_INFO.to_le_bytes());
        // IMI_PAGE, the permissions of VMPL 3, 2 and 1, and a reserved byte: zero.
        hash.update([kind.code(), 0, 0, 0, 0, 0]);
        hash.update(address.to_le_bytes());
        Self(hash.finalize().into())
    }

    /// The digest after a page of which only kind and address count.
    pub(super) fn with_empty(self, kind: PageType, address: u64) -> Self {
        self.with_page(kind, address, &UNMEASURED)
    }
}

impl PageType {
    fn code(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::Vmsa => 2,
            Self::Zero => 3,
            Self::Unmeasured => 4,
            Self::Secrets => 5,
            Self::Cpuid => 6,
        }
    }
}
