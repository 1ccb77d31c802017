//! From "I am this machine" to the keys: evidence to the broker, keys back.
//!
//! Init attests and never judges; the broker appraises.

use alloc::vec::Vec;

use measured_boot::code::Code;
use measured_boot::keys::{BOOT_KEY_SIZE, BootKey, VolumeKey};
use measured_boot::manifest::{Manifest, Resource, Tee};

use crate::broker;
use crate::console;
use crate::container::ReleasedSecret;
use crate::error::BootError;
use crate::network::Interface;
use crate::tpm::Tpm;

const STEP: &str = "attestation";
/// Largest secret, in bytes.
const MAX_SECRET: usize = 64 * 1024;

/// The TEE device, if the manifest needs one: held until the latch closes it.
#[derive(Debug)]
pub struct TeeDevice(Option<Tpm>);

/// What the broker released for this boot's evidence.
#[derive(Debug)]
pub struct Released {
    /// The boot filesystem's key, when there is a boot filesystem.
    pub boot_key: Option<BootKey>,
    /// The key of every persistent volume of the manifest, in its order.
    pub volume_keys: Vec<VolumeKey>,
    /// Every secret of the manifest, in its order.
    pub secrets: Vec<ReleasedSecret>,
    /// For the latch.
    pub tee: TeeDevice,
}

/// Opens the TEE that the manifest allows. A manifest without a broker asks for
/// nothing that evidence could buy.
///
/// # Errors
/// `E_TEE_MISSING`.
pub fn open_tee(manifest: &Manifest) -> Result<TeeDevice, BootError> {
    if manifest.broker.is_none() {
        return Ok(TeeDevice(None));
    }
    if manifest.attestation.tee != [Tee::Tpm] {
        let allowed: Vec<_> = manifest
            .attestation
            .tee
            .iter()
            .map(|t| t.as_str())
            .collect();
        let allowed = allowed.join(", ");
        let cause = format_args!("this machine offers tpm, the manifest allows {allowed}");
        return Err(BootError::new(
            Code::TeeMissing,
            STEP,
            "choose a TEE",
            cause,
        ));
    }
    Tpm::open().map(|tpm| TeeDevice(Some(tpm)))
}

/// Proves to the broker what this machine is, and fetches all it is entitled to.
///
/// # Errors
/// The code of whatever failed first.
pub fn obtain_keys(
    manifest: &Manifest,
    tee: TeeDevice,
    interface: Option<&Interface>,
) -> Result<Released, BootError> {
    let (Some(broker), Some(interface), TeeDevice(Some(mut tpm))) =
        (&manifest.broker, interface, tee)
    else {
        return Ok(Released {
            boot_key: None,
            volume_keys: Vec::new(),
            secrets: Vec::new(),
            tee: TeeDevice(None),
        });
    };
    let session = broker::connect(broker, interface, Tee::Tpm)?;
    console::progress("attestation: broker authenticated");
    let evidence = tpm.evidence(&session.report_data())?;
    let mut attested = session.attest(evidence)?;
    console::progress("attestation: evidence accepted");

    let mut boot_key = None;
    if let Some(boot) = &manifest.boot {
        boot_key = Some(fetch_key(&mut attested, &boot.key, BootKey::from_slice)?);
    }
    let mut volume_keys = Vec::with_capacity(manifest.volumes.len());
    for volume in &manifest.volumes {
        let key = fetch_key(&mut attested, &volume.key, VolumeKey::from_slice)?;
        volume_keys.push(key);
    }
    let mut secrets = Vec::with_capacity(manifest.container.secrets.len());
    for secret in &manifest.container.secrets {
        let value = attested.fetch(&secret.resource, MAX_SECRET)?;
        let secret = secret.clone();
        secrets.push(ReleasedSecret { secret, value });
    }
    console::progress("attestation: keys released");
    let tee = TeeDevice(Some(tpm));
    Ok(Released {
        boot_key,
        volume_keys,
        secrets,
        tee,
    })
}

fn fetch_key<K>(
    attested: &mut broker::Attested,
    resource: &Resource,
    from_slice: fn(&[u8]) -> Option<K>,
) -> Result<K, BootError> {
    let key = attested.fetch(resource, MAX_SECRET)?;
    from_slice(key.expose()).ok_or_else(|| {
        let got = key.expose().len();
        let cause = format_args!("got {got} bytes, expected {BOOT_KEY_SIZE}");
        let action = format_args!("use {resource}");
        BootError::new(Code::KeyLength, STEP, action, cause)
    })
}

impl TeeDevice {
    /// Gives the device up, for the latch.
    pub(crate) fn into_tpm(self) -> Option<Tpm> {
        self.0
    }
}
