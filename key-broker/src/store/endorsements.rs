//! What vendors state about platforms: certificates of VCEKs and VLEKs, lists
//! of revoked keys, collateral of TDX. They are public and signed; they are
//! kept here since the broker asks nobody for them.
//!
//! Kept ones were verified when they were added, but for their time, and are
//! verified again with each evidence. Those of a configured directory are
//! verified then alone.

use std::fs;
use std::path::Path;

use measured_boot::base16;
use measured_boot::verify::snp::{self, Crl, Vek};
use measured_boot::verify::tdx::Collateral;
use measured_boot::verify::{Roots, Table};
use sha2::{Digest, Sha256};

use super::file::{der_inputs, read_input};
use super::{Error, Store};

pub(super) const ENDORSEMENTS: &str = "endorsements";
/// More than a site has chips; a directory is read at each attestation.
const MOST_FILES: usize = 4096;
/// Far above what the certificates, lists and collateral of a site have.
const MOST_BYTES: usize = 16 << 20;

/// Everything that is at hand, by form; nothing in it is believed.
#[derive(Debug, Default)]
pub(crate) struct Cached {
    pub(crate) veks: Vec<Vec<u8>>,
    pub(crate) crls: Vec<Vec<u8>>,
    /// Each with its JSON.
    pub(crate) collaterals: Vec<(Collateral, Vec<u8>)>,
}

impl Cached {
    /// Sorts what a file holds; `false` where that is nothing that is used.
    fn add(&mut self, bytes: Vec<u8>) -> bool {
        if bytes.trim_ascii_start().starts_with(b"{") {
            return match Collateral::parse(&bytes, &mut Table::default()) {
                Ok(collateral) => {
                    self.collaterals.push((collateral, bytes));
                    true
                }
                Err(_) => false,
            };
        }
        let mut used = false;
        for der in der_inputs(&bytes).unwrap_or_default() {
            if snp::is_vek(&der) {
                self.veks.push(der);
                used = true;
            } else if snp::is_crl(&der) {
                self.crls.push(der);
                used = true;
            }
        }
        used
    }
}

impl Store {
    /// Keeps what a file holds: certificates and CRLs in DER or PEM, or a
    /// collateral. Gives a line about each.
    ///
    /// # Errors
    /// Something in it is none of these, or is not of a trusted root, or is a
    /// collateral older than the one that is kept. Nothing of the file is kept
    /// then.
    pub fn endorse(&self, path: &Path) -> Result<Vec<String>, Error> {
        let _lock = self.lock()?;
        let failed = |e: &dyn ToString| Error::invalid("endorse with", path, e.to_string());
        let roots = self.roots()?;
        let bytes = read_input(path)?;
        if bytes.trim_ascii_start().starts_with(b"{") {
            let collateral =
                Collateral::parse(&bytes, &mut Table::default()).map_err(|e| failed(&e))?;
            collateral.authenticate(&roots).map_err(|e| failed(&e))?;
            let fmspc = collateral.fmspc();
            let name = format!("{ENDORSEMENTS}/{fmspc}.json");
            if let Some(kept) = self.read(&name)?
                && let Ok(kept) = Collateral::parse(&kept, &mut Table::default())
                && kept.authenticate(&roots).is_ok()
                && kept.order() > collateral.order()
            {
                return Err(failed(&"it is older than the one that is kept"));
            }
            self.write(&name, &bytes)?;
            let until = collateral.until();
            return Ok(vec![format!("collateral of FMSPC {fmspc}, until {until}")]);
        }
        let mut kept = Vec::new();
        for der in der_inputs(&bytes).map_err(|e| failed(&e))? {
            let (line, extension) = recognise(&der, &roots).map_err(|e| failed(&e))?;
            kept.push((line, extension, der));
        }
        let mut lines = Vec::new();
        for (line, extension, der) in kept {
            let id = base16::encode(&Sha256::digest(&der));
            self.write(&format!("{ENDORSEMENTS}/{id}.{extension}"), &der)?;
            lines.push(line);
        }
        Ok(lines)
    }

    /// What is kept, and what the configured directory holds at this moment,
    /// without hidden files and those that cannot be read.
    pub(crate) fn endorsements(&self, directory: Option<&Path>) -> Result<Cached, Error> {
        let mut cached = Cached::default();
        for name in self.names(ENDORSEMENTS)? {
            if let Some(bytes) = self.read(&format!("{ENDORSEMENTS}/{name}"))? {
                cached.add(bytes.to_vec());
            }
        }
        let Some(directory) = directory else {
            return Ok(cached);
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
            let entry = entry.map_err(Error::io("read", directory))?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let path = entry.path();
            if !hidden && path.is_file() {
                paths.push(path);
            }
        }
        if paths.len() > MOST_FILES {
            let cause = format!("got {} files, expected at most {MOST_FILES}", paths.len());
            return Err(Error::invalid("read", directory, cause));
        }
        paths.sort();
        let mut bytes_left = MOST_BYTES;
        for path in paths {
            // What is of no use is left alone, and so is what cannot be read or is
            // gone by now: the folder is not the broker's.
            let Ok(bytes) = read_input(&path) else {
                continue;
            };
            bytes_left = bytes_left.checked_sub(bytes.len()).ok_or_else(|| {
                Error::invalid("read", directory, "its files have more than 16 MiB")
            })?;
            let _used: bool = cached.add(bytes);
        }
        Ok(cached)
    }
}

/// What one DER is, and the extension of its file.
fn recognise(der: &[u8], roots: &Roots) -> Result<(String, &'static str), String> {
    if snp::is_vek(der) {
        let vek = Vek::verify(der, roots).map_err(|e| e.to_string())?;
        let chip = match vek.hwid.get(..16) {
            Some(start) => format!(" of chip {start}"),
            None => String::new(),
        };
        let Vek {
            product, key, tcb, ..
        } = vek;
        return Ok((format!("{key} of {product}{chip}, for {tcb}"), "der"));
    }
    if snp::is_crl(der) {
        let crl = Crl::verify(der, roots).map_err(|e| e.to_string())?;
        return Ok((
            format!("CRL of {}, {} to {}", crl.issuer, crl.from, crl.until),
            "crl",
        ));
    }
    Err("it is no certificate of a VCEK or VLEK, no CRL and no collateral".into())
}
