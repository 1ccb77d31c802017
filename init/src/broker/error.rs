//! Why the broker gave no key.

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
    /// The URL is not `https://HOST[:PORT]`.
    Url,
    /// TCP or TLS.
    Tls(tls::Error),
    /// A status of the 3xx class.
    Redirect(u16),
    /// An answer over the bound, in bytes.
    Size(usize),
    /// Anything the protocol does not allow.
    Protocol(String),
    /// What the broker said, already printable.
    Refused(String),
    /// The JWE names another algorithm, or demands an extension.
    JweAlgorithm(String),
    /// The JWE does not decrypt.
    JweDecrypt(&'static str),
    /// The decrypted resource has more bytes than its use allows.
    Length {
        /// Of the resource.
        got: usize,
        /// The most that was asked for.
        limit: usize,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Url => Code::Manifest,
            Self::Tls(error) => error.code(),
            Self::Redirect(_) => Code::BrokerRedirect,
            Self::Size(_) => Code::BrokerSize,
            Self::Protocol(_) => Code::BrokerProtocol,
            Self::Refused(_) => Code::BrokerRefused,
            Self::JweAlgorithm(_) => Code::JweAlgorithm,
            Self::JweDecrypt(_) => Code::JweDecrypt,
            Self::Length { .. } => Code::KeyLength,
        }
    }

    pub(super) fn protocol(what: &str) -> Self {
        Self::Protocol(what.into())
    }

    pub(super) fn at(self, action: impl fmt::Display) -> BootError {
        BootError::new(self.code(), STEP, action, self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("got another URL than https://HOST[:PORT]"),
            Self::Tls(error) => write!(f, "{error}"),
            Self::Redirect(status) => write!(f, "got a redirect (status {status})"),
            Self::Size(limit) => write!(f, "the answer exceeds {limit} bytes"),
            Self::Protocol(what) => f.write_str(what),
            Self::Refused(what) => write!(f, "refused: {what}"),
            Self::JweAlgorithm(what) => f.write_str(what),
            Self::JweDecrypt(what) => f.write_str(what),
            Self::Length { got, limit } => write!(f, "got {got} bytes, expected at most {limit}"),
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
