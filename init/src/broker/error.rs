//! Why the broker gave no key.

use alloc::format;
use alloc::string::String;
use core::fmt;

use measured_boot::code::Code;

use crate::error::BootError;
use crate::tls;

const STEP: &str = "broker";
/// Of what the broker says, so much reaches the console.
const MAX_TEXT: usize = 240;

/// Why the broker gave no key.
#[derive(Debug)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as broker::Error"
)]
pub enum Error {
    /// TCP or TLS.
    Tls(tls::Error),
    /// What the code says, and its cause.
    Failed(Code, String),
}

impl Error {
    pub(super) fn new(code: Code, cause: impl fmt::Display) -> Self {
        Self::Failed(code, format!("{cause}"))
    }

    pub(super) fn protocol(cause: impl fmt::Display) -> Self {
        Self::new(Code::BrokerProtocol, cause)
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Tls(error) => error.code(),
            Self::Failed(code, _) => *code,
        }
    }

    pub(super) fn at(self, action: impl fmt::Display) -> BootError {
        BootError::new(self.code(), STEP, action, self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => write!(f, "{error}"),
            Self::Failed(_, cause) => f.write_str(cause),
        }
    }
}

impl core::error::Error for Error {}

impl From<tls::Error> for Error {
    fn from(error: tls::Error) -> Self {
        Self::Tls(error)
    }
}

/// Text of a peer's as it may stand on the console: printable ASCII, anything
/// else escaped, and not much of it.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().flat_map(char::escape_default) {
        if out.len() >= MAX_TEXT {
            out.push_str("...");
            break;
        }
        out.push(c);
    }
    out
}

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
