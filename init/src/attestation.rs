//! From "I am this machine" to the keys: evidence to the broker, keys back.
//!
//! Init attests and never judges; the broker appraises.

use alloc::vec::Vec;
use core::time::Duration;

use measured_boot::code::Code;
use measured_boot::evidence::{Evidence, ReportData};
use measured_boot::keys::{BOOT_KEY_SIZE, BootKey, VolumeKey};
use measured_boot::manifest::{Manifest, Resource, Tee};

use crate::broker;
use crate::console;
use crate::container::ReleasedSecret;
use crate::error::BootError;
use crate::network::Interface;
use crate::network::deadline::Deadline;
use crate::tpm::Tpm;
use crate::tsm::Tsm;

const STEP: &str = "attestation";
/// Largest secret, in bytes.
const MAX_SECRET: usize = 64 * 1024;
/// For all attempts at evidence together, which must leave time for the rest of
/// the session with the broker. A TPM may take long to make an RSA key, and a
/// host may have many guests that want a report at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);

/// The TEE device, if the manifest needs one: held until the latch closes it.
#[derive(Debug)]
pub struct TeeDevice(Option<Device>);

/// Where the evidence comes from.
#[derive(Debug)]
pub(crate) enum Device {
    Tpm(Tpm),
    /// SEV-SNP or TDX.
    Tsm(Tsm),
}

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

/// Opens the TEE that the manifest allows: a TPM, or whichever of the hardware
/// TEEs in it the kernel finds itself in. A manifest without a broker asks for
/// nothing that evidence could buy.
///
/// # Errors
/// `E_TEE_MISSING`; `E_TPM` or `E_TSM` when it is there and cannot be opened.
pub fn open_tee(manifest: &Manifest) -> Result<TeeDevice, BootError> {
    if manifest.broker.is_none() {
        return Ok(TeeDevice(None));
    }
    // The manifest has a TPM alone or not at all: no TEE is swapped for a weaker one.
    let device = match &manifest.attestation.tee[..] {
        [Tee::Tpm] => Device::Tpm(Tpm::open()?),
        allowed => Device::Tsm(Tsm::open(allowed)?),
    };
    Ok(TeeDevice(Some(device)))
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
    let (Some(broker), Some(interface), TeeDevice(Some(mut device))) =
        (&manifest.broker, interface, tee)
    else {
        return Ok(Released {
            boot_key: None,
            volume_keys: Vec::new(),
            secrets: Vec::new(),
            tee: TeeDevice(None),
        });
    };
    let tee = device.tee();
    let session = broker::connect(broker, interface, tee)?;
    let (name, seconds) = (tee.as_str(), PATIENCE.as_secs());
    console::progress(format_args!(
        "attestation: broker authenticated, evidence of {name} within {seconds} s"
    ));
    let evidence = device.evidence(&session.report_data(), Deadline::after(PATIENCE))?;
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
    let tee = TeeDevice(Some(device));
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
    pub(crate) fn into_device(self) -> Option<Device> {
        self.0
    }
}

impl Device {
    fn tee(&self) -> Tee {
        match self {
            Self::Tpm(_) => Tee::Tpm,
            Self::Tsm(tsm) => tsm.tee,
        }
    }

    fn evidence(&mut self, data: &ReportData, deadline: Deadline) -> Result<Evidence, BootError> {
        match self {
            Self::Tpm(tpm) => {
                tpm.set_deadline(deadline);
                tpm.evidence(data)
            }
            Self::Tsm(tsm) => tsm.evidence(data, deadline),
        }
    }
}
