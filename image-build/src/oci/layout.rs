//! OCI image layout: `index.json`, and `blobs/sha256/<hex>`.

use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};

use super::store::Store;
use super::{Layer, Sha256Digest, json, verified_json};

const MAX_INDEX_DEPTH: usize = 3;
const MAX_LAYERS: usize = 512;

/// A manifest for this platform, and the digests of the indexes that led to it.
struct Candidate {
    manifest: Descriptor,
    chain: Vec<Sha256Digest>,
}

pub(super) fn find(
    store: &Store,
    pin: Option<&Sha256Digest>,
) -> Result<(ImageConfiguration, Sha256Digest, Vec<Layer>)> {
    let index = json(store, "index.json")?;
    let mut candidates = Vec::new();
    let mut others = Vec::new();
    collect(store, &index, &mut Vec::new(), &mut candidates, &mut others)?;
    let of_platform: Vec<_> = candidates
        .iter()
        .filter_map(|c| c.chain.last().map(ToString::to_string))
        .collect();
    if let Some(pin) = pin {
        candidates.retain(|candidate| candidate.chain.contains(pin));
        ensure!(
            !candidates.is_empty(),
            "got digest {}, expected the pinned {pin}",
            of_platform.join(", ")
        );
    }
    let candidate = match candidates.as_slice() {
        [candidate] => candidate,
        [] if others.is_empty() => bail!("its index names no image"),
        [] => bail!(
            "has no image for linux/amd64, only for {}",
            others.join(", ")
        ),
        _ => bail!(
            "has several images for linux/amd64; pin one with oci.digest: {}",
            of_platform.join(", ")
        ),
    };
    let (name, digest) = blob(&candidate.manifest)?;
    let bytes = verified_json(store, &name, &digest, Some(candidate.manifest.size()))?;
    let manifest = ImageManifest::from_reader(bytes.as_slice())
        .with_context(|| format!("cannot read image manifest {digest}"))?;

    let (name, config_digest) = blob(manifest.config())?;
    let size = manifest.config().size();
    let bytes = verified_json(store, &name, &config_digest, Some(size))?;
    let config = ImageConfiguration::from_reader(bytes.as_slice())
        .with_context(|| format!("cannot read image configuration {config_digest}"))?;

    ensure!(
        manifest.layers().len() <= MAX_LAYERS,
        "more than {MAX_LAYERS} layers"
    );
    let layers = manifest.layers().iter().map(|layer| {
        let media_type = layer.media_type().to_string();
        ensure!(
            media_type.contains(".tar"),
            "layer of type {media_type:?} is not supported"
        );
        ensure!(
            !media_type.contains("encrypted"),
            "encrypted layers ({media_type:?}) are not supported; decrypt the image first"
        );
        let (name, digest) = blob(layer)?;
        let expected = Some((digest, layer.size()));
        Ok(Layer { name, expected })
    });
    Ok((config, digest, layers.collect::<Result<_>>()?))
}

fn collect(
    store: &Store,
    index: &[u8],
    chain: &mut Vec<Sha256Digest>,
    candidates: &mut Vec<Candidate>,
    others: &mut Vec<String>,
) -> Result<()> {
    ensure!(
        chain.len() <= MAX_INDEX_DEPTH,
        "more than {MAX_INDEX_DEPTH} indexes inside each other"
    );
    let index = ImageIndex::from_reader(index).context("cannot read image index")?;
    for descriptor in index.manifests() {
        let (name, digest) = blob(descriptor)?;
        let media_type = descriptor.media_type().to_string();
        if media_type.contains("index") || media_type.contains("manifest.list") {
            let bytes = verified_json(store, &name, &digest, Some(descriptor.size()))?;
            chain.push(digest);
            collect(store, &bytes, chain, candidates, others)?;
            chain.pop();
            continue;
        }
        match descriptor.platform() {
            Some(p) if *p.os() != Os::Linux || *p.architecture() != Arch::Amd64 => {
                others.push(format!("{}/{}", p.os(), p.architecture()));
            }
            Some(_) | None => candidates.push(Candidate {
                manifest: descriptor.clone(),
                chain: chain.iter().copied().chain([digest]).collect(),
            }),
        }
    }
    Ok(())
}

fn blob(descriptor: &Descriptor) -> Result<(String, Sha256Digest)> {
    let digest = Sha256Digest::parse(descriptor.digest().as_ref())?;
    Ok((format!("blobs/sha256/{}", digest.hex()), digest))
}
