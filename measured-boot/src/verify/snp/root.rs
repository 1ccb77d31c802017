//! AMD's keys, compiled in: what every chain must end at.

use serde::{Deserialize, Serialize};

use super::{Cpuid, SigningKey};
use crate::verify::certificate::Certificate;
use crate::verify::{Refused, Table};

/// A root that is trusted beside AMD's, with the key that it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The product it speaks for.
    pub product: Product,
    /// The ARK's certificate, DER.
    pub ark: Vec<u8>,
    /// The ASK's or ASVK's certificate, DER.
    pub signer: Vec<u8>,
}

impl Root {
    /// Whether the two certificates have AMD's form: names, and signatures of
    /// the first.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self) -> Result<(), Refused> {
        let mut table = Table::default();
        let ark = Certificate::parse("ARK", &self.ark, &mut table)?;
        let signer = Certificate::parse("signer", &self.signer, &mut table)?;
        let name = format!("ARK-{}", self.product);
        table.require("root name", ark.subject(), &name, ark.subject() == name)?;
        let names = [SigningKey::Vcek, SigningKey::Vlek].map(|key| self.product.signer_name(key));
        let subject = signer.subject();
        let named = names.contains(&subject);
        table.require("signer name", subject, names.join(" or "), named)?;
        ark.check_signature(&ark, &mut table)?;
        signer.check_signature(&ark, &mut table)
    }
}

/// A generation of EPYC processors with keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Product {
    /// EPYC 7003. Its root seed can be extracted by software, after which any
    /// report can be forged; no TCB is late enough.
    Milan,
    /// EPYC 9004 and 8004: Genoa, Bergamo and Siena.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// Every product whose keys are built in.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// Its name, as in certificates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The product whose key of this name signs VCEKs or VLEKs.
    pub(super) fn of_issuer(issuer: &str, key: SigningKey) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|product| product.signer_name(key) == issuer)
    }

    /// The common name of the key that signs VCEKs or VLEKs.
    pub(in crate::verify) fn signer_name(self, key: SigningKey) -> String {
        match key {
            SigningKey::Vcek => format!("SEV-{}", self.name()),
            SigningKey::Vlek => format!("SEV-VLEK-{}", self.name()),
        }
    }

    /// The ARK's certificate, DER.
    pub(in crate::verify) fn root(self) -> &'static [u8] {
        match self {
            Self::Milan => include_bytes!("../../../certificates/snp/milan/ark.der"),
            Self::Genoa => include_bytes!("../../../certificates/snp/genoa/ark.der"),
            Self::Turin => include_bytes!("../../../certificates/snp/turin/ark.der"),
        }
    }

    /// The ASK's or ASVK's certificate, DER.
    pub(in crate::verify) fn signer(self, key: SigningKey) -> &'static [u8] {
        match (self, key) {
            (Self::Milan, SigningKey::Vcek) => {
                include_bytes!("../../../certificates/snp/milan/ask.der")
            }
            (Self::Genoa, SigningKey::Vcek) => {
                include_bytes!("../../../certificates/snp/genoa/ask.der")
            }
            (Self::Turin, SigningKey::Vcek) => {
                include_bytes!("../../../certificates/snp/turin/ask.der")
            }
            (Self::Milan, SigningKey::Vlek) => {
                include_bytes!("../../../certificates/snp/milan/asvk.der")
            }
            (Self::Genoa, SigningKey::Vlek) => {
                include_bytes!("../../../certificates/snp/genoa/asvk.der")
            }
            (Self::Turin, SigningKey::Vlek) => {
                include_bytes!("../../../certificates/snp/turin/asvk.der")
            }
        }
    }

    /// Bytes of the hardware id in a certificate.
    pub(super) fn hwid_length(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }

    /// Whether a processor is of this product (AMD's revision guides).
    pub(super) fn has_cpuid(self, cpuid: Cpuid) -> bool {
        match (self, cpuid.family, cpuid.model) {
            (Self::Milan, 0x19, 0x00..=0x0f) => true,
            (Self::Genoa, 0x19, 0x10..=0x1f | 0xa0..=0xaf) => true,
            (Self::Turin, 0x1a, 0x00..=0x1f) => true,
            (Self::Milan | Self::Genoa | Self::Turin, _, _) => false,
        }
    }
}

impl core::fmt::Display for Product {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
