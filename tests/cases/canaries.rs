//! Secrets do not leave the guest: they are looked for in every byte that the
//! host sees of a full run, in every spelling they might have.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use measured_boot::base16;
use tests::artifacts::Parts;
use tests::defences::{Attack, Verdict};
use tests::site::{Site, boot, expect_exit};

use crate::Fact;

pub(crate) const ATTACKS: &[Attack] = &[Attack {
    name: "canaries",
    attempt: encrypted,
    control: all_are_used,
}];

pub(crate) const FACTS: &[Fact] = &[("canaries/scanner-finds-every-spelling", every_spelling)];

const PRIVATE: &[u8] = b"canary-private-7d1f0c55c6a14e06";
const TOKEN: &[u8] = b"canary-token-4b3e9d0a87f2416c";
const VARIABLE: &[u8] = b"canary-variable-90ce51b2d7aa4f";

/// A run whose container uses every canary; afterwards nothing the host has
/// contains one.
fn encrypted(parts: &Parts) -> Result<Verdict> {
    let scene = Scene::run(parts)?;
    match scene.found()?.first() {
        None => Ok(Verdict::Stopped("nothing found".into())),
        Some(found) => Ok(Verdict::Succeeded(found.clone())),
    }
}

/// The container did receive what is then looked for.
fn all_are_used(parts: &Parts) -> Result<()> {
    let scene = Scene::run(parts)?;
    let digest = |bytes: &[u8]| {
        use sha2::{Digest, Sha256};
        base16::encode(&Sha256::digest(bytes))
    };
    for line in [
        format!("container: probe: digest /private/note {}", digest(PRIVATE)),
        format!(
            "container: probe: digest /run/secrets/token {}",
            digest(TOKEN)
        ),
        format!("container: probe: digest-of SECRET {}", digest(VARIABLE)),
    ] {
        ensure!(
            scene.lines.contains(&line),
            "no line {line:?} in\n{}",
            scene.lines.join("\n")
        );
    }
    Ok(())
}

struct Scene {
    site: Site,
    image: PathBuf,
    lines: Vec<String>,
}

impl Scene {
    fn run(parts: &Parts) -> Result<Self> {
        let site = Site::open(parts)?;
        let mut spec = site.spec(&["canaries", "/private/note", "/run/secrets/token"])?;
        spec.private = vec![("note", PRIVATE.to_vec())];
        spec.tables = "[[container.secret]]\nresource = \"kbs:///probe/app/token\"\n\
            path = \"/run/secrets/token\"\n\
            [[container.secret]]\nresource = \"kbs:///probe/app/variable\"\nenv = \"SECRET\"\n"
            .into();
        for (name, content) in [("token", TOKEN), ("variable", VARIABLE)] {
            let file = site.path().join(name);
            fs::write(&file, content)?;
            site.put(&format!("probe/app/{name}"), &file, "probe")?;
            fs::remove_file(file)?;
        }
        let image = site.enrolled(&spec)?;
        let host = site.path().join("host");
        fs::create_dir(&host)?;
        let mut machine = site.machine(&image)?;
        machine.pcap = Some(host.join("packets.pcap"));
        machine.kept_vars = Some(host.join("vars.fd"));
        machine.serial_log = Some(host.join("serial.log"));
        let report = boot(&machine)?;
        expect_exit(&report, 0)?;
        for file in ["packets.pcap", "vars.fd", "serial.log"] {
            ensure!(
                fs::metadata(host.join(file))?.len() > 100,
                "{file} captured nothing"
            );
        }
        Ok(Self {
            lines: report.lines(),
            site,
            image,
        })
    }

    /// Everything the host has: captures, the image, the TPM's state, and the
    /// broker's log, which an operator may well ship elsewhere.
    fn found(&self) -> Result<Vec<String>> {
        let key = fs::read(self.site.boot_key()?)?;
        let canaries: [(&str, &[u8]); 4] = [
            ("boot key", &key),
            ("private file", PRIVATE),
            ("token", TOKEN),
            ("variable", VARIABLE),
        ];
        let mut found = Vec::new();
        for folder in [
            self.site.path().join("host"),
            self.image.clone(),
            self.site.tpm(),
        ] {
            for file in files(&folder)? {
                found.extend(scan(&file, &canaries)?);
            }
        }
        for file in ["broker.log", "broker.err"] {
            found.extend(scan(&self.site.path().join(file), &canaries)?);
        }
        Ok(found)
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    files(folder)
}

fn scan(file: &Path, canaries: &[(&str, &[u8])]) -> Result<Vec<String>> {
    let bytes = fs::read(file)?;
    let mut found = Vec::new();
    for (name, canary) in canaries {
        for (spelling, needle) in spellings(canary) {
            if contains(&bytes, &needle) {
                found.push(format!("{name} as {spelling} in {}", file.display()));
            }
        }
    }
    Ok(found)
}

/// Twelve bytes of a secret in a row are taken as a find: a page may hold only
/// a part of it.
fn spellings(canary: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let part = &canary[canary.len() / 2 - 6..canary.len() / 2 + 6];
    let hex = base16::encode(part);
    let mut spellings = vec![
        ("raw", part.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("upper-case hex", hex.to_uppercase().into_bytes()),
        ("UTF-16", part.iter().flat_map(|byte| [*byte, 0]).collect()),
        ("reversed", part.iter().rev().copied().collect()),
    ];
    // Base64 depends on where in a group of three the secret starts.
    for skip in 0..3 {
        let whole = &part[skip..skip + 9];
        spellings.push(("base64", Base64::encode_string(whole).into_bytes()));
        spellings.push((
            "base64url",
            Base64UrlUnpadded::encode_string(whole).into_bytes(),
        ));
    }
    spellings
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// The scanner itself: each spelling of a canary inside other bytes is found.
fn every_spelling() -> Result<()> {
    let secret = b"a secret of some length, here";
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("seen");
    let around = |middle: &[u8]| [&b"before "[..], middle, b" after"].concat();
    let spelled: [Vec<u8>; 7] = [
        secret.to_vec(),
        base16::encode(secret).into_bytes(),
        base16::encode(secret).to_uppercase().into_bytes(),
        secret.iter().flat_map(|byte| [*byte, 0]).collect(),
        Base64::encode_string(secret).into_bytes(),
        Base64::encode_string(&around(secret)).into_bytes(),
        Base64UrlUnpadded::encode_string(&[&b"x"[..], secret].concat()).into_bytes(),
    ];
    for written in spelled {
        fs::write(&file, around(&written))?;
        let found = scan(&file, &[("secret", secret)])?;
        ensure!(
            !found.is_empty(),
            "not found in {:?}",
            String::from_utf8_lossy(&written)
        );
    }
    fs::write(&file, around(b"nothing of interest"))?;
    ensure!(
        scan(&file, &[("secret", secret)])?.is_empty(),
        "found where there is nothing"
    );
    Ok(())
}
