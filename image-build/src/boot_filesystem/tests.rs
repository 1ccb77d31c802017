use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use aes::cipher::Array;
use measured_boot::keys::BootKey;
use measured_boot::verity::Geometry;

use super::{cipher, seal, tweak};

fn key() -> BootKey {
    BootKey::from_slice(&[7; 32]).unwrap()
}

fn sealed(blocks: u64) -> (super::Sealed, Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let plain: Vec<u8> = (0..blocks * 4096)
        .map(|i| (i / 4096 + i % 251) as u8)
        .collect();
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&plain).unwrap();
    let path = folder.path().join("boot.img");
    let output = File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let sealed = seal(key(), &mut source, blocks, &output).unwrap();
    (sealed, plain, fs::read(path).unwrap())
}

/// Decrypts each sector by the definition of dm-crypt's plain64 IV.
#[test]
fn decrypts_to_data_and_hash_tree() {
    for blocks in [1, 2, 255, 256, 257, 700] {
        let (sealed, plain, mut disk) = sealed(blocks);
        let geometry = Geometry::new(blocks).unwrap();
        assert_eq!(disk.len() as u64, geometry.total_blocks() * 4096);
        let keys = key().boot_filesystem(&sealed.content_id);
        let xts = cipher(&keys.volume_key).unwrap();
        for (number, sector) in disk.chunks_exact_mut(4096).enumerate() {
            let mut iv = [0; 16];
            iv[..8].copy_from_slice(&(number as u64 * 8).to_le_bytes());
            xts.decrypt_sector(sector, Array::from(iv));
        }
        assert!(
            disk == [plain, sealed.tree.bytes].concat(),
            "{blocks} blocks"
        );
    }
}

/// IEEE 1619-2007, vector 4 is AES-128; for AES-256, vector 10: 512 bytes of
/// counting bytes, data unit 0xff.
#[test]
fn cipher_matches_the_standards_vector() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    };
    let key = hex(
        "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592",
    );
    let xts = cipher(key.as_slice().try_into().unwrap()).unwrap();
    let mut data: Vec<u8> = (0..512u32).map(|i| i as u8).collect();
    let mut iv = [0; 16];
    iv[0] = 0xff;
    xts.encrypt_sector(&mut data, Array::from(iv));
    assert_eq!(data[..16], hex("1c3b3a102f770386e4836c99e370cf9b")[..]);
    let tweak: Array<u8, aes::cipher::consts::U16> = tweak(0x20);
    assert_eq!(tweak[..3], [0, 1, 0]);
}

#[test]
fn ciphertext_tells_nothing_and_differs_by_content() {
    let (one, plain, disk) = sealed(3);
    assert!(
        !disk
            .windows(16)
            .any(|window| plain.windows(16).any(|p| p == window))
    );
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&plain).unwrap();
    source.write_all_at(&[1], 0).unwrap();
    let output = tempfile::tempfile().unwrap();
    let two = seal(key(), &mut source, 3, &output).unwrap();
    assert_ne!(one.content_id, two.content_id);
    let mut other = vec![0; disk.len()];
    output.read_exact_at(&mut other, 0).unwrap();
    for (a, b) in disk.chunks(16).zip(other.chunks(16)) {
        assert_ne!(a, b, "two contents share ciphertext");
    }
}
