//! What chains may end at: the keys of AMD and Intel that are compiled in, and
//! those that whoever calls trusts beside them. Evidence never adds any.

use sha2::{Digest, Sha256};
use x509_cert::der::Encode;

use super::certificate::Certificate;
use super::snp::{Product, Root, SigningKey};
use super::{Refused, Table};

/// SHA-256 of the certificate of "Intel SGX Root CA", which `dcap-qvl` has
/// compiled in and does not show.
const INTEL_ROOT: [u8; 32] = [
    0x44, 0xa0, 0x19, 0x6b, 0x2b, 0x99, 0xf8, 0x89, 0xb8, 0xe1, 0x49, 0xe9, 0x5b, 0x80, 0x7a, 0x35,
    0x0e, 0x74, 0x24, 0x96, 0x43, 0x99, 0xe8, 0x85, 0xa7, 0xcb, 0xb8, 0xcc, 0xfa, 0xb6, 0x74, 0xd3,
];

/// Trusted roots. The built-in ones are always among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    snp: Vec<Root>,
    tdx: Vec<Vec<u8>>,
}

impl Roots {
    /// AMD's and Intel's, and no others.
    pub const BUILT_IN: &'static Self = &Self {
        snp: Vec::new(),
        tdx: Vec::new(),
    };

    /// Trusts a root that is not AMD's: whoever has its key can make evidence.
    ///
    /// # Errors
    /// The certificates have not the form of AMD's.
    pub fn insecure_add_snp(&mut self, root: Root) -> Result<(), Refused> {
        root.check()?;
        self.snp.push(root);
        Ok(())
    }

    /// Trusts a root CA, DER, that is not Intel's: whoever has its key can make
    /// evidence.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn insecure_add_tdx(&mut self, der: Vec<u8>) -> Result<(), Refused> {
        Certificate::parse("root CA", &der, &mut Table::default())?;
        self.tdx.push(der);
        Ok(())
    }

    /// ARK and signer for `vek`: the first pair of which it is, else the
    /// built-in one, by which it is then refused.
    pub(super) fn snp_issuers(
        &self,
        vek: &Certificate,
        product: Product,
        key: SigningKey,
        table: &mut Table,
    ) -> Result<[Certificate; 2], Refused> {
        let signer_kind = match key {
            SigningKey::Vcek => "ASK",
            SigningKey::Vlek => "ASVK",
        };
        let name = product.signer_name(key);
        for root in self.snp.iter().filter(|root| root.product == product) {
            let attempt = &mut Table::default();
            let signer = Certificate::parse(signer_kind, &root.signer, attempt)?;
            if signer.subject() == name && vek.check_signature(&signer, attempt).is_ok() {
                return Ok([Certificate::parse("ARK", &root.ark, table)?, signer]);
            }
        }
        Ok([
            Certificate::parse("ARK", product.root(), table)?,
            Certificate::parse(signer_kind, product.signer(key), table)?,
        ])
    }

    /// Every trusted ARK.
    pub(super) fn snp_roots(&self) -> Vec<Certificate> {
        let read = |der| Certificate::parse("ARK", der, &mut Table::default()).ok();
        let built_in = Product::ALL.map(Product::root);
        let mut all: Vec<_> = built_in.into_iter().filter_map(read).collect();
        all.extend(self.snp.iter().filter_map(|root| read(&root.ark)));
        all
    }

    /// The added root that a chain in PEM says it ends at; nothing of the chain
    /// is believed, the choice only says by which key it must verify.
    pub(super) fn tdx_root(&self, chain: &str) -> Option<&[u8]> {
        let last = last_of(chain)?;
        let added = self.tdx.iter().find(|root| **root == last)?;
        Some(added)
    }

    /// Whether a chain in PEM says it ends at Intel's root.
    pub(super) fn intel_root_ends(chain: &str) -> bool {
        last_of(chain).is_some_and(|last| Sha256::digest(last)[..] == INTEL_ROOT)
    }
}

fn last_of(chain: &str) -> Option<Vec<u8>> {
    let chain = x509_cert::Certificate::load_pem_chain(chain.as_bytes()).ok()?;
    chain.last()?.to_der().ok()
}
