//! Requests in the sequence, form and spelling of Trustee's `kbs-client`
//! (guest-components, `kbs_protocol`, over reqwest): a cookie jar, lower-case
//! headers, members in the order of its structures.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha384};

use crate::guest::{KEY, SECRET, open, pcrs};
use crate::server::Server;
use crate::soft_tpm::SoftTpm;
use crate::vectors::{content_key, text, vectors};
use crate::wire::{Answer, Message, Wire};

struct Client<'a> {
    wire: Wire<'a>,
    /// The one cookie, with the path it is for.
    jar: Option<(String, String)>,
}

impl<'a> Client<'a> {
    fn new(server: &'a Server) -> Self {
        Self {
            wire: Wire::new(server),
            jar: None,
        }
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let mut message = Message::new(method, path, body.as_bytes());
        message.headers.clear();
        for (name, value) in [
            ("content-type", "application/json"),
            ("accept", "*/*"),
            ("user-agent", "kbs-client/0.1.0"),
            ("accept-encoding", "gzip, br, zstd, deflate"),
            ("host", "localhost:8443"),
        ] {
            message = message.header(name, value);
        }
        if let Some((pair, root)) = &self.jar
            && path.starts_with(root.as_str())
        {
            message = message.header("cookie", pair);
        }
        let answer = self.wire.exchange(&message).unwrap();
        if let Some(line) = answer
            .head
            .lines()
            .find_map(|l| l.strip_prefix("set-cookie: "))
        {
            let (pair, attributes) = line.split_once("; ").unwrap();
            assert!(attributes.starts_with("Expires="), "{line}");
            // RFC 6265 section 5.1.4: without a path it is that of the request
            // up to its last slash.
            let root = path.rsplit_once('/').unwrap().0;
            self.jar = Some((pair.into(), root.into()));
        }
        answer
    }

    fn auth(&mut self, tee: &str) -> Answer {
        let body = format!(
            "{{\"version\":\"0.4.0\",\"tee\":\"{tee}\",\"extra-params\":\
             {{\"supported-hash-algorithms\":[\"sha256\",\"sha384\",\"sha512\",\"sm3\"]}}}}"
        );
        self.send("POST", "/kbs/v0/auth", &body)
    }

    /// The digest is made here from the protocol's description, not with our
    /// own code: sorted and compact is RFC 8785 for what is ASCII.
    fn attest(&mut self, nonce: &str, jwk: &Value, tpm: &SoftTpm) -> Answer {
        let sorted: BTreeMap<String, Value> = serde_json::from_value(jwk.clone()).unwrap();
        let runtime = format!(
            "{{\"additional-evidence\":\"\",\"nonce\":\"{nonce}\",\"tee-pubkey\":{}}}",
            serde_json::to_string(&sorted).unwrap()
        );
        let digest = Sha384::digest(runtime);
        let evidence = tpm.quote(&digest[..32]).to_evidence().json;
        let member = |name: &str| format!("\"{name}\":{}", jwk[name]);
        let names: &[&str] = match jwk["kty"].as_str() {
            Some("EC") => &["kty", "crv", "alg", "x", "y"],
            _ => &["kty", "alg", "n", "e"],
        };
        let jwk: Vec<_> = names.iter().map(|name| member(name)).collect();
        let body = format!(
            "{{\"init-data\":null,\"runtime-data\":{{\"nonce\":\"{nonce}\",\"tee-pubkey\":{{{}}}}},\
             \"tee-evidence\":{{\"primary_evidence\":{evidence},\"additional_evidence\":\"\"}}}}",
            jwk.join(",")
        );
        self.send("POST", "/kbs/v0/attest", &body)
    }
}

#[test]
fn trustees_client_gets_a_resource_with_each_of_its_keys() {
    let server = Server::start();
    let vectors = vectors();
    let mut kinds = Vec::new();
    for (boot, handshake) in (1..).zip(vectors["handshakes"].as_array().unwrap()) {
        if handshake["kind"] == "RSA1_5" {
            continue;
        }
        let mut client = Client::new(&server);
        let challenge = client.auth("tpm");
        assert_eq!(challenge.status, 200);
        let challenge: Value = serde_json::from_slice(&challenge.body).unwrap();
        assert_eq!(challenge["extra-params"], "");
        let cookie = client.jar.clone();

        let request: Value = serde_json::from_str(text(handshake, "attest_request")).unwrap();
        let jwk = &request["runtime-data"]["tee-pubkey"];
        let nonce = challenge["nonce"].as_str().unwrap();
        let answer = client.attest(nonce, jwk, &SoftTpm::new(0, pcrs(2), boot));
        assert_eq!(answer.status, 200, "{}", server.lines.text());
        assert!(answer.head.contains("content-type: application/json"));
        // The same session, sent again.
        assert_eq!(client.jar, cookie);
        let token: Value = serde_json::from_slice(&answer.body).unwrap();
        let token = token["token"].as_str().unwrap();

        let path = format!("/kbs/v0/resource/{KEY}");
        let by_cookie = client.send("GET", &path, "");
        // `kbs-client get-resource --attestation-token`, from another process.
        let bearer =
            Message::new("GET", &path, b"").header("authorization", &format!("Bearer {token}"));
        let by_token = Wire::new(&server).exchange(&bearer).unwrap();
        for answer in [by_cookie, by_token, client.send("GET", &path, "")] {
            assert_eq!(answer.status, 200, "{}", server.lines.text());
            let jwe: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(open(&jwe, &content_key(handshake, &jwe)), SECRET);
        }
        kinds.push(text(handshake, "kind"));
    }
    assert_eq!(kinds, ["P-256", "P-256", "P-521", "RSA-OAEP-256"]);
}

/// The client tries five times; each try is refused for what it is.
#[test]
fn trustees_sample_attester_gets_nothing() {
    let server = Server::start();
    let mut client = Client::new(&server);
    for tee in ["sample", "sampledevice"] {
        for _ in 0..5 {
            let answer = client.auth(tee);
            assert_eq!(answer.status, 401);
            assert_eq!(answer.code().unwrap(), "R_TEE_SAMPLE");
        }
    }
    assert_eq!(client.jar, None);
    // Nor with a session that was opened for another TEE.
    assert_eq!(client.auth("tpm").status, 200);
    let body = json!({
        "runtime-data": {"nonce": "", "tee-pubkey": {"kty": "EC", "alg": "ECDH-ES+A256KW"}},
        "tee-evidence": {"primary_evidence": {"svn": "1", "report_data": ""}, "additional_evidence": ""},
    });
    let answer = client.send("POST", "/kbs/v0/attest", &body.to_string());
    assert_eq!(answer.status, 401);
}

/// What Trustee was recorded to answer, and what this broker does instead.
#[test]
fn refusals_have_trustees_status_and_type() {
    let server = Server::start();
    let post = |path: &str, body: &str| Message::new("POST", path, body.as_bytes());
    let get = |path: &str| Message::new("GET", path, b"");
    let guest = server.guest();
    let cookie =
        |message: Message, id: &str| message.header("cookie", &format!("kbs-session-id={id}"));
    let attested = server.guest();
    assert_eq!(server.attest(&attested, &SoftTpm::new(0, pcrs(2), 1)), 200);
    let other = SoftTpm::new(0, pcrs(2), 1).quote(&[7; 32]);
    let body = guest.attest_body(&other).to_string();
    let keyed = server.guest();
    let mut unsupported = keyed.attest_body(&other);
    unsupported["runtime-data"]["tee-pubkey"]["crv"] = "P-384".into();

    let mut wire = Wire::new(&server);
    for recorded in vectors()["errors"].as_array().unwrap() {
        let case = text(recorded, "case");
        let message = match case {
            "wrong version" => post(
                "/kbs/v0/auth",
                "{\"version\":\"0.3.0\",\"tee\":\"tpm\",\"extra-params\":\"\"}",
            ),
            "no session, no token" => get("/kbs/v0/resource/demo/boot/key"),
            "missing resource" => cookie(get("/kbs/v0/resource/demo/boot/no"), &attested.id),
            "unknown plugin" => get("/kbs/v0/nosuch/a/b"),
            "report data mismatch" => cookie(post("/kbs/v0/attest", &body), &guest.id),
            "unsupported key" => {
                cookie(post("/kbs/v0/attest", &unsupported.to_string()), &keyed.id)
            }
            case => panic!("{case}"),
        };
        let answer = wire.exchange(&message).unwrap();
        let ours: Value = serde_json::from_slice(&answer.body).unwrap();
        let theirs: Value = serde_json::from_str(text(recorded, "body")).unwrap();
        assert_eq!(
            u64::from(answer.status),
            recorded["status"].as_u64().unwrap(),
            "{case}"
        );
        assert_eq!(ours["type"], theirs["type"], "{case}");
        let detail = ours["detail"].as_str().unwrap();
        let context = |detail: &str| detail.split(" failed").next().map(str::to_owned);
        let theirs = theirs["detail"].as_str().unwrap();
        if theirs.starts_with("Attestation error: ") {
            assert_eq!(context(detail), context(theirs), "{case}");
        }
        if let Some(at) = theirs.find("KBS Client Protocol") {
            // Clients read the expected version out of this text.
            let expected = theirs[at..].split(" while").next().unwrap();
            assert!(detail.contains(expected), "{detail}");
        }
    }
}
