use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use measured_boot::keys::VolumeKey;
use tempfile::TempDir;

use super::{Sectors, create, describe, ext4, extract, journal};
use crate::config::Config;

const BLOCK: usize = 4096;

/// A folder with a configuration, a key and a volume of 16 MiB.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scene = Self { folder };
        scene.configure("data", "16M", 1);
        fs::write(scene.path("key"), [7; 32]).unwrap();
        create(
            &scene.path("config"),
            "data",
            &scene.path("key"),
            &scene.path("disk"),
        )
        .unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, name: &str, size: &str, epoch: u64) {
        let text = format!(
            "[image]\nname = \"x\"\nversion = 1\n[[volume]]\nname = \"{name}\"\n\
             key = \"kbs:///x/data/key\"\nmount = \"/data\"\nsize = \"{size}\"\nepoch = {epoch}\n"
        );
        fs::write(self.path("config"), text).unwrap();
    }

    fn extract(&self, name: &str) -> Result<(), String> {
        let (config, key) = (self.path("config"), self.path("key"));
        let (disk, out) = (self.path("disk"), self.path("out"));
        let done = extract(&config, name, &key, &disk, &out).map_err(|error| format!("{error:#}"));
        assert_eq!(done.is_ok(), out.exists(), "{done:?}");
        done
    }

    fn volume(&self) -> measured_boot::volume::Volume {
        let config = Config::read(&self.path("config")).unwrap();
        describe(&config.volume).unwrap()[0].volume().unwrap()
    }
}

fn tool(name: &str, arguments: &[&str], file: &std::path::Path) -> String {
    let mut command = Command::new(format!("/usr/sbin/{name}"));
    let done = command.args(arguments).arg(file).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{name}: {text}");
    text
}

#[test]
fn what_was_made_is_read_back_and_is_a_clean_ext4() {
    let scene = Scene::new();
    let mode = fs::metadata(scene.path("disk")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    scene.extract("data").unwrap();
    tool("e2fsck", &["-fn"], &scene.path("out"));
    let said = tool("dumpe2fs", &["-h"], &scene.path("out"));
    for words in ["has_journal", "metadata_csum", "4096"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(fs::metadata(scene.path("out")).unwrap().len(), 16 << 20);
}

#[test]
fn what_ext4_may_read_was_written_and_nothing_of_it_shows() {
    let scene = Scene::new();
    let plain = ext4::make(4096, scene.folder.path()).unwrap();
    let extents = ext4::extents(plain.as_file()).unwrap();
    let written: u64 = extents.iter().map(|e| e.end - e.start).sum();
    // 16 bytes of inode table for every KiB, and 4 MiB of journal.
    assert!((64 + 1024..1200).contains(&written), "{written}");

    let disk = fs::read(scene.path("disk")).unwrap();
    let first = usize::try_from(scene.volume().first_area()).unwrap() * 512;
    let tags = &disk[first..first + 4096 * 32];
    let authenticated = tags.chunks(32).filter(|tag| tag.iter().any(|b| *b != 0));
    assert_eq!(authenticated.count() as u64, written);
    let data = &disk[first + 256 * 512..];
    let superblock_magic = &data[1024 + 56..1024 + 58];
    assert_ne!(superblock_magic, [0x53, 0xef]);
    assert!(tags[..32] != tags[32..64]);
}

#[test]
fn any_other_byte_is_found() {
    let scene = Scene::new();
    let disk = fs::read(scene.path("disk")).unwrap();
    let area = usize::try_from(scene.volume().first_area()).unwrap() * 512;
    for (offset, what) in [
        (20, "its header is another one: name"),
        (130, "its header is another one: padding"),
        (BLOCK + 12, "superblock was altered"),
        (2 * BLOCK + 7, "its journal is in use"),
        (area, "block 0 was altered"),
        (area + 256 * 512 + 17, "block 0 was altered"),
    ] {
        let mut changed = disk.clone();
        changed[offset] ^= 1;
        fs::write(scene.path("disk"), changed).unwrap();
        let error = scene.extract("data").unwrap_err();
        assert!(error.contains(what), "{offset}: {error}");
    }
    // A sector with its tag, in another place.
    let mut changed = disk.clone();
    let data = area + 256 * 512;
    changed.copy_within(data..data + BLOCK, data + BLOCK);
    changed.copy_within(area..area + 32, area + 32);
    fs::write(scene.path("disk"), changed).unwrap();
    let error = scene.extract("data").unwrap_err();
    assert!(error.contains("block 1 was altered"), "{error}");
    fs::write(scene.path("disk"), &disk[..disk.len() - BLOCK]).unwrap();
    scene.extract("data").unwrap_err();
}

#[test]
fn another_volume_epoch_or_key_does_not_open() {
    let scene = Scene::new();
    scene.configure("data", "16M", 2);
    assert!(scene.extract("data").unwrap_err().contains("epoch"));
    scene.configure("logs", "16M", 1);
    assert!(scene.extract("logs").unwrap_err().contains("name"));
    assert!(scene.extract("data").unwrap_err().contains("cannot find"));
    scene.configure("data", "32M", 1);
    scene.extract("data").unwrap_err();
    scene.configure("data", "16M", 1);
    fs::write(scene.path("key"), [8; 32]).unwrap();
    assert!(
        scene
            .extract("data")
            .unwrap_err()
            .contains("authentication")
    );
}

#[test]
fn refuses_what_would_be_overwritten_and_what_is_no_volume() {
    let scene = Scene::new();
    let again = create(
        &scene.path("config"),
        "data",
        &scene.path("key"),
        &scene.path("disk"),
    );
    assert!(format!("{:#}", again.unwrap_err()).contains("exists"));
    scene.configure("data", "16777217", 1);
    assert!(scene.extract("data").unwrap_err().contains("multiple"));
    scene.configure("data", "1M", 1);
    assert!(scene.extract("data").unwrap_err().contains("out of bounds"));
}

#[test]
fn places_are_those_of_dm_integrity() {
    let scene = Scene::new();
    let volume = scene.volume();
    let key = VolumeKey::from_slice(&[7; 32]).unwrap();
    let sectors = Sectors::new(&volume, &key.volume(&volume.identity())).unwrap();
    // Header, superblock, two sections of the journal; then tags and data by turns.
    let first = (16 + 2 * 264) * 512;
    let area = (256 + 32768) * 512;
    for (block, tag, data) in [
        (0, first, first + 256 * 512),
        (1, first + 32, first + 256 * 512 + 4096),
        (4095, first + 4095 * 32, first + area - 4096),
        (4096, first + area, first + area + 256 * 512),
    ] {
        assert_eq!(sectors.places(block), (tag, data), "{block}");
    }
}

#[test]
fn a_new_journal_is_unused_and_every_sector_says_where_it_is() {
    let scene = Scene::new();
    let journal = journal::unused(&scene.volume());
    assert_eq!(journal.len(), 2 * 264 * 512);
    assert!(journal::is_unused(&journal));
    let id =
        |sector: usize| u64::from_le_bytes(*journal[sector * 512..][504..].first_chunk().unwrap());
    assert_eq!(id(0), 0x1111_1111_1111_1111);
    assert_eq!(id(9), 0x1111_1111_1111_1118);
    assert_eq!(id(264), 0x1111_1110_1111_1111);
    // The entries of the first sectors, and nothing else.
    assert_eq!(journal[4..8], [0xff; 4]);
    assert_eq!(journal[108..112], [0xff; 4]);
    assert_eq!(journal[7 * 512 + 316..][..4], [0xff; 4]);
    assert_eq!(journal[8 * 512..][..504], [0; 504]);
}
