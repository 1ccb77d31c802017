//! The JSON forms that Trustee's `az-snp-vtpm` has had.

use base64ct::{Base64Url, Encoding};
use serde::Deserialize;
use x509_cert::der::{DecodePem, Encode};

use crate::verify::{Refused, Table};

/// What such a VM sends, decoded; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureEvidence {
    /// The paravisor's report: header, SNP report, claims.
    pub hcl_report: Vec<u8>,
    /// `TPMS_ATTEST` of the quote.
    pub message: Vec<u8>,
    /// RSASSA over it, without a `TPMT_SIGNATURE` around it.
    pub signature: Vec<u8>,
    /// PCR 0 to 23 of the SHA-256 bank.
    pub pcrs: [[u8; 32]; 24],
    /// The VCEK's certificate, DER.
    pub vcek: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Json {
    /// Versions 1 and 2: hexadecimal and base64.
    Text {
        version: u32,
        hcl_report: String,
        tpm_quote: TextQuote,
        vcek: String,
    },
    /// The first one: lists of numbers, PEM.
    Numbers {
        report: Vec<u8>,
        quote: NumberQuote,
        vcek: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextQuote {
    signature: String,
    message: String,
    pcrs: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NumberQuote {
    signature: Vec<u8>,
    message: Vec<u8>,
    pcrs: Vec<Vec<u8>>,
}

impl AzureEvidence {
    /// Reads any of the forms.
    ///
    /// # Errors
    /// The first member that is not well formed.
    pub fn parse(json: &[u8], table: &mut Table) -> Result<Self, Refused> {
        let name = "evidence format";
        let expected = "JSON of az-snp-vtpm";
        match serde_json::from_slice(json) {
            Err(error) => table.refuse(name, error, expected),
            Ok(json) => match decode(json) {
                Ok(evidence) => Ok(evidence),
                Err(member) => {
                    table.refuse(name, format!("{member} that cannot be decoded"), expected)
                }
            },
        }
    }
}

fn decode(json: Json) -> Result<AzureEvidence, &'static str> {
    match json {
        Json::Text {
            version,
            hcl_report,
            tpm_quote,
            vcek,
        } => {
            if !(1..=2).contains(&version) {
                return Err("a version other than 1 and 2");
            }
            let pcrs = tpm_quote.pcrs.iter().map(|pcr| hexadecimal(pcr)).collect();
            Ok(AzureEvidence {
                hcl_report: Base64Url::decode_vec(&hcl_report).map_err(|_| "hcl_report")?,
                message: hexadecimal(&tpm_quote.message).ok_or("tpm_quote.message")?,
                signature: hexadecimal(&tpm_quote.signature).ok_or("tpm_quote.signature")?,
                pcrs: registers(pcrs).ok_or("tpm_quote.pcrs")?,
                vcek: Base64Url::decode_vec(&vcek).map_err(|_| "vcek")?,
            })
        }
        Json::Numbers {
            report,
            quote,
            vcek,
        } => {
            let certificate = x509_cert::Certificate::from_pem(&vcek).ok();
            let vcek = certificate.and_then(|certificate| certificate.to_der().ok());
            Ok(AzureEvidence {
                hcl_report: report,
                message: quote.message,
                signature: quote.signature,
                pcrs: registers(Some(quote.pcrs)).ok_or("quote.pcrs")?,
                vcek: vcek.ok_or("vcek")?,
            })
        }
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let text = core::str::from_utf8(pair).ok()?;
        crate::base16::decode::<1>(text).map(|[byte]| byte)
    };
    let bytes = pairs.iter().map(byte).collect();
    rest.is_empty().then_some(bytes).flatten()
}

fn registers(pcrs: Option<Vec<Vec<u8>>>) -> Option<[[u8; 32]; 24]> {
    let pcrs: Option<Vec<[u8; 32]>> = pcrs?.into_iter().map(|pcr| pcr.try_into().ok()).collect();
    pcrs?.try_into().ok()
}
