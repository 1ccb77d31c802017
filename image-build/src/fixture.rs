//! Container images made by hand, for the tests.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::notes::Notes;
use crate::oci::Sha256Digest;
use crate::spool::Spool;
use crate::tree::Tree;
use crate::tree::layer::Layers;

/// An ELF header of x86-64, which is all that the builder looks at.
pub(crate) const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0";

/// A layer in the making.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn raw(mut self, name: &str, kind: EntryType, link: &str, data: &[u8]) -> Self {
        self.push(name, kind, link, 0o755, (0, 0), data);
        self
    }

    pub(crate) fn file(mut self, name: &str, mode: u32, data: &[u8]) -> Self {
        self.push(name, EntryType::Regular, "", mode, (0, 0), data);
        self
    }

    pub(crate) fn owned(mut self, name: &str, owner: (u64, u64), data: &[u8]) -> Self {
        self.push(name, EntryType::Regular, "", 0o640, owner, data);
        self
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.raw(name, EntryType::Directory, "", &[])
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(name, EntryType::Symlink, target, &[])
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(name, EntryType::Link, target, &[])
    }

    /// PAX records for the member after them.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + body.to_string().len();
            length = body + length.to_string().len();
            write!(data, "{length} {key}=").unwrap();
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw("pax", EntryType::XHeader, "", &data)
    }

    fn push(
        &mut self,
        name: &str,
        kind: EntryType,
        link: &str,
        mode: u32,
        (uid, gid): (u64, u64),
        data: &[u8],
    ) {
        let mut header = Header::new_gnu();
        // Past the writer's own checks: bad names are what is tested.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Applies layers to an empty tree.
pub(crate) fn apply(layers: &[Vec<u8>]) -> anyhow::Result<(Tree, Spool, Notes)> {
    let mut spool = Spool::new(&std::env::temp_dir(), 1 << 30)?;
    let mut notes = Notes::default();
    let mut applied = Layers::new(&mut spool, &mut notes);
    for layer in layers {
        applied.apply(layer.as_slice())?;
    }
    let tree = applied.tree;
    Ok((tree, spool, notes))
}

/// The smallest image that runs something.
pub(crate) fn layers() -> Vec<Vec<u8>> {
    let base = Layer::new()
        .directory("bin")
        .file("bin/app", 0o755, ELF)
        .symlink("usr/bin", "../bin")
        .directory("etc")
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n",
        )
        .file(
            "etc/group",
            0o644,
            b"www:x:44:\nmail:x:8:web,root\nlog:x:9:web\n",
        )
        .file("etc/gone", 0o644, b"old");
    let top = Layer::new()
        .file("etc/.wh.gone", 0o644, b"")
        .file("srv/data", 0o644, &[7; 10_000]);
    vec![base.finish(), top.finish()]
}

pub(crate) fn runtime() -> Value {
    json!({"Entrypoint": ["app"], "Cmd": ["--serve"], "User": "web", "WorkingDir": "/srv/",
           "Env": ["PATH=/usr/bin:/bin", "A=1"], "StopSignal": "SIGQUIT"})
}

/// Writes an OCI layout and gives the image's manifest digest.
pub(crate) fn layout(folder: &Path, layers: &[Vec<u8>], runtime: &Value) -> Sha256Digest {
    fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = Sha256Digest::of(bytes);
        fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    };
    let descriptor = |kind: &str, bytes: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
               "digest": blob(bytes).to_string(), "size": bytes.len()})
    };
    let config = config_json(layers, runtime);
    let descriptors = layers.iter().map(|layer| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(layer).unwrap();
        descriptor("layer.v1.tar+gzip", &gzip.finish().unwrap())
    });
    let manifest = json!({"schemaVersion": 2, "config": descriptor("config.v1+json", &config),
                          "layers": descriptors.collect::<Vec<_>>()});
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [
        descriptor("manifest.v1+json", &manifest),
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2,
         "digest": Sha256Digest::of(b"{}").to_string(),
         "platform": {"os": "linux", "architecture": "arm64"}}]});
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    Sha256Digest::of(&manifest)
}

/// An image as `docker save` writes it, and its configuration's digest.
pub(crate) fn docker_archive(layers: &[Vec<u8>], runtime: &Value) -> (Vec<u8>, Sha256Digest) {
    let config = config_json(layers, runtime);
    let digest = Sha256Digest::of(&config);
    let name = format!("{}.json", digest.hex());
    let mut archive = Layer::new().file(&name, 0o644, &config);
    let mut names = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let target = format!("{index}.tar");
        archive = archive.file(&target, 0o644, layer);
        let link = format!("{index}/layer.tar");
        archive = archive.symlink(&link, &format!("../{target}"));
        names.push(link);
    }
    let manifest = json!([{"Config": name, "RepoTags": null, "Layers": names}]);
    let manifest = manifest.to_string();
    let archive = archive.file("manifest.json", 0o644, manifest.as_bytes());
    (archive.finish(), digest)
}

fn config_json(layers: &[Vec<u8>], runtime: &Value) -> Vec<u8> {
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| Sha256Digest::of(layer).to_string())
        .collect();
    let config = json!({"architecture": "amd64", "os": "linux", "config": runtime,
                        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    serde_json::to_vec(&config).unwrap()
}

/// The least that firmware starts as a kernel: a PE image of two sections with
/// the header of the Linux boot protocol (Documentation/arch/x86/boot.rst).
pub(crate) fn kernel() -> Vec<u8> {
    let mut image = vec![0x90; 0x2800];
    let mut put = |offset: usize, bytes: &[u8]| {
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"MZ");
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x46, &2u16.to_le_bytes());
    put(0x54, &160u16.to_le_bytes());
    put(0x58, &0x20bu16.to_le_bytes());
    put(0x94, &0x1000u32.to_le_bytes());
    put(0xc4, &6u32.to_le_bytes());
    put(0xe8, &[0; 8]);
    for (section, size, offset) in [(0xf8, 0x1000u32, 0x1800u32), (0x120, 0x800, 0x1000)] {
        put(section + 16, &size.to_le_bytes());
        put(section + 20, &offset.to_le_bytes());
    }
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x236, &0x23u16.to_le_bytes());
    image
}
