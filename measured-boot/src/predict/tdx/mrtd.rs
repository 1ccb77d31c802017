//! MRTD: one SHA-384 over what the VMM asked the TDX module for.
//!
//! "Intel TDX Module Base Architecture Specification", "TD Measurement":
//! `TDH.MEM.PAGE.ADD` hashes 128 bytes with the page's address, and
//! `TDH.MR.EXTEND`, for 256 bytes at a time, 128 bytes with their address and
//! then the bytes themselves. The order of the calls is the VMM's.

use sha2::{Digest, Sha384};

use super::metadata::Section;

/// In which order a VMM adds and extends the pages of one section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOrder {
    /// Each page is extended when it was added: Linux 6.16 and later
    /// (`KVM_TDX_INIT_MEM_REGION` with `KVM_TDX_MEASURE_MEMORY_REGION`).
    EachPage,
    /// All pages of a section are added, then all are extended: the patches
    /// before that, where extending was a call of its own.
    EachSection,
}

const PAGE: usize = 4096;
const CHUNK: usize = 256;
const PAGE_ADD: &[u8] = b"MEM.PAGE.ADD";
const MR_EXTEND: &[u8] = b"MR.EXTEND";

/// The register of a TD with these sections of this firmware.
pub(super) fn mrtd(firmware: &[u8], sections: &[Section], order: PageOrder) -> [u8; 48] {
    let mut hash = Sha384::new();
    for section in sections.iter().filter(|section| section.added) {
        let data = firmware.get(section.data.clone()).unwrap_or_default();
        let pages = || {
            let mut rest = data;
            (0..section.pages).map(move |index| {
                let (page, after) = rest.split_at(rest.len().min(PAGE));
                rest = after;
                let offset = index.saturating_mul(PAGE as u64);
                (section.address.saturating_add(offset), page)
            })
        };
        match order {
            PageOrder::EachPage => {
                for (address, page) in pages() {
                    hash.update(buffer(PAGE_ADD, address));
                    if section.extended {
                        extend(&mut hash, address, page);
                    }
                }
            }
            PageOrder::EachSection => {
                pages().for_each(|(address, _)| hash.update(buffer(PAGE_ADD, address)));
                if section.extended {
                    pages().for_each(|(address, page)| extend(&mut hash, address, page));
                }
            }
        }
    }
    hash.finalize().into()
}

/// One page; what the file does not give of it is zero.
fn extend(hash: &mut Sha384, address: u64, page: &[u8]) {
    for start in (0..PAGE).step_by(CHUNK) {
        let given = page.get(start..).unwrap_or_default();
        let given = given.get(..CHUNK).unwrap_or(given);
        hash.update(buffer(MR_EXTEND, address.saturating_add(start as u64)));
        hash.update(given);
        hash.update([0; CHUNK].get(given.len()..).unwrap_or_default());
    }
}

/// `EXTENSION_BUFFER`: the call's name, and at byte 16 the address.
fn buffer(name: &[u8], address: u64) -> [u8; 128] {
    let mut buffer = [0; 128];
    buffer
        .iter_mut()
        .zip(name)
        .for_each(|(to, from)| *to = *from);
    let at = buffer.iter_mut().skip(16);
    at.zip(address.to_le_bytes())
        .for_each(|(to, from)| *to = from);
    buffer
}
