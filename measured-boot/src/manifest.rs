//! `/manifest.json` on the rootfs: everything init is told, measured by way of
//! the root hash.
//!
//! The builder resolves whatever can be resolved (users, paths, the order of
//! mounts, the seccomp program), so that init interprets nothing. Unknown and
//! duplicate members are refused, every number is bounded.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::verity::Geometry;
use crate::volume::Volume;

pub use self::check::REFUSED_CAPABILITIES;
pub use crate::base16::Hex32;

mod check;

/// The only version of the format this init reads.
pub const VERSION: u32 = 1;
/// Largest manifest accepted, in bytes.
pub const MAX_SIZE: u64 = 256 * 1024;
/// Where the manifest is on the rootfs.
pub const PATH: &str = "manifest.json";
/// Where the container's root is, on the rootfs or on the boot filesystem.
pub const CONTAINER_ROOT: &str = "rootfs";
/// Where the boot filesystem keeps what is mounted at [`BootFilesystem::mount`].
pub const BOOT_FILES: &str = "files";

/// What one image is and does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`VERSION`].
    pub version: u32,
    /// Name and version under which the broker knows the image.
    pub image: Image,
    /// Where the container's output goes. A measured choice.
    pub logs: Logs,
    /// Which evidence may be sent.
    pub attestation: Attestation,
    /// The key broker; without one the image has no secrets.
    pub broker: Option<Broker>,
    /// How the guest gets an address; without it there is no network.
    pub network: Option<Network>,
    /// The encrypted boot filesystem.
    pub boot: Option<BootFilesystem>,
    /// The persistent encrypted volumes.
    pub volumes: Vec<PersistentVolume>,
    /// The one container.
    pub container: Container,
}

/// The identity of an image, by which the broker enrols and retires it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Lower-case letters, digits, `-`, `_` and `.`; 1 to 64 characters.
    pub name: String,
    /// Counts up with each release.
    pub version: u32,
}

/// Where the container's standard output and error go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Logs {
    /// Nowhere: the host sees nothing.
    None,
    /// To the console, which the host reads.
    Console,
}

/// A kind of trusted execution environment, by its name in the KBS protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// TPM 2.0. The host can forge it, so it is never one choice among others.
    Tpm,
}

impl Tee {
    /// The name in the KBS protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Tpm => "tpm",
        }
    }
}

/// Which evidence the image may present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// At least one; `tpm` only alone.
    pub tee: Vec<Tee>,
}

/// The key broker and how it proves itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// `https://HOST[:PORT]`, HOST a DNS name or an IPv4 address.
    pub url: String,
    /// The only certificate authority the guest trusts, DER.
    pub ca: Bytes,
    /// Floor of init's clock, seconds since 1970 (UTC).
    pub not_before: u64,
}

/// How the guest gets its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
pub enum Network {
    /// By init's own DHCP client, renewed while the container runs.
    Dhcp {},
    /// As given.
    Static(StaticNetwork),
}

/// A fixed IPv4 configuration; addresses in dotted decimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticNetwork {
    /// The guest's address.
    pub address: Ipv4,
    /// Length of the network prefix, 1 to 31.
    pub prefix: u8,
    /// Default router.
    pub router: Option<Ipv4>,
    /// Name servers, at most 3.
    pub dns: Vec<Ipv4>,
}

/// The encrypted boot filesystem: dm-crypt without a header, dm-verity over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootFilesystem {
    /// The master key, `kbs:///REPOSITORY/TYPE/TAG`.
    pub key: Resource,
    /// Context of the derived keys.
    pub content_id: Hex32,
    /// Root hash of the decrypted device.
    pub root_hash: Hex32,
    /// Its data blocks; the hash tree follows them.
    pub data_blocks: u64,
    /// Where the container sees [`BOOT_FILES`], read-only.
    pub mount: Option<String>,
}

impl BootFilesystem {
    /// Root hash and geometry; `None` when the number of blocks is out of bounds.
    pub fn verity(&self) -> Option<(Hex32, Geometry)> {
        Some((self.root_hash, Geometry::new(self.data_blocks)?))
    }
}

/// A persistent encrypted volume: a disk that the container writes, and that
/// keeps what it wrote from boot to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistentVolume {
    /// Lower-case letters, digits and `-`; 1 to [`crate::volume::MAX_NAME`] characters.
    /// The disk has the serial `volume-NAME`.
    pub name: String,
    /// The master key, `kbs:///REPOSITORY/TYPE/TAG`.
    pub key: Resource,
    /// Where the container sees it, writable.
    pub mount: String,
    /// Its size in blocks of 4096 bytes.
    pub data_blocks: u64,
    /// Its generation; a disk of another one does not open.
    pub epoch: u64,
}

impl PersistentVolume {
    /// What its header and keys are bound to; `None` when name or size is out of
    /// bounds.
    pub fn volume(&self) -> Option<Volume> {
        Volume::new(&self.name, self.data_blocks, self.epoch)
    }
}

/// The container, with every default already applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Which filesystem holds its root, in [`CONTAINER_ROOT`].
    pub root: ContainerRoot,
    /// Program (an absolute path inside the container) and its arguments.
    pub argv: Vec<String>,
    /// `NAME=value`, nothing inherited.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// Host name, 1 to 64 characters.
    pub hostname: String,
    /// Numeric user.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities, one bit each as in `linux/capability.h`; zero by default.
    pub capabilities: u64,
    /// Compiled seccomp filter: `struct sock_filter` records of 8 bytes.
    pub seccomp: Bytes,
    /// Resource limits, each resource at most once.
    pub rlimits: Vec<Rlimit>,
    /// Memory bound in bytes (cgroup `memory.max`, swap excluded).
    pub memory: Option<u64>,
    /// Bound on processes and threads (cgroup `pids.max`).
    pub pids: u64,
    /// Bytes of tmpfs laid over the read-only root; `None` keeps it read-only.
    pub writable: Option<u64>,
    /// Mounted in this order, after the root.
    pub tmpfs: Vec<Tmpfs>,
    /// Secrets from the broker.
    pub secrets: Vec<Secret>,
    /// Signal that asks the workload to end.
    pub stop_signal: u8,
    /// Seconds from that signal to SIGKILL, 1 to 300.
    pub stop_grace_seconds: u32,
}

/// Which filesystem holds the container's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerRoot {
    /// The measured, readable rootfs.
    Rootfs,
    /// The encrypted boot filesystem: a confidential image.
    Boot,
}

/// One resource limit; `number` as in `asm-generic/resource.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// `RLIMIT_*`, 0 to 15.
    pub number: u8,
    /// Soft limit; `u64::MAX` is infinity.
    pub soft: u64,
    /// Hard limit, at least the soft one.
    pub hard: u64,
}

/// A tmpfs inside the container. Always `nosuid`, `nodev`, `noexec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Absolute path of an existing directory of the container's root.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits of its root, at most 0o1777.
    pub mode: u32,
    /// Owner of its root.
    pub uid: u32,
    /// Group of its root.
    pub gid: u32,
}

/// A secret the broker releases to this image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Which.
    pub resource: Resource,
    /// How the container gets it.
    pub target: SecretTarget,
}

/// How the container gets a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretTarget {
    /// As a file on one of the container's tmpfs mounts.
    File(SecretFile),
    /// As the value of an environment variable; must be UTF-8 without NUL.
    Env(String),
}

/// A file that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    /// Absolute path, directly inside one of [`Container::tmpfs`].
    pub path: String,
    /// Permission bits, at most 0o777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Path of a broker resource, from `kbs:///REPOSITORY/TYPE/TAG`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource(String);

/// Binary data, standard base64 with padding in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// An IPv4 address, dotted decimal in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4(pub core::net::Ipv4Addr);

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// What is wrong first: the JSON error with line and column, or the member
    /// whose value is out of bounds.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let manifest: Self =
            serde_json::from_slice(json).map_err(|e| Error::Json(alloc::format!("{e}")))?;
        check::manifest(&manifest)?;
        Ok(manifest)
    }

    /// Writes the manifest with its members in order, after the same checks.
    ///
    /// # Errors
    /// The member whose value is out of bounds.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        check::manifest(self)?;
        serde_json::to_vec(self).map_err(|e| Error::Json(alloc::format!("{e}")))
    }
}

impl Resource {
    /// Reads `kbs:///REPOSITORY/TYPE/TAG`, each part as Trustee's KBS takes it:
    /// `[A-Za-z0-9_-][A-Za-z0-9_.-]*`, at most 64 characters.
    pub fn parse(uri: &str) -> Option<Self> {
        Self::from_path(uri.strip_prefix("kbs:///")?)
    }

    /// Reads `REPOSITORY/TYPE/TAG`.
    pub fn from_path(path: &str) -> Option<Self> {
        let part_ok = |part: &str| {
            part.len() <= 64
                && part.starts_with(|c: char| c.is_ascii_alphanumeric() || "_-".contains(c))
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        };
        let ok = path.split('/').count() == 3 && path.split('/').all(part_ok);
        ok.then(|| Self(path.into()))
    }

    /// `REPOSITORY/TYPE/TAG`.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kbs:///{}", self.0)
    }
}

/// Ties a type to its one spelling in JSON.
macro_rules! json_string {
    ($type:ident, $what:literal, $parse:expr, $print:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let print: fn(&$type) -> String = $print;
                serializer.serialize_str(&print(self))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let parse: fn(&str) -> Option<$type> = $parse;
                let text = String::deserialize(deserializer)?;
                parse(&text).ok_or_else(|| D::Error::custom(concat!("expected ", $what)))
            }
        }
    };
}

json_string!(
    Resource,
    "kbs:///REPOSITORY/TYPE/TAG",
    Resource::parse,
    |r| alloc::format!("{r}")
);
json_string!(
    Bytes,
    "base64",
    |t| Base64::decode_vec(t).ok().map(Bytes),
    |b| Base64::encode_string(&b.0)
);
json_string!(
    Hex32,
    "64 lower-case hexadecimal digits",
    Hex32::from_hex,
    |h| alloc::format!("{h}")
);
json_string!(
    Ipv4,
    "an IPv4 address",
    |t| t.parse().ok().map(Ipv4),
    |a| alloc::format!("{}", a.0)
);

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as manifest::Error"
)]
pub enum Error {
    /// Not the JSON of a manifest.
    Json(String),
    /// A member is outside its bounds.
    Member {
        /// Path of the member.
        name: &'static str,
        /// What it must be.
        expected: String,
    },
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(cause) => f.write_str(cause),
            Self::Member { name, expected } => write!(f, "{name} must be {expected}"),
        }
    }
}

#[cfg(test)]
mod tests;
