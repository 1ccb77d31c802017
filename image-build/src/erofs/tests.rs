use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::{BLOCK_SIZE, write};
use crate::fixture::{self, Layer};
use crate::spool::{Extent, Spool};
use crate::tree::{Content, Entry, Leaf, Metadata, Tree};

fn spool() -> Spool {
    Spool::new(&std::env::temp_dir(), 1 << 40).unwrap()
}

fn add(tree: &mut Tree, path: &[&str], name: &[u8], content: Content) {
    let parent: Vec<_> = path.iter().map(|part| part.as_bytes().to_vec()).collect();
    let metadata = Metadata {
        uid: 70_000,
        gid: 8,
        ..Metadata::root(0o640)
    };
    let entry = Entry::Leaf(Arc::new(Leaf { metadata, content }));
    tree.make_directory(&parent, 0).unwrap().insert(name, entry);
}

/// Everything the format treats differently.
fn varied(spool: &mut Spool) -> Tree {
    let mut tree = Tree::default();
    for size in [
        0, 1, 31, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 100_000,
    ] {
        let data: Vec<u8> = (0..size).map(|i: u32| (i * 7 + size) as u8).collect();
        let extent = spool.append_bytes(&data).unwrap();
        let name = format!("size-{size}");
        add(
            &mut tree,
            &["files"],
            name.as_bytes(),
            Content::File(extent),
        );
    }
    for index in 0..1500 {
        let name = format!("{index:04}-{}", "x".repeat(index % 200));
        let extent = spool.append_bytes(name.as_bytes()).unwrap();
        add(&mut tree, &["many"], name.as_bytes(), Content::File(extent));
    }
    for length in [1, 254, 255] {
        add(
            &mut tree,
            &["names"],
            &vec![b'n'; length],
            Content::File(Extent::default()),
        );
    }
    // Around '.' and '..' in the order of bytes, and not UTF-8.
    for name in [
        &b"!"[..],
        b"-",
        b"...",
        b".a",
        b"/a".strip_prefix(b"/").unwrap(),
        b"\xff\xfe",
    ] {
        add(
            &mut tree,
            &["order"],
            name,
            Content::File(Extent::default()),
        );
    }
    for length in [1, 4000, 4094] {
        let target = vec![b't'; length];
        let name = format!("link-{length}");
        add(
            &mut tree,
            &["links"],
            name.as_bytes(),
            Content::Symlink(target),
        );
    }
    tree.make_directory(&[b"empty".to_vec()], 0).unwrap();
    let deep: Vec<_> = (0..200).map(|i| format!("d{i}").into_bytes()).collect();
    tree.make_directory(&deep, 0).unwrap();
    tree
}

fn image(tree: &Tree, spool: &Spool, path: &Path) -> u64 {
    let file = File::create(path).unwrap();
    let blocks = write(tree, spool, &file).unwrap();
    assert_eq!(file.metadata().unwrap().len(), blocks * BLOCK_SIZE);
    blocks
}

fn fsck(arguments: &[&str], image: &Path) {
    let complaints = fsck_complaints(arguments, image);
    assert!(complaints.is_empty(), "{complaints}");
}

/// Version 1.5 says what is wrong and exits with 0 all the same.
fn fsck_complaints(arguments: &[&str], image: &Path) -> String {
    let mut fsck = Command::new("fsck.erofs");
    let output = fsck.args(arguments).arg(image).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() && !text.contains("<E>") {
        return String::new();
    }
    format!("{}: {text}", output.status)
}

/// Path, type and mode, owner, links and contents of everything below a folder.
type Listing = BTreeMap<Vec<u8>, (u32, u32, u32, u64, Vec<u8>)>;

fn list_folder(root: &Path, folder: &Path, listing: &mut Listing) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let contents = if metadata.is_dir() {
            list_folder(root, &path, listing);
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
        let (uid, gid) = (metadata.uid(), metadata.gid());
        listing.insert(
            name,
            (metadata.mode(), uid, gid, metadata.nlink(), contents),
        );
    }
}

fn list_tree(tree: &Tree, spool: &Spool) -> Listing {
    fn walk(path: &[u8], entry: &Entry, spool: &Spool, listing: &mut Listing) {
        let (metadata, kind, links, contents) = match entry {
            Entry::Directory(directory) => {
                let mut links = 2;
                for (name, below) in directory.entries() {
                    links += u64::from(matches!(below, Entry::Directory(_)));
                    let path = [path, b"/", name].concat();
                    walk(
                        path.strip_prefix(b"/").unwrap_or(&path),
                        below,
                        spool,
                        listing,
                    );
                }
                (&directory.metadata, 0o040_000, links, Vec::new())
            }
            Entry::Leaf(leaf) => {
                let links = Arc::strong_count(leaf) as u64;
                match &leaf.content {
                    Content::File(extent) => {
                        let bytes = spool.bytes(*extent, u64::MAX).unwrap();
                        (&leaf.metadata, 0o100_000, links, bytes)
                    }
                    Content::Symlink(target) => (&leaf.metadata, 0o120_000, links, target.clone()),
                }
            }
        };
        // A link's own mode does not exist on the filesystem it is extracted to.
        let mode = if kind == 0o120_000 {
            0o777
        } else {
            u32::from(metadata.mode)
        };
        let value = (kind | mode, metadata.uid, metadata.gid, links, contents);
        listing.insert(path.to_vec(), value);
    }
    let mut listing = Listing::new();
    walk(
        b"",
        &Entry::Directory(tree.root.clone()),
        spool,
        &mut listing,
    );
    listing.remove(&b""[..]);
    listing
}

/// The extraction test needs root for owners; without it they are not compared.
fn comparable(mut listing: Listing, root: bool) -> Listing {
    for value in listing.values_mut() {
        // The number of links of a directory is a matter of the filesystem it
        // is extracted to, and fsck.erofs 1.5 extracts hardlinks as copies.
        value.3 = 0;
        if !root {
            (value.0, value.1, value.2) = (value.0 & !0o7777, 0, 0);
        }
    }
    listing
}

#[test]
fn fsck_extracts_the_same_tree() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool();
    let tree = varied(&mut spool);
    let path = folder.path().join("image");
    image(&tree, &spool, &path);

    let extracted = folder.path().join("extracted");
    let extract = format!("--extract={}", extracted.display());
    fsck(&[&extract], &path);

    let root = nix::unistd::geteuid().is_root();
    let mut found = Listing::new();
    list_folder(&extracted, &extracted, &mut found);
    let (found, expected) = (
        comparable(found, root),
        comparable(list_tree(&tree, &spool), root),
    );
    for (path, value) in &expected {
        let shown = path.escape_ascii();
        assert!(
            found.get(path) == Some(value),
            "{shown}: {:?}",
            found.get(path).map(|v| v.0)
        );
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn dump_agrees_about_links_owners_and_attributes() {
    let folder = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.user.one", b"a\nvalue"),
            (
                "SCHILY.xattr.security.capability",
                &[1, 0, 0, 2, 10, 0, 0, 0],
            ),
        ])
        .owned("a", (70_000, 3), b"data")
        .hardlink("b", "a")
        .finish();
    let (tree, spool, _) = fixture::apply(&[layer]).unwrap();
    let path = folder.path().join("image");
    image(&tree, &spool, &path);
    fsck(&[], &path);
    let dump = |name: &str| {
        let output = Command::new("dump.erofs")
            .args([&format!("--path={name}"), path.to_str().unwrap()])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for name in ["/a", "/b"] {
        let text = dump(name);
        assert!(text.contains("Links: 2"), "{text}");
        assert!(text.contains("Uid: 70000"), "{text}");
        assert!(text.contains("Xattr size: "), "{text}");
    }
    let nid = |text: String| text.lines().find(|l| l.contains("NID")).unwrap().to_owned();
    assert_eq!(nid(dump("/a")), nid(dump("/b")));

    // The attribute with a newline in it, as it lies in the image.
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.windows(10).any(|window| window == b"onea\nvalue"));
}

#[test]
fn checksum_catches_an_altered_superblock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&Tree::default(), &spool(), &path);
    fsck(&[], &path);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1024 + 16] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(fsck_complaints(&[], &path).contains("chksum"));
}

#[test]
fn files_over_four_gigabytes_keep_their_place() {
    // A spool with a hole: the data costs neither time nor disk.
    let folder = tempfile::tempdir().unwrap();
    let hole = folder.path().join("hole");
    let size = (5 << 30) + 123;
    File::create(&hole).unwrap().set_len(size).unwrap();
    let spool = Spool::of_file(File::open(&hole).unwrap()).unwrap();
    let mut tree = Tree::default();
    let big = Extent { offset: 0, size };
    let small = Extent {
        offset: 0,
        size: 5000,
    };
    add(&mut tree, &[], b"a-big", Content::File(big));
    add(&mut tree, &[], b"z-small", Content::File(small));
    struct Discard(u64);
    impl std::io::Write for Discard {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut output = Discard(0);
    let blocks = write(&tree, &spool, &mut output).unwrap();
    assert_eq!(output.0, blocks * BLOCK_SIZE);
    assert_eq!(blocks, 1 + 1 + (5 << 30) / BLOCK_SIZE + 1);
}

#[test]
fn same_tree_gives_the_same_bits() {
    let mut first = Vec::new();
    let mut second = Vec::new();
    let (mut one, mut two) = (spool(), spool());
    two.append_bytes(b"so that offsets in the spool differ")
        .unwrap();
    write(&varied(&mut one), &one, &mut first).unwrap();
    write(&varied(&mut two), &two, &mut second).unwrap();
    first.flush().unwrap();
    assert!(first == second);
}
