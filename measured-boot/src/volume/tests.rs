use super::*;
use crate::keys::VolumeKey;

fn volume(name: &str, data_blocks: u64, epoch: u64) -> Volume {
    Volume::new(name, data_blocks, epoch).unwrap()
}

fn keys(volume: &Volume) -> VolumeKeys {
    let key = VolumeKey::from_slice(&[7; 32]).unwrap();
    key.volume(&volume.identity())
}

#[test]
fn layout_is_the_one_the_kernel_computes() {
    assert_eq!((TAG_AREA, JOURNAL_SECTION), (256, 264));
    // 64 MiB: 131072 sectors, 3 sections, 4 whole areas.
    let volume = volume("data", 16384, 1);
    assert_eq!(volume.journal_sections(), 3);
    assert_eq!(volume.first_area(), 16 + 3 * 264);
    assert_eq!(volume.disk_sectors(), 16 + 3 * 264 + 4 * 256 + 131_072);
}

#[test]
fn a_last_area_that_is_not_full_has_all_its_tags() {
    let volume = volume("data", 16384 + 1, 1);
    assert_eq!(volume.disk_sectors(), 16 + 3 * 264 + 5 * 256 + 131_080);
}

#[test]
fn the_journal_has_bounds() {
    assert_eq!(volume("data", 1 << 12, 1).journal_sections(), 2);
    assert_eq!(volume("data", 1 << 28, 1).journal_sections(), 124);
}

#[test]
fn rejects_names_and_sizes_out_of_bounds() {
    for name in ["", "Data", "a/b", "a_b", "thirteenchars"] {
        assert_eq!(Volume::new(name, 16384, 1), None, "{name}");
    }
    assert_eq!(Volume::new("data", 4095, 1), None);
    assert_eq!(Volume::new("data", (1 << 28) + 1, 1), None);
    assert_eq!("volume-".len() + "twelve-chars".len(), 19);
    volume("twelve-chars", 4096, 1);
}

#[test]
fn a_header_with_any_byte_changed_is_refused_by_its_field() {
    let volume = volume("data", 16384, 1);
    let header = volume.header(&keys(&volume));
    assert_eq!(header.len(), BLOCK_SIZE);
    assert_eq!(volume.check_header(&header, &keys(&volume)), Ok(()));
    for (name, range) in FIELDS {
        for offset in [range.start, range.end - 1] {
            let mut changed = header.clone();
            changed[offset] ^= 1;
            let refused = volume.check_header(&changed, &keys(&volume));
            assert_eq!(refused, Err(Mismatch(name)));
        }
    }
    let short = volume.check_header(&header[..BLOCK_SIZE - 1], &keys(&volume));
    assert_eq!(short, Err(Mismatch("padding")));
}

#[test]
fn every_member_of_the_identity_changes_header_and_keys() {
    let one = volume("data", 16384, 1);
    for other in [
        volume("date", 16384, 1),
        volume("data", 16385, 1),
        volume("data", 16384, 2),
    ] {
        assert_ne!(*keys(&one).data, *keys(&other).data);
        assert_ne!(*keys(&one).header, *keys(&other).header);
        let header = other.header(&keys(&other));
        assert!(one.check_header(&header, &keys(&one)).is_err());
    }
    let header = one.header(&keys(&one));
    let wrong = VolumeKey::from_slice(&[8; 32]).unwrap();
    let refused = one.check_header(&header, &wrong.volume(&one.identity()));
    assert_eq!(refused, Err(Mismatch("authentication")));
    assert_ne!(keys(&one).data[..64], *keys(&one).header);
}

#[test]
fn superblock_is_laid_out_as_the_kernel_reads_it() {
    let block = volume("data", 16384, 1).superblock();
    assert_eq!(block.len(), BLOCK_SIZE);
    assert_eq!(block[..12], *b"integrt\0\x01\x0f\x20\x00");
    assert_eq!(block[12..16], 3u32.to_le_bytes());
    assert_eq!(block[16..24], 131_072_u64.to_le_bytes());
    assert_eq!(block[24..30], [0, 0, 0, 0, 3, 12]);
    assert!(block[30..].iter().all(|byte| *byte == 0));
}

#[test]
fn tables_say_everything() {
    let volume = volume("data", 16384, 1);
    assert_eq!(
        volume.integrity_table("254:3"),
        "254:3 8 32 J 6 block_size:4096 journal_sectors:792 interleave_sectors:32768 \
         buffer_sectors:128 journal_watermark:50 commit_time:10000"
    );
    let table = crypt_table("254:4", &keys(&volume));
    let key = base16::encode(&*keys(&volume).data);
    assert_eq!(
        *table,
        format!(
            "capi:authenc(hmac(sha256),xts(aes))-plain64 {key} 0 254:4 0 2 \
             integrity:32:aead sector_size:4096"
        )
    );
}

#[test]
fn prints_no_secret() {
    let volume = volume("data", 16384, 1);
    assert_eq!(format!("{:?}", keys(&volume)), "VolumeKeys(redacted)");
    let key = VolumeKey::from_slice(&[7; 32]).unwrap();
    assert_eq!(format!("{key:?}"), "VolumeKey(BootKey(redacted))");
}
