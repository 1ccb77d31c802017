//! `image-build build`: a container image and a configuration in, a measured
//! virtual machine's image out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use measured_boot::cmdline::Cmdline;
use measured_boot::hash_tree::HashTree;
use measured_boot::keys::BootKey;
use measured_boot::manifest::{self, BootFilesystem, Hex32, Manifest};
use measured_boot::predict::Payload;
use measured_boot::reference_values::{self, BootValues, ReferenceValues, VerityValues};
use measured_boot::verity::{BLOCK_SIZE, Geometry};
use sha2::{Digest as _, Sha256};

use crate::boot_filesystem::{self, Sealed};
use crate::certificate::Certificate;
use crate::config::{Config, Network, Root};
use crate::container::{self, mountpoint};
use crate::erofs;
use crate::initrd;
use crate::key;
use crate::notes::Notes;
use crate::oci::Image;
use crate::output::Output;
use crate::prediction;
use crate::progress::Progress;
use crate::spool::Spool;
use crate::tree::{Content, Entry, Leaf, Metadata, Tree, source};
use crate::uki;
use crate::volume;

/// The file of an image that firmware starts from a disk.
pub const UKI: &str = "image.efi";

/// What to build, and from what.
#[derive(Clone, Debug)]
pub struct Request {
    /// OCI layout or docker-archive.
    pub oci: PathBuf,
    /// Configuration file.
    pub config: PathBuf,
    /// Master key of the encrypted boot filesystem.
    pub boot_key: Option<PathBuf>,
    /// Folder to write.
    pub out: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's PID 1.
    pub init: PathBuf,
    /// systemd-stub, to make a unified kernel image around.
    pub uki_stub: Option<PathBuf>,
    /// Firmware files to predict for; all known ones when empty.
    pub firmware: Vec<PathBuf>,
    /// Bound on the bytes of the image's files.
    pub max_size: u64,
    /// Replace `out`.
    pub force: bool,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// What a verifier compares with.
    pub reference_values: ReferenceValues,
    /// What was left out or changed.
    pub notes: Notes,
    /// Digest of the container image.
    pub image_digest: String,
}

/// Builds an image.
///
/// # Errors
/// What is wrong with which input; then nothing is written.
pub fn build(request: &Request, progress: &Progress) -> Result<Built> {
    progress.step("reading inputs");
    let config = Config::read(&request.config)?;
    let boot_key = boot_key(&config, request.boot_key.as_deref())?;
    let kernel = read_file("kernel", &request.kernel)?;
    let init = read_file("init", &request.init)?;
    let output = Output::new(&request.out, request.force)?;

    let mut notes = Notes::default();
    let mut spool = Spool::new(output.folder(), request.max_size)?;
    let pin = config.oci.digest.as_ref();
    let image = Image::open(&request.oci, pin, output.folder(), request.max_size)?;
    let mut root = image.unpack(&mut spool, &mut notes, request.max_size, progress)?;

    let container = container::resolve(&config, &image.config, &root, &spool, &mut notes)?;
    let mount = config.boot.as_ref().and_then(|boot| boot.mount.as_deref());
    mountpoint::add(&mut root, &container, mount, &config.volume)?;
    mountpoint::working_directory(&mut root, &container.cwd)?;

    let mut manifest = manifest(&config, &request.config, container)?;
    let mut root = Some(root);
    if let Some(key) = boot_key {
        progress.step("encrypting the boot filesystem");
        let owner = (manifest.container.uid, manifest.container.gid);
        let tree = boot_tree(
            &config,
            &request.config,
            &mut root,
            owner,
            &mut spool,
            &mut notes,
        )?;
        let sealed = seal(key, &tree, &spool, &output)?;
        if let Some(boot) = &mut manifest.boot {
            boot.content_id = Hex32(sealed.content_id.0);
            boot.root_hash = Hex32(sealed.tree.root_hash.0);
            boot.data_blocks = sealed.tree.geometry.data_blocks();
        }
    }

    progress.step("writing the rootfs");
    let json = manifest
        .to_json()
        .map_err(|error| anyhow::anyhow!("cannot use config: {error}"))?;
    let length = u64::try_from(json.len())?;
    ensure!(
        length <= manifest::MAX_SIZE,
        "cannot write manifest: got {length} bytes, expected at most {}",
        manifest::MAX_SIZE
    );
    let rootfs = rootfs_tree(root, &json, &mut spool)?;
    let hash_tree = write_rootfs(&rootfs, &spool, &output)?;

    progress.step("predicting measurements");
    let cmdline = Cmdline {
        root_hash: hash_tree.root_hash,
        geometry: hash_tree.geometry,
    }
    .to_string();
    let initrd = initrd::archive(&init)?;
    let uki = match &request.uki_stub {
        None => None,
        Some(path) => {
            let stub = read_file("UKI stub", path)?;
            Some(uki::unify(&stub, &kernel, &initrd, &cmdline)?)
        }
    };
    let payload = match &uki {
        Some(image) => Payload::Uki(image),
        None => Payload::Direct {
            kernel: &kernel,
            initrd: &initrd,
            cmdline: &cmdline,
        },
    };
    let tpm = prediction::tpm(&manifest, &payload, &request.firmware)?;
    output.write("bzImage", &kernel)?;
    if let Some(config) = kernel_config(&request.kernel)? {
        output.write("kernel.config", &config)?;
    }
    output.write("initrd.cpio", &initrd)?;
    output.write("cmdline", cmdline.as_bytes())?;
    output.write("manifest.json", &json)?;
    let mut files = vec![("bzImage", &kernel), ("initrd.cpio", &initrd)];
    if let Some(image) = &uki {
        output.write(UKI, image)?;
        files.push((UKI, image));
    }
    let digest =
        |(name, bytes): (&str, &Vec<u8>)| (name.to_owned(), Hex32(Sha256::digest(bytes).into()));
    let files = files.into_iter().map(digest);
    let reference_values = ReferenceValues {
        version: reference_values::VERSION,
        image: manifest.image.clone(),
        cmdline,
        files: BTreeMap::from_iter(files),
        rootfs: verity_values(&hash_tree.root_hash.0, hash_tree.geometry),
        boot: boot_values(&manifest),
        tpm,
        snp: None,
        tdx: None,
    };
    output.write("reference-values.json", &reference_values.to_json()?)?;
    output.publish()?;
    progress.finish();
    Ok(Built {
        reference_values,
        notes,
        image_digest: image.digest.to_string(),
    })
}

fn boot_key(config: &Config, path: Option<&Path>) -> Result<Option<BootKey>> {
    let confidential = config.container.root == Root::Boot;
    match (&config.boot, path) {
        (None, _) if confidential => {
            bail!("cannot use config: container.root is \"boot\", which needs [boot]")
        }
        (None, None) => Ok(None),
        (None, Some(_)) => bail!("cannot use a boot key: the config has no [boot]"),
        (Some(_), None) => bail!(
            "cannot encrypt the boot filesystem without a key: give --boot-key FILE (image-build key new makes one)"
        ),
        (Some(boot), Some(path)) => {
            ensure!(
                boot.source.is_some() == boot.mount.is_some(),
                "cannot use config: boot.source and boot.mount need each other"
            );
            ensure!(
                boot.source.is_some() || confidential,
                "cannot use config: [boot] needs source, or container.root = \"boot\""
            );
            key::read(path).map(Some)
        }
    }
}

fn read_file(what: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {what} {}", path.display()))
}

/// The configuration beside the kernel, where `kernel-config/build` leaves it.
/// It is kept for `measured-boot diff`; nothing measures it.
fn kernel_config(kernel: &Path) -> Result<Option<Vec<u8>>> {
    let path = kernel.with_file_name("config");
    match path.is_file() {
        true => read_file("kernel configuration", &path).map(Some),
        false => Ok(None),
    }
}

/// A path of the configuration is relative to the configuration's folder.
fn beside(config: &Path, path: &Path) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(path)
}

fn manifest(config: &Config, path: &Path, container: manifest::Container) -> Result<Manifest> {
    let broker = match &config.broker {
        None => None,
        Some(broker) => {
            let ca = Certificate::read(&beside(path, &broker.ca))?;
            Some(manifest::Broker {
                url: broker.url.clone(),
                not_before: broker.not_before.unwrap_or(ca.not_before),
                ca: manifest::Bytes(ca.der),
            })
        }
    };
    let network = config.network.as_ref().map(|network| match network {
        Network::Dhcp {} => manifest::Network::Dhcp {},
        Network::Static {
            address,
            prefix,
            router,
            dns,
        } => manifest::Network::Static(manifest::StaticNetwork {
            address: *address,
            prefix: *prefix,
            router: *router,
            dns: dns.clone(),
        }),
    });
    // What only the sealed filesystem tells is filled in once it is there.
    let boot = config.boot.as_ref().map(|boot| BootFilesystem {
        key: boot.key.clone(),
        content_id: Hex32([0; 32]),
        root_hash: Hex32([0; 32]),
        data_blocks: 1,
        mount: boot.mount.clone(),
    });
    let manifest = Manifest {
        version: manifest::VERSION,
        image: manifest::Image {
            name: config.image.name.clone(),
            version: config.image.version,
        },
        logs: config.logs,
        attestation: manifest::Attestation {
            tee: config.attestation.tee.clone(),
        },
        broker,
        network,
        boot,
        volumes: volume::describe(&config.volume)?,
        container,
    };
    // Before the work of encrypting and hashing, not after it.
    let checked = manifest.to_json().map(drop);
    checked.map_err(|error| anyhow::anyhow!("cannot use config: {error}"))?;
    Ok(manifest)
}

/// `files/` from the source, and `rootfs/` if the container's root is here.
fn boot_tree(
    config: &Config,
    path: &Path,
    root: &mut Option<Tree>,
    owner: (u32, u32),
    spool: &mut Spool,
    notes: &mut Notes,
) -> Result<Tree> {
    let mut tree = Tree::default();
    if let Some(from) = config.boot.as_ref().and_then(|boot| boot.source.as_ref()) {
        let files = source::read(&beside(path, from), owner, spool, notes)?;
        let entry = Entry::Directory(files.root);
        tree.root.insert(manifest::BOOT_FILES, entry);
    }
    if config.container.root == Root::Boot
        && let Some(root) = root.take()
    {
        let entry = Entry::Directory(root.root);
        tree.root.insert(manifest::CONTAINER_ROOT, entry);
    }
    Ok(tree)
}

fn seal(key: BootKey, tree: &Tree, spool: &Spool, output: &Output) -> Result<Sealed> {
    let mut plain = tempfile::tempfile_in(output.folder()).context("cannot make temporary file")?;
    let blocks = erofs::write(tree, spool, &plain).context("cannot write boot filesystem")?;
    boot_filesystem::seal(key, &mut plain, blocks, &output.file("boot.img")?)
}

/// `manifest.json`, and `rootfs/` unless the container's root is elsewhere.
fn rootfs_tree(root: Option<Tree>, json: &[u8], spool: &mut Spool) -> Result<Tree> {
    let mut tree = Tree::default();
    let leaf = Leaf {
        metadata: Metadata::root(0o444),
        content: Content::File(spool.append_bytes(json)?),
    };
    tree.root
        .insert(manifest::PATH, Entry::Leaf(Arc::new(leaf)));
    if let Some(root) = root {
        let entry = Entry::Directory(root.root);
        tree.root.insert(manifest::CONTAINER_ROOT, entry);
    }
    Ok(tree)
}

fn write_rootfs(tree: &Tree, spool: &Spool, output: &Output) -> Result<HashTree> {
    let mut file: File = output.file("rootfs.img")?;
    let blocks = erofs::write(tree, spool, &file).context("cannot write rootfs.img")?;
    let geometry = Geometry::new(blocks).context("rootfs is over 16 TiB")?;
    let hash_tree = HashTree::build(geometry, &[], |buffer, offset| {
        file.read_exact_at(buffer, offset)
    })
    .context("cannot hash rootfs.img")?;
    file.seek(SeekFrom::Start(blocks.saturating_mul(BLOCK_SIZE)))
        .and_then(|_| file.write_all(&hash_tree.bytes))
        .context("cannot write rootfs.img")?;
    Ok(hash_tree)
}

fn verity_values(root_hash: &[u8; 32], geometry: Geometry) -> VerityValues {
    VerityValues {
        root_hash: Hex32(*root_hash),
        data_blocks: geometry.data_blocks(),
        hash_offset: geometry.data_blocks().saturating_mul(BLOCK_SIZE),
    }
}

fn boot_values(manifest: &Manifest) -> Option<BootValues> {
    let boot = manifest.boot.as_ref()?;
    let (root_hash, geometry) = boot.verity()?;
    Some(BootValues {
        verity: verity_values(&root_hash.0, geometry),
        cipher: "aes-xts-plain64".into(),
        key_bits: 512,
        sector_size: 4096,
        content_id: boot.content_id,
        key: boot.key.clone(),
    })
}

#[cfg(test)]
mod tests;
