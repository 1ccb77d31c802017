//! `predict --tee snp`: the launch digest of each vCPU count.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use base64ct::{Base64, Encoding as _};
use measured_boot::base16;
use measured_boot::manifest::Hex32;
use measured_boot::predict::snp::{EcdsaPublicKey, HashTable, IdBlock, LaunchDigest, SectionKind};
use measured_boot::reference_values::{Hex48, SnpValues};
use serde_json::{Value, json};

use super::super::image::{self, Image};
use super::super::machine::{self, Described};

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) machine: machine::Options,
    /// Also print the ID block for this guest policy, such as 0x30000. Needs a single vCPU count.
    #[arg(long, value_name = "POLICY")]
    id_block_policy: Option<String>,
    /// GUEST_SVN of the ID block.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "id_block_policy"
    )]
    guest_svn: u32,
    /// Also print ID_KEY_DIGEST of this P-384 public key (DER, SubjectPublicKeyInfo).
    #[arg(long, value_name = "FILE")]
    id_key: Option<PathBuf>,
    /// Also print AUTHOR_KEY_DIGEST of this P-384 public key (DER, SubjectPublicKeyInfo).
    #[arg(long, value_name = "FILE")]
    author_key: Option<PathBuf>,
}

pub(super) fn run(image: &Image, options: &Options, json: bool) -> Result<SnpValues> {
    let (described, table) = rayon::join(
        || options.machine.describe(),
        || HashTable::new(&image.kernel, &image.initrd, &image.cmdline),
    );
    let described = described?;
    let launch = described
        .firmware
        .launch(Some(&table), described.vmm)
        .with_context(|| described.firmware_name.clone())?;
    let digests: Vec<(u32, LaunchDigest)> = (1..=*described.vcpus.end())
        .zip(launch.digests(described.features))
        .filter(|(vcpus, _)| described.vcpus.contains(vcpus))
        .collect();
    let identity = options.identity(&digests)?;
    if json {
        let value = as_json(image, &described, &table, &digests, identity);
        say!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        print(image, &described, &table, &digests, &identity)?;
    }
    let assumed = assumptions(&described).into_iter();
    let digests = digests.into_iter();
    Ok(SnpValues {
        assumptions: assumed
            .map(|(what, value)| format!("{what}: {value}"))
            .collect(),
        firmware: Hex32(described.firmware_sha256),
        launch_digests: digests
            .map(|(vcpus, digest)| (vcpus, Hex48(digest.0)))
            .collect(),
    })
}

/// What a prediction takes for granted. No file tells any of it.
fn assumptions(described: &Described) -> Vec<(&'static str, String)> {
    let (first, last) = (described.vcpus.start(), described.vcpus.end());
    let mut assumptions = vec![
        ("VMM", described.vmm.to_string()),
        ("vCPUs", format!("{first} to {last}")),
        ("guest features", described.features.to_string()),
        (
            "kernel",
            "measured as the file is: the VMM does not rewrite its setup header (some versions of QEMU do)"
                .into(),
        ),
        (
            "command line",
            "measured with a trailing NUL and without \" initrd=initrd\", as QEMU does".into(),
        ),
    ];
    if described.firmware_digest_given {
        assumptions.push((
            "firmware",
            "its pages have the digest given with --firmware-digest".into(),
        ));
    }
    assumptions
}

fn kind(section: SectionKind) -> &'static str {
    match section {
        SectionKind::SecureMemory => "secure memory",
        SectionKind::Secrets => "secrets page",
        SectionKind::Cpuid => "CPUID page",
        SectionKind::SvsmCallingArea => "SVSM calling area",
        SectionKind::KernelHashes => "kernel hashes",
    }
}

fn print(
    image: &Image,
    described: &Described,
    table: &HashTable,
    digests: &[(u32, LaunchDigest)],
    identity: &[(&'static str, String)],
) -> Result<()> {
    say!("SEV-SNP launch digest of {}", image.name);
    say!("\nassumed, since no file tells it:");
    for (what, value) in assumptions(described) {
        say!("  {what:<15} {value}");
    }
    say!("\nmeasured, in this order:");
    say!(
        "  firmware at {:#x}: {}, sha256 {}, digest of its pages {}",
        described.firmware.address(),
        described.firmware_name,
        base16::encode(&described.firmware_sha256),
        described.firmware.digest()
    );
    for (section, address, size) in described.firmware.sections() {
        say!("  {} at {address:#x}, {size:#x} bytes", kind(section));
        if section == SectionKind::KernelHashes {
            say!("    kernel        {}", base16::encode(&table.kernel));
            say!("    initrd        {}", base16::encode(&table.initrd));
            say!("    command line  {}", base16::encode(&table.cmdline));
        }
    }
    say!("  registers of each vCPU");
    say!("\nlaunch digest:");
    for (vcpus, digest) in digests {
        say!("  {vcpus:>4} vCPU  {digest}");
    }
    for (what, value) in identity {
        say!("{what}: {value}");
    }
    Ok(())
}

fn as_json(
    image: &Image,
    described: &Described,
    table: &HashTable,
    digests: &[(u32, LaunchDigest)],
    identity: Vec<(&'static str, String)>,
) -> Value {
    let named = |pairs: Vec<(&'static str, String)>| {
        let members = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::from(value)));
        Value::Object(members.collect())
    };
    let digests: Vec<_> = digests
        .iter()
        .map(|(vcpus, digest)| json!({ "vcpus": vcpus, "launch_digest": digest.to_string() }))
        .collect();
    json!({
        "tee": "snp",
        "image": image.name,
        "vmm": described.vmm.name(),
        "guest_features": described.features.bits(),
        "firmware": {
            "file": described.firmware_name,
            "sha256": base16::encode(&described.firmware_sha256),
            "digest": described.firmware.digest().to_string(),
        },
        "kernel_hashes": {
            "kernel": base16::encode(&table.kernel),
            "initrd": base16::encode(&table.initrd),
            "cmdline": base16::encode(&table.cmdline),
        },
        "assumptions": named(assumptions(described)),
        "launch_digests": digests,
        "identity": named(identity),
    })
}

impl Options {
    fn identity(&self, digests: &[(u32, LaunchDigest)]) -> Result<Vec<(&'static str, String)>> {
        let mut identity = Vec::new();
        if let Some(policy) = &self.id_block_policy {
            let [(_, launch_digest)] = digests else {
                bail!(
                    "cannot make an ID block for several launch digests: give one number with --vcpus"
                );
            };
            let digits = policy.strip_prefix("0x");
            let digits = digits.with_context(|| {
                format!("cannot use --id-block-policy {policy}: expected a number such as 0x30000")
            })?;
            let block = IdBlock {
                launch_digest: *launch_digest,
                family_id: [0; 16],
                image_id: [0; 16],
                guest_svn: self.guest_svn,
                policy: u64::from_str_radix(digits, 16)
                    .with_context(|| format!("cannot use --id-block-policy {policy}"))?,
            };
            identity.push(("id_block", Base64::encode_string(&block.bytes())));
        }
        for (name, path) in [
            ("id_key_digest", &self.id_key),
            ("author_key_digest", &self.author_key),
        ] {
            if let Some(path) = path {
                identity.push((name, key_digest(path)?));
            }
        }
        Ok(identity)
    }
}

fn key_digest(path: &Path) -> Result<String> {
    let der = image::read(path)?;
    ensure!(
        !der.starts_with(b"-----"),
        "cannot read {}: got PEM, expected DER (openssl pkey -pubin -outform DER)",
        path.display()
    );
    let key = EcdsaPublicKey::from_der(&der).with_context(|| path.display().to_string())?;
    Ok(base16::encode(&key.digest()))
}
