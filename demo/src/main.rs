//! The demo's container. It shows what it was given and what it is refused, one
//! line each, and exits with `DEMO_EXIT` (0 by default); with 1 when it lacks
//! something it should have, or may do something it must not.

use std::fmt::Display;
use std::fs;
use std::io;
use std::process::ExitCode;

mod refused;

/// On the encrypted boot filesystem and nowhere else.
const PRIVATE_FILE: &str = "/private/letter.txt";
/// Released by the broker.
const SECRET_FILE: &str = "/run/secrets/token";

fn main() -> ExitCode {
    let user = nix::unistd::getuid();
    println!("I run as user {user}, group {}", nix::unistd::getgid());
    let mut right = show("private file", PRIVATE_FILE, read_letter());
    right &= show("secret", SECRET_FILE, measure_secret());

    let mut refused = 0_u32;
    for attempt in refused::ATTEMPTS {
        match (attempt.run)() {
            Err(cause) => {
                println!("refused: {}: {cause}", attempt.what);
                refused = refused.saturating_add(1);
            }
            Ok(()) => {
                println!("NOT REFUSED: {}", attempt.what);
                right = false;
            }
        }
    }
    println!(
        "{refused} of {} attempts were refused",
        refused::ATTEMPTS.len()
    );
    if right {
        ExitCode::from(wanted_status())
    } else {
        ExitCode::FAILURE
    }
}

/// Prints one thing that must be there.
fn show(what: &str, path: &str, found: io::Result<impl Display>) -> bool {
    match &found {
        Ok(text) => println!("{what} {path}: {text}"),
        Err(error) => println!("MISSING: {what} {path}: {error}"),
    }
    found.is_ok()
}

fn read_letter() -> io::Result<String> {
    let text = fs::read_to_string(PRIVATE_FILE)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The length only: the host reads this console.
fn measure_secret() -> io::Result<String> {
    let length = fs::read(SECRET_FILE)?.len();
    Ok(format!("{length} bytes, not shown"))
}

fn wanted_status() -> u8 {
    std::env::var("DEMO_EXIT")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
