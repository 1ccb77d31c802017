//! From the firmware's bytes to the digest, in the three steps of `super`.

use rayon::prelude::*;
use sha2::{Digest as _, Sha384};

use super::chain::{PageType, VMSA_ADDRESS};
use super::metadata::{Metadata, Section, SectionKind};
use super::{Error, HashTable, LaunchDigest, Machine, PAGE, Vmm, vmsa};

/// A firmware file, read and hashed.
#[derive(Clone, Debug)]
pub struct Firmware {
    metadata: Metadata,
    digest: LaunchDigest,
}

impl Firmware {
    /// Reads the firmware's metadata, and hashes its pages on all cores.
    ///
    /// # Errors
    /// A field that is not what it must be; see [`Error`].
    pub fn read(file: &[u8]) -> Result<Self, Error> {
        let metadata = Metadata::read(file)?;
        let (pages, _) = file.as_chunks::<PAGE>();
        let hashes: Vec<[u8; 48]> = pages
            .par_iter()
            .with_min_len(64)
            .map(|page| sha384(page))
            .collect();
        let addresses = (metadata.address..).step_by(PAGE);
        let digest = hashes
            .iter()
            .zip(addresses)
            .fold(LaunchDigest::START, |digest, (page, address)| {
                digest.with_page(PageType::Normal, address, page)
            });
        Ok(Self { metadata, digest })
    }

    /// Takes only the metadata from the file. The digest after its pages was
    /// computed before, as by [`Self::digest`] or `sev-snp-measure --mode
    /// snp:ovmf-hash`.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn with_digest(file: &[u8], digest: LaunchDigest) -> Result<Self, Error> {
        let metadata = Metadata::read(file)?;
        Ok(Self { metadata, digest })
    }

    /// The launch digest after the firmware's pages alone.
    pub fn digest(&self) -> LaunchDigest {
        self.digest
    }

    /// Whether a kernel that it is given would be measured and checked.
    pub fn checks_kernel(&self) -> bool {
        let mut sections = self.metadata.sections.iter();
        self.metadata.hash_table.is_some()
            && sections.any(|section| section.kind == SectionKind::KernelHashes)
    }

    /// Guest physical address of the first byte.
    pub fn address(&self) -> u64 {
        self.metadata.address
    }

    /// The kinds of its sections with their addresses and sizes in bytes, in
    /// the order of measurement.
    pub fn sections(&self) -> impl Iterator<Item = (SectionKind, u64, u64)> {
        let sections = self.metadata.sections.iter();
        sections.map(|section| (section.kind, section.address, section.size))
    }

    /// Guest physical address of the hash table, where the firmware checks a kernel.
    pub fn hash_table_address(&self) -> Option<u64> {
        let offset = u64::try_from(self.metadata.hash_table?).ok()?;
        let is_page = |section: &&Section| section.kind == SectionKind::KernelHashes;
        let page = self.metadata.sections.iter().find(is_page)?;
        page.address.checked_add(offset)
    }

    /// Where the vCPUs but the first start.
    pub(super) fn reset_eip(&self) -> u32 {
        self.metadata.reset_eip
    }

    /// Continues with the firmware's sections. Without `kernel` the page of the
    /// hash table is measured as a zero page.
    ///
    /// # Errors
    /// [`Error::MissingSection`] when the firmware would not check the kernel.
    pub fn launch(&self, kernel: Option<&HashTable>, vmm: Vmm) -> Result<Launch, Error> {
        let table = match (kernel, self.metadata.hash_table) {
            (Some(table), Some(offset)) if self.checks_kernel() => {
                Some(sha384(&table.page(offset)))
            }
            (Some(_), _) => {
                let section = "SNP_KERNEL_HASHES";
                return Err(Error::MissingSection { section });
            }
            (None, _) => None,
        };
        let mut digest = self.digest;
        // EC2 measures the CPUID page behind all other sections.
        let is_late =
            |section: &&Section| vmm.measures_cpuid_last() && section.kind == SectionKind::Cpuid;
        let sections = &self.metadata.sections;
        for section in sections.iter().filter(|section| !is_late(section)) {
            digest = with_section(digest, section, table.as_ref(), vmm);
        }
        for section in sections.iter().filter(is_late) {
            digest = with_section(digest, section, table.as_ref(), vmm);
        }
        Ok(Launch {
            digest,
            reset_eip: self.reset_eip(),
            vmm,
        })
    }
}

fn with_section(
    digest: LaunchDigest,
    section: &Section,
    table: Option<&[u8; 48]>,
    vmm: Vmm,
) -> LaunchDigest {
    let kind = match section.kind {
        SectionKind::SecureMemory if vmm.leaves_memory_unmeasured() => PageType::Unmeasured,
        SectionKind::SecureMemory | SectionKind::SvsmCallingArea => PageType::Zero,
        SectionKind::Secrets => PageType::Secrets,
        SectionKind::Cpuid => PageType::Cpuid,
        SectionKind::KernelHashes => match table {
            Some(page) => return digest.with_page(PageType::Normal, section.address, page),
            None => PageType::Zero,
        },
    };
    section
        .pages()
        .fold(digest, |digest, address| digest.with_empty(kind, address))
}

/// Everything but the vCPUs.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    digest: LaunchDigest,
    reset_eip: u32,
    vmm: Vmm,
}

impl Launch {
    /// The launch digests of machines with 1, 2, 3, … vCPUs.
    pub fn digests(&self, features: super::GuestFeatures) -> impl Iterator<Item = LaunchDigest> {
        let page = |eip| sha384(&vmsa::page(self.vmm, features.bits(), eip));
        let first = page(vmsa::FIRST_EIP);
        let others = page(self.reset_eip);
        let start = self.digest.with_page(PageType::Vmsa, VMSA_ADDRESS, &first);
        std::iter::successors(Some(start), move |digest| {
            Some(digest.with_page(PageType::Vmsa, VMSA_ADDRESS, &others))
        })
    }

    /// The launch digest with this many vCPUs.
    fn digest(&self, machine: &Machine) -> Option<LaunchDigest> {
        let before = usize::try_from(machine.vcpus().saturating_sub(1)).ok()?;
        self.digests(machine.features).nth(before)
    }
}

impl Machine {
    /// The digest that a report of this machine shows.
    ///
    /// # Errors
    /// [`Error::MissingSection`] when the firmware would not check the kernel.
    pub fn launch_digest(
        &self,
        firmware: &Firmware,
        kernel: Option<&HashTable>,
    ) -> Result<LaunchDigest, Error> {
        let launch = firmware.launch(kernel, self.vmm)?;
        Ok(launch.digest(self).unwrap_or(launch.digest))
    }
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    Sha384::digest(bytes).into()
}
