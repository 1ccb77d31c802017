//! Every JSON message that differs from a right one in a single field.

use serde_json::{Value, json};

/// A message and what was done to it.
pub(crate) struct Mutant {
    pub(crate) what: String,
    pub(crate) text: String,
}

/// All mutants of a message, always the same ones.
pub(crate) fn mutants(message: &Value) -> Vec<Mutant> {
    let mut all = Vec::new();
    walk(message, "", &mut |what, text| {
        all.push(Mutant { what, text });
    });
    let text = message.to_string();
    for (what, text) in [
        ("empty", String::new()),
        ("spaces around", format!(" \t\r\n{text}\n ")),
        ("byte order mark", format!("\u{feff}{text}")),
        ("more behind", format!("{text}x")),
        ("twice", format!("{text}{text}")),
        ("cut", text[..text.len() - 1].into()),
        ("comment", format!("/**/{text}")),
        ("deep", nested(50_000)),
    ] {
        let what = what.into();
        all.push(Mutant { what, text });
    }
    all
}

/// The mutants of the value at a JSON pointer.
pub(crate) fn mutants_at(message: &Value, pointer: &str) -> Vec<Mutant> {
    const MARK: &str = "\"the value\"";
    let mut marked = message.clone();
    *marked.pointer_mut(pointer).unwrap() = serde_json::from_str(MARK).unwrap();
    let marked = marked.to_string();
    let mut all = Vec::new();
    walk(
        message.pointer(pointer).unwrap(),
        pointer,
        &mut |what, text| {
            let text = marked.replacen(MARK, &text, 1);
            all.push(Mutant { what, text });
        },
    );
    all
}

/// Calls `emit` with each mutation of `node` and the text that takes its place.
fn walk(node: &Value, name: &str, emit: &mut dyn FnMut(String, String)) {
    for (kind, text) in replacements(node) {
        emit(format!("{name}: {kind}"), text);
    }
    match node {
        Value::Object(members) => {
            let parts: Vec<_> = members
                .iter()
                .map(|(key, value)| (key.clone(), value.to_string()))
                .collect();
            for (at, (key, value)) in members.iter().enumerate() {
                let path = format!("{name}/{key}");
                for (kind, text) in memberships(&parts, at) {
                    emit(format!("{path}: {kind}"), text);
                }
                walk(value, &path, &mut |what, text| {
                    let mut parts = parts.clone();
                    parts[at].1 = text;
                    emit(what, object(&parts));
                });
            }
            let mut more = parts.clone();
            more.push(("unknown".into(), "{\"a\":[1]}".into()));
            emit(format!("{name}: a member more"), object(&more));
            more.extend((0..500).map(|n| (format!("unknown-{n}"), "0".into())));
            emit(format!("{name}: many members more"), object(&more));
        }
        Value::Array(elements) => {
            let parts: Vec<_> = elements.iter().map(Value::to_string).collect();
            let array = |parts: &[String]| format!("[{}]", parts.join(","));
            let mut turned = parts.clone();
            turned.rotate_left(1);
            let doubled = [parts.as_slice(), parts.as_slice()].concat();
            for (kind, parts) in [
                ("without the first", &parts[1..]),
                ("without the last", &parts[..parts.len() - 1]),
                ("in another order", &turned),
                ("twice as many", &doubled),
            ] {
                emit(format!("{name}: {kind}"), array(parts));
            }
            // Of bytes, the first, one in the middle and the last.
            let bytes = elements.iter().all(Value::is_number);
            let some = [0, elements.len() / 2, elements.len() - 1];
            for (at, element) in elements.iter().enumerate() {
                if bytes && !some.contains(&at) {
                    continue;
                }
                walk(element, &format!("{name}/{at}"), &mut |what, text| {
                    let mut parts = parts.clone();
                    parts[at] = text;
                    emit(what, array(&parts));
                });
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Members, each with the text of its value.
type Members = Vec<(String, String)>;

fn object(parts: &[(String, String)]) -> String {
    let members: Vec<_> = parts
        .iter()
        .map(|(key, value)| format!("{}:{value}", json!(key)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// What can be done with a member apart from its value.
fn memberships(parts: &[(String, String)], at: usize) -> Vec<(&'static str, String)> {
    let (key, value) = parts[at].clone();
    let with = |edit: &dyn Fn(&mut Members)| {
        let mut parts = parts.to_vec();
        edit(&mut parts);
        object(&parts)
    };
    let other = if key.contains('-') {
        key.replace('-', "_")
    } else {
        key.replace('_', "-")
    };
    let renamed = |name: String| with(&move |p| p[at].0.clone_from(&name));
    vec![
        ("removed", with(&|p| drop(p.remove(at)))),
        (
            "repeated",
            with(&|p| p.insert(at, (key.clone(), value.clone()))),
        ),
        (
            "repeated, null first",
            with(&|p| p.insert(at, (key.clone(), "null".into()))),
        ),
        (
            "repeated, null last",
            with(&|p| p.push((key.clone(), "null".into()))),
        ),
        ("in upper case", renamed(key.to_uppercase())),
        ("with a space", renamed(format!("{key} "))),
        ("with a nul", renamed(format!("{key}\0"))),
        ("without a name", renamed(String::new())),
        ("with another dash", renamed(format!("{other}."))),
    ]
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

/// What can stand in the place of a value.
fn replacements(node: &Value) -> Vec<(String, String)> {
    let own = node.to_string();
    let mut all: Vec<(String, String)> = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "-0",
        "0.1",
        "255",
        "256",
        "2147483648",
        "4294967296",
        "9007199254740993",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1e308",
        "1e999",
        "\"\"",
        "[]",
        "{}",
        "[null]",
        "{\"\":null}",
        "\"\\ud800\"",
        "\"\\u0000\"",
        "NaN",
        "",
        "\"",
        "}",
    ]
    .iter()
    .filter(|text| **text != own)
    .map(|text| (format!("became {text}"), (*text).into()))
    .collect();
    all.extend([
        ("in an array".into(), format!("[{own}]")),
        ("in an object".into(), format!("{{\"a\":{own}}}")),
        ("as text".into(), json!(own).to_string()),
        ("nested within bounds".into(), nested(60)),
        ("nested beyond bounds".into(), nested(500)),
        ("long".into(), json!("A".repeat(70_000)).to_string()),
    ]);
    if let Value::String(text) = node {
        all.extend(texts(text));
    }
    if let Some(number) = node.as_u64() {
        for other in [number ^ 1, number ^ 0x80, number.wrapping_add(1 << 32)] {
            all.push((format!("became {other}, of {number}"), other.to_string()));
        }
    }
    all
}

/// At most so many characters of a text are changed, the first and the last
/// among them.
const CHARACTERS: usize = 24;

fn texts(text: &str) -> Vec<(String, String)> {
    let characters: Vec<char> = text.chars().collect();
    let mut all = vec![
        ("with a letter more".into(), format!("{text}A")),
        ("with a space behind".into(), format!("{text} ")),
        ("with a space before".into(), format!(" {text}")),
        ("with padding".into(), format!("{text}=")),
        ("with a nul".into(), format!("{text}\0")),
        ("with a line".into(), format!("{text}\r\nx: y")),
        ("with a quote".into(), format!("{text}\",\"a\":\"")),
        ("with a mark".into(), format!("\u{202e}{text}\u{301}")),
        ("with an emoji".into(), format!("{text}\u{1f511}")),
        ("twice".into(), format!("{text}{text}")),
        (
            "without the last".into(),
            text.get(..text.len().saturating_sub(1))
                .unwrap_or_default()
                .into(),
        ),
        ("in upper case".into(), text.to_uppercase()),
        ("in lower case".into(), text.to_lowercase()),
        ("as another alphabet".into(), text.replace(['+', '/'], "-")),
    ];
    let count = characters.len();
    for step in 0..count.min(CHARACTERS) {
        let at = step * (count - 1) / (count.min(CHARACTERS) - 1).max(1);
        let mut changed = characters.clone();
        changed[at] = next(changed[at]);
        all.push((format!("character {at}"), changed.into_iter().collect()));
    }
    all.retain(|(_, changed)| changed != text);
    let mut all: Vec<_> = all
        .into_iter()
        .map(|(what, text)| (what, json!(text).to_string()))
        .collect();
    // Another spelling of the same text.
    let escaped: String = text
        .encode_utf16()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect();
    if !text.is_empty() {
        all.push(("escaped".into(), format!("\"{escaped}\"")));
    }
    all
}

/// Another character of the same alphabet.
pub(crate) fn next(character: char) -> char {
    match character {
        '0'..='8' | 'a'..='e' | 'g'..='y' | 'A'..='Y' => {
            char::from_u32(u32::from(character) + 1).unwrap()
        }
        '9' => '0',
        'f' => 'a',
        'z' => 'a',
        'Z' => 'A',
        _ => 'A',
    }
}
