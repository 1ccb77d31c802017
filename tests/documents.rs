//! What the documents list, held against what the code has.
#![allow(
    missing_docs,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: a failure here is a failed test"
)]

use std::collections::BTreeSet;
use std::fs;

use key_broker::Refusal;
use measured_boot::code::Code;
use tests::artifacts::workspace;

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap()
}

/// Words in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// First cells of the tables' rows that start with `prefix`.
fn listed(prefix: &str) -> Vec<String> {
    read("docs/codes.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|code| code.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn codes_of_init_are_listed_in_the_order_of_the_boot() {
    let codes: Vec<_> = Code::ALL
        .iter()
        .map(|code| code.as_str().to_owned())
        .collect();
    assert_eq!(listed("E_"), codes);
}

#[test]
fn refusals_of_the_broker_are_listed_once_each() {
    let listed = listed("R_");
    let unique: BTreeSet<_> = listed.iter().map(String::as_str).collect();
    assert_eq!(unique.len(), listed.len());
    assert_eq!(
        unique,
        Refusal::ALL
            .iter()
            .map(|refusal| refusal.as_str())
            .collect()
    );
}

/// Every case the threat model names by area is in the list of that area.
#[test]
fn threat_model_names_only_cases_that_exist() {
    const AREAS: &[&str] = &[
        "attestation",
        "broker",
        "canaries",
        "channels",
        "container",
        "disks",
        "outcomes",
        "peers",
        "processors",
        "volumes",
    ];
    let threats = read("docs/threat-model.md");
    let mut named = 0;
    for (name, area) in quoted(&threats).filter_map(|name| Some((name, name.split_once('/')?.0))) {
        if AREAS.contains(&area) {
            let cases = read(&format!("tests/cases/{area}.rs"));
            assert!(cases.contains(&format!("\"{name}\",")), "no case {name}");
            named += 1;
        }
    }
    assert!(named > 20, "only {named} cases are named");
}

/// Every row of the table of defences is said to close something.
#[test]
fn every_defence_is_in_the_threat_model() {
    let table: toml::Table = toml::from_str(&read("tests/defences.toml")).unwrap();
    let rows = table["defence"].as_table().unwrap();
    let threats = read("docs/threat-model.md");
    let named: BTreeSet<&str> = quoted(&threats).collect();
    let missing: Vec<_> = rows
        .keys()
        .filter(|row| !named.contains(row.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "not in docs/threat-model.md: {missing:?}"
    );
}
