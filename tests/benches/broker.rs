//! Handshakes per second and their latency, over TLS on the loopback: our
//! broker, and beside it the stock KBS that `TRUSTEE_KBS` names.
//!
//! ```text
//! broker [CONNECTIONS [SECONDS]]
//! ```
//!
//! A handshake is what init does on its one connection: TLS, challenge,
//! attestation, resource. Each connection is a TPM of its own. The time that it
//! takes to sign a quote is the TPM's, and is not counted as latency; but it
//! does take its part of the processors from the broker.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a measurement fails by panicking"
)]

// The guest and the TPM of the broker's own tests.
#[allow(dead_code, reason = "of a guest only the honest part is needed here")]
#[path = "../../key-broker/tests/broker/guest.rs"]
mod guest;
#[allow(dead_code, reason = "of a TPM only the honest part is needed here")]
#[path = "../../key-broker/tests/broker/soft_tpm.rs"]
mod soft_tpm;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use key_broker::store::attesters::Origin;
use measured_boot::trustee::{ATTESTATION_POLICY, RESOURCE_POLICY, rvps_message};
use serde_json::Value;
use tests::artifacts::tools;
use tests::client::{Answer, Client, Connection};
use tests::trustee::Trustee;

use crate::guest::{Guest, KEY, SECRET, Site, auth_body, pcrs, reference_values};
use crate::soft_tpm::SoftTpm;

type Key = &'static rsa::PrivateKey;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse().ok());
    let connections: usize = numbers.next().unwrap_or(8);
    let seconds = numbers.next().unwrap_or(10);
    let time = Duration::from_secs(u64::try_from(seconds).unwrap());
    let keys: Vec<Key> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| scope.spawn(SoftTpm::new_key))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    println!(
        "{connections} connections for {seconds} s, each handshake with TLS, challenge, attestation, resource"
    );
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| tests::artifacts::workspace().join("target"), Into::into);
    let broker = tools(&tests::artifacts::workspace(), &target)
        .unwrap()
        .join("key-broker");
    ours(&broker, &keys, time);
    match tests::trustee::binary() {
        Some(binary) => theirs(&binary, &broker, &keys, time),
        None => println!("trustee     not measured: TRUSTEE_KBS names no binary"),
    }
}

fn ours(broker: &Path, keys: &[Key], time: Duration) {
    let site = Site::new();
    for key in keys {
        let ak = SoftTpm::with_key(key, pcrs(2), 0).ak();
        site.store.enroll_ak(&ak, Origin::Given).unwrap();
    }
    let dir = site.dir.path();
    let process = Command::new(broker)
        .args(["serve", "store", "--listen", "127.0.0.1:0"])
        .args(["--port-file", "port", "--log", "log"])
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut process = Ended(process);
    let port = loop {
        let text = fs::read_to_string(dir.join("port")).unwrap_or_default();
        if let Ok(port) = text.trim().parse() {
            break port;
        }
        assert_eq!(process.0.try_wait().unwrap(), None, "the broker ended");
        std::thread::sleep(Duration::from_millis(10));
    };
    let client = Client::new(&dir.join("store"), port).unwrap();
    report("key-broker", measure(&client, keys, time), time);
}

/// Ends the process with the value, whatever ended the measurement.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn theirs(binary: &Path, broker: &Path, keys: &[Key], time: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let predicted = folder.path().join("predicted");
    fs::create_dir(&predicted).unwrap();
    let values = reference_values("demo", 2, &pcrs(2));
    for (name, text) in [
        ("rvps-message.json", rvps_message(&values).unwrap().as_str()),
        ("attestation-policy.rego", ATTESTATION_POLICY),
        ("resource-policy.rego", RESOURCE_POLICY),
    ] {
        fs::write(predicted.join(name), text).unwrap();
    }
    let aks: Vec<_> = keys
        .iter()
        .map(|key| SoftTpm::with_key(key, pcrs(2), 0).ak())
        .collect();
    let trustee = Trustee::start(binary, broker, folder.path(), &aks).unwrap();
    trustee.load(&predicted, &aks).unwrap();
    trustee.put(KEY, SECRET).unwrap();
    let client = Client::new(&trustee.tls(), trustee.port()).unwrap();
    report("trustee", measure(&client, keys, time), time);
}

/// The latency of every handshake, from all connections.
fn measure(client: &Client, keys: &[Key], time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        let threads: Vec<_> = keys
            .iter()
            .map(|key| {
                scope.spawn(move || {
                    let mut latencies = Vec::new();
                    for boot in 1.. {
                        if Instant::now() >= end {
                            break;
                        }
                        latencies.push(handshake(client, &SoftTpm::with_key(key, pcrs(2), boot)));
                    }
                    latencies
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    })
}

fn handshake(client: &Client, tpm: &SoftTpm) -> Duration {
    let start = Instant::now();
    let mut connection = client.connect().unwrap();
    let json = ("Content-Type", "application/json");
    let answer = connection
        .exchange("POST", "/kbs/v0/auth", &[json], &auth_body("tpm"))
        .unwrap();
    let opened = start.elapsed();
    let cookie = answer.cookie.clone().expect("no session");
    let guest = Guest::new(&cookie, text(&answer.body, "nonce"));
    let evidence = tpm.quote(guest.report_data().qualifying_data());
    let body = guest.attest_body(&evidence).to_string();

    let start = Instant::now();
    let cookie = ("Cookie", cookie.as_str());
    let ask = |connection: &mut Connection, method, path: &str, body: &[u8]| -> Answer {
        let answer = connection
            .exchange(method, path, &[json, cookie], body)
            .unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer
    };
    ask(&mut connection, "POST", "/kbs/v0/attest", body.as_bytes());
    let path = format!("/kbs/v0/resource/{KEY}");
    let resource = ask(&mut connection, "GET", &path, &[]);
    let latency = opened + start.elapsed();
    assert_eq!(guest.decrypt(resource.body.to_string().as_bytes()), SECRET);
    latency
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().expect("no such text")
}

fn report(name: &str, mut latencies: Vec<Duration>, time: Duration) {
    latencies.sort_unstable();
    assert!(!latencies.is_empty(), "no handshake ended");
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let count = u32::try_from(latencies.len()).unwrap();
    println!(
        "{name:11} {:.1} handshakes/s, median {:.1} ms, 99th percentile {:.1} ms, {count} handshakes",
        f64::from(count) / time.as_secs_f64(),
        at(50),
        at(99),
    );
}
