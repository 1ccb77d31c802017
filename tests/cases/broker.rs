//! What a false, broken or slow broker can do to a guest.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use image_build::run::Report;
use tests::artifacts::{Parts, artifacts};
use tests::defences::{Attack, Verdict};
use tests::hostile::{Behaviour, Hostile, Identity, http};
use tests::site::{BrokerAddress, Site, boot, expect_exit, stop_code};

use crate::Fact;
use crate::scene::{self, verdict};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "broker-ca",
        attempt: |p| impostor(p, Identity::OtherCa),
        control: good_identity,
    },
    Attack {
        name: "broker-name",
        attempt: |p| impostor(p, Identity::OtherName),
        control: good_identity,
    },
    Attack {
        name: "broker-clock",
        attempt: clock_set_back,
        control: good_identity,
    },
    Attack {
        name: "key-length",
        attempt: key_length,
        control: scene::chain,
    },
];

pub(crate) const FACTS: &[Fact] = &[
    ("broker/expired", expired),
    ("broker/clock-in-1999", clock_1999),
    ("broker/clock-in-2099", clock_2099),
    (
        "broker/clock-in-1999-with-the-genuine-broker",
        clock_1999_genuine,
    ),
    ("broker/http", plain_http),
    ("broker/redirect", redirect),
    ("broker/silent-tcp", silent_tcp),
    ("broker/silent-tls", silent_tls),
    ("broker/slow", slow),
    ("broker/gigabyte", gigabyte),
    ("broker/endless-head", endless_head),
    ("broker/deep-json", deep_json),
    ("broker/not-json", not_json),
    ("broker/garbage-instead-of-tls", garbage),
    ("broker/refused", refused),
    ("broker/unreachable", unreachable),
    ("broker/wrong-jwe-algorithm", wrong_jwe_algorithm),
    ("broker/undecryptable-jwe", undecryptable_jwe),
    ("broker/no-dhcp-and-static-address", static_address),
];

fn product() -> Result<&'static Parts> {
    Ok(&artifacts()?.product)
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn challenge() -> Vec<u8> {
    http(
        "200 OK",
        "Set-Cookie: kbs-session-id=0123456789abcdef0123456789abcdef\r\n",
        "{\"nonce\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"extra-params\":\"\"}",
    )
}

/// Boots an image whose broker is `hostile`; the machine's clock shows `clock`.
fn meet(
    parts: &Parts,
    hostile: &Hostile,
    clock: Option<&str>,
    floor: Option<u64>,
) -> Result<Report> {
    let site = Site::open(parts)?;
    let mut spec = site.spec(&["exit", "0"])?;
    spec.broker = Some(BrokerAddress {
        url: format!("https://10.0.2.2:{}", hostile.port),
        ca: hostile.ca.clone(),
        not_before: floor,
    });
    let image = site.build(&spec, &parts.init)?;
    let mut machine = site.machine(&image)?;
    machine.clock = clock.map(Into::into);
    boot(&machine)
}

fn stops(behaviour: Behaviour, code: &str) -> Result<()> {
    let hostile = Hostile::start(Identity::Good, behaviour)?;
    let got = stop_code(&meet(product()?, &hostile, None, None)?)?;
    ensure!(got == code, "got {got}, expected {code}");
    Ok(())
}

/// A server that is not the broker, and would like to see evidence.
fn impostor(parts: &Parts, identity: Identity) -> Result<Verdict> {
    let hostile = Hostile::start(identity, Behaviour::Answers(challenge()))?;
    let report = meet(parts, &hostile, None, None)?;
    let received = String::from_utf8_lossy(&hostile.received()).into_owned();
    if received.contains("tpm_quote") {
        return Ok(Verdict::Succeeded("the impostor received evidence".into()));
    }
    ensure!(received.is_empty(), "the impostor received {received}");
    verdict(&report)
}

/// Control of the impostors: with the right identity the same server does get
/// the evidence.
fn good_identity(parts: &Parts) -> Result<()> {
    let hostile = Hostile::start(Identity::Good, Behaviour::Answers(challenge()))?;
    meet(parts, &hostile, None, None)?;
    let received = String::from_utf8_lossy(&hostile.received()).into_owned();
    ensure!(
        received.contains("tpm_quote"),
        "no evidence reached an authentic server: {received}"
    );
    Ok(())
}

/// A certificate that expired after the image was made, and a host that sets
/// the clock back to when it was valid... before the image's own floor.
fn clock_set_back(parts: &Parts) -> Result<Verdict> {
    let floor = now()?;
    let end = i64::try_from(floor)?.saturating_sub(86_400);
    let hostile = Hostile::start(Identity::ExpiredAt(end), Behaviour::Answers(challenge()))?;
    let report = meet(parts, &hostile, Some("2001-01-01T00:00:00"), Some(floor))?;
    if String::from_utf8_lossy(&hostile.received()).contains("tpm_quote") {
        return Ok(Verdict::Succeeded(
            "an expired certificate was accepted".into(),
        ));
    }
    verdict(&report)
}

/// The broker is made to release 31 bytes as a boot key.
fn key_length(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let short = site.path().join("short.key");
    std::fs::write(&short, [7; 31])?;
    site.put("probe/boot/key", &short, "probe")?;
    match verdict(&boot(&site.machine(&image)?)?)? {
        // Padded or cut, the key goes into dm-crypt and opens nothing.
        Verdict::Stopped(code) if code == "E_BOOT_INTEGRITY" => Ok(Verdict::Succeeded(
            "a key of the wrong length was used".into(),
        )),
        verdict => Ok(verdict),
    }
}

fn expired() -> Result<()> {
    let end = i64::try_from(now()?)?.saturating_sub(3600);
    let hostile = Hostile::start(Identity::ExpiredAt(end), Behaviour::Answers(challenge()))?;
    let got = stop_code(&meet(product()?, &hostile, None, None)?)?;
    ensure!(got == "E_TLS_EXPIRED", "got {got}");
    ensure!(hostile.received().is_empty(), "something was sent to it");
    Ok(())
}

/// The floor holds the clock up: a certificate valid from yesterday is valid.
fn clock_1999() -> Result<()> {
    let yesterday = i64::try_from(now()?)?.saturating_sub(86_400);
    let hostile = Hostile::start(
        Identity::ValidFrom(yesterday),
        Behaviour::Answers(challenge()),
    )?;
    meet(
        product()?,
        &hostile,
        Some("1999-12-31T23:59:59"),
        Some(now()?),
    )?;
    ensure!(
        hostile.handshakes() > 0,
        "the guest refused a certificate valid by the floor"
    );
    // And without a floor above it, the same certificate is not valid yet.
    let hostile = Hostile::start(
        Identity::ValidFrom(yesterday),
        Behaviour::Answers(challenge()),
    )?;
    let report = meet(
        product()?,
        &hostile,
        Some("1999-12-31T23:59:59"),
        Some(1_000_000_000),
    )?;
    let got = stop_code(&report)?;
    ensure!(got == "E_TLS_NOT_YET_VALID", "got {got}");
    Ok(())
}

/// A clock far ahead can only refuse: it makes valid certificates expire.
fn clock_2099() -> Result<()> {
    let hostile = Hostile::start(Identity::Good, Behaviour::Answers(challenge()))?;
    let got = stop_code(&meet(
        product()?,
        &hostile,
        Some("2099-01-01T00:00:00"),
        None,
    )?)?;
    ensure!(got == "E_TLS_EXPIRED", "got {got}");
    Ok(())
}

fn clock_1999_genuine() -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut machine = site.machine(&image)?;
    machine.clock = Some("1999-01-01T00:00:00".into());
    expect_exit(&boot(&machine)?, 0)
}

/// The builder refuses such an image, so it cannot exist; a server that speaks
/// plain HTTP on the broker's port is no TLS.
fn plain_http() -> Result<()> {
    let site = Site::open(product()?)?;
    let mut spec = site.spec(&["exit", "0"])?;
    if let Some(broker) = &mut spec.broker {
        broker.url = broker.url.replacen("https:", "http:", 1);
    }
    let refused = site.build(&spec, &product()?.init);
    let error = format!(
        "{:#}",
        refused.err().unwrap_or_else(|| anyhow::anyhow!("built"))
    );
    ensure!(error.contains("https"), "got {error}");
    stops(
        Behaviour::Garbage(http("200 OK", "", "{}")),
        "E_TLS_PROTOCOL",
    )
}

fn redirect() -> Result<()> {
    let answer = http("302 Found", "Location: https://10.0.2.2:1/\r\n", "");
    stops(Behaviour::Answers(answer), "E_BROKER_REDIRECT")
}

fn silent_tcp() -> Result<()> {
    stops(Behaviour::SilentTcp, "E_BROKER_TIMEOUT")
}

fn silent_tls() -> Result<()> {
    stops(Behaviour::Silent, "E_BROKER_TIMEOUT")
}

/// Each byte comes long before any timeout of a single read.
fn slow() -> Result<()> {
    stops(
        Behaviour::Slow(Duration::from_millis(700), challenge()),
        "E_BROKER_TIMEOUT",
    )
}

fn gigabyte() -> Result<()> {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
    stops(Behaviour::Endless(head), "E_BROKER_SIZE")?;
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3b9aca00\r\n".to_vec();
    stops(Behaviour::Endless(head), "E_BROKER_SIZE")
}

fn endless_head() -> Result<()> {
    let got = {
        let behaviour = Behaviour::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec());
        let hostile = Hostile::start(Identity::Good, behaviour)?;
        stop_code(&meet(product()?, &hostile, None, None)?)?
    };
    ensure!(
        got == "E_BROKER_SIZE" || got == "E_BROKER_PROTOCOL",
        "got {got}"
    );
    Ok(())
}

fn deep_json() -> Result<()> {
    let body = format!("{}{}", "[".repeat(7_000), "]".repeat(7_000));
    stops(
        Behaviour::Answers(http("200 OK", "", &body)),
        "E_BROKER_PROTOCOL",
    )
}

fn not_json() -> Result<()> {
    stops(
        Behaviour::Answers(http("200 OK", "", "<html>")),
        "E_BROKER_PROTOCOL",
    )
}

fn garbage() -> Result<()> {
    stops(
        Behaviour::Garbage(b"\x15\x03\x03\x00\x02\x02\x28 and more".to_vec()),
        "E_TLS_PROTOCOL",
    )
}

fn refused() -> Result<()> {
    let body = "{\"type\":\"https://github.com/confidential-containers/kbs/errors/PolicyDeny\",\
                \"detail\":\"no\\u001b[2J\"}";
    let denial = http("401 Unauthorized", "", body);
    let script = vec![challenge(), denial];
    let hostile = Hostile::start(Identity::Good, Behaviour::Script(script))?;
    let report = meet(product()?, &hostile, None, None)?;
    let got = stop_code(&report)?;
    ensure!(got == "E_BROKER_REFUSED", "got {got}");
    let line = scene::line(&report, "init: fatal: ")?;
    ensure!(
        line.contains("PolicyDeny"),
        "the reason is missing in {line}"
    );
    ensure!(
        !line.contains('\u{1b}'),
        "the broker can drive the terminal"
    );
    Ok(())
}

fn unreachable() -> Result<()> {
    let site = Site::open(product()?)?;
    let mut spec = site.spec(&["exit", "0"])?;
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port();
    if let Some(broker) = &mut spec.broker {
        broker.url = format!("https://10.0.2.2:{port}");
    }
    let image = site.build(&spec, &product()?.init)?;
    let got = stop_code(&boot(&site.machine(&image)?)?)?;
    ensure!(got == "E_BROKER_CONNECT", "got {got}");
    Ok(())
}

fn jwe(header: &str) -> Vec<u8> {
    use base64ct::{Base64UrlUnpadded, Encoding};
    let protected = Base64UrlUnpadded::encode_string(header.as_bytes());
    let part = |length: usize| Base64UrlUnpadded::encode_string(&vec![1; length]);
    let body = format!(
        "{{\"protected\":\"{protected}\",\"encrypted_key\":\"{}\",\"iv\":\"{}\",\
         \"ciphertext\":\"{}\",\"tag\":\"{}\"}}",
        part(40),
        part(12),
        part(32),
        part(16)
    );
    http("200 OK", "", &body)
}

fn released(header: &str, code: &str) -> Result<()> {
    let token = http("200 OK", "", "{\"token\":\"e30.e30.AA\"}");
    stops(
        Behaviour::Script(vec![challenge(), token, jwe(header)]),
        code,
    )
}

const EPK: &str = "\"epk\":{\"crv\":\"P-256\",\"kty\":\"EC\",\
    \"x\":\"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY\",\
    \"y\":\"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU\"}";

fn wrong_jwe_algorithm() -> Result<()> {
    released(
        &format!("{{\"alg\":\"dir\",\"enc\":\"A256GCM\",{EPK}}}"),
        "E_JWE_ALGORITHM",
    )?;
    released(
        &format!("{{\"alg\":\"ECDH-ES+A256KW\",\"enc\":\"A128CBC-HS256\",{EPK}}}"),
        "E_JWE_ALGORITHM",
    )
}

fn undecryptable_jwe() -> Result<()> {
    released(
        &format!("{{\"alg\":\"ECDH-ES+A256KW\",\"enc\":\"A256GCM\",{EPK}}}"),
        "E_JWE_DECRYPT",
    )
}

/// The same chain with an address from the manifest: nothing asks the network.
fn static_address() -> Result<()> {
    let site = Site::open(product()?)?;
    let mut spec = site.spec(&["network"])?;
    spec.network = Some(
        "mode = \"static\"\naddress = \"10.0.2.77\"\nprefix = 24\nrouter = \"10.0.2.2\"\ndns = [\"10.0.2.3\"]\n"
            .into(),
    );
    let image = site.enrolled(&spec)?;
    expect_exit(&boot(&site.machine(&image)?)?, 0)
}
