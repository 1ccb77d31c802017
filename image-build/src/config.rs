//! The builder's configuration file (TOML). Every default is the safe one; an
//! unknown key is an error that names its line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use measured_boot::manifest::{Ipv4, Logs, Resource, Tee};
use serde::Deserialize;

use crate::oci::Sha256Digest;

mod value;

pub use value::{Capabilities, Mode, Rlimits, Seconds, Signal, Size};

/// Largest configuration file accepted.
const MAX_SIZE: u64 = 1 << 20;

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name and version under which the broker knows the image.
    pub image: Image,
    /// Which container image is accepted.
    #[serde(default)]
    pub oci: Oci,
    /// Where the container's output goes.
    #[serde(default = "default_logs")]
    pub logs: Logs,
    /// Which evidence the image may present.
    #[serde(default)]
    pub attestation: Attestation,
    /// The key broker.
    pub broker: Option<Broker>,
    /// How the guest gets an address.
    pub network: Option<Network>,
    /// The encrypted boot filesystem.
    pub boot: Option<Boot>,
    /// What differs from the container image.
    #[serde(default)]
    pub container: Container,
    /// The persistent encrypted volumes.
    #[serde(default)]
    pub volume: Vec<Volume>,
}

/// `[image]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Lower-case letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Counts up with each release.
    pub version: u32,
}

/// `[oci]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oci {
    /// Manifest digest; configuration digest of a docker-archive.
    pub digest: Option<Sha256Digest>,
}

/// `[attestation]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// At least one; `tpm` only alone.
    pub tee: Vec<Tee>,
}

impl Default for Attestation {
    fn default() -> Self {
        Self {
            tee: vec![Tee::Snp, Tee::Tdx],
        }
    }
}

/// `[broker]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// `https://HOST[:PORT]`.
    pub url: String,
    /// PEM file, relative to the configuration file.
    pub ca: PathBuf,
    /// Floor of the guest's clock, seconds since 1970; by default the start of
    /// the CA's validity.
    pub not_before: Option<u64>,
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
pub enum Network {
    /// By DHCP.
    Dhcp {},
    /// As given.
    Static {
        /// The guest's address.
        address: Ipv4,
        /// Length of the network prefix.
        prefix: u8,
        /// Default router.
        router: Option<Ipv4>,
        /// Name servers.
        #[serde(default)]
        dns: Vec<Ipv4>,
    },
}

/// `[boot]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Directory or tar archive, relative to the configuration file.
    pub source: Option<PathBuf>,
    /// The broker's name of the master key.
    pub key: Resource,
    /// Where the container sees the files of `source`.
    pub mount: Option<String>,
}

/// `[[volume]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Names the disk: `volume-NAME` is its serial.
    pub name: String,
    /// The broker's name of the master key.
    pub key: Resource,
    /// Where the container sees it.
    pub mount: String,
    /// A multiple of 4096 bytes.
    pub size: Size,
    /// Counts up whenever older disks shall not open any more.
    #[serde(default = "default_epoch")]
    pub epoch: u64,
}

/// `[container]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Container {
    /// Which filesystem holds the container's root.
    pub root: Root,
    /// In place of the image's entrypoint and command.
    pub argv: Option<Vec<String>>,
    /// `NAME=value`, over the image's own.
    pub env: Vec<String>,
    /// In place of the image's working directory.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`, names or numbers, in place of the image's.
    pub user: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// Bound on memory.
    pub memory: Option<Size>,
    /// Bound on processes and threads.
    pub pids: Option<u64>,
    /// Size of a tmpfs over the read-only root.
    pub writable: Option<Size>,
    /// Empty filesystems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Secrets from the broker.
    pub secret: Vec<Secret>,
    /// By name, with or without `CAP_`.
    pub capabilities: Capabilities,
    /// By name: a number, or `"SOFT:HARD"`.
    pub rlimits: Rlimits,
    /// In place of the image's.
    pub stop_signal: Option<Signal>,
    /// From the stop signal to SIGKILL.
    pub stop_grace: Option<Seconds>,
}

/// `container.root`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// On the measured, readable rootfs.
    #[default]
    Rootfs,
    /// On the encrypted boot filesystem.
    Boot,
}

/// `[[container.tmpfs]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Where.
    pub path: String,
    /// Bound on its contents.
    pub size: Size,
    /// Permission bits of its root, `0o1777` by default.
    pub mode: Option<Mode>,
    /// Owner; the container's user by default.
    pub uid: Option<u32>,
    /// Group; the container's by default.
    pub gid: Option<u32>,
}

/// `[[container.secret]]`: exactly one of `path` and `env`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The broker's name of it.
    pub resource: Resource,
    /// File that will hold it.
    pub path: Option<String>,
    /// Environment variable that will hold it.
    pub env: Option<String>,
    /// Permission bits of the file, `0o400` by default.
    pub mode: Option<Mode>,
    /// Owner of the file; the container's user by default.
    pub uid: Option<u32>,
    /// Group of the file; the container's by default.
    pub gid: Option<u32>,
}

fn default_epoch() -> u64 {
    1
}

fn default_logs() -> Logs {
    Logs::None
}

impl Config {
    /// Reads a configuration file. Its relative paths are left as they are: they
    /// are relative to its folder.
    ///
    /// # Errors
    /// It cannot be read, or the line and what is wrong there.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let read = || format!("cannot read config {shown}");
        let size = fs::metadata(path).with_context(read)?.len();
        ensure!(
            size <= MAX_SIZE,
            "{}: got {size} bytes, expected at most {MAX_SIZE}",
            read()
        );
        let text = fs::read_to_string(path).with_context(read)?;
        Self::parse(&text).with_context(read)
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// The line and what is wrong there.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        for secret in &config.container.secret {
            ensure!(
                secret.path.is_some() != secret.env.is_some(),
                "container.secret {}: expected either path or env",
                secret.resource
            );
            let file = secret.mode.is_some() || secret.uid.is_some() || secret.gid.is_some();
            ensure!(
                secret.path.is_some() || !file,
                "container.secret {}: mode, uid and gid need path",
                secret.resource
            );
        }
        Ok(config)
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod tests;
