//! TDX evidence as the broker receives it.

use base64ct::{Base64, Encoding};
use serde::Deserialize;

use super::TdxEvidence;

/// More than a quote with its certificates; drivers fill up to 16 KiB.
const LONGEST_QUOTE: usize = 64 * 1024;
/// More than a firmware's log area.
const LONGEST_LOG: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    quote: String,
    #[serde(default)]
    cc_eventlog: Option<String>,
}

impl TdxEvidence {
    /// Reads the JSON of a guest: no unknown or repeated member, canonical
    /// padded base64, bounded.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let json: Json = serde_json::from_slice(json).map_err(|e| Error::Json(e.to_string()))?;
        let decode = |member, text: &str, longest| {
            let bytes = Base64::decode_vec(text).map_err(|_| Error::Base64(member))?;
            match bytes.len() {
                length if length > longest => Err(Error::Length(member, length, longest)),
                _ => Ok(bytes),
            }
        };
        let log = json.cc_eventlog.as_deref();
        Ok(Self {
            quote: decode("quote", &json.quote, LONGEST_QUOTE)?,
            event_log: log
                .map(|text| decode("cc_eventlog", text, LONGEST_LOG))
                .transpose()?,
        })
    }
}

/// Why TDX evidence is refused before anything in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::error_impl_error,
    reason = "named by the module that exports it, as evidence::tdx::Error"
)]
pub enum Error {
    /// Not the JSON of TDX evidence.
    Json(String),
    /// A member is not standard base64.
    Base64(&'static str),
    /// A member is too long: got and the most.
    Length(&'static str, usize, usize),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot read TDX evidence: ")?;
        match self {
            Self::Json(cause) => f.write_str(cause),
            Self::Base64(member) => write!(f, "{member} is not padded base64"),
            Self::Length(member, got, most) => {
                write!(f, "got {got} bytes of {member}, expected at most {most}")
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Encoding};
    use serde_json::{Value, json};

    use super::{Error, LONGEST_LOG, LONGEST_QUOTE, TdxEvidence};

    fn parse(json: &Value) -> Result<TdxEvidence, Error> {
        TdxEvidence::parse(json.to_string().as_bytes())
    }

    #[test]
    fn gives_back_the_very_bytes() {
        for name in ["phala-uptodate.quote.dat", "google.quote-v5.dat"] {
            let quote = std::fs::read(format!("tests/vectors/tdx/{name}")).unwrap();
            let text = Base64::encode_string(&quote);
            let log = json!({ "quote": text, "cc_eventlog": "AQID" });
            let evidence = parse(&log).unwrap();
            assert_eq!(evidence.quote, quote);
            assert_eq!(evidence.event_log.as_deref(), Some(&[1, 2, 3][..]));
            for json in [
                json!({ "quote": text, "cc_eventlog": null }),
                json!({ "quote": text }),
            ] {
                assert_eq!(parse(&json).unwrap().event_log, None);
            }
        }
    }

    #[test]
    fn rejects_what_another_reader_might_take_differently() {
        for text in ["AQI", "AQJ=", "AQ I=", "AQI=\n", "_-8="] {
            let json = json!({ "quote": text });
            assert_eq!(parse(&json), Err(Error::Base64("quote")), "{text:?}");
            let json = json!({ "quote": "", "cc_eventlog": text });
            assert_eq!(parse(&json), Err(Error::Base64("cc_eventlog")), "{text:?}");
        }
        for text in [
            r#"{"quote":"","quote":""}"#,
            r#"{"quote":"","extra":0}"#,
            r#"{"quote":null}"#,
            r#"{"cc_eventlog":""}"#,
            r#"{"quote":""} x"#,
            r#"{"quote":[1]}"#,
        ] {
            let error = TdxEvidence::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Json(_)), "{text}: {error}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let of = |length| Base64::encode_string(&vec![0; length]);
        assert!(parse(&json!({ "quote": of(LONGEST_QUOTE) })).is_ok());
        let (got, most) = (LONGEST_QUOTE + 1, LONGEST_QUOTE);
        let error = parse(&json!({ "quote": of(got) })).unwrap_err();
        assert_eq!(error, Error::Length("quote", got, most));
        let log = json!({ "quote": "", "cc_eventlog": of(LONGEST_LOG + 1) });
        let error = Error::Length("cc_eventlog", LONGEST_LOG + 1, LONGEST_LOG);
        assert_eq!(parse(&log), Err(error));
    }
}
