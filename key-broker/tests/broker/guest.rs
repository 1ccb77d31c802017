//! A guest, a store with what it needs, and a log that can be read.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use aes_kw::KwAes256;
use base64ct::{Base64UrlUnpadded, Encoding};
use key_broker::broker::{Broker, Reply};
use key_broker::log::Log;
use key_broker::store::attesters::Origin;
use key_broker::store::resources::Binding;
use key_broker::{InitOptions, Store};
use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::evidence::{ReportData, TeePublicKey};
use measured_boot::manifest::{Hex32, Image, Resource, Tee};
use measured_boot::reference_values::{
    FirmwareProfile, ReferenceValues, Register, TpmValues, VerityValues,
};
use measured_boot::tpm::Pcrs;
use p256::elliptic_curve::sec1::ToSec1Point;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::soft_tpm::SoftTpm;

pub(crate) const SECRET: &[u8] = b"canary-of-32-bytes-for-this-test";
pub(crate) const KEY: &str = "demo/boot/key";

pub(crate) fn peer() -> SocketAddr {
    "192.0.2.1:4711".parse().unwrap()
}

/// PCRs of version `version` of the image `demo` on the pinned firmware.
pub(crate) fn pcrs(version: u32) -> Pcrs {
    let mut pcrs = [[0; 32]; 24];
    pcrs[0] = [0xf0; 32];
    pcrs[1] = [0x77; 32];
    pcrs[4] = [0x44; 32];
    pcrs[9] = Sha256::digest(version.to_be_bytes()).into();
    pcrs
}

pub(crate) fn reference_values(name: &str, version: u32, pcrs: &Pcrs) -> ReferenceValues {
    let register = |(number, value): (usize, &[u8; 32])| {
        let covers = String::new();
        let register = match number {
            0 => Register::Pinned { covers },
            1 => Register::Ignored { reason: covers },
            _ => Register::Predicted {
                values: vec![Hex32(*value)],
                covers,
            },
        };
        (u8::try_from(number).unwrap(), register)
    };
    let profile = |name: &str, value| FirmwareProfile {
        name: name.into(),
        sha256: Hex32([1; 32]),
        pcrs: BTreeMap::from([(0, Hex32(value))]),
    };
    ReferenceValues {
        version: 1,
        image: Image {
            name: name.into(),
            version,
        },
        cmdline: String::new(),
        files: BTreeMap::new(),
        rootfs: VerityValues {
            root_hash: Hex32([2; 32]),
            data_blocks: 1,
            hash_offset: 4096,
        },
        boot: None,
        tpm: Some(TpmValues {
            pcrs: pcrs.iter().enumerate().map(register).collect(),
            firmware: vec![profile("other", [0xee; 32]), profile("pinned", pcrs[0])],
        }),
        snp: None,
        tdx: None,
    }
}

#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// All lines so far, which are then forgotten.
    pub(crate) fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
    }

    /// The newest line.
    pub(crate) fn last(&self) -> Value {
        serde_json::from_str(self.text().lines().last().unwrap()).unwrap()
    }
}

/// A store with image `demo` 1 and 2, the first TPM key, and one resource for
/// `demo` on a TPM; and a broker over it.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) lines: Lines,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with_sessions(Duration::from_secs(300))
    }

    pub(crate) fn with_sessions(lifetime: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = vec!["localhost".into(), "127.0.0.1".into()];
        let store = Store::init(&dir.path().join("store"), &InitOptions::new(names, 30)).unwrap();
        for version in [1, 2] {
            let values = reference_values("demo", version, &pcrs(version));
            store.enroll(&values.to_json().unwrap(), false).unwrap();
        }
        let ak = SoftTpm::new(0, pcrs(1), 1).ak();
        store.enroll_ak(&ak, Origin::Given).unwrap();
        put(&store, KEY, "demo", Tee::Tpm);
        let lines = Lines::default();
        let log = Log::writer(lines.clone());
        let broker = Broker::new(store.clone(), lifetime, 4096, log).unwrap();
        Self {
            dir,
            store,
            broker,
            lines,
        }
    }

    /// A new session of a guest with a new key.
    pub(crate) fn guest(&self) -> Guest {
        let reply = self.broker.auth(peer(), &auth_body("tpm"));
        assert_eq!(reply.status, 200, "{}", self.lines.text());
        let cookie = reply.cookie.unwrap();
        let id = cookie.strip_prefix("kbs-session-id=").unwrap();
        Guest::new(&id[..32], body(&reply.body)["nonce"].as_str().unwrap())
    }

    /// A session that attested version 2 in the boot `reset_count`.
    pub(crate) fn attested(&self, reset_count: u32) -> Guest {
        let guest = self.guest();
        let reply = self.attest(&guest, &SoftTpm::new(0, pcrs(2), reset_count));
        assert_eq!(reply.status, 200, "{}", self.lines.text());
        guest
    }

    pub(crate) fn attest(&self, guest: &Guest, tpm: &SoftTpm) -> Reply {
        let evidence = tpm.quote(guest.report_data().qualifying_data());
        self.send(guest, &guest.attest_body(&evidence))
    }

    pub(crate) fn send(&self, guest: &Guest, body: &Value) -> Reply {
        let body = serde_json::to_vec(body).unwrap();
        self.broker.attest(peer(), Some(&guest.id), &body)
    }

    pub(crate) fn fetch(&self, guest: &Guest, path: &str) -> Reply {
        self.broker.resource(peer(), Some(&guest.id), None, path)
    }

    /// Asserts a refusal: status, code to the guest, code in the log.
    pub(crate) fn refused(&self, reply: &Reply, code: &str) {
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(reply.status >= 400, "{code}: got {} {text}", reply.status);
        assert!(text.contains(&format!("{code}:")), "{code}: got {text}");
        let line = self.lines.last();
        assert_eq!(line["code"], code, "{line}");
        assert_eq!(line["decision"], "refuse");
    }
}

pub(crate) fn put(store: &Store, path: &str, image: &str, tee: Tee) {
    let binding = Binding {
        images: vec![image.into()],
        tee: vec![tee],
        instance: None,
    };
    let resource = Resource::from_path(path).unwrap();
    store.put(&resource, SECRET, binding, false).unwrap();
}

pub(crate) fn auth_body(tee: &str) -> Vec<u8> {
    serde_json::to_vec(&json!({"version": "0.4.0", "tee": tee, "extra-params": ""})).unwrap()
}

pub(crate) fn body(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

pub(crate) struct Guest {
    pub(crate) id: String,
    pub(crate) nonce: String,
    secret: p256::SecretKey,
}

impl Guest {
    pub(crate) fn new(id: &str, nonce: &str) -> Self {
        let mut scalar = [1; 32];
        getrandom::fill(&mut scalar[1..]).unwrap();
        Self {
            id: id.into(),
            nonce: nonce.into(),
            secret: p256::SecretKey::from_slice(&scalar).unwrap(),
        }
    }

    pub(crate) fn key(&self) -> TeePublicKey {
        let point = self.secret.public_key().to_sec1_point(false);
        let (x, y) = point.as_bytes()[1..].split_at(32);
        TeePublicKey {
            x: x.try_into().unwrap(),
            y: y.try_into().unwrap(),
        }
    }

    /// As init binds it.
    pub(crate) fn report_data(&self) -> ReportData {
        ReportData::bind(&self.nonce, &self.key())
    }

    pub(crate) fn attest_body(&self, evidence: &TpmEvidence) -> Value {
        self.body_of(&evidence.to_evidence().json)
    }

    /// The request with this evidence, in JSON.
    pub(crate) fn body_of(&self, evidence: &str) -> Value {
        let jwk: Value = serde_json::from_str(&self.key().to_jwk()).unwrap();
        let evidence: Value = serde_json::from_str(evidence).unwrap();
        json!({
            "runtime-data": {"nonce": self.nonce, "tee-pubkey": jwk},
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        })
    }

    pub(crate) fn decrypt(&self, jwe: &[u8]) -> Vec<u8> {
        let jwe = body(jwe);
        let header: Value = serde_json::from_slice(&member(&jwe, "protected")).unwrap();
        let epk = &header["epk"];
        let point = [&[4], &*member(epk, "x"), &*member(epk, "y")].concat();
        let epk = p256::PublicKey::from_sec1_bytes(&point).unwrap();
        let z = self.secret.diffie_hellman(&epk);
        open(
            &jwe,
            &unwrap(z.raw_secret_bytes(), &member(&jwe, "encrypted_key")),
        )
    }
}

pub(crate) fn member(object: &Value, name: &str) -> Vec<u8> {
    Base64UrlUnpadded::decode_vec(object[name].as_str().unwrap()).unwrap()
}

/// RFC 7518 section 4.6.2 and RFC 3394.
pub(crate) fn unwrap(z: &[u8], wrapped: &[u8]) -> Vec<u8> {
    let info = b"\0\0\0\x0eECDH-ES+A256KW\0\0\0\0\0\0\0\0\0\0\x01\0";
    let kek = Sha256::digest([&[0, 0, 0, 1], z, info.as_slice()].concat());
    let mut key = [0; 32];
    let cipher = KwAes256::new_from_slice(&kek).unwrap();
    cipher.unwrap_key(wrapped, &mut key).unwrap();
    key.to_vec()
}

/// RFC 7516 section 5.2 from step 15.
pub(crate) fn open(jwe: &Value, key: &[u8]) -> Vec<u8> {
    let mut text = member(jwe, "ciphertext");
    let iv: [u8; 12] = member(jwe, "iv").try_into().unwrap();
    let tag: [u8; 16] = member(jwe, "tag").try_into().unwrap();
    let aad = jwe["protected"].as_str().unwrap().as_bytes();
    Aes256Gcm::new_from_slice(key)
        .unwrap()
        .decrypt_inout_detached(&iv.into(), aad, text.as_mut_slice().into(), &tag.into())
        .unwrap();
    text
}
