//! A stock Trustee KBS, set up as docs/operating.md says.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

use crate::artifacts::run;
use crate::client::Client;

/// The configuration that the documents give.
const CONFIG: &str = include_str!("../../docs/trustee-kbs.toml");
const SOCKET: &str = "127.0.0.1:8080";
const START: Duration = Duration::from_secs(60);

/// The binary that `TRUSTEE_KBS` names.
pub fn binary() -> Option<PathBuf> {
    std::env::var_os("TRUSTEE_KBS").map(PathBuf::from)
}

/// A KBS that serves from a folder, ended with the value.
#[derive(Debug)]
pub struct Trustee {
    process: Child,
    folder: PathBuf,
    port: u16,
    token: String,
}

impl Trustee {
    /// Sets up `folder` and starts `binary` in it, believing these attestation
    /// keys (`SubjectPublicKeyInfo`, DER).
    ///
    /// # Errors
    /// A step failed, or the KBS does not listen; with what it said.
    pub fn start(binary: &Path, key_broker: &Path, folder: &Path, aks: &[Vec<u8>]) -> Result<Self> {
        let token = set_up(key_broker, folder, aks)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = CONFIG.replace(SOCKET, &format!("127.0.0.1:{port}"));
        fs::write(folder.join("trustee-kbs.toml"), config)?;
        let process = Command::new(binary)
            .args(["--config-file", "trustee-kbs.toml"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(fs::File::create(folder.join("kbs.out"))?)
            .stderr(fs::File::create(folder.join("kbs.err"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut trustee = Self {
            process,
            folder: folder.into(),
            port,
            token,
        };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = trustee.process.try_wait()?;
            if start.elapsed() > START || ended.is_some() {
                bail!("the KBS does not listen ({ended:?}): {}", trustee.said());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(trustee)
    }

    /// Its port on the host's loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with the CA of its certificate.
    pub fn tls(&self) -> PathBuf {
        self.folder.join("tls")
    }

    /// What it wrote so far.
    pub fn said(&self) -> String {
        ["kbs.out", "kbs.err"]
            .map(|name| fs::read_to_string(self.folder.join(name)).unwrap_or_default())
            .concat()
    }

    /// Loads what `measured-boot predict --out` wrote, and which attestation
    /// keys the policy may affirm.
    ///
    /// # Errors
    /// A file is missing, or the KBS refuses one.
    pub fn load(&self, predicted: &Path, aks: &[Vec<u8>]) -> Result<()> {
        for (path, body) in requests(predicted, aks)? {
            self.admin(path, body.as_bytes())?;
        }
        Ok(())
    }

    /// Stores a resource.
    ///
    /// # Errors
    /// The KBS refuses it.
    pub fn put(&self, resource: &str, value: &[u8]) -> Result<()> {
        self.admin(&format!("resource/{resource}"), value)
    }

    fn admin(&self, path: &str, body: &[u8]) -> Result<()> {
        let client = Client::new(&self.tls(), self.port)?;
        let bearer = format!("Bearer {}", self.token);
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
        ];
        let answer = client.send("POST", &format!("/kbs/v0/{path}"), &headers, body)?;
        ensure!(
            answer.status == 200,
            "got {} {} to POST {path}; the KBS said: {}",
            answer.status,
            answer.body,
            self.said()
        );
        Ok(())
    }
}

impl Drop for Trustee {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The keys and certificates that the configuration names; gives a token of the
/// administrator's.
fn set_up(key_broker: &Path, folder: &Path, aks: &[Vec<u8>]) -> Result<String> {
    for (store, names) in [
        ("tls", &["10.0.2.2", "localhost"][..]),
        ("token", &["token"]),
    ] {
        let mut command = Command::new(key_broker);
        command.arg("init").arg(folder.join(store));
        for name in names {
            command.args(["--name", name]);
        }
        run(&mut command)?;
    }
    fs::create_dir(folder.join("aks"))?;
    for (index, ak) in aks.iter().enumerate() {
        let base64 = Base64::encode_string(ak);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
        fs::write(folder.join(format!("aks/{index}.pem")), pem)?;
    }
    let admin = KeyPair::generate()?;
    fs::write(folder.join("admin.pub"), admin.public_key_pem())?;
    token(&admin)
}

/// A JWT for an hour (RFC 7519; ES256, RFC 7518 section 3.4).
fn token(admin: &KeyPair) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let expires = now.as_secs() + 3600;
    let part = |json: Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
    let head = part(json!({"alg": "ES256", "typ": "JWT"}));
    let claims = part(json!({"role": "admin", "iat": now.as_secs(), "exp": expires}));
    let signed = format!("{head}.{claims}");
    let der = admin.sign(signed.as_bytes())?;
    let signature = p256::ecdsa::Signature::from_der(&der)?;
    let signature = Base64UrlUnpadded::encode_string(&signature.to_bytes());
    Ok(format!("{signed}.{signature}"))
}

/// The administrator's requests: path below `/kbs/v0`, and body.
fn requests(predicted: &Path, aks: &[Vec<u8>]) -> Result<Vec<(&'static str, String)>> {
    let read = |name: &str| {
        let path = predicted.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let policy = |name: &str| {
        Ok::<_, anyhow::Error>(Base64UrlUnpadded::encode_string(read(name)?.as_bytes()))
    };
    let aks: Vec<_> = aks.iter().map(|ak| Base64::encode_string(ak)).collect();
    let payload = json!({ "trusted_aks": aks }).to_string();
    Ok(vec![
        ("reference-value", read("rvps-message.json")?),
        (
            "reference-value",
            json!({
                "version": "0.1.0",
                "type": "sample",
                "payload": Base64::encode_string(payload.as_bytes()),
            })
            .to_string(),
        ),
        (
            "attestation-policy",
            json!({
                "type": "rego",
                "policy_id": "default_cpu",
                "policy": policy("attestation-policy.rego")?,
            })
            .to_string(),
        ),
        (
            "resource-policy",
            json!({ "policy": policy("resource-policy.rego")? }).to_string(),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use measured_boot::trustee::{ATTESTATION_POLICY, RESOURCE_POLICY};
    use p256::ecdsa::signature::Verifier;
    use p256::ecdsa::{Signature, VerifyingKey};
    use rcgen::PublicKeyData;

    /// Every file that the configuration names is made, and the socket is where
    /// it is looked for.
    #[test]
    fn the_documented_configuration_names_what_is_set_up() {
        assert_eq!(CONFIG.matches(SOCKET).count(), 1);
        let config: toml::Table = toml::from_str(CONFIG).unwrap();
        let text = config.to_string();
        for name in [
            "tls/server-key.pem",
            "tls/server.pem",
            "token/server-key.pem",
            "token/server.pem",
            "token/ca.pem",
            "admin.pub",
            "\"aks\"",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
        let mode = config["admin"]["authorization_mode"].as_str().unwrap();
        assert_eq!(mode, "AuthenticatedAuthorization");
        assert_eq!(
            config["attestation_service"]["type"].as_str().unwrap(),
            "coco_as_builtin"
        );
        // Neither of the two ways of a test setup.
        assert!(!CONFIG.contains("insecure"));
    }

    #[test]
    fn the_administrators_token_verifies() {
        let admin = KeyPair::generate().unwrap();
        let token = token(&admin).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let decode = |part: &str| Base64UrlUnpadded::decode_vec(part).unwrap();
        let key = VerifyingKey::from_sec1_bytes(admin.der_bytes()).unwrap();
        let signature = Signature::from_slice(&decode(parts[2])).unwrap();
        let signed = format!("{}.{}", parts[0], parts[1]);
        key.verify(signed.as_bytes(), &signature).unwrap();
        let claims: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
        assert_eq!(claims["role"], "admin");
        assert!(claims["exp"].as_u64() > claims["iat"].as_u64());
    }

    #[test]
    fn the_requests_carry_what_predict_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let message = json!({"version": "0.1.0", "type": "sample", "payload": "e30="}).to_string();
        for (name, text) in [
            ("rvps-message.json", message.as_str()),
            ("attestation-policy.rego", ATTESTATION_POLICY),
            ("resource-policy.rego", RESOURCE_POLICY),
        ] {
            assert!(requests(folder.path(), &[]).is_err(), "without {name}");
            fs::write(folder.path().join(name), text).unwrap();
        }
        let requests = requests(folder.path(), &[vec![1, 2, 3]]).unwrap();
        assert_eq!(requests[0], ("reference-value", message));
        let json = |at: usize| serde_json::from_str::<Value>(&requests[at].1).unwrap();
        let payload = Base64::decode_vec(json(1)["payload"].as_str().unwrap()).unwrap();
        assert_eq!(payload, b"{\"trusted_aks\":[\"AQID\"]}");
        assert_eq!(json(2)["policy_id"], "default_cpu");
        for (at, policy) in [(2, ATTESTATION_POLICY), (3, RESOURCE_POLICY)] {
            let sent = json(at)["policy"].as_str().unwrap().to_owned();
            assert_eq!(
                Base64UrlUnpadded::decode_vec(&sent).unwrap(),
                policy.as_bytes()
            );
        }
    }
}
