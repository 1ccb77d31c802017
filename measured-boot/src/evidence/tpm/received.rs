//! TPM evidence as the broker receives it.

use base64ct::{Base64, Encoding};
use serde::Deserialize;

use super::TpmEvidence;
use crate::manifest::Hex32;
use crate::tpm::{Pcrs, QuoteParts};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    tpm_quote: JsonQuote,
    ak_public: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonQuote {
    signature: String,
    message: String,
    pcrs: Vec<Hex32>,
}

impl TpmEvidence {
    /// Reads the JSON of a guest: no unknown or repeated member, canonical
    /// padded base64, exactly 24 registers.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let json: Json = serde_json::from_slice(json).map_err(|e| Error::Json(e.to_string()))?;
        let decode =
            |member, text: &str| Base64::decode_vec(text).map_err(|_| Error::Base64(member));
        let pcrs: Pcrs = match <[Hex32; 24]>::try_from(json.tpm_quote.pcrs) {
            Ok(pcrs) => pcrs.map(|pcr| pcr.0),
            Err(pcrs) => return Err(Error::PcrCount(pcrs.len())),
        };
        Ok(Self {
            quote: QuoteParts {
                message: decode("tpm_quote.message", &json.tpm_quote.message)?,
                signature: decode("tpm_quote.signature", &json.tpm_quote.signature)?,
                pcrs,
            },
            ak_public: decode("ak_public", &json.ak_public)?,
        })
    }
}

/// Why TPM evidence is refused before anything in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::error_impl_error,
    reason = "named by the module that exports it, as evidence::tpm::Error"
)]
pub enum Error {
    /// Not the JSON of TPM evidence.
    Json(String),
    /// A member is not standard base64.
    Base64(&'static str),
    /// Not one value for each register.
    PcrCount(usize),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(cause) => write!(f, "cannot read TPM evidence: {cause}"),
            Self::Base64(member) => {
                write!(f, "cannot read TPM evidence: {member} is not padded base64")
            }
            Self::PcrCount(got) => {
                write!(f, "cannot read TPM evidence: got {got} PCRs, expected 24")
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::{Error, TpmEvidence};
    use crate::tpm::QuoteParts;

    fn evidence() -> TpmEvidence {
        let pcrs = core::array::from_fn(|i| [u8::try_from(i).unwrap(); 32]);
        let quote = QuoteParts {
            message: vec![1; 5],
            signature: vec![2; 4],
            pcrs,
        };
        TpmEvidence {
            quote,
            ak_public: vec![0xfb; 3],
        }
    }

    #[test]
    fn writes_the_members_of_the_protocol() {
        let json = evidence().to_evidence().json;
        let start = r#"{"tpm_quote":{"signature":"AgICAg==","message":"AQEBAQE=","pcrs":["0000"#;
        assert!(json.starts_with(start), "{json}");
        assert!(json.ends_with(r#"1717"]},"ak_public":"+/v7"}"#), "{json}");
        assert_eq!(TpmEvidence::parse(json.as_bytes()), Ok(evidence()));
    }

    #[test]
    fn rejects_what_another_reader_might_take_differently() {
        let json = evidence().to_evidence().json;
        let changed = |from: &str, to: &str| {
            assert!(json.contains(from), "{from}");
            TpmEvidence::parse(json.replacen(from, to, 1).as_bytes()).unwrap_err()
        };
        assert_eq!(
            changed("AgICAg==", "AgICAg"),
            Error::Base64("tpm_quote.signature")
        );
        assert_eq!(
            changed("AgICAg==", "AgICAh=="),
            Error::Base64("tpm_quote.signature")
        );
        assert_eq!(changed("+/v7", "-_v7"), Error::Base64("ak_public"));
        let first = format!("\"{}\",", "00".repeat(32));
        assert_eq!(changed(&first, ""), Error::PcrCount(23));
        assert_eq!(changed(&first, &first.repeat(2)), Error::PcrCount(25));
        for (from, to) in [
            ("0a0a", "0A0A"),
            ("\"pcrs\":[\"00", "\"pcrs\":[\""),
            ("{\"tpm_quote\"", "{\"tpm_quote\":{},\"tpm_quote\""),
            ("\"ak_public\"", "\"ak_public\":\"\",\"ak_public\""),
            ("\"ak_public\"", "\"extra\":1,\"ak_public\""),
            ("+/v7\"}", "+/v7\"} x"),
        ] {
            assert!(
                matches!(changed(from, to), Error::Json(_)),
                "{from} -> {to}"
            );
        }
    }
}
