//! `key-broker enroll-tpm`: where a TPM's key comes from.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::store::Store;
use crate::store::attesters::{AkId, Origin};
use crate::swtpm;

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct TpmSource {
    /// Public key (SubjectPublicKeyInfo, PEM or DER)
    #[arg(long)]
    ak: Option<PathBuf>,
    /// Certificate and intermediates, up to a trusted CA (see trust-ak-ca)
    #[arg(long)]
    ak_cert: Option<PathBuf>,
    /// Data channel of a running swtpm: a socket's path, or HOST:PORT
    #[arg(long)]
    swtpm: Option<String>,
    /// State directory of a swtpm that does not run
    #[arg(long)]
    swtpm_state: Option<PathBuf>,
}

pub(super) fn enroll(store: &Store, source: TpmSource) -> Result<AkId> {
    Ok(match source {
        TpmSource { ak: Some(path), .. } => store.enroll_ak_file(&path)?,
        TpmSource {
            ak_cert: Some(path),
            ..
        } => store.enroll_ak_certificate(&path)?,
        TpmSource {
            swtpm: Some(address),
            ..
        } => store.enroll_ak(&swtpm::ak_of_socket(&address)?, Origin::Tpm)?,
        TpmSource {
            swtpm_state: Some(dir),
            ..
        } => store.enroll_ak(&swtpm::ak_of_state(&dir)?, Origin::Tpm)?,
        TpmSource { .. } => {
            bail!("cannot enroll a TPM: expected one of --ak, --ak-cert, --swtpm, --swtpm-state")
        }
    })
}
