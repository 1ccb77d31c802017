//! Every way to sign something else than what is asked for.

use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::EncodePublicKey;
use rsa::signature::{SignatureEncoding, Signer};
use rsa::{BoxedUint, PrivateKey};
use sha2::{Digest, Sha256};

use super::{Error, tpm_quote};
use crate::base16;
use crate::evidence::{ReportData, TpmEvidence};
use crate::tpm::{ALG_SHA256, QuoteParts};

/// Primes made for these tests alone.
const PRIMES: [&str; 2] = [
    "f3d7ae3db91dd92852cef893fea977513d42ca954c9ba42dff38e9408245f815173756c88a941ccaac29305227c9786cfcabc6f19de85842ff22fed510d25ad5fd0c32d7132091dfa405dfa3fd1b101435505e38f6ca2c0553a3d54fc620f1ab7b68d3ed466e8a75f24803f3097945ea87f4d5bdcd446a6468be1100108db9f5",
    "fb6c4a87ef937106987aaa6193a4ec0ec21ef6c83935c10f34146a7a6df352242b3da075235bfa6991f9edaffa56df10deaffad6af9681fe06ad4e079119586abffecc9a095f577fe4aba7c4d402660999bfe47a1041c8280d899a911c49d7a3b0eb7947334fcd227073a00a134917b95f068a56326c8d46767ebb4a5305453b",
];
const REPORT_DATA: ReportData = ReportData([9; 48]);
const SHA1: u16 = 4;

/// A quote as a TPM with our key would sign it, and what a liar may change.
struct Statement {
    magic: u32,
    kind: u16,
    extra_data: Vec<u8>,
    selection: Vec<(u16, Vec<u8>)>,
    pcrs: [[u8; 32]; 24],
    digest: Vec<u8>,
    trailer: Vec<u8>,
}

impl Statement {
    fn honest() -> Self {
        let pcrs = core::array::from_fn(|pcr| [u8::try_from(pcr).unwrap(); 32]);
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            extra_data: vec![9; 32],
            selection: vec![(ALG_SHA256, vec![0xff; 3])],
            pcrs,
            digest: Sha256::digest(pcrs.concat()).to_vec(),
            trailer: Vec::new(),
        }
    }

    fn message(&self) -> Vec<u8> {
        let sized = |bytes: &[u8]| {
            let size = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            [&size[..], bytes].concat()
        };
        let mut message = self.magic.to_be_bytes().to_vec();
        message.extend(self.kind.to_be_bytes());
        message.extend(sized(&[0xab; 34]));
        message.extend(sized(&self.extra_data));
        message.extend([0; 25]);
        message.extend(u32::try_from(self.selection.len()).unwrap().to_be_bytes());
        for (bank, octets) in &self.selection {
            message.extend(bank.to_be_bytes());
            message.push(u8::try_from(octets.len()).unwrap());
            message.extend(octets);
        }
        message.extend(sized(&self.digest));
        message.extend(&self.trailer);
        message
    }

    fn sign(&self) -> TpmEvidence {
        let key = key();
        let message = self.message();
        let signature = SigningKey::<Sha256>::new(key.clone())
            .sign(&message)
            .to_vec();
        let signature = [&[0, 0x14, 0, 0x0b, 1, 0][..], &signature].concat();
        TpmEvidence {
            quote: QuoteParts {
                message,
                signature,
                pcrs: self.pcrs,
            },
            ak_public: key.to_public_key().to_public_key_der().unwrap().into_vec(),
        }
    }
}

fn key() -> PrivateKey {
    let [p, q] = PRIMES.map(|prime| {
        BoxedUint::from_be_slice(&base16::decode::<128>(prime).unwrap(), 1024).unwrap()
    });
    PrivateKey::from_p_q(p, q, BoxedUint::from(65537u32)).unwrap()
}

fn judge(evidence: &TpmEvidence) -> Result<(), Error> {
    let enrolled = Statement::honest().sign().ak_public;
    tpm_quote(evidence, &enrolled, &REPORT_DATA).map(|verified| {
        assert_eq!(verified.pcrs(), &evidence.quote.pcrs);
    })
}

fn judge_signed(change: impl FnOnce(&mut Statement)) -> Result<(), Error> {
    let mut statement = Statement::honest();
    change(&mut statement);
    judge(&statement.sign())
}

#[test]
fn accepts_the_honest_quote() {
    assert_eq!(judge(&Statement::honest().sign()), Ok(()));
    // Four octets select the same registers.
    let spacious = judge_signed(|s| s.selection[0].1 = vec![0xff, 0xff, 0xff, 0]);
    assert_eq!(spacious, Ok(()));
}

#[test]
fn rejects_any_other_selection() {
    let all = || (ALG_SHA256, vec![0xff; 3]);
    let selections = [
        ("an extra bank after", vec![all(), (SHA1, vec![0xff; 3])]),
        ("an extra bank before", vec![(SHA1, vec![0xff; 3]), all()]),
        (
            "an extra bank without PCRs",
            vec![all(), (SHA1, vec![0; 3])],
        ),
        ("another bank", vec![(SHA1, vec![0xff; 3])]),
        ("the bank twice", vec![all(), all()]),
        (
            "two halves",
            vec![
                (ALG_SHA256, vec![0xff, 0xff, 0]),
                (ALG_SHA256, vec![0, 0, 0xff]),
            ],
        ),
        ("PCR 15 missing", vec![(ALG_SHA256, vec![0xff, 0x7f, 0xff])]),
        ("23 PCRs", vec![(ALG_SHA256, vec![0xff, 0xff, 0x7f])]),
        ("25 PCRs", vec![(ALG_SHA256, vec![0xff, 0xff, 0xff, 1])]),
        ("two octets", vec![(ALG_SHA256, vec![0xff; 2])]),
        ("no PCRs", vec![(ALG_SHA256, vec![0; 3])]),
        ("no bank", vec![]),
    ];
    for (name, selection) in selections {
        let verdict = judge_signed(|s| s.selection = selection);
        assert_eq!(verdict, Err(Error::Selection), "{name}");
    }
    // With the digest that belongs to the smaller selection, too.
    let verdict = judge_signed(|s| {
        s.selection = vec![(ALG_SHA256, vec![0xff, 0xff, 0x7f])];
        s.digest = Sha256::digest(s.pcrs[..23].concat()).to_vec();
    });
    assert_eq!(verdict, Err(Error::Selection));
}

#[test]
fn rejects_what_is_not_a_quote() {
    let message = |verdict: Result<(), Error>| matches!(verdict, Err(Error::Message(_)));
    assert!(message(judge_signed(|s| s.magic = 0xff54_4346)), "magic");
    for kind in [0x8014, 0x8016, 0x8017, 0x8019, 0x801a] {
        assert!(message(judge_signed(|s| s.kind = kind)), "type {kind:#x}");
    }
    assert!(
        message(judge_signed(|s| s.trailer = vec![0])),
        "trailing byte"
    );
    assert!(
        message(judge_signed(
            |s| s.selection[0].1 = vec![0xff, 0xff, 0xff, 0, 1]
        )),
        "PCR 32"
    );
}

#[test]
fn rejects_another_session() {
    for extra_data in [vec![8; 32], vec![9; 31], vec![9; 48], vec![]] {
        assert_eq!(
            judge_signed(|s| s.extra_data = extra_data),
            Err(Error::ReportData)
        );
    }
}

#[test]
fn rejects_other_registers_than_the_signed_ones() {
    let good = Statement::honest().sign();
    for pcr in 0..24 {
        let mut evidence = good.clone();
        evidence.quote.pcrs[pcr][31] ^= 1;
        assert_eq!(judge(&evidence), Err(Error::PcrDigest), "PCR {pcr}");
    }
    let mut swapped = good.clone();
    swapped.quote.pcrs.swap(15, 16);
    assert_eq!(judge(&swapped), Err(Error::PcrDigest));
    let other = Sha256::digest(b"other").to_vec();
    for digest in [other, good.quote.message[113..144].to_vec(), vec![]] {
        assert_eq!(judge_signed(|s| s.digest = digest), Err(Error::PcrDigest));
    }
}

#[test]
fn rejects_another_key_and_another_signature() {
    let good = Statement::honest().sign();
    let vector = include_bytes!("../../tests/vectors/trustee-tpm_evidence.json");
    let other = TpmEvidence::parse(vector).unwrap().ak_public;
    // Signed by the enrolled key, but claims another.
    let claims_other = TpmEvidence {
        ak_public: other.clone(),
        ..good.clone()
    };
    assert_eq!(judge(&claims_other), Err(Error::OtherKey));
    // Signed by another key than the one enrolled and claimed.
    let verdict = tpm_quote(&claims_other, &other, &REPORT_DATA);
    assert!(matches!(verdict, Err(Error::Signature(_))));

    for byte in [0, 50, good.quote.message.len() - 1] {
        let mut evidence = good.clone();
        evidence.quote.message[byte] ^= 1;
        assert!(
            matches!(judge(&evidence), Err(Error::Signature(_))),
            "message byte {byte}"
        );
    }
    for byte in 0..good.quote.signature.len() {
        let mut evidence = good.clone();
        evidence.quote.signature[byte] ^= 1;
        assert!(
            matches!(judge(&evidence), Err(Error::Signature(_))),
            "signature byte {byte}"
        );
    }
    let mut longer = good.clone();
    longer.quote.signature.push(0);
    assert!(matches!(judge(&longer), Err(Error::Signature(_))));
    let mut raw = good;
    raw.quote.signature.drain(..6);
    assert!(
        matches!(judge(&raw), Err(Error::Signature(_))),
        "no TPMT_SIGNATURE around it"
    );
}

#[test]
fn rejects_an_enrolled_key_that_is_no_key() {
    let good = Statement::honest().sign();
    let evidence = TpmEvidence {
        ak_public: b"key".to_vec(),
        ..good
    };
    assert_eq!(tpm_quote(&evidence, b"key", &REPORT_DATA), Err(Error::Key));
}
