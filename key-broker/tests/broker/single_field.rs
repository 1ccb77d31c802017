//! Right requests with one field made wrong, for every endpoint in every state
//! of a session, through TLS and HTTP.
//!
//! A mutant is granted only where it means the same as the right request, by
//! the rules in `bodies` and `heads`. Every refusal of the
//! broker has one code and one line in the log. What is not HTTP is answered
//! with a bare status and no line. Nothing gives a secret away.

use std::collections::BTreeMap;
use std::time::Duration;

use key_broker::ServeOptions;
use serde_json::{Value, json};

use crate::bodies::{attest_mutants, auth_meaning, same_body, transplant};
use crate::guest::{Guest, KEY, SECRET, pcrs};
use crate::secrets::gives_away;
use crate::server::Server;
use crate::soft_tpm::SoftTpm;
use crate::states::{Endpoint, STATES, State, right};
use crate::wire::{Answer, Message, Wire};
use crate::{fields, heads};

type Counts = BTreeMap<(State, Endpoint), BTreeMap<String, usize>>;

/// One broker in front of one session in one state.
struct Scene<'a> {
    server: &'a Server,
    wire: Wire<'a>,
    state: State,
    guest: Guest,
    token: String,
    /// Of the boot that its evidence is from.
    tpm: SoftTpm,
    counts: Counts,
    /// What no answer and no line may hold.
    secrets: Vec<Vec<u8>>,
}

impl<'a> Scene<'a> {
    fn new(server: &'a Server, state: State) -> Self {
        let mut scene = Self {
            server,
            wire: Wire::new(server),
            state,
            guest: Guest::new("0".repeat(32).as_str(), "AAAA"),
            token: "e30.e30.AAAA".into(),
            tpm: SoftTpm::new(0, pcrs(2), 7),
            counts: Counts::new(),
            secrets: vec![SECRET.to_vec()],
        };
        match state {
            State::None => {}
            State::Opened => scene.guest = scene.open(),
            State::Attested | State::Expired => {
                scene.guest = scene.open();
                scene.token = scene.attest_right();
                assert_eq!(scene.fetch(&scene.guest.id.clone()).status, 200);
            }
            State::Failed => {
                scene.guest = scene.open();
                let other = SoftTpm::new(1, pcrs(2), 7);
                let message = scene.attestation(&scene.guest, &other);
                assert_eq!(scene.wire.exchange(&message).unwrap().status, 401);
            }
            State::Elsewhere => {
                scene.guest = scene.open();
                scene.token = scene.attest_right();
                let waiting = std::mem::replace(&mut scene.guest, scene.server.guest());
                scene.attest_right();
                assert_eq!(scene.fetch(&scene.guest.id.clone()).status, 200);
                scene.guest = waiting;
            }
        }
        if state == State::Expired {
            std::thread::sleep(LIFETIME);
        }
        scene
    }

    fn open(&mut self) -> Guest {
        let answer = self.wire.exchange(&auth()).unwrap();
        let cookie = answer.head.split("kbs-session-id=").nth(1).unwrap();
        let challenge: Value = serde_json::from_slice(&answer.body).unwrap();
        Guest::new(&cookie[..32], challenge["nonce"].as_str().unwrap())
    }

    fn attestation(&self, guest: &Guest, tpm: &SoftTpm) -> Message {
        let evidence = tpm.quote(guest.report_data().qualifying_data());
        let body = serde_json::to_vec(&guest.attest_body(&evidence)).unwrap();
        let message = Message::new("POST", "/kbs/v0/attest", &body);
        if self.state == State::None {
            return message;
        }
        message.header("Cookie", &format!("kbs-session-id={}", guest.id))
    }

    fn attest_right(&mut self) -> String {
        let message = self.attestation(&self.guest, &self.tpm);
        let answer = self.wire.exchange(&message).unwrap();
        assert_eq!(answer.status, 200, "{}", self.server.lines.text());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        body["token"].as_str().unwrap().into()
    }

    fn fetch(&mut self, id: &str) -> Answer {
        let message = resource().header("Cookie", &format!("kbs-session-id={id}"));
        self.wire.exchange(&message).unwrap()
    }

    /// Sends a message and holds the answer and the log against the rules.
    fn send(
        &mut self,
        endpoint: Endpoint,
        what: &str,
        message: &Message,
    ) -> (String, Option<Answer>) {
        self.server.lines.take();
        let answer = self.wire.exchange(message);
        let lines = self.server.lines.take();
        let case = format!("{:?} {endpoint:?} {what}\n{lines}", self.state);
        let outcome = match &answer {
            None => "closed".to_owned(),
            Some(answer) if answer.status == 200 => "granted".to_owned(),
            // The answer to HEAD has no body to say it in.
            Some(_) if message.method == "HEAD" => {
                serde_json::from_str::<Value>(&lines).unwrap()["code"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            }
            Some(answer) => answer
                .code()
                .unwrap_or_else(|| format!("HTTP {}", answer.status)),
        };
        let bare = outcome == "closed" || outcome.starts_with("HTTP 4");
        // A bare 405 or 500 would be a decision without a code, or a panic.
        assert!(
            bare || outcome == "granted" || outcome.starts_with("R_"),
            "{outcome}: {case}"
        );
        assert_ne!(outcome, "R_INTERNAL", "{case}");
        assert_eq!(
            lines.lines().count(),
            usize::from(!bare),
            "{outcome}: {case}"
        );
        if !bare {
            let line: Value = serde_json::from_str(&lines).unwrap();
            let decided = line["code"].as_str().unwrap_or("granted");
            assert_eq!(decided, outcome, "{case}");
        }
        let body = answer.as_ref().map_or(&[][..], |a| &a.body);
        for secret in &self.secrets {
            assert!(!gives_away(lines.as_bytes(), secret), "{case}");
            assert!(!gives_away(body, secret), "{case}");
        }
        for cookie in [&self.guest.id, &self.token] {
            assert!(!lines.contains(cookie.as_str()), "{case}");
        }
        let counts = self.counts.entry((self.state, endpoint)).or_default();
        *counts.entry(outcome.clone()).or_default() += 1;
        (outcome, answer)
    }

    fn auth(&mut self) {
        let cookie = format!("kbs-session-id={}", self.guest.id);
        let message = if self.state == State::None {
            auth()
        } else {
            auth().header("Cookie", &cookie)
        };
        let body = auth_json();
        assert_eq!(self.send(Endpoint::Auth, "right", &message).0, "granted");
        for mutant in fields::mutants(&body) {
            let mut message = message.clone();
            message.body = mutant.text.into_bytes();
            let (outcome, _) = self.send(Endpoint::Auth, &mutant.what, &message);
            let same = auth_meaning(&message.body) == auth_meaning(body.to_string().as_bytes());
            assert!(outcome != "granted" || same, "{}", mutant.what);
        }
        for (what, mutant) in heads::mutants(&message) {
            let (outcome, _) = self.send(Endpoint::Auth, &what, &mutant);
            let same = heads::meaning(&mutant)[..2] == heads::meaning(&message)[..2];
            assert!(outcome != "granted" || same, "{what}");
        }
    }

    fn attest(&mut self) {
        let right = right(self.state, Endpoint::Attest);
        let consumes = matches!(self.state, State::Opened | State::Elsewhere);
        let mut message = self.next_attestation(consumes);
        let (outcome, _) = self.send(Endpoint::Attest, "right", &message);
        assert_eq!(outcome, right, "{:?}", self.state);
        let template = message.clone();
        let mut used = consumes;
        for (what, mutant) in attest_mutants(&template) {
            if used {
                message = self.next_attestation(true);
            }
            let Some(mutant) = transplant(&what, mutant, &template, &message) else {
                continue;
            };
            let (outcome, answer) = self.send(Endpoint::Attest, &what, &mutant);
            let granted = outcome == "granted";
            if granted {
                assert_eq!(right, "granted", "{what}");
                assert!(same_body(&mutant.body, &message.body), "{what}");
                assert_eq!(
                    heads::meaning(&mutant)[..3],
                    heads::meaning(&message)[..3],
                    "{what}"
                );
                let body: Value = serde_json::from_slice(&answer.unwrap().body).unwrap();
                assert!(body["token"].is_string(), "{what}");
            }
            // Whatever it was, the session has no more right than it had.
            let id = self.guest.id.clone();
            let has = granted || self.state == State::Attested;
            let reply = self.fetch(&id);
            assert_eq!(
                reply.status == 200,
                has,
                "{what}: {}",
                self.server.lines.text()
            );
            if has {
                assert_eq!(self.guest.decrypt(&reply.body), SECRET);
            }
            used = consumes && outcome != "R_REQUEST";
        }
    }

    /// In a session of its own, where a session is good for one.
    fn next_attestation(&mut self, fresh: bool) -> Message {
        if fresh {
            self.guest = self.open();
        }
        if self.state == State::Opened {
            // One that is granted ends the right of its boot.
            self.tpm.reset_count += 1;
        }
        self.attestation(&self.guest, &self.tpm)
    }

    fn resource(&mut self, endpoint: Endpoint) {
        let message = if self.state == State::None {
            resource()
        } else if endpoint == Endpoint::Cookie {
            resource().header("Cookie", &format!("kbs-session-id={}", self.guest.id))
        } else {
            resource().header("Authorization", &format!("Bearer {}", self.token))
        };
        let right = right(self.state, endpoint);
        assert_eq!(
            self.send(endpoint, "right", &message).0,
            right,
            "{:?}",
            self.state
        );
        for (what, mutant) in heads::mutants(&message) {
            let (outcome, answer) = self.send(endpoint, &what, &mutant);
            if outcome == "granted" {
                assert_eq!(right, "granted", "{what}");
                assert_eq!(heads::meaning(&mutant), heads::meaning(&message), "{what}");
                assert_eq!(self.guest.decrypt(&answer.unwrap().body), SECRET, "{what}");
            }
        }
    }

    fn admin(&mut self) {
        let value = json!({"policy": "cGFja2FnZSBwb2xpY3k"}).to_string();
        let before = files(self.server);
        for method in ["POST", "PUT", "DELETE", "PATCH", "GET"] {
            for path in [
                "resource/demo/boot/other",
                "resource/demo/boot/key",
                "resource-policy",
                "attestation-policy",
                "reference-value",
                "reference-value/tpm_pcr11",
                "admin/images",
            ] {
                if (method, path) == ("GET", "resource/demo/boot/key") {
                    continue;
                }
                let message = Message::new(method, &format!("/kbs/v0/{path}"), value.as_bytes())
                    .header("Cookie", &format!("kbs-session-id={}", self.guest.id))
                    .header("Authorization", &format!("Bearer {}", self.token));
                let (outcome, _) =
                    self.send(Endpoint::Admin, &format!("{method} {path}"), &message);
                assert!(outcome.starts_with("R_"), "{method} {path}: {outcome}");
            }
        }
        assert_eq!(files(self.server), before);
    }
}

/// What is administered: everything in the store but the latch.
fn files(server: &Server) -> String {
    format!(
        "{:?} {:?} {:?}",
        server.site.store.enrolled_images().unwrap(),
        server.site.store.attesters().unwrap(),
        server.site.store.resources().unwrap()
    )
}

fn auth_json() -> Value {
    let params = json!({"supported-hash-algorithms": ["sha256", "sha384"]});
    json!({"version": "0.4.0", "tee": "tpm", "extra-params": params})
}

fn auth() -> Message {
    Message::new("POST", "/kbs/v0/auth", auth_json().to_string().as_bytes())
}

fn resource() -> Message {
    Message::new("GET", &format!("/kbs/v0/resource/{KEY}"), b"")
}

const LIFETIME: Duration = Duration::from_secs(4);

fn walk(state: State) -> Counts {
    let server = Server::with(ServeOptions {
        session: if state == State::Expired {
            LIFETIME
        } else {
            Duration::from_secs(3600)
        },
        sessions: 1_000_000,
        ..ServeOptions::default()
    });
    let mut scene = Scene::new(&server, state);
    // In this order: what attests replaces the session of its state.
    scene.auth();
    scene.admin();
    scene.resource(Endpoint::Cookie);
    scene.resource(Endpoint::Bearer);
    scene.attest();
    scene.counts
}

#[test]
fn no_single_field_grants_what_the_right_request_would_not() {
    let counts: Counts = std::thread::scope(|scope| {
        let threads = STATES.map(|state| scope.spawn(move || walk(state)));
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    let mut all = 0;
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    for ((state, endpoint), counts) in &counts {
        let list: Vec<_> = counts
            .iter()
            .map(|(code, n)| format!("{code} {n}"))
            .collect();
        eprintln!("{state:?} {endpoint:?}: {}", list.join(", "));
        for (code, n) in counts {
            all += n;
            *codes.entry(code).or_default() += n;
        }
    }
    for (code, n) in &codes {
        eprintln!("{n:6} {code}");
    }
    eprintln!("{all:6} requests");
    assert!(all > 10_000, "{all}");
    assert_eq!(counts.len(), STATES.len() * 5);
    // What means the same is granted, or else nothing was learnt above.
    assert!(counts[&(State::Opened, Endpoint::Attest)]["granted"] > 200);
    assert!(counts[&(State::Attested, Endpoint::Cookie)]["granted"] > 100);
    assert!(counts[&(State::Attested, Endpoint::Bearer)]["granted"] > 100);
    // The walk reaches every check that a request without a second fault can
    // fail at.
    for code in [
        "R_PATH",
        "R_METHOD",
        "R_PLUGIN",
        "R_REQUEST",
        "R_VERSION",
        "R_SESSION_MISSING",
        "R_SESSION_UNKNOWN",
        "R_SESSION_USED",
        "R_SESSION_EXPIRED",
        "R_NONCE",
        "R_TEE_KEY",
        "R_ADDITIONAL_EVIDENCE",
        "R_EVIDENCE",
        "R_AK_UNKNOWN",
        "R_SIGNATURE",
        "R_PCR_DIGEST",
        "R_BOOT_LATCHED",
        "R_TOKEN_MISSING",
        "R_RESOURCE_PATH",
        "R_RESOURCE_UNKNOWN",
    ] {
        assert!(codes.contains_key(code), "{code} was never met");
    }
}
