//! dm-integrity's journal, as far as it is empty (Linux 6.12
//! `drivers/md/dm-integrity.c`, `init_journal`).

use measured_boot::volume::{JOURNAL_SECTION, Volume};

const SECTOR: usize = 512;
/// Sectors of entries at the start of a section.
const ENTRY_SECTORS: usize = 8;
/// Offsets of the upper half of the entries' sector numbers in such a sector; an
/// entry has 104 bytes. All ones: the entry is unused.
const ENTRIES: [usize; 4] = [4, 108, 212, 316];
const UNUSED: [u8; 4] = [0xff; 4];
/// Start of every commit id of the first round.
const COMMIT_ID: u64 = 0x1111_1111_1111_1111;

/// A journal without an entry, as the kernel writes it at first.
pub(super) fn unused(volume: &Volume) -> Vec<u8> {
    let mut journal = Vec::new();
    for section in 0..volume.journal_sections() {
        for (index, number) in (0..JOURNAL_SECTION).enumerate() {
            let mut sector = [0; SECTOR];
            if index < ENTRY_SECTORS {
                for offset in ENTRIES {
                    put(&mut sector, offset, &UNUSED);
                }
            }
            let id = COMMIT_ID ^ (section << 32) ^ number;
            put(&mut sector, SECTOR.saturating_sub(8), &id.to_le_bytes());
            journal.extend_from_slice(&sector);
        }
    }
    journal
}

/// Whether no entry is in use: everything written is in its place.
pub(super) fn is_unused(journal: &[u8]) -> bool {
    let section = usize::try_from(JOURNAL_SECTION).unwrap_or(usize::MAX);
    journal
        .chunks(section.saturating_mul(SECTOR))
        .flat_map(|section| section.chunks(SECTOR).take(ENTRY_SECTORS))
        .all(|sector| {
            ENTRIES.iter().all(|offset| {
                sector
                    .get(*offset..)
                    .is_some_and(|at| at.starts_with(&UNUSED))
            })
        })
}

fn put(sector: &mut [u8; SECTOR], offset: usize, value: &[u8]) {
    for (byte, from) in sector.iter_mut().skip(offset).zip(value) {
        *byte = *from;
    }
}
