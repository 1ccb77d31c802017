//! Command lines, kernel configurations and JSON, taken apart.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Difference, Part};

/// The words of two command lines, by their parameter.
pub(super) fn parameters(a: &[u8], b: &[u8]) -> Vec<Difference> {
    if a == b {
        return Vec::new();
    }
    let parameters = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        let words = line.split(' ').map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.to_owned(), value.to_owned())
        });
        collected(words)
    };
    let mut differences = compare_maps(Part::Cmdline, &parameters(a), &parameters(b));
    if differences.is_empty() {
        differences.push(Difference {
            part: Part::Cmdline,
            place: "order and spaces".into(),
            a: Some(String::from_utf8_lossy(a).into_owned()),
            b: Some(String::from_utf8_lossy(b).into_owned()),
        });
    }
    differences
}

/// The options of two kernel configurations.
pub(super) fn options(a: &[u8], b: &[u8]) -> Vec<Difference> {
    let options = |config: &[u8]| {
        let config = String::from_utf8_lossy(config).into_owned();
        let lines = config.lines().filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            let is_option = name.starts_with("CONFIG_");
            is_option.then(|| (name.to_owned(), value.to_owned()))
        });
        collected(lines)
    };
    compare_maps(Part::KernelConfig, &options(a), &options(b))
}

/// A name that comes again keeps all its values.
fn collected(pairs: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut map: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in pairs {
        map.entry(name)
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert(value);
    }
    map
}

fn compare_maps(
    part: Part,
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let differing = names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name));
    let difference = |name: &String| Difference {
        part,
        place: name.clone(),
        a: a.get(name).cloned(),
        b: b.get(name).cloned(),
    };
    differing.map(difference).collect()
}

/// The members of two JSON values, by their path.
pub(super) fn members(a: &Value, b: &Value) -> Vec<Difference> {
    let mut differences = Vec::new();
    walk("", Some(a), Some(b), &mut differences);
    differences
}

fn walk(path: &str, a: Option<&Value>, b: Option<&Value>, differences: &mut Vec<Difference>) {
    match (a, b) {
        (a, b) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                let below = match path {
                    "" => name.clone(),
                    _ => format!("{path}.{name}"),
                };
                walk(&below, a.get(name), b.get(name), differences);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                let below = format!("{path}[{index}]");
                walk(&below, a.get(index), b.get(index), differences);
            }
        }
        (a, b) => differences.push(Difference {
            part: Part::Manifest,
            place: path.to_owned(),
            a: a.map(Value::to_string),
            b: b.map(Value::to_string),
        }),
    }
}
