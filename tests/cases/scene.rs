//! Scenes that several cases play in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image_build::run::{Machine, Outcome, Report};
use tests::artifacts::{Parts, artifacts};
use tests::defences::Verdict;
use tests::site::{Site, Spec, boot, expect_exit};

/// The whole chain with nothing wrong: attested, unlocked, run, ended.
pub(crate) fn chain(parts: &Parts) -> Result<()> {
    let site = Site::open(parts)?;
    let report = site.run(&site.spec(&["exit", "0"])?)?;
    expect_exit(&report, 0)
}

/// An image without a broker: verified, run, ended.
pub(crate) fn offline(parts: &Parts) -> Result<()> {
    let scene = Offline::new(parts, &Spec::offline(&["exit", "0"]))?;
    expect_exit(&boot(&scene.machine()?)?, 0)
}

/// One image without a broker, in a folder of its own.
pub(crate) struct Offline {
    site: Site,
    pub(crate) image: PathBuf,
}

impl Offline {
    pub(crate) fn new(parts: &Parts, spec: &Spec) -> Result<Self> {
        let site = Site::open(parts)?;
        let image = site.build(spec, &parts.init)?;
        Ok(Self { site, image })
    }

    pub(crate) fn machine(&self) -> Result<Machine> {
        self.site.machine(&self.image)
    }

    pub(crate) fn path(&self) -> &Path {
        self.site.path()
    }
}

/// How the product ended a boot it should not have finished; a container that
/// ran is the attacker's success.
pub(crate) fn verdict(report: &Report) -> Result<Verdict> {
    match &report.outcome {
        Outcome::Exited { status } => Ok(Verdict::Succeeded(format!("container exited {status}"))),
        Outcome::Fatal { code, .. } => Ok(Verdict::Stopped(code.clone())),
        Outcome::Panic { .. } => Ok(Verdict::Stopped("panic".into())),
        other => bail!("got {other:?}; console:\n{}", report.lines().join("\n")),
    }
}

/// Nothing was sent or received while this file was written.
pub(crate) fn no_packet(pcap: &Path) -> Result<()> {
    // A pcap file starts with a header of 24 bytes.
    let length = fs::metadata(pcap)?.len();
    ensure!(
        length == 24,
        "{length} bytes in the capture, expected only its header"
    );
    Ok(())
}

/// The line of the console that contains `text`.
pub(crate) fn line(report: &Report, text: &str) -> Result<String> {
    report
        .lines()
        .into_iter()
        .find(|line| line.contains(text))
        .with_context(|| {
            format!(
                "no line with {text:?}; console:\n{}",
                report.lines().join("\n")
            )
        })
}

/// Requires a line of the container's with this exact text.
pub(crate) fn said(report: &Report, text: &str) -> Result<()> {
    let wanted = format!("container: {text}");
    ensure!(
        report.lines().contains(&wanted),
        "no line {wanted:?}; console:\n{}",
        report.lines().join("\n")
    );
    Ok(())
}

/// A copy of `file` with one byte changed.
pub(crate) fn flipped(file: &Path, offset: u64, name: &str) -> Result<PathBuf> {
    altered(file, name, |bytes| {
        let byte = bytes
            .get_mut(usize::try_from(offset)?)
            .context("offset outside the file")?;
        *byte ^= 0x40;
        Ok(())
    })
}

/// A copy of `file`, changed.
pub(crate) fn altered(
    file: &Path,
    name: &str,
    change: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<PathBuf> {
    let mut bytes = fs::read(file)?;
    change(&mut bytes)?;
    let copy = file.with_file_name(name);
    fs::write(&copy, bytes)?;
    Ok(copy)
}

/// Where `needle` is in a file.
pub(crate) fn find(file: &Path, needle: &[u8]) -> Result<u64> {
    let bytes = fs::read(file)?;
    let at = bytes
        .windows(needle.len())
        .position(|window| window == needle);
    Ok(u64::try_from(at.with_context(|| {
        format!("{} not found", String::from_utf8_lossy(needle))
    })?)?)
}

/// A cpio archive (newc) of plain files.
pub(crate) fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files.iter().chain([&("TRAILER!!!", &[][..])]) {
        let mode = if name.contains('!') { 0 } else { 0o100_755 };
        let fields = [
            1,
            mode,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        archive.extend_from_slice(b"070701");
        for field in fields {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// An initrd whose init is the attacker, with a task for it.
pub(crate) fn attacker_initrd(image: &Path, task: &str) -> Result<PathBuf> {
    let manifest = fs::read_to_string(image.join("manifest.json"))?;
    let instructions = format!("{{\"manifest\":{manifest},\"task\":{task}}}");
    let attacker = fs::read(&artifacts()?.attacker)?;
    let archive = cpio(&[
        ("init", &attacker),
        ("instructions", instructions.as_bytes()),
    ]);
    let file = image.join("attacker.cpio");
    fs::write(&file, archive)?;
    Ok(file)
}
