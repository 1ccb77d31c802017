//! Secrets, each bound to images and kinds of TEE, and where wanted to one
//! instance.

use std::fmt;

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use measured_boot::manifest::{Resource, Tee};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, Store, images::check_name};

const RESOURCES: &str = "resources";
/// Larger ones are files, which belong on the encrypted boot filesystem.
pub const MAX_VALUE: usize = 64 * 1024;

/// To whom a resource may go: an image of one of these names, shown by evidence
/// of one of these kinds. Nobody else gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Names of images.
    pub images: Vec<String>,
    /// Kinds of TEE.
    pub tee: Vec<Tee>,
    /// The one instance; any where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
}

/// What the host says which instance of an image it starts, and the TEE signs:
/// `HOST_DATA` of SNP, 32 bytes, or `MRCONFIGID` of TDX, 48 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Instance(String);

impl Instance {
    /// Reads 64 or 96 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let ok = base16::decode::<32>(text).is_some() || base16::decode::<48>(text).is_some();
        ok.then(|| Self(text.into()))
    }

    pub(crate) fn snp(host_data: &[u8; 32]) -> Self {
        Self(base16::encode(host_data))
    }

    pub(crate) fn tdx(mr_config_id: &[u8; 48]) -> Self {
        Self(base16::encode(mr_config_id))
    }

    /// The only kind of TEE that can show it.
    fn tee(&self) -> Tee {
        match self.0.len() {
            64 => Tee::Snp,
            _ => Tee::Tdx,
        }
    }
}

impl TryFrom<String> for Instance {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("expected 64 or 96 lower-case hexadecimal digits")
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One resource, for lists; without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredResource {
    /// Its path.
    pub resource: Resource,
    /// Who may have it.
    #[serde(flatten)]
    pub binding: Binding,
    /// Size of the value.
    pub bytes: usize,
}

/// The bytes of a resource: zeroed when dropped, never printed, never cloned.
pub struct Value(Zeroizing<Vec<u8>>);

impl Value {
    /// The secret, to encrypt it for a guest.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value(redacted)")
    }
}

/// The file. Base64 needs no escapes in JSON, so the value is borrowed from
/// the buffer it was read into, which is zeroed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json<'a> {
    binding: Binding,
    value: &'a str,
}

impl Store {
    /// Stores `value` under `resource`.
    ///
    /// # Errors
    /// No image or no TEE to bind to, an empty or too large value, or a
    /// resource that exists already without `replace`.
    pub fn put(
        &self,
        resource: &Resource,
        value: &[u8],
        mut binding: Binding,
        replace: bool,
    ) -> Result<(), Error> {
        let _lock = self.lock()?;
        let failed = |cause: &str| Error::refused("put", resource, cause);
        if binding.images.is_empty() || binding.tee.is_empty() {
            return Err(failed("expected at least one image name and one TEE"));
        }
        for name in &binding.images {
            check_name(name)?;
        }
        binding.images.sort();
        binding.images.dedup();
        binding.tee.sort();
        binding.tee.dedup();
        if binding.tee.contains(&Tee::Tpm) && binding.tee.len() > 1 {
            return Err(failed(
                "it is for guests of tpm or for those of snp and tdx: a TPM is outside the \
                 processor, and the weaker of both would decide",
            ));
        }
        if let Some(instance) = &binding.instance
            && binding.tee != [instance.tee()]
        {
            return Err(failed(
                "an instance of 32 bytes is HOST_DATA and of snp alone, one of 48 MRCONFIGID and of \
                 tdx alone",
            ));
        }
        if value.is_empty() || value.len() > MAX_VALUE {
            return Err(failed("expected 1 to 65536 bytes"));
        }
        let name = file(resource);
        if !replace && self.path(&name).exists() {
            return Err(failed("it exists; use --replace to put another value"));
        }
        let text = Zeroizing::new(Base64::encode_string(value));
        let json = Json {
            binding,
            value: &text,
        };
        // Sized so that it is not moved while it grows, which would leave a copy.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len().saturating_add(16 * 1024)));
        serde_json::to_writer(&mut *bytes, &json)
            .map_err(|e| Error::invalid("write", &self.path(&name), e))?;
        self.write(&name, &bytes)
    }

    /// Forgets a resource.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn remove(&self, resource: &Resource) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.remove_file(&file(resource))? {
            return Ok(());
        }
        Err(Error::refused(
            "remove",
            resource,
            "there is no such resource",
        ))
    }

    /// A resource and who may have it; `None` when there is none.
    pub(crate) fn resource(&self, resource: &Resource) -> Result<Option<(Binding, Value)>, Error> {
        let name = file(resource);
        let Some(bytes) = self.read(&name)? else {
            return Ok(None);
        };
        let broken = |e: &dyn ToString| Error::invalid("read", &self.path(&name), e.to_string());
        let json: Json<'_> = serde_json::from_slice(&bytes).map_err(|e| broken(&e))?;
        let value = Base64::decode_vec(json.value).map_err(|e| broken(&e))?;
        Ok(Some((json.binding, Value(Zeroizing::new(value)))))
    }

    /// All resources, without their values.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn resources(&self) -> Result<Vec<StoredResource>, Error> {
        let mut all = Vec::new();
        for repository in self.names(RESOURCES)? {
            for kind in self.names(&format!("{RESOURCES}/{repository}"))? {
                for file in self.names(&format!("{RESOURCES}/{repository}/{kind}"))? {
                    let tag = file.strip_suffix(".json").unwrap_or_default();
                    let Some(resource) = Resource::from_path(&format!("{repository}/{kind}/{tag}"))
                    else {
                        continue;
                    };
                    if let Some((binding, value)) = self.resource(&resource)? {
                        let bytes = value.expose().len();
                        all.push(StoredResource {
                            resource,
                            binding,
                            bytes,
                        });
                    }
                }
            }
        }
        Ok(all)
    }
}

/// A part never starts with a dot and never holds a slash, so that no path
/// leaves the directory or meets a file being written.
fn file(resource: &Resource) -> String {
    format!("{RESOURCES}/{}.json", resource.path())
}
