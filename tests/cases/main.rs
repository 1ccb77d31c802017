//! Every case that boots a machine. `cargo test -p tests --test boot -- --list`
//! names them; a word after `--` runs those that contain it.
//!
//! An attack of `tests/defences.toml` gives three cases: `NAME` (the defence
//! holds), `NAME/control` (the same scene works without the attack) and
//! `NAME/undefended` (without the defence the attack succeeds).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "test code: a failure here is a failed test"
)]

mod attestation;
mod broker;
mod canaries;
mod channels;
mod cmdline;
mod container;
mod disks;
mod entropy;
mod outcomes;
mod peers;
mod predictions;
mod processors;
mod scene;
mod trustee;
mod volumes;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use tests::defences::{self, Attack};

/// A case that is no attack: its name, and what must be true.
pub(crate) type Fact = (&'static str, fn() -> Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two machines at a time: each emulated processor takes one of the host's.
    arguments.test_threads.get_or_insert(2);

    let attacks: Vec<Attack> = [
        disks::ATTACKS,
        cmdline::ATTACKS,
        entropy::ATTACKS,
        attestation::ATTACKS,
        broker::ATTACKS,
        container::ATTACKS,
        channels::ATTACKS,
        canaries::ATTACKS,
        volumes::ATTACKS,
        processors::ATTACKS,
    ]
    .concat();
    let table = match defences::load(&attacks) {
        Ok(table) => table,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };

    let mut trials = Vec::new();
    let facts = [
        outcomes::FACTS,
        disks::FACTS,
        container::FACTS,
        attestation::FACTS,
        broker::FACTS,
        channels::FACTS,
        canaries::FACTS,
        peers::FACTS,
        volumes::FACTS,
        predictions::FACTS,
        processors::FACTS,
    ];
    for (name, fact) in facts.concat() {
        trials.push(trial(name.into(), fact));
    }
    for (name, fact) in cmdline::facts() {
        trials.push(trial(name, fact));
    }
    for attack in attacks {
        let row = table.defence[attack.name].clone();
        let name = row.mutation.clone();
        let mutation = table.mutation[&name].clone();
        trials.push(trial(attack.name.into(), move || {
            defences::holds(&attack, &row)
        }));
        trials.push(trial(format!("{}/control", attack.name), move || {
            (attack.control)(&tests::artifacts::artifacts()?.product)
        }));
        trials.push(trial(format!("{}/undefended", attack.name), move || {
            defences::matters(&attack, &name, &mutation)
        }));
    }
    let without = tests::trustee::binary().is_none();
    trials.push(trial(trustee::NAME.into(), trustee::trustee).with_ignored_flag(without));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, case: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        case().map_err(|error| Failed::from(format!("{error:#}")))
    })
}
