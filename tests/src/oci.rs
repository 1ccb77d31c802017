//! A minimal OCI image layout around static programs.

use std::fs;
use std::path::Path;

use anyhow::Result;
use measured_boot::base16;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One entry of the image's only layer.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Path, mode, content.
    File(&'static str, u32, Vec<u8>),
    /// Path, mode.
    Directory(&'static str, u32),
    /// Path, target.
    Link(&'static str, &'static str),
}

/// What every test image has besides its program.
pub fn base_entries() -> Vec<Entry> {
    vec![
        Entry::Directory("bin", 0o755),
        Entry::Directory("etc", 0o755),
        Entry::File(
            "etc/passwd",
            0o644,
            b"root:x:0:0::/:/\nprobe:x:1000:1000::/:/\n".to_vec(),
        ),
        Entry::File("etc/group", 0o644, b"root:x:0:\nprobe:x:1000:\n".to_vec()),
        Entry::Directory("tmp", 0o1777),
    ]
}

/// Writes an image layout with one layer; `user` and `argv` go into its config.
///
/// # Errors
/// The folder cannot be written.
pub fn write_layout(folder: &Path, entries: &[Entry], user: &str, argv: &[&str]) -> Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layer = layer(entries)?;
    let put = |content: &[u8], kind: &str| -> Result<Value> {
        let digest = base16::encode(&Sha256::digest(content));
        fs::write(blobs.join(&digest), content)?;
        Ok(json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        }))
    };
    let layer_descriptor = put(&layer, "layer.v1.tar")?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "User": user, "Entrypoint": argv, "Env": ["PATH=/bin"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [layer_descriptor["digest"]] },
    });
    let config_descriptor = put(&serde_json::to_vec(&config)?, "config.v1+json")?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_descriptor,
        "layers": [layer_descriptor],
    });
    let manifest_descriptor = put(&serde_json::to_vec(&manifest)?, "manifest.v1+json")?;
    let index = json!({ "schemaVersion": 2, "manifests": [manifest_descriptor] });
    fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(())
}

fn layer(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        match entry {
            Entry::File(path, mode, content) => {
                header.set_mode(*mode);
                header.set_size(u64::try_from(content.len())?);
                tar.append_data(&mut header, path, content.as_slice())?;
            }
            Entry::Directory(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_size(0);
                tar.append_data(&mut header, path, [].as_slice())?;
            }
            Entry::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                tar.append_link(&mut header, path, target)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}
