use std::fs;

use super::{Image, Sha256Digest};
use crate::fixture::{docker_archive, layers, layout, runtime};
use crate::notes::Notes;
use crate::progress::Progress;
use crate::spool::Spool;
use crate::tree::Tree;

const LIMIT: u64 = 1 << 26;

fn open(path: &std::path::Path, pin: Option<&Sha256Digest>) -> anyhow::Result<(Image, Tree)> {
    let folder = std::env::temp_dir();
    let image = Image::open(path, pin, &folder, LIMIT)?;
    let mut spool = Spool::new(&folder, LIMIT)?;
    let tree = image.unpack(&mut spool, &mut Notes::default(), LIMIT, &Progress::quiet())?;
    Ok((image, tree))
}

fn error(path: &std::path::Path, pin: Option<&Sha256Digest>) -> String {
    format!("{:#}", open(path, pin).map(drop).unwrap_err())
}

#[test]
fn opens_layouts_and_archives_and_compares_the_pin() {
    let folder = tempfile::tempdir().unwrap();
    let layout_path = folder.path().join("layout");
    let digest = layout(&layout_path, &layers(), &runtime());
    let (image, tree) = open(&layout_path, Some(&digest)).unwrap();
    assert_eq!(image.digest, digest);
    assert!(tree.leaf(b"/usr/bin/app").is_ok());
    assert!(tree.leaf(b"/etc/gone").is_err());

    let (archive, config_digest) = docker_archive(&layers(), &runtime());
    let plain = folder.path().join("image.tar");
    fs::write(&plain, &archive).unwrap();
    assert_eq!(
        open(&plain, Some(&config_digest)).unwrap().0.digest,
        config_digest
    );
    let zstd = folder.path().join("image.tar.zst");
    fs::write(&zstd, zstd::encode_all(archive.as_slice(), 1).unwrap()).unwrap();
    assert!(open(&zstd, None).is_ok());

    let other = Sha256Digest([7; 32]);
    for path in [&layout_path, &plain] {
        let text = error(path, Some(&other));
        assert!(text.contains("expected the pinned sha256:0707"), "{text}");
    }
}

#[test]
fn opens_what_stock_tools_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layout");
    layout(&path, &layers(), &runtime());
    let copy = |target: &str| {
        let done = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(["--override-os=linux", "--override-arch=amd64"])
            .arg(format!("oci:{}", path.display()))
            .arg(target)
            .status();
        assert!(done.unwrap().success(), "{target}");
    };
    // skopeo reads an index with several images by a reference only.
    let index = fs::read(path.join("index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    index["manifests"].as_array_mut().unwrap().truncate(1);
    fs::write(path.join("index.json"), index.to_string()).unwrap();
    for kind in ["oci-archive", "docker-archive"] {
        let target = folder.path().join(kind);
        copy(&format!("{kind}:{}:demo:latest", target.display()));
        let (_, tree) = open(&target, None).unwrap();
        assert!(tree.leaf(b"/bin/app").is_ok(), "{kind}");
    }
}

#[test]
fn rejects_every_altered_blob() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layout");
    layout(&path, &layers(), &runtime());
    open(&path, None).unwrap();
    let mut altered = 0;
    for entry in fs::read_dir(path.join("blobs/sha256")).unwrap() {
        let blob = entry.unwrap().path();
        let genuine = fs::read(&blob).unwrap();
        let mut bytes = genuine.clone();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&blob, &bytes).unwrap();
        let text = error(&path, None);
        assert!(text.contains("got digest"), "{text}");
        bytes[last] ^= 1;
        bytes.push(0);
        fs::write(&blob, &bytes).unwrap();
        let text = error(&path, None);
        assert!(text.contains("bytes, expected"), "{text}");
        fs::write(&blob, genuine).unwrap();
        altered += 1;
    }
    assert_eq!(altered, 4);
}

#[test]
fn rejects_a_layer_bomb() {
    let bomb = crate::fixture::Layer::new().file("zeros", 0o644, &vec![0; 1 << 27]);
    let folder = tempfile::tempdir().unwrap();
    layout(folder.path(), &[bomb.finish()], &runtime());
    let text = error(folder.path(), None);
    assert!(
        text.contains("more than the limit of 67108864 bytes"),
        "{text}"
    );
}

/// Whatever is done to an archive, the answer is an image or an error.
#[test]
fn mutated_archives_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.tar");
    let (archive, _) = docker_archive(&layers(), &runtime());
    let mut state = 12345u32;
    let mut random = |bound: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % bound
    };
    let mut refused = 0;
    for _ in 0..400 {
        let mut bytes = archive.clone();
        for _ in 0..=random(4) {
            // Headers are where parsing happens.
            let header = random(bytes.len() / 512) * 512;
            let at = header + random(512);
            bytes[at] = random(256) as u8;
        }
        if random(8) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        fs::write(&path, &bytes).unwrap();
        refused += usize::from(open(&path, None).is_err());
    }
    assert!(refused > 100, "only {refused} of 400 were refused");
}
