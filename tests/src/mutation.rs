//! A copy of the workspace with one defence taken out.
//!
//! The product has no switch that weakens it. A mutation names one place in the
//! source by its exact text, which must be there exactly once, and the text that
//! stands there in the mutant. All mutants share one copy, so that only what
//! changed is built again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::artifacts::{self, Parts, artifacts, work_folder, workspace};

/// A change of the source that takes one defence out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutation {
    /// What is built again.
    pub part: Part,
    /// Every place that is changed.
    pub edit: Vec<Edit>,
}

/// One place in the source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The file, from the workspace's root.
    pub file: PathBuf,
    /// What stands there, exactly once.
    pub old: String,
    /// What stands there in the mutant.
    pub new: String,
}

/// Which program a mutation is about.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The guest's `/init`.
    Init,
    /// The broker.
    KeyBroker,
    /// The builder.
    ImageBuild,
    /// Both sides of a format.
    InitAndImageBuild,
}

impl Part {
    fn has_init(self) -> bool {
        matches!(self, Self::Init | Self::InitAndImageBuild)
    }
}

/// The mutants that were built, by name. Also guards the one copy.
static BUILT: Mutex<BTreeMap<String, Parts>> = Mutex::new(BTreeMap::new());

/// What is copied: the workspace's sources, and nothing that was built.
const SOURCES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "init",
    "measured-boot",
    "image-build",
    "key-broker",
    "demo",
    "tests",
    "scripts",
];

/// Builds the product with one defence missing, once for all that ask for it.
///
/// # Errors
/// The text is not there exactly once, or the mutant does not build.
pub fn build(name: &str, mutation: &Mutation) -> Result<Parts> {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(parts) = built.get(name) {
        return Ok(parts.clone());
    }
    let copy = work_folder().join("mutant");
    sync(&workspace(), &copy)?;
    let mut originals = Vec::new();
    for edit in &mutation.edit {
        let path = copy.join(&edit.file);
        let text = read(&path)?;
        fs::write(&path, replace_once(&text, edit)?)?;
        originals.push((path, text));
    }
    let parts = build_part(name, mutation.part, &copy);
    for (path, text) in originals.into_iter().rev() {
        fs::write(path, text)?;
    }
    let parts = parts.with_context(|| format!("cannot build the mutant {name}"))?;
    built.insert(name.to_owned(), parts.clone());
    Ok(parts)
}

/// Checks a mutation against the sources as they are.
///
/// # Errors
/// The text is not there exactly once.
pub fn check(mutation: &Mutation) -> Result<()> {
    mutation
        .edit
        .iter()
        .try_for_each(|edit| replace_once(&read(&workspace().join(&edit.file))?, edit).map(drop))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn replace_once(text: &str, edit: &Edit) -> Result<String> {
    let found = text.matches(edit.old.as_str()).count();
    ensure!(
        found == 1,
        "cannot mutate {}: found {:?} {found} times, expected once",
        edit.file.display(),
        edit.old
    );
    Ok(text.replacen(edit.old.as_str(), &edit.new, 1))
}

fn build_part(name: &str, part: Part, copy: &Path) -> Result<Parts> {
    let mut parts = artifacts()?.product.clone();
    let kept = work_folder().join("mutants").join(name);
    fs::create_dir_all(&kept)?;
    let keep = |built: &Path, file: &str| -> Result<PathBuf> {
        fs::copy(built, kept.join(file)).context("cannot keep the mutant")?;
        Ok(kept.join(file))
    };
    if part.has_init() {
        let mut command = artifacts::build_init(copy, &work_folder().join("mutant-init"));
        // A mutant need not be small, and is built quicker so.
        command.args(["--config", "profile.guest.lto=\"off\""]);
        command.args(["--config", "profile.guest.codegen-units=16"]);
        let path = String::from_utf8(artifacts::run(&mut command)?)?;
        parts.init = keep(Path::new(path.trim_end()), "init")?;
    }
    if part != Part::Init {
        let tools = artifacts::tools(copy, &work_folder().join("mutant-tools"))?;
        if part == Part::KeyBroker {
            parts.key_broker = keep(&tools.join("key-broker"), "key-broker")?;
        } else {
            parts.image_build = keep(&tools.join("image-build"), "image-build")?;
        }
    }
    Ok(parts)
}

/// Makes `to` equal to `from`, leaving files that are equal already untouched,
/// so that their times say nothing changed.
fn sync(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for name in SOURCES {
        sync_entry(&from.join(name), &to.join(name))?;
    }
    Ok(())
}

fn sync_entry(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    if from.is_file() {
        let content = fs::read(from)?;
        if fs::read(to).ok().as_ref() != Some(&content) {
            // With its permissions, since some are programs.
            fs::copy(from, to)?;
        }
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)?.flatten() {
        let path = entry.path();
        if !from.join(entry.file_name()).exists() {
            if path.is_dir() {
                fs::remove_dir_all(path)?
            } else {
                fs::remove_file(path)?
            }
        }
    }
    for entry in fs::read_dir(from)?
        .flatten()
        .filter(|entry| entry.file_name() != "target")
    {
        sync_entry(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
