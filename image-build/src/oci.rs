//! Opens a container image: an OCI layout (directory or tar) or a docker-archive.
//!
//! Nothing in it is believed before its digest was checked: the index by the
//! pin in the config if there is one, everything below by the digest that named
//! it, and the unpacked layers by the image configuration's `diff_ids`.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::image::{Arch, ImageConfiguration, Os};

use crate::notes::Notes;
use crate::progress::Progress;
use crate::spool::Spool;
use crate::tree::Tree;
use crate::tree::layer::Layers;

pub mod compression;
mod digest;
mod docker;
mod layout;
mod store;

pub use digest::Sha256Digest;

use digest::Metered;
use store::Store;

/// Largest index, manifest or configuration accepted.
const MAX_JSON: u64 = 4 << 20;
/// What the archive format adds to the files of a layer.
const ARCHIVE_OVERHEAD: u64 = 1 << 30;

/// A container image whose configuration was checked.
#[derive(Debug)]
pub struct Image {
    /// What to run, and with what.
    pub config: ImageConfiguration,
    /// Digest of the image manifest; of the configuration for a docker-archive.
    pub digest: Sha256Digest,
    layers: Vec<Layer>,
    store: Store,
}

/// A layer's blob.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    /// Name in the store.
    name: String,
    /// What its manifest says of it; a docker-archive says nothing.
    expected: Option<(Sha256Digest, u64)>,
}

impl Image {
    /// Opens the image at `path` for linux/amd64. `folder` is where an archive
    /// that is compressed as a whole is unpacked, to at most `limit` bytes.
    ///
    /// # Errors
    /// The path is no image, has none or several for this platform, a digest
    /// does not match, or it is not the one pinned.
    pub fn open(
        path: &Path,
        pin: Option<&Sha256Digest>,
        folder: &Path,
        limit: u64,
    ) -> Result<Self> {
        let image = || format!("cannot read image {}", path.display());
        let store = Store::open(path, folder, limit).with_context(image)?;
        let found = if store.contains("index.json") {
            layout::find(&store, pin)
        } else if store.contains("manifest.json") {
            docker::find(&store, pin)
        } else {
            bail!(
                "{}: has neither index.json (OCI layout) nor manifest.json (docker save)",
                image()
            )
        };
        let (config, digest, layers) = found.with_context(image)?;
        let (os, arch) = (config.os(), config.architecture());
        ensure!(
            *os == Os::Linux && *arch == Arch::Amd64,
            "{}: got platform {os}/{arch}, expected linux/amd64",
            image()
        );
        let diff_ids = config.rootfs().diff_ids().len();
        ensure!(
            diff_ids == layers.len(),
            "{}: its configuration names {diff_ids} layers, its manifest {}",
            image(),
            layers.len()
        );
        Ok(Self {
            config,
            digest,
            layers,
            store,
        })
    }

    /// Applies the layers.
    ///
    /// # Errors
    /// A digest or size that does not match, or a layer that cannot be applied.
    pub fn unpack(
        &self,
        spool: &mut Spool,
        notes: &mut Notes,
        limit: u64,
        progress: &Progress,
    ) -> Result<Tree> {
        let mut layers = Layers::new(spool, notes);
        let count = self.layers.len();
        for (index, (layer, diff_id)) in self
            .layers
            .iter()
            .zip(self.config.rootfs().diff_ids())
            .enumerate()
        {
            let number = index.saturating_add(1);
            progress.step(&format!("unpacking layer {number} of {count}"));
            let diff_id = Sha256Digest::parse(diff_id)?;
            self.unpack_layer(layer, &diff_id, &mut layers, limit)
                .with_context(|| format!("cannot unpack layer {number} of {count}"))?;
        }
        Ok(layers.tree)
    }

    fn unpack_layer(
        &self,
        layer: &Layer,
        diff_id: &Sha256Digest,
        layers: &mut Layers<'_>,
        limit: u64,
    ) -> Result<()> {
        if let Some((digest, size)) = &layer.expected {
            self.store.verify(&layer.name, digest, *size)?;
        }
        let (blob, _) = self.store.read(&layer.name)?;
        let limit = limit.saturating_add(ARCHIVE_OVERHEAD);
        let mut unpacked = Metered::new(compression::decompress(blob)?, limit);
        layers.apply(&mut unpacked)?;
        let got = unpacked.finish();
        ensure!(
            got == *diff_id,
            "got unpacked digest {got}, expected {diff_id}"
        );
        Ok(())
    }
}

/// Reads JSON of bounded size whose digest is known.
fn verified_json(
    store: &Store,
    name: &str,
    digest: &Sha256Digest,
    size: Option<u64>,
) -> Result<Vec<u8>> {
    let bytes = json(store, name)?;
    let length = u64::try_from(bytes.len())?;
    if let Some(size) = size {
        ensure!(
            length == size,
            "{name}: got {length} bytes, expected {size}"
        );
    }
    let got = Sha256Digest::of(&bytes);
    ensure!(
        got == *digest,
        "{name}: got digest {got}, expected {digest}"
    );
    Ok(bytes)
}

fn json(store: &Store, name: &str) -> Result<Vec<u8>> {
    let (reader, size) = store.read(name)?;
    ensure!(
        size <= MAX_JSON,
        "{name}: got {size} bytes, expected at most {MAX_JSON}"
    );
    let mut bytes = Vec::new();
    reader.take(MAX_JSON).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod tests;
