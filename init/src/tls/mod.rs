//! TLS 1.3 with one suite, one group, one signature scheme and one root.
//!
//! The protocol is rustls's; the algorithms ([`provider`]) are RustCrypto's, so
//! that no C is linked. Nothing is resumed, nothing is sent early, the guest
//! has no certificate of its own: it proves itself by evidence, later.

use alloc::format;
use alloc::sync::Arc;
use core::time::Duration;

use measured_boot::code::Code;
use measured_boot::manifest::Broker;
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::error::{Failure, printable};

mod aead;
mod hash;
mod provider;
pub(crate) mod random;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use provider::secret_key;
pub(crate) use stream::TlsStream;

impl From<rustls::Error> for Failure {
    /// Sorts rustls's errors; it keeps the whole cause as text.
    fn from(error: rustls::Error) -> Self {
        let code = if let rustls::Error::InvalidCertificate(why) = &error {
            certificate_code(why)
        } else if error == rustls::Error::FailedToGetRandomBytes {
            Code::Entropy
        } else {
            Code::TlsProtocol
        };
        // Names and causes come from the peer.
        Self::new(code, printable(&format!("{error}")))
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is not exhaustive, and the rest is one case"
)]
fn certificate_code(why: &CertificateError) -> Code {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Code::TlsExpired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Code::TlsNotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Code::TlsName
        }
        // Unknown issuer, bad signature, wrong purpose, another algorithm, bad
        // encoding: in each case there is no chain to the one root.
        _ => Code::TlsIssuer,
    }
}

/// The only time certificates are held against, fixed once per boot.
#[derive(Debug)]
struct FixedTime(UnixTime);

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// Trusts the manifest's CA and nothing else. The clock is the host's, so it
/// counts only from the manifest's floor on.
///
/// # Errors
/// `E_MANIFEST` when the CA does not parse.
pub(crate) fn client_config(broker: &Broker) -> Result<Arc<ClientConfig>, Failure> {
    let clock = u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(clock.max(broker.not_before)));

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(broker.ca.0.as_slice()))
        .map_err(|e| Failure::new(Code::Manifest, format!("broker.ca is unusable: {e}")))?;

    let mut config = ClientConfig::builder_with_details(
        Arc::new(provider::provider()),
        Arc::new(FixedTime(now)),
    )
    .with_protocol_versions(&[&TLS13])?
    .with_root_certificates(roots)
    .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}
