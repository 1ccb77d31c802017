//! What machines must be, whatever image they run: the platform policy, and
//! the roots at which their certificates may end.
//!
//! Without a policy no processor of AMD is accepted: which firmware is old can
//! only be said by a person, and Milan's root seed is known. Of Intel's the
//! collateral says what is up to date, so the default there is enough.

use std::path::Path;

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use measured_boot::verify::Roots;
use measured_boot::verify::snp::{Product, Root};
use measured_boot::verify::validate::{PlatformPolicy, SnpPolicy, TdxPolicy};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::endorsements::ENDORSEMENTS;
use super::file::{der_inputs, read_input};
use super::{Error, Store};

const POLICY: &str = "policy.json";
const ROOTS: &str = "trust-roots";

/// A policy as a person writes it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    snp: Option<SnpPolicy>,
    tdx: TdxPolicy,
}

impl Given {
    fn policy(self) -> PlatformPolicy {
        let none = || SnpPolicy {
            products: Vec::new(),
            ..SnpPolicy::default()
        };
        PlatformPolicy {
            snp: self.snp.unwrap_or_else(none),
            tdx: self.tdx,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "tee", rename_all = "lowercase", deny_unknown_fields)]
enum StoredRoot {
    Snp {
        product: Product,
        ark: String,
        signer: String,
    },
    Tdx {
        root: String,
    },
}

impl Store {
    /// The platform policy; the default where none was set.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn platform_policy(&self) -> Result<PlatformPolicy, Error> {
        let policy = self.read_json(POLICY)?;
        Ok(policy.unwrap_or_else(|| Given::default().policy()))
    }

    /// Sets the platform policy: JSON or TOML, replacing the former one. Without
    /// a part for SNP it accepts no product of AMD, as no policy does.
    ///
    /// # Errors
    /// Not a policy, or one that accepts a product of AMD whatever firmware it
    /// has, or guests that their host can look into.
    pub fn set_platform_policy(&self, path: &Path) -> Result<PlatformPolicy, Error> {
        let _lock = self.lock()?;
        let bytes = read_input(path)?;
        let policy = parse(&bytes).map_err(|e| Error::invalid("read policy", path, e))?;
        check(&policy).map_err(|e| Error::invalid("set policy", path, e))?;
        self.write_json(POLICY, &policy)?;
        Ok(policy)
    }

    /// Trusts a root of AMD's form that is not AMD's: `ark` and the ASK or ASVK
    /// it signed. In a development store only.
    ///
    /// # Errors
    /// The store is for production, or the certificates are not of that form.
    pub fn trust_snp_root(
        &self,
        product: Product,
        ark: &Path,
        signer: &Path,
    ) -> Result<String, Error> {
        self.check_development(ark)?;
        let [ark, signer] = [one_certificate(ark)?, one_certificate(signer)?];
        let stored = StoredRoot::Snp {
            product,
            ark: Base64::encode_string(&ark),
            signer: Base64::encode_string(&signer),
        };
        let root = Root {
            product,
            ark,
            signer,
        };
        root.check()
            .map_err(|e| Error::refused("trust root", product, e))?;
        self.write_root(&root.signer, &stored)
    }

    /// Trusts a root CA of TDX that is not Intel's. In a development store only.
    ///
    /// # Errors
    /// The store is for production, or it is no certificate.
    pub fn trust_tdx_root(&self, path: &Path) -> Result<String, Error> {
        self.check_development(path)?;
        let root = one_certificate(path)?;
        Roots::default()
            .insecure_add_tdx(root.clone())
            .map_err(|e| Error::invalid("trust root", path, e))?;
        let stored = StoredRoot::Tdx {
            root: Base64::encode_string(&root),
        };
        self.write_root(&root, &stored)
    }

    fn check_development(&self, path: &Path) -> Result<(), Error> {
        if self.development {
            return Ok(());
        }
        let cause = "this store is for production, and trusts the roots of AMD and Intel alone; \
                     make one with init --development";
        Err(Error::invalid("trust root", path, cause))
    }

    fn write_root(&self, der: &[u8], stored: &StoredRoot) -> Result<String, Error> {
        let _lock = self.lock()?;
        let id = base16::encode(&Sha256::digest(der));
        self.write_json(&format!("{ROOTS}/{id}.json"), stored)?;
        Ok(id)
    }

    /// Every trusted root.
    pub(crate) fn roots(&self) -> Result<Roots, Error> {
        let mut roots = Roots::default();
        for name in self.names(ROOTS)? {
            let file = format!("{ROOTS}/{name}");
            let broken =
                |e: &dyn ToString| Error::invalid("trust", &self.path(&file), e.to_string());
            if !self.development {
                return Err(broken(&"a store for production has no roots of its own"));
            }
            let decode = |text: &str| Base64::decode_vec(text).map_err(|e| broken(&e));
            let added = match self.read_json(&file)? {
                Some(StoredRoot::Snp {
                    product,
                    ark,
                    signer,
                }) => roots.insecure_add_snp(Root {
                    product,
                    ark: decode(&ark)?,
                    signer: decode(&signer)?,
                }),
                Some(StoredRoot::Tdx { root }) => roots.insecure_add_tdx(decode(&root)?),
                None => Ok(()),
            };
            added.map_err(|e| broken(&e))?;
        }
        Ok(roots)
    }

    /// Digest of policy, roots and endorsements, so that a session notices a change.
    pub(crate) fn platform(&self) -> Result<[u8; 32], Error> {
        let mut files = vec![POLICY.to_owned()];
        for folder in [ROOTS, ENDORSEMENTS] {
            let names = self.names(folder)?.into_iter();
            files.extend(names.map(|name| format!("{folder}/{name}")));
        }
        let mut digest = Sha256::new();
        for file in files {
            let bytes = self.read(&file)?;
            digest.update(Sha256::digest(&file));
            digest.update(Sha256::digest(
                bytes.as_deref().map_or(&[][..], |bytes| bytes),
            ));
        }
        Ok(digest.finalize().into())
    }
}

fn parse(bytes: &[u8]) -> Result<PlatformPolicy, String> {
    if bytes.trim_ascii_start().starts_with(b"{") {
        let given = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        return Ok(Given::policy(given));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let given: Given = toml::from_str(text).map_err(|e| e.to_string())?;
    Ok(given.policy())
}

/// What evidence of would be refused anyway, or should be.
fn check(policy: &PlatformPolicy) -> Result<(), String> {
    let snp = &policy.snp;
    let open = |product: &&Product| !snp.minimum_tcb.contains_key(product);
    if let Some(product) = snp.products.iter().find(open) {
        return Err(format!(
            "snp.products has {product} and snp.minimum_tcb has not: name products with the \
             firmware they must have at least"
        ));
    }
    if let Some(id) = snp.chip_ids.iter().find(|id| !chip_id(id)) {
        return Err(format!(
            "got chip id {id:?}, expected 128 lower-case hexadecimal digits, or 16 of Turin"
        ));
    }
    if policy
        .tdx
        .tcb_statuses
        .iter()
        .any(|status| status == "Revoked")
    {
        return Err("tdx.tcb_statuses has Revoked".into());
    }
    Ok(())
}

fn chip_id(text: &str) -> bool {
    base16::decode::<64>(text).is_some() || base16::decode::<8>(text).is_some()
}

fn one_certificate(path: &Path) -> Result<Vec<u8>, Error> {
    let all = der_inputs(&read_input(path)?).map_err(|e| Error::invalid("read", path, e))?;
    let count = all.len();
    let mut all = all.into_iter();
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        _ => {
            let cause = format!("got {count} certificates, expected 1");
            Err(Error::invalid("read", path, cause))
        }
    }
}
