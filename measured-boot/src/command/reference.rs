//! Reference values to which a prediction adds.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use measured_boot::reference_values::ReferenceValues;

/// Changes the file as a whole or not at all.
pub(crate) fn update(path: &Path, change: impl FnOnce(&mut ReferenceValues)) -> Result<()> {
    let name = path.display();
    let old = fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let mut values = ReferenceValues::parse(&old).with_context(|| name.to_string())?;
    change(&mut values);
    let new = values.to_json()?;
    let beside = beside(path);
    let written = File::create_new(&beside)
        .and_then(|mut file| file.write_all(&new).and_then(|()| file.sync_all()))
        .with_context(|| format!("cannot write {}", beside.display()));
    let done = written
        .and_then(|()| fs::rename(&beside, path).with_context(|| format!("cannot replace {name}")));
    if done.is_err() && fs::remove_file(&beside).is_err() {
        eprintln!("measured-boot: cannot remove {}", beside.display());
    }
    done
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}
