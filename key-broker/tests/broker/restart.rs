//! The broker killed in the middle: of a handshake, of a release, of a write.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use key_broker::Store;
use serde_json::Value;

use crate::guest::{Guest, KEY, SECRET, Site, pcrs};
use crate::process::{BROKER, Process};
use crate::secrets::gives_away;
use crate::server::Server;
use crate::soft_tpm::SoftTpm;

fn restarted(mut server: Server, process: Process) -> (Server, Process) {
    process.kill();
    let (process, address) = Process::serve(server.site.dir.path());
    server.address = address;
    (server, process)
}

/// The code of the broker's latest decision.
fn last_code(process: &Process) -> Value {
    let said = process.said();
    let line: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    line["code"].clone()
}

#[test]
fn a_restart_ends_sessions_and_keeps_the_latch() {
    let site = Site::new();
    let (process, address) = Process::serve(site.dir.path());
    let server = Server::elsewhere(site, address);
    let boot = |number| SoftTpm::new(0, pcrs(2), number);

    // Between the challenge and the evidence.
    let guest = server.guest();
    let (server, process) = restarted(server, process);
    assert_eq!(server.attest(&guest, &boot(1)), 401);
    assert_eq!(last_code(&process), "R_SESSION_UNKNOWN");
    // Between the evidence and the resource.
    let guest = server.guest();
    assert_eq!(server.attest(&guest, &boot(1)), 200);
    let (server, process) = restarted(server, process);
    assert_eq!(server.fetch(&guest).0, 401);
    assert_eq!(last_code(&process), "R_TOKEN_MISSING");
    // Nothing was used up: the same boot begins anew and gets its key.
    let guest = server.guest();
    assert_eq!(server.attest(&guest, &boot(1)), 200);
    assert_eq!(guest.decrypt(&server.fetch(&guest).2), SECRET);
    // Behind the resource: this boot has had it.
    let (server, process) = restarted(server, process);
    let again = server.guest();
    assert_eq!(server.attest(&again, &boot(1)), 401);
    assert_eq!(last_code(&process), "R_BOOT_LATCHED");
    let next = server.guest();
    assert_eq!(server.attest(&next, &boot(2)), 200);
    assert_eq!(next.decrypt(&server.fetch(&next).2), SECRET);

    let said = process.said();
    assert!(!gives_away(said.as_bytes(), SECRET));
    for guest in [&guest, &again, &next] {
        assert!(!said.contains(&guest.id));
    }
    for file in ["ca-key.pem", "server-key.pem", "token-key.pem"] {
        let path = server.site.dir.path().join("store").join(file);
        let pem = fs::read_to_string(path).unwrap();
        for line in pem.lines().filter(|line| !line.starts_with('-')) {
            assert!(!said.contains(line), "{file}");
        }
    }
}

/// Microseconds, spread over what one write takes; the same ones each time.
fn moments(count: u64, longest: u64) -> impl Iterator<Item = Duration> {
    (0..count).map(move |n| Duration::from_micros(n * 7_919 % longest))
}

/// No guest has an answer whose release a restarted broker does not remember.
#[test]
fn killed_while_it_releases_it_never_forgets_what_left() {
    let site = Site::new();
    let (mut process, address) = Process::serve(site.dir.path());
    let mut server = Server::elsewhere(site, address);
    let (mut answered, mut unanswered) = (0, 0);
    for (number, moment) in (1..).zip(moments(30, 40_000)) {
        let tpm = SoftTpm::new(0, pcrs(2), number);
        let guest = server.guest();
        assert_eq!(server.attest(&guest, &tpm), 200);
        let got = std::thread::scope(|scope| {
            let asked = scope.spawn(|| fetch(&server, &guest));
            std::thread::sleep(moment);
            process.kill();
            asked.join().unwrap()
        });
        let (next, address) = Process::serve(server.site.dir.path());
        (process, server.address) = (next, address);
        let again = server.guest();
        let status = server.attest(&again, &tpm);
        if let Some(secret) = got {
            assert_eq!(secret, SECRET);
            assert_eq!(status, 401, "boot {number} got its key twice");
            answered += 1;
        } else {
            // The release may have been on disk, and its answer not out.
            assert!([200, 401].contains(&status), "{status}");
            unanswered += 1;
        }
    }
    eprintln!("killed {answered} times behind the answer, {unanswered} times before it");
}

/// The secret, if the broker lived long enough to send it.
fn fetch(server: &Server, guest: &Guest) -> Option<Vec<u8>> {
    use std::io::{Read, Write};
    let mut tls = server.tls(&server.site.store, "localhost").ok()?;
    let cookie = format!("Cookie: kbs-session-id={}", guest.id);
    let head =
        format!("GET /kbs/v0/resource/{KEY} HTTP/1.1\r\n{cookie}\r\nConnection: close\r\n\r\n");
    tls.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    drop(tls.read_to_end(&mut answer));
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let body = &answer[end + 4..];
    serde_json::from_slice::<Value>(body).ok()?;
    Some(guest.decrypt(body))
}

fn put(dir: &Path, file: &str) -> Command {
    let mut command = Command::new(BROKER);
    let binding = ["--image", "demo", "--tee", "tpm", "--replace"];
    command
        .args(["put", "store", "kbs:///demo/boot/key", "--file", file])
        .args(binding)
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn a_command_killed_while_it_writes_leaves_the_old_or_the_new() {
    let site = Site::new();
    let dir = site.dir.path();
    let values = [vec![b'a'; 40_000], vec![b'b'; 40_000]];
    for (name, value) in ["a", "b"].iter().zip(&values) {
        fs::write(dir.join(name), value).unwrap();
    }
    assert!(put(dir, "a").status().unwrap().success());
    let guest = site.attested(1);
    let mut seen = [0; 2];
    for (number, moment) in (0..).zip(moments(120, 16_000)) {
        let mut child = put(dir, ["b", "a"][number % 2]).spawn().unwrap();
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        let reply = site.fetch(&guest, KEY);
        assert_eq!(reply.status, 200, "{}", site.lines.text());
        let secret = guest.decrypt(&reply.body);
        let which = values.iter().position(|value| *value == secret);
        seen[which.expect("half a secret")] += 1;
        assert_eq!(
            Store::open(&dir.join("store"))
                .unwrap()
                .resources()
                .unwrap()
                .len(),
            1
        );
    }
    eprintln!("seen afterwards: {seen:?}");
    // What a killed command left behind goes with the next one that is not
    // killed; one file surely is there.
    let resources = dir.join("store/resources/demo/boot");
    fs::write(resources.join(".new-1"), &values[0]).unwrap();
    assert!(put(dir, "a").status().unwrap().success());
    let left = fs::read_dir(&resources).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["key.json"]);
}
