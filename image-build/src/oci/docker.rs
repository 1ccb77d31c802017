//! docker-archive, as `docker save` writes it: `manifest.json` names the
//! configuration by its digest and the layers by file.

use anyhow::{Context as _, Result, bail, ensure};
use measured_boot::base16;
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::store::Store;
use super::{Layer, Sha256Digest, json, verified_json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    layers: Vec<String>,
}

pub(super) fn find(
    store: &Store,
    pin: Option<&Sha256Digest>,
) -> Result<(ImageConfiguration, Sha256Digest, Vec<Layer>)> {
    let manifest = json(store, "manifest.json")?;
    let entries: Vec<Entry> =
        serde_json::from_slice(&manifest).context("cannot read manifest.json")?;
    let mut images = Vec::new();
    for entry in entries {
        let digest = config_digest(&entry.config)?;
        images.push((digest, entry));
    }
    let all: Vec<_> = images
        .iter()
        .map(|(digest, _)| digest.to_string())
        .collect();
    if let Some(pin) = pin {
        images.retain(|(digest, _)| digest == pin);
        ensure!(
            !images.is_empty(),
            "got configuration digest {}, expected the pinned {pin}",
            all.join(", ")
        );
    }
    let [(digest, entry)] = images.as_slice() else {
        bail!(
            "has {} images, expected one; pin one with oci.digest: {}",
            images.len(),
            all.join(", ")
        )
    };
    let bytes = verified_json(store, &entry.config, digest, None)?;
    let config = ImageConfiguration::from_reader(bytes.as_slice())
        .with_context(|| format!("cannot read image configuration {digest}"))?;
    let layers = entry.layers.iter().map(|name| Layer {
        name: name.clone(),
        expected: None,
    });
    Ok((config, *digest, layers.collect()))
}

/// `<hex>.json`, or `blobs/sha256/<hex>` since Docker 25.
fn config_digest(name: &str) -> Result<Sha256Digest> {
    let file = name.rsplit('/').next().unwrap_or(name);
    base16::decode(file.strip_suffix(".json").unwrap_or(file))
        .map(Sha256Digest)
        .with_context(|| format!("configuration {name:?} is not named by its digest"))
}
