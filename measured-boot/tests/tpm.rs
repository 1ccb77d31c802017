//! Our TPM commands against a software TPM, with tpm2-tools as the oracle.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise; clippy exempts only the test functions themselves"
)]

mod swtpm;

use std::fs;
use std::process::Command;

use base64ct::{Base64, Encoding};
use measured_boot::base16;
use measured_boot::tpm::{self, LATCH_PCR, Transport};
use sha2::{Digest, Sha256};

use swtpm::Swtpm;

const NONCE: [u8; 32] = [0x5a; 32];
/// The template of the key, in the words of tpm2-tools.
const CREATE_AK: &str = "tpm2_createprimary -C e -g sha256 -G rsa2048:rsassa-sha256:null \
    -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign -c ak.ctx";

#[test]
fn the_attestation_key_matches_tpm2_createprimary() {
    let mut tpm = Swtpm::start();
    let directory = tempfile::tempdir().unwrap();
    tpm.tool(directory.path(), CREATE_AK);
    tpm.tool(
        directory.path(),
        "tpm2_readpublic -c ak.ctx -f der -o ak.der",
    );
    tpm.tool(directory.path(), "tpm2_flushcontext -t");
    let ak = tpm::create_ak(&mut tpm).unwrap();
    assert_eq!(
        fs::read(directory.path().join("ak.der")).unwrap(),
        ak.public_der
    );

    let first = ak.public_der.clone();
    tpm::flush(&mut tpm, ak).unwrap();
    tpm.reboot();
    assert_eq!(
        tpm::create_ak(&mut tpm).unwrap().public_der,
        first,
        "the key outlives a reboot"
    );
    let other = tpm::create_ak(&mut Swtpm::start()).unwrap();
    assert_ne!(other.public_der, first, "another TPM has another key");
}

#[test]
fn a_quote_satisfies_tpm2_checkquote() {
    let mut tpm = Swtpm::start();
    let ak = tpm::create_ak(&mut tpm).unwrap();
    tpm::extend(&mut tpm, 4, &[4; 32]).unwrap();
    let quote = tpm::quote(&mut tpm, &ak, &NONCE).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let write = |name, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
    write("ak.pem", pem(&ak.public_der).as_bytes());
    write("quote.msg", &quote.message);
    write("quote.sig", &quote.signature);
    let check = |nonce: &[u8]| {
        Command::new("tpm2_checkquote")
            .args("-u ak.pem -m quote.msg -s quote.sig -g sha256 -q".split(' '))
            .arg(base16::encode(nonce))
            .current_dir(directory.path())
            .output()
            .unwrap()
    };
    let output = check(&NONCE);
    assert!(output.status.success(), "{output:?}");
    assert!(
        !check(&[0; 32]).status.success(),
        "checkquote compares the nonce"
    );
}

fn pem(der: &[u8]) -> String {
    let base64 = Base64::encode_string(der);
    format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")
}

#[test]
fn pcrs_match_tpm2_pcrread_before_and_after_an_extend() {
    let mut tpm = Swtpm::start();
    let directory = tempfile::tempdir().unwrap();
    let agree = |tpm: &mut Swtpm| {
        tpm.tool(
            directory.path(),
            "tpm2_pcrread sha256:all -o pcrs.bin -F values",
        );
        let expected = fs::read(directory.path().join("pcrs.bin")).unwrap();
        let pcrs = tpm::read_pcrs(tpm).unwrap();
        assert_eq!(
            base16::encode(pcrs.as_flattened()),
            base16::encode(&expected)
        );
        pcrs
    };
    let before = agree(&mut tpm);
    assert_eq!(before[16], [0; 32]);
    assert_eq!(before[17..23], [[0xff; 32]; 6]);

    let digest = Sha256::digest(tpm::LATCH_EVENT).into();
    tpm::extend(&mut tpm, LATCH_PCR, &digest).unwrap();
    let after = agree(&mut tpm);
    assert_eq!(after[15], tpm::extended(&before[15], &digest));
    assert_eq!(after[..15], before[..15]);
}

#[test]
fn many_attestations_leave_nothing_behind_in_the_tpm() {
    let mut tpm = Swtpm::start();
    // A TPM has three slots for loaded objects.
    for _ in 0..5 {
        let ak = tpm::create_ak(&mut tpm).unwrap();
        tpm::quote(&mut tpm, &ak, &NONCE).unwrap();
        tpm::flush(&mut tpm, ak).unwrap();
    }
}

#[test]
fn a_refusal_names_the_command_and_the_code() {
    let mut tpm = Swtpm::start();
    // PCR 17 takes extends from locality 2 to 4 only.
    let error = tpm::extend(&mut tpm, 17, &[0; 32]).unwrap_err();
    assert_eq!(error.to_string(), "TPM2_PCR_Extend got TPM_RC 0x907");
}

/// Moves a register between two commands, as another program could.
struct Meddler {
    tpm: Swtpm,
    meddles: u32,
}

impl Transport for Meddler {
    type Error = std::io::Error;

    fn transact(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        const QUOTE: [u8; 4] = 0x158u32.to_be_bytes();
        if command[6..10] == QUOTE && self.meddles > 0 {
            self.meddles -= 1;
            tpm::extend(&mut self.tpm, 10, &[1; 32]).unwrap();
        }
        self.tpm.transact(command)
    }
}

#[test]
fn a_quote_is_over_the_registers_beside_it_or_there_is_none() {
    let mut tpm = Meddler {
        tpm: Swtpm::start(),
        meddles: 3,
    };
    let ak = tpm::create_ak(&mut tpm).unwrap();
    let quote = tpm::quote(&mut tpm, &ak, &NONCE).unwrap();
    assert_eq!(quote.pcrs, tpm::read_pcrs(&mut tpm.tpm).unwrap());
    assert_eq!(tpm.meddles, 0);

    tpm.meddles = u32::MAX;
    assert!(matches!(
        tpm::quote(&mut tpm, &ak, &NONCE),
        Err(tpm::Error::Moving)
    ));
}
