//! `measured-boot explain`: why an observed measurement is not the predicted one.

mod observed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use measured_boot::base16;
use measured_boot::event_log::{self, Tcb};
use measured_boot::explain::files::Release;
use measured_boot::explain::snp::{Build, MOST_CHANGES, Question};
use measured_boot::explain::{Answer, Level, log, tdx, tpm};
use measured_boot::predict::known_firmware;
use measured_boot::predict::snp::{Firmware, LaunchDigest, Machine};
use serde_json::{Value, json};

use self::observed::Observed;
use super::image::Image;
use super::{answered, image, machine};

/// Why an observed measurement is not the predicted one.
///
/// Searches what hosts, versions and people do otherwise, fewest changes first,
/// for what reproduces the observed value. Exit status: 0 when something does, 1
/// when nothing fits, 2 when an input cannot be read.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Image folder the prediction is of.
    #[arg(long, value_name = "DIR")]
    image: PathBuf,
    /// A SEV-SNP report or launch digest (file, or the digest's 96 digits); a TDX quote; a TPM's evidence
    /// (JSON), or registers as 4=HEX,9=HEX; an event log of a TPM or a TD.
    #[arg(long, value_name = "REPORT|QUOTE|DIGEST|LOG")]
    observed: String,
    /// Image folder of another release that may have been started instead. May be repeated.
    #[arg(long, value_name = "DIR")]
    other_image: Vec<PathBuf>,
    /// Firmware build, or a folder of them, that may have been used instead. May be repeated.
    #[arg(long, value_name = "FILE|DIR")]
    other_firmware: Vec<PathBuf>,
    /// Stop after so many changes at once.
    #[arg(long, value_name = "N", default_value_t = MOST_CHANGES)]
    most_changes: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: machine::Options,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(answered(explain(arguments)))
}

fn explain(arguments: &Arguments) -> Result<bool> {
    let observed = Observed::read(&arguments.observed)?;
    let mut images = vec![Image::read(&arguments.image)?];
    for folder in &arguments.other_image {
        images.push(Image::read(folder)?);
    }
    let releases: Vec<_> = images.iter().map(release).collect();
    let explained = match observed {
        Observed::Log(log) => return explain_log(&log, &releases, arguments),
        Observed::Td(registers) => td(arguments, &releases, registers)?,
        Observed::LaunchDigest(digest) => vec![snp(arguments, &releases, digest)?],
        Observed::Pcrs(pcrs) => {
            let profiles = known_firmware()?;
            let one = |(pcr, value): (u8, [u8; 32])| {
                let answer = tpm::explain(pcr, &value, &releases, &profiles)?;
                let name = format!("PCR {pcr}");
                Some(Explained::new(name, base16::encode(&value), answer))
            };
            pcrs.into_iter().filter_map(one).collect()
        }
    };
    ensure!(
        !explained.is_empty(),
        "cannot explain {}: it has none of PCR 0, 4 and 9",
        arguments.observed
    );
    if arguments.json {
        let values: Vec<_> = explained.iter().map(Explained::as_json).collect();
        say!("{}", serde_json::to_string_pretty(&values)?);
    } else {
        explained.iter().try_for_each(Explained::print)?;
    }
    Ok(explained.iter().all(|one| !one.answer.causes.is_empty()))
}

/// Names the first event of a log that the image does not measure.
fn explain_log(bytes: &[u8], releases: &[Release<'_>], arguments: &Arguments) -> Result<bool> {
    let shown = || arguments.observed.clone();
    let parsed = event_log::parse(bytes).with_context(shown)?;
    let compared = log::compare(&parsed, releases).with_context(shown)?;
    let whose = match compared.tcb {
        Tcb::Tpm => "TPM",
        Tcb::Tdx => "TD",
    };
    if arguments.json {
        let divergences: Vec<_> = (compared.divergences.iter())
            .map(|one| {
                json!({
                    "register": one.register,
                    "position": one.position,
                    "offset": one.event.as_ref().map(|(offset, _)| offset),
                    "event": one.event.as_ref().map(|(_, text)| text),
                    "got": one.got,
                    "expected": one.expected,
                })
            })
            .collect();
        let value =
            json!({ "log_of": whose, "matching": compared.matching, "divergences": divergences });
        say!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        say!(
            "event log of a {whose}: {} events of the image are as predicted",
            compared.matching
        );
        for one in &compared.divergences {
            let nothing = || "no further event".to_owned();
            let event = one.event.as_ref();
            let event = event.map_or_else(nothing, |(offset, text)| {
                format!("at offset {offset:#x}: {text}")
            });
            say!("{}, event {}, {event}", one.register, one.position);
            say!(
                "  got:      {}",
                one.got.as_deref().unwrap_or("nothing known")
            );
            say!(
                "  expected: {}",
                one.expected.as_deref().unwrap_or("no further event")
            );
        }
        if compared.divergences.is_empty() {
            say!("no event of the predicted registers differs");
        }
    }
    Ok(compared.divergences.iter().all(|one| one.got.is_some()))
}

fn release(image: &Image) -> Release<'_> {
    Release {
        name: &image.name,
        kernel: &image.kernel,
        initrd: &image.initrd,
        cmdline: &image.cmdline,
    }
}

fn snp(
    arguments: &Arguments,
    releases: &[Release<'_>],
    observed: LaunchDigest,
) -> Result<Explained> {
    let described = arguments.machine.describe()?;
    ensure!(
        described.vcpus.start() == described.vcpus.end(),
        "cannot explain a range of vCPUs: give the number that was predicted for"
    );
    let vcpus = *described.vcpus.start();
    let mut firmware = vec![Build {
        name: described.firmware_name,
        firmware: described.firmware,
    }];
    for path in &arguments.other_firmware {
        firmware.extend(builds(path)?);
    }
    let question = Question {
        machine: Machine::new(described.vmm, vcpus, described.features)?,
        firmware: &firmware,
        releases,
        most_changes: arguments.most_changes,
    };
    let answer = question.explain(observed)?;
    let name = "launch digest".to_owned();
    Ok(Explained::new(name, observed.to_string(), answer))
}

fn td(
    arguments: &Arguments,
    releases: &[Release<'_>],
    [mrtd, rtmr1, rtmr2]: [[u8; 48]; 3],
) -> Result<Vec<Explained>> {
    let mut firmware = Vec::new();
    let others = arguments.other_firmware.iter().map(PathBuf::as_path);
    for path in arguments.machine.firmware().into_iter().chain(others) {
        for file in files(path)? {
            firmware.push((file.display().to_string(), image::read(&file)?));
        }
    }
    let explained = |name: &str, register, observed: [u8; 48]| {
        let answer = tdx::explain(register, &observed, releases, &firmware);
        Explained::new(name.to_owned(), base16::encode(&observed), answer)
    };
    let mut all = vec![
        explained("RTMR1", tdx::Register::Rtmr1, rtmr1),
        explained("RTMR2", tdx::Register::Rtmr2, rtmr2),
    ];
    if firmware.is_empty() {
        eprintln!("measured-boot: MRTD is not explained: give --firmware");
    } else {
        all.insert(0, explained("MRTD", tdx::Register::Mrtd, mrtd));
    }
    Ok(all)
}

/// The file, or every file of the folder, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let read = || format!("cannot read {}", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A firmware file, or every file of a folder that is one, by name.
fn builds(path: &Path) -> Result<Vec<Build>> {
    let build = |path: &Path| -> Result<Build> {
        let name = path.display().to_string();
        let firmware = Firmware::read(&image::read(path)?).with_context(|| name.clone())?;
        Ok(Build { name, firmware })
    };
    if !path.is_dir() {
        return Ok(vec![build(path)?]);
    }
    let mut builds = Vec::new();
    for file in files(path)? {
        match build(&file) {
            Ok(build) => builds.push(build),
            Err(error) => eprintln!("measured-boot: not tried: {error:#}"),
        }
    }
    ensure!(
        !builds.is_empty(),
        "cannot use {}: it has no firmware with SEV metadata",
        path.display()
    );
    Ok(builds)
}

/// One value with its answer.
struct Explained {
    name: String,
    value: String,
    answer: Answer,
}

impl Explained {
    fn new(name: String, value: String, answer: Answer) -> Self {
        Self {
            name,
            value,
            answer,
        }
    }

    fn print(&self) -> Result<()> {
        let Self {
            name,
            value,
            answer,
        } = self;
        say!("{name} {value}");
        match answer.causes.as_slice() {
            [] => say!("  nothing fits"),
            [cause] if cause.is_empty() => say!("  is the predicted value"),
            causes => {
                for (index, cause) in causes.iter().enumerate() {
                    let word = if index == 0 { "because" } else { "or because" };
                    let changes: Vec<_> = cause.iter().map(ToString::to_string).collect();
                    say!("  {word} {}", changes.join(", and "));
                }
            }
        }
        let tried = answer.candidates();
        say!("  tried {tried} candidates:");
        for level in &answer.levels {
            let word = if level.changes == 1 {
                "change"
            } else {
                "changes"
            };
            let Level {
                changes,
                candidates,
            } = level;
            say!("    {candidates:>9} with {changes} {word} to the prediction");
        }
        let of: Vec<_> = (answer.alternatives.iter())
            .map(|(what, number)| format!("{number} {what}"))
            .collect();
        say!("  alternatives: {}", of.join(", "));
        Ok(())
    }

    fn as_json(&self) -> Value {
        let causes: Vec<Vec<Value>> = (self.answer.causes.iter())
            .map(|cause| {
                let change = |change: &measured_boot::explain::Change| json!({ "kind": change.kind(), "text": change.to_string() });
                cause.iter().map(change).collect()
            })
            .collect();
        let levels: Vec<_> = (self.answer.levels.iter())
            .map(|level| json!({ "changes": level.changes, "candidates": level.candidates }))
            .collect();
        let alternatives: serde_json::Map<_, _> = (self.answer.alternatives.iter())
            .map(|(what, number)| ((*what).to_owned(), json!(number)))
            .collect();
        json!({
            "value": self.name,
            "observed": self.value,
            "as_predicted": self.answer.causes.first().is_some_and(Vec::is_empty),
            "causes": causes,
            "tried": levels,
            "alternatives": alternatives,
        })
    }
}
