//! SEV-SNP: keys in AMD's hierarchy, and reports that they sign.

mod certificate_table;
mod report;

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a failure here is a failed test"
)]
mod tests;

use anyhow::{Context, Result};
use measured_boot::verify::snp::{Product, SigningKey, Tcb};
use p384::pkcs8::EncodePublicKey;
use rsa::pkcs8::DecodePrivateKey;
use sha2::{Digest, Sha384};
use x509_cert::der::Encode;
use x509_cert::der::asn1::Ia5StringRef;

pub use self::certificate_table::certificate_table;
pub use self::report::{MIGRATE_MA, Report, tcb_bytes};

use crate::x509::{Role, Signer, Subject, extension};
use crate::{Keys, NOT_AFTER, NOT_BEFORE};

/// Serial numbers as AMD's: of the ARK, of what it signs, and of every VEK.
const ARK_SERIAL: [u8; 3] = [1, 0, 0];
const ASK_SERIAL: [u8; 3] = [1, 0, 1];
const ASVK_SERIAL: [u8; 3] = [1, 0, 2];
const VEK_SERIAL: [u8; 1] = [0];

/// Extensions of a VEK (VCEK specification 57230).
const STRUCT_VERSION: &str = "1.3.6.1.4.1.3704.1.1";
const PRODUCT_NAME: &str = "1.3.6.1.4.1.3704.1.2";
const BOOTLOADER: &str = "1.3.6.1.4.1.3704.1.3.1";
const TEE: &str = "1.3.6.1.4.1.3704.1.3.2";
const SNP: &str = "1.3.6.1.4.1.3704.1.3.3";
const MICROCODE: &str = "1.3.6.1.4.1.3704.1.3.8";
const FMC: &str = "1.3.6.1.4.1.3704.1.3.9";
const HWID: &str = "1.3.6.1.4.1.3704.1.4";
const CSP_ID: &str = "1.3.6.1.4.1.3704.1.5";

/// The keys above one product's processors.
///
/// Names, serial numbers and extensions are AMD's; the keys are in the source.
#[derive(Debug)]
pub struct Authority {
    keys: Keys,
    product: Product,
    ark_key: Signer,
    ask_key: Signer,
    asvk_key: Signer,
    ark: Vec<u8>,
    ask: Vec<u8>,
    asvk: Vec<u8>,
}

impl Authority {
    /// The keys of `keys` under the names of `product`.
    ///
    /// # Errors
    /// A key does not sign.
    pub fn new(keys: Keys, product: Product) -> Result<Self> {
        let [ark_pem, ask_pem, asvk_pem] = match keys {
            Keys::Test => [
                include_str!("../keys/insecure-test-ark.pem"),
                include_str!("../keys/insecure-test-ask.pem"),
                include_str!("../keys/insecure-test-asvk.pem"),
            ],
            Keys::Foreign => [
                include_str!("../keys/insecure-foreign-ark.pem"),
                include_str!("../keys/insecure-foreign-ask.pem"),
                include_str!("../keys/insecure-foreign-asvk.pem"),
            ],
        };
        let (ark_key, ark_public) = rsa_key(ark_pem)?;
        let (ask_key, ask_public) = rsa_key(ask_pem)?;
        let (asvk_key, asvk_public) = rsa_key(asvk_pem)?;
        let issuer = name(&format!("ARK-{product}"));
        let issue = |subject: String, serial: &[u8], public_key: &[u8]| {
            let subject = Subject {
                name: &name(&subject),
                serial,
                public_key,
                extensions: Vec::new(),
                role: Role::Authority,
            };
            ark_key.certificate(&issuer, subject)
        };
        let ark = issue(format!("ARK-{product}"), &ARK_SERIAL, &ark_public)?;
        let ask = issue(format!("SEV-{product}"), &ASK_SERIAL, &ask_public)?;
        let asvk = issue(format!("SEV-VLEK-{product}"), &ASVK_SERIAL, &asvk_public)?;
        Ok(Self {
            keys,
            product,
            ark_key,
            ask_key,
            asvk_key,
            ark,
            ask,
            asvk,
        })
    }

    /// What its processors are.
    pub fn product(&self) -> Product {
        self.product
    }

    /// The root's certificate, DER.
    pub fn ark(&self) -> &[u8] {
        &self.ark
    }

    /// The certificate of what signs VCEKs, DER.
    pub fn ask(&self) -> &[u8] {
        &self.ask
    }

    /// The certificate of what signs VLEKs, DER.
    pub fn asvk(&self) -> &[u8] {
        &self.asvk
    }

    /// The ARK's revocation list, DER: of these signers' certificates.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn crl(&self, revoked: &[SigningKey]) -> Result<Vec<u8>> {
        self.crl_of(revoked, [NOT_BEFORE, NOT_AFTER])
    }

    /// The same with another validity: its beginning and its end.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn crl_of(&self, revoked: &[SigningKey], validity: [u64; 2]) -> Result<Vec<u8>> {
        let serials: Vec<&[u8]> = revoked.iter().map(|key| serial(*key)).collect();
        self.ark_key.crl(&self.ark, &serials, validity)
    }

    /// The certificate, DER, of the key that this chip has with this firmware.
    /// `hwid` is its `CHIP_ID`, of which Turin certifies eight bytes.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn vcek(&self, hwid: &[u8; 64], tcb: Tcb) -> Result<Vec<u8>> {
        let key = self.vek_key(SigningKey::Vcek, hwid, tcb)?;
        let certified = match self.product {
            Product::Milan | Product::Genoa => &hwid[..],
            Product::Turin => hwid
                .first_chunk::<8>()
                .map(|id| &id[..])
                .unwrap_or_default(),
        };
        self.vek("SEV-VCEK", &self.ask_key, &key, tcb, (HWID, certified))
    }

    /// The certificate, DER, of the key that a cloud provider loads into its
    /// processors with this firmware.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn vlek(&self, tcb: Tcb) -> Result<Vec<u8>> {
        let key = self.vek_key(SigningKey::Vlek, &[0; 64], tcb)?;
        let provider = Ia5StringRef::new("test provider")?.to_der()?;
        self.vek("SEV-VLEK", &self.asvk_key, &key, tcb, (CSP_ID, &provider))
    }

    fn vek(
        &self,
        subject: &str,
        signer: &Signer,
        key: &p384::SecretKey,
        tcb: Tcb,
        (id, value): (&str, &[u8]),
    ) -> Result<Vec<u8>> {
        // AMD names the stepping for Milan only.
        let product = match self.product {
            Product::Milan => "Milan-B0",
            Product::Genoa | Product::Turin => self.product.name(),
        };
        let mut extensions = vec![
            extension(STRUCT_VERSION, &u8::from(tcb.fmc != 0).to_der()?)?,
            extension(PRODUCT_NAME, &Ia5StringRef::new(product)?.to_der()?)?,
            extension(BOOTLOADER, &tcb.bootloader.to_der()?)?,
            extension(TEE, &tcb.tee.to_der()?)?,
            extension(SNP, &tcb.snp.to_der()?)?,
            extension(MICROCODE, &tcb.microcode.to_der()?)?,
        ];
        if self.product == Product::Turin {
            extensions.push(extension(FMC, &tcb.fmc.to_der()?)?);
        }
        extensions.push(extension(id, value)?);
        let public_key = key.public_key().to_public_key_der()?;
        let issuer = match subject {
            "SEV-VLEK" => format!("SEV-VLEK-{}", self.product),
            _ => format!("SEV-{}", self.product),
        };
        let subject = Subject {
            name: &name(subject),
            serial: &VEK_SERIAL,
            public_key: public_key.as_bytes(),
            extensions,
            role: Role::Plain,
        };
        signer.certificate(&name(&issuer), subject)
    }

    /// As in hardware the key follows from the chip and its firmware.
    fn vek_key(&self, kind: SigningKey, chip: &[u8; 64], tcb: Tcb) -> Result<p384::SecretKey> {
        let seed = Sha384::new()
            .chain_update(format!("{} {} {kind} ", self.keys.name(), self.product))
            .chain_update(chip)
            .chain_update(tcb_bytes(self.product, tcb))
            .finalize();
        p384::SecretKey::from_slice(&seed).context("cannot derive a VEK")
    }
}

/// The serial number of the certificate that signs keys of this kind.
fn serial(key: SigningKey) -> &'static [u8] {
    match key {
        SigningKey::Vcek => &ASK_SERIAL,
        SigningKey::Vlek => &ASVK_SERIAL,
    }
}

/// AMD's distinguished name (RFC 4514: the last part first).
fn name(common_name: &str) -> String {
    format!("CN={common_name},O=Advanced Micro Devices,ST=CA,L=Santa Clara,C=US,OU=Engineering")
}

fn rsa_key(pem: &str) -> Result<(Signer, Vec<u8>)> {
    let key = rsa::PrivateKey::from_pkcs8_pem(pem).context("cannot read a test key")?;
    let public = key.to_public_key().to_public_key_der()?;
    let signer = Signer::RsaPss(Box::new(rsa::pss::SigningKey::new(key)));
    Ok((signer, public.into_vec()))
}
