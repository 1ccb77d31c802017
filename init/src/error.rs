//! The one error that leaves a step.
//!
//! Below a step's border there are a code and a cause, a [`Failure`], or a leaf
//! error of the module's own where a caller tells cases apart. At the border
//! each becomes a [`BootError`], at the place that knows what was being done to
//! what.

use alloc::format;
use alloc::string::String;
use core::fmt;

use measured_boot::code::Code;

/// Of what a peer says, so much reaches the console.
const MAX_TEXT: usize = 240;

/// What went wrong inside a step.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// Got and expected, or the kernel's error. Never a secret.
    pub cause: String,
}

impl Failure {
    /// A failure with this code and cause.
    pub fn new(code: Code, cause: impl fmt::Display) -> Self {
        let cause = format!("{cause}");
        Self { code, cause }
    }

    /// Says where it happened: as [`BootError::new`].
    pub fn at(self, step: &'static str, action: impl fmt::Display) -> BootError {
        BootError::new(self.code, step, action, self.cause)
    }
}

/// Text of a peer's as it may stand on the console: printable ASCII, anything
/// else escaped, and not much of it.
pub(crate) fn printable(text: &str) -> String {
    let mut out: String = text.escape_default().take(MAX_TEXT + 1).collect();
    if out.len() > MAX_TEXT {
        out.truncate(MAX_TEXT);
        out.push_str("...");
    }
    out
}

/// Why the boot stopped. Printing it gives the fixed last line, without the
/// `init: fatal: ` in front.
#[derive(Debug)]
pub struct BootError {
    code: Code,
    step: &'static str,
    message: String,
}

impl BootError {
    /// `action` reads after "cannot": verb and object. `cause` says got and
    /// expected, or is the kernel's error. Neither may hold a secret.
    pub fn new(
        code: Code,
        step: &'static str,
        action: impl fmt::Display,
        cause: impl fmt::Display,
    ) -> Self {
        Self {
            code,
            step,
            message: format!("cannot {action}: {cause}"),
        }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.step, self.message)
    }
}

impl core::error::Error for BootError {}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn prints_no_control_characters_and_no_novels() {
        assert_eq!(
            printable("a\u{1b}[2J\r\nb\u{e9}"),
            "a\\u{1b}[2J\\r\\nb\\u{e9}"
        );
        assert_eq!(printable(&"x".repeat(5000)).len(), 243);
    }
}
