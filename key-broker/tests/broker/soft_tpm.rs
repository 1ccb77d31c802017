//! A TPM as far as a quote goes, built by hand from Part 2 of the TPM 2.0
//! library specification, so that each field can be made wrong.

use std::sync::LazyLock;

use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::tpm::{Pcrs, QuoteParts};
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::EncodePublicKey;
use rsa::signature::{SignatureEncoding, Signer};
use sha2::{Digest, Sha256};

/// Two keys for all tests: making one takes seconds.
static KEYS: LazyLock<[rsa::PrivateKey; 2]> =
    LazyLock::new(|| [0; 2].map(|_| rsa::PrivateKey::new(&mut getrandom::SysRng, 2048).unwrap()));

pub(crate) struct SoftTpm {
    key: &'static rsa::PrivateKey,
    pub(crate) pcrs: Pcrs,
    pub(crate) reset_count: u32,
    /// `TPML_PCR_SELECTION` without its count.
    pub(crate) selection: Vec<u8>,
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) trailing: Vec<u8>,
}

impl SoftTpm {
    /// `which` of the two keys; boot number `reset_count`.
    pub(crate) fn new(which: usize, pcrs: Pcrs, reset_count: u32) -> Self {
        Self::with_key(&KEYS[which], pcrs, reset_count)
    }

    /// A key of its own, where two are not enough.
    pub(crate) fn new_key() -> &'static rsa::PrivateKey {
        Box::leak(Box::new(
            rsa::PrivateKey::new(&mut getrandom::SysRng, 2048).unwrap(),
        ))
    }

    pub(crate) fn with_key(key: &'static rsa::PrivateKey, pcrs: Pcrs, reset_count: u32) -> Self {
        Self {
            key,
            pcrs,
            reset_count,
            selection: vec![0x00, 0x0b, 3, 0xff, 0xff, 0xff],
            magic: 0xff54_4347,
            kind: 0x8018,
            trailing: vec![],
        }
    }

    pub(crate) fn ak(&self) -> Vec<u8> {
        self.key
            .to_public_key()
            .to_public_key_der()
            .unwrap()
            .into_vec()
    }

    pub(crate) fn quote(&self, qualifying_data: &[u8]) -> TpmEvidence {
        let sized = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            [&length, bytes].concat()
        };
        let mut message = self.magic.to_be_bytes().to_vec();
        message.extend(self.kind.to_be_bytes());
        message.extend(sized(&[0, 11, 7, 7]));
        message.extend(sized(qualifying_data));
        message.extend(99_u64.to_be_bytes());
        message.extend(self.reset_count.to_be_bytes());
        message.extend(0_u32.to_be_bytes());
        message.push(1);
        message.extend([0; 8]);
        message.extend(
            u32::try_from(self.selection.len() / 6)
                .unwrap()
                .to_be_bytes(),
        );
        message.extend(&self.selection);
        message.extend(sized(&Sha256::digest(self.pcrs.concat())));
        message.extend(&self.trailing);
        self.sign(message)
    }

    /// Signs anything, as a key that is not restricted would.
    pub(crate) fn sign(&self, message: Vec<u8>) -> TpmEvidence {
        let signature = SigningKey::<Sha256>::new(self.key.clone())
            .sign(&message)
            .to_vec();
        let head = [0x00, 0x14, 0x00, 0x0b, 0x01, 0x00];
        TpmEvidence {
            quote: QuoteParts {
                message,
                signature: [&head, signature.as_slice()].concat(),
                pcrs: self.pcrs,
            },
            ak_public: self.ak(),
        }
    }
}
