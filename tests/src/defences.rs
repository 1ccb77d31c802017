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
    /// Name of the mutation under which the attack succeeds.
    pub mutation: String,
}

/// The whole table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The defences, by name.
    pub defence: BTreeMap<String, Row>,
    /// The mutations, by name.
    pub mutation: BTreeMap<String, Mutation>,
}

/// Reads the table.
///
/// # Errors
/// It cannot be read.
pub fn read() -> Result<Table> {
    let path = workspace().join("tests/defences.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).context("cannot read tests/defences.toml")
}

/// Reads the table and holds it against the list of attacks.
///
/// # Errors
/// A row without an attack, an attack without a row, a mutation that no longer
/// fits the source.
pub fn load(attacks: &[Attack]) -> Result<Table> {
    let table = read()?;
    for (name, row) in &table.defence {
        ensure!(
            attacks.iter().any(|a| a.name == name),
            "row {name} has no attack in the tests"
        );
        ensure!(
            table.mutation.contains_key(&row.mutation),
            "row {name} has no mutation"
        );
    }
    for (name, mutation) in &table.mutation {
        let used = table.defence.values().any(|row| row.mutation == *name);
        ensure!(used, "mutation {name} belongs to no row");
        mutation::check(mutation).with_context(|| format!("mutation {name}"))?;
    }
    for attack in attacks {
        let known = table.defence.contains_key(attack.name);
        ensure!(known, "attack {} has no row in the table", attack.name);
    }
    Ok(table)
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
pub fn matters(attack: &Attack, name: &str, mutation: &Mutation) -> Result<()> {
    let mutant = mutation::build(name, mutation)?;
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
