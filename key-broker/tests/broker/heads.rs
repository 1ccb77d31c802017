//! Every request line and header that differs in a single place; and when two
//! requests are the same to the broker nevertheless.

use crate::fields::next;
use crate::wire::Message;

/// All mutants of a message but those of its body.
pub(crate) fn mutants(message: &Message) -> Vec<(String, Message)> {
    let mut all = Vec::new();
    let mut emit = |what: String, edit: &dyn Fn(&mut Message)| {
        let mut mutant = message.clone();
        edit(&mut mutant);
        all.push((what, mutant));
    };
    for method in [
        "get", "GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT",
        "NOSUCH", "",
    ] {
        if method != message.method {
            emit(format!("method {method}"), &|m| m.method = method.into());
        }
    }
    for version in [
        "HTTP/1.0",
        "HTTP/0.9",
        "HTTP/2.0",
        "HTTP/1.1 ",
        "http/1.1",
        "",
    ] {
        emit(format!("version {version}"), &|m| {
            m.version = version.into();
        });
    }
    for (what, target) in targets(&message.target) {
        emit(format!("target {what}"), &|m| m.target.clone_from(&target));
    }
    for (at, (name, value)) in message.headers.iter().enumerate() {
        emit(format!("{name}: removed"), &|m| drop(m.headers.remove(at)));
        for other in [
            name.to_uppercase(),
            format!("{name} "),
            format!(" {name}"),
            format!("{name}\0"),
            format!("X-{name}"),
        ] {
            emit(format!("{name}: called {other:?}"), &|m| {
                m.headers[at].0.clone_from(&other);
            });
        }
        for other in values(value) {
            emit(format!("{name}: {:.60}", other.escape_debug()), &|m| {
                m.headers[at].1.clone_from(&other);
            });
            emit(format!("{name}: another first"), &|m| {
                m.headers.insert(at, (name.clone(), other.clone()));
            });
        }
        emit(format!("{name}: twice"), &|m| {
            m.headers.push((name.clone(), value.clone()));
        });
    }
    let many: Vec<_> = (0..90).map(|n| (format!("X-{n}"), "y".into())).collect();
    emit("many headers".into(), &|m| m.headers.extend(many.clone()));
    let long = "y".repeat(70 * 1024);
    emit("a long header".into(), &|m| {
        m.headers.push(("X".into(), long.clone()));
    });
    for (name, value) in [
        ("Transfer-Encoding", "chunked"),
        ("Transfer-Encoding", "gzip"),
        ("Transfer-Encoding", "identity"),
        ("Content-Length", "0"),
        ("Content-Length", "-1"),
        ("Content-Length", "+5"),
        ("Content-Length", "0x10"),
        ("Content-Length", "1, 2"),
        ("Content-Length", "18446744073709551616"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Expect", "nothing"),
        ("Content-Encoding", "gzip"),
        ("Upgrade", "h2c"),
    ] {
        emit(format!("with {name}: {value}"), &|m| {
            m.headers.push((name.into(), value.into()));
        });
    }
    all
}

fn targets(target: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = [
        format!("{target}/"),
        format!("/{target}"),
        format!("{target}/.."),
        format!("{target}/x"),
        format!("{target}?a=b"),
        format!("{target}#a"),
        format!("{target}%00"),
        format!("{target}%2e%2e"),
        format!("{target}%"),
        format!("{target}\u{e9}"),
        format!("{target} x"),
        format!("https://example.org{target}"),
        target.to_uppercase(),
        target.replacen('/', "%2f", 2),
        target.replacen('/', "\\", 2),
        target.trim_start_matches('/').into(),
        format!("{target}{}", "x".repeat(9_000)),
        "*".into(),
        "/".into(),
        String::new(),
    ]
    .into_iter()
    .map(|target| (format!("{target:.80}"), target))
    .collect();
    let parts: Vec<&str> = target.split('/').collect();
    for at in 1..parts.len() {
        let with = |part: Option<&str>| {
            let mut parts = parts.clone();
            match part {
                Some(part) => parts[at] = part,
                None => drop(parts.remove(at)),
            }
            parts.join("/")
        };
        all.push((format!("without part {at}"), with(None)));
        let dotted = format!(".{}", parts[at]);
        for part in ["", ".", "..", "%2e%2e", "a%2fb", "~", dotted.as_str()] {
            all.push((format!("part {at} {part}"), with(Some(part))));
        }
        let first = parts[at].chars().next().unwrap_or('x');
        let escaped = format!("%{:02x}{}", u32::from(first), &parts[at][1..]);
        all.push((format!("part {at} escaped"), with(Some(&escaped))));
    }
    for (at, character) in target.char_indices() {
        let mut changed = target.to_owned();
        changed.replace_range(at..=at, &next(character).to_string());
        all.push((format!("character {at}"), changed));
    }
    all
}

fn values(value: &str) -> Vec<String> {
    let mut all: Vec<String> = [
        String::new(),
        format!("{value}x"),
        format!("x{value}"),
        format!("{value} x"),
        format!("\"{value}\""),
        format!("{value}\0"),
        format!("{value}\u{e9}"),
        format!("{value}\r\n folded"),
        format!("{value}; a=b"),
        format!("a=b; {value}"),
        format!("{value}, {value}"),
        value.replacen('=', " = ", 1),
        value.replacen('=', "==", 1),
        value.replacen('=', "", 1),
        value.replacen(' ', "  ", 1),
        value.replacen(' ', "", 1),
        value.to_uppercase(),
        value.get(1..).unwrap_or_default().into(),
    ]
    .into_iter()
    .filter(|other| other != value)
    .collect();
    let count = value.chars().count();
    for at in (0..count).step_by((count / 40).max(1)) {
        let changed: Vec<char> = value
            .chars()
            .enumerate()
            .map(|(index, c)| if index == at { next(c) } else { c })
            .collect();
        all.push(changed.into_iter().collect());
    }
    all
}

/// What counts in a request: the method, the path, the first session cookie,
/// the bearer token. Host, query, form of the target and other headers have no
/// meaning to the broker.
pub(crate) fn meaning(message: &Message) -> [Option<String>; 4] {
    let target = message.target.as_str();
    let target = target.strip_prefix("https://example.org").unwrap_or(target);
    let path = target.split(['?', '#']).next().map(str::to_owned);
    let named = |wanted: &'static str| {
        let headers = message.headers.iter();
        headers.filter(move |(name, _)| name.eq_ignore_ascii_case(wanted))
    };
    // A line that is not ASCII is no cookie.
    let cookie = named("cookie")
        .filter(|(_, value)| value.is_ascii())
        .flat_map(|(_, value)| value.split(';'))
        .filter_map(|pair| {
            pair.trim_matches([' ', '\t'])
                .strip_prefix("kbs-session-id=")
        })
        .map(str::to_owned)
        .next();
    let bearer = named("authorization").next().and_then(|(_, value)| {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim_matches([' ', '\t']).to_owned();
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    [Some(message.method.clone()), path, cookie, bearer]
}
