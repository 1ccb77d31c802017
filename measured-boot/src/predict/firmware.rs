//! Firmware builds whose registers are recorded in `firmware/`.
//!
//! OVMF measures its PEI volume after the modules in it have run, and with it
//! one variable of theirs: memory and vCPUs as they found them (`PlatformInfo`
//! of PlatformPei). PCR 0 therefore is recorded for every machine shape.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Error;
use crate::manifest::Hex32;
use crate::reference_values::FirmwareProfile;

const RECORDS: &[&str] = &[include_str!(
    "../../firmware/debian-ovmf-2022.11-6+deb12u2.json"
)];

/// One firmware build, as recorded from boots of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    sha256: Hex32,
    /// How: for people.
    #[serde(rename = "recorded")]
    _recorded: String,
    /// The registers that no machine shape changes.
    pcrs: BTreeMap<u8, Hex32>,
    pcr0: Vec<Shape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    low_memory_mib: u32,
    vcpus: u32,
    value: Hex32,
}

/// Every recorded firmware build in every recorded machine shape.
///
/// # Errors
/// [`Error::Firmware`], when a record does not parse.
pub fn known_firmware() -> Result<Vec<FirmwareProfile>, Error> {
    let mut profiles = Vec::new();
    for json in RECORDS {
        let record: Record = serde_json::from_str(json).map_err(|error| Error::Firmware {
            cause: error.to_string(),
        })?;
        profiles.extend(record.pcr0.iter().map(|shape| record.profile(shape)));
    }
    Ok(profiles)
}

impl Record {
    fn profile(&self, shape: &Shape) -> FirmwareProfile {
        let Shape {
            low_memory_mib,
            vcpus,
            value,
        } = shape;
        let mut pcrs = self.pcrs.clone();
        pcrs.insert(0, *value);
        FirmwareProfile {
            name: format!(
                "{}, {low_memory_mib} MiB of low memory, {vcpus} vCPU",
                self.name
            ),
            sha256: self.sha256,
            pcrs,
        }
    }
}
