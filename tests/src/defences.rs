//! `tests/defences.toml`: one row per defence. The list of cases is held to it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::artifacts::{Parts, artifacts, workspace};
use crate::mutation::{self, Mutation};

/// What an attack came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The defence stopped it, with this code.
    Stopped(String),
    /// The attacker got what they wanted, and what that was.
    Succeeded(String),
}

/// One attack, as a program.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Name of its row.
    pub name: &'static str,
    /// Tries it on a product that may lack a defence.
    pub attempt: fn(&Parts) -> Result<Verdict>,
    /// The same scene without the attack, which must work: otherwise being
    /// stopped would prove nothing.
    pub control: fn(&Parts) -> Result<()>,
}

/// A row of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Entries of the catalogue of attacks or threats that it answers.
    pub attack: String,
    /// The code with which the attack ends.
    pub code: String,
    /// The change under which the attack succeeds.
    pub mutation: Mutation,
}

/// Reads the table and holds it against the list of attacks.
///
/// # Errors
/// A row without an attack, an attack without a row, a mutation that no longer
/// fits the source.
pub fn load(attacks: &[Attack]) -> Result<BTreeMap<String, Row>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        defence: BTreeMap<String, Row>,
    }
    let path = workspace().join("tests/defences.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Table { defence } = toml::from_str(&text).context("cannot read tests/defences.toml")?;
    for (name, row) in &defence {
        ensure!(
            attacks.iter().any(|a| a.name == name),
            "row {name} has no attack in the tests"
        );
        mutation::check(&row.mutation).with_context(|| format!("row {name}"))?;
    }
    for attack in attacks {
        ensure!(
            defence.contains_key(attack.name),
            "attack {} has no row in the table",
            attack.name
        );
    }
    Ok(defence)
}

/// The defence holds: the attack ends with the row's code.
///
/// # Errors
/// It succeeded, or ended otherwise.
pub fn holds(attack: &Attack, row: &Row) -> Result<()> {
    match (attack.attempt)(&artifacts()?.product)? {
        Verdict::Stopped(code) if code == row.code => Ok(()),
        other => bail!(
            "{}: got {other:?}, expected to be stopped with {}",
            attack.name,
            row.code
        ),
    }
}

/// Without the defence the attack succeeds, so the test can fail.
///
/// # Errors
/// It was stopped all the same.
pub fn matters(attack: &Attack, row: &Row) -> Result<()> {
    let mutant = mutation::build(attack.name, &row.mutation)?;
    match (attack.attempt)(&mutant)? {
        Verdict::Succeeded(_) => Ok(()),
        other @ Verdict::Stopped(_) => {
            bail!(
                "{} without its defence: got {other:?}, expected success",
                attack.name
            )
        }
    }
}
