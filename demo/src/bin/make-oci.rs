//! `make-oci PROGRAM DIR`: packs a static program as an OCI image layout, the
//! same bits each time: one layer, no clock, no user of the host.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use measured_boot::base16;
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// Folders on which init mounts, or that a program expects.
const FOLDERS: &[&str] = &[
    "bin/",
    "dev/",
    "etc/",
    "private/",
    "proc/",
    "run/",
    "run/secrets/",
    "sys/",
    "tmp/",
];
/// The container runs as `demo`, which the builder resolves to its number.
const PASSWD: &[u8] = b"root:x:0:0::/:/nonexistent\ndemo:x:10001:10001::/:/nonexistent\n";
const GROUP: &[u8] = b"root:x:0:\ndemo:x:10001:\n";

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [program, folder] = arguments.as_slice() else {
        bail!("usage: make-oci PROGRAM DIR");
    };
    let program =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let folder = Path::new(folder);
    write(&program, folder).with_context(|| format!("cannot write {}", folder.display()))
}

/// Replaces `folder` with an image layout.
fn write(program: &[u8], folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    let layer = blob(folder, MediaType::ImageLayer, &layer(program)?)?;
    let config = ImageConfigurationBuilder::default()
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(
            ConfigBuilder::default()
                .user("demo")
                .entrypoint(vec!["/bin/demo".to_owned()])
                .working_dir("/")
                .build()?,
        )
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids(vec![layer.digest().to_string()])
                .build()?,
        )
        .history(Vec::new())
        .build()?;
    let config = blob(
        folder,
        MediaType::ImageConfig,
        config.to_string()?.as_bytes(),
    )?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(vec![layer])
        .build()?;
    let manifest = blob(
        folder,
        MediaType::ImageManifest,
        manifest.to_string()?.as_bytes(),
    )?;
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![manifest])
        .build()?;
    fs::write(folder.join("index.json"), index.to_string()?)?;
    fs::write(
        folder.join("oci-layout"),
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(())
}

/// Stores content under its digest.
fn blob(folder: &Path, kind: MediaType, content: &[u8]) -> Result<Descriptor> {
    let digest = base16::encode(&Sha256::digest(content));
    fs::write(folder.join("blobs/sha256").join(&digest), content)?;
    let digest: Sha256Digest = digest.parse()?;
    Ok(Descriptor::new(kind, u64::try_from(content.len())?, digest))
}

fn layer(program: &[u8]) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for folder in FOLDERS {
        let mode = if *folder == "tmp/" { 0o1777 } else { 0o755 };
        append(&mut layer, folder, EntryType::Directory, mode, &[])?;
    }
    append(&mut layer, "bin/demo", EntryType::Regular, 0o755, program)?;
    append(&mut layer, "etc/group", EntryType::Regular, 0o644, GROUP)?;
    append(&mut layer, "etc/passwd", EntryType::Regular, 0o644, PASSWD)?;
    Ok(layer.into_inner()?)
}

fn append(
    layer: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(content.len())?);
    layer.append_data(&mut header, path, content)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::write;
    use oci_spec::image::{ImageIndex, ImageManifest};
    use sha2::{Digest as _, Sha256};
    use std::fs;

    #[test]
    fn layout_is_whole_and_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        write(b"program", &one).unwrap();
        write(b"program", &two).unwrap();
        let index = fs::read(one.join("index.json")).unwrap();
        assert_eq!(index, fs::read(two.join("index.json")).unwrap());

        let index = ImageIndex::from_reader(index.as_slice()).unwrap();
        let manifest = index.manifests()[0].digest().digest().to_owned();
        let read = |digest: &str| fs::read(one.join("blobs/sha256").join(digest)).unwrap();
        let manifest = ImageManifest::from_reader(read(&manifest).as_slice()).unwrap();
        for descriptor in manifest.layers().iter().chain([manifest.config()]) {
            let content = read(descriptor.digest().digest());
            assert_eq!(descriptor.size(), u64::try_from(content.len()).unwrap());
            let digest = measured_boot::base16::encode(&Sha256::digest(&content));
            assert_eq!(digest, descriptor.digest().digest());
        }
    }
}
