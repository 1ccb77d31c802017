//! Registers against reference values, every comparison told.

use crate::base16;
use crate::manifest::Hex32;
use crate::reference_values::{FirmwareProfile, Register, TpmValues};
use crate::tpm::Pcrs;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Register and what it covers.
    pub name: String,
    /// The value in the evidence.
    pub got: String,
    /// What the reference values say.
    pub expected: String,
    /// Whether the first satisfies the second.
    pub ok: bool,
}

/// Compares every register. The evidence is good when every check is.
pub fn appraise(pcrs: &Pcrs, values: &TpmValues) -> Vec<Check> {
    let firmware = closest(pcrs, &values.firmware);
    (0u8..)
        .zip(pcrs)
        .map(|(pcr, got)| check(pcr, got, values.pcrs.get(&pcr), firmware))
        .collect()
}

fn check(
    pcr: u8,
    got: &[u8; 32],
    register: Option<&Register>,
    firmware: Option<&FirmwareProfile>,
) -> Check {
    let (about, expected, ok) = match register {
        Some(Register::Predicted { values, covers }) => {
            let expected: Vec<_> = values
                .iter()
                .map(|value| base16::encode(&value.0))
                .collect();
            (
                covers.as_str(),
                expected.join(" or "),
                values.contains(&Hex32(*got)),
            )
        }
        Some(Register::Pinned { covers }) => {
            let profile = firmware.and_then(|profile| Some((profile, profile.pcrs.get(&pcr)?)));
            let (expected, ok) = match profile {
                Some((profile, value)) => (
                    format!("{} ({})", base16::encode(&value.0), profile.name),
                    value.0 == *got,
                ),
                None => ("a known firmware, none is given".to_owned(), false),
            };
            (covers.as_str(), expected, ok)
        }
        Some(Register::Ignored { reason }) => (reason.as_str(), "any value".to_owned(), true),
        None => (
            "unknown",
            "a reference value, none is given".to_owned(),
            false,
        ),
    };
    Check {
        name: format!("PCR {pcr}: {about}"),
        got: base16::encode(got),
        expected,
        ok,
    }
}

/// The profile that matches in most registers. Only one that matches in all
/// makes all checks good; a mixture of two never does.
fn closest<'a>(pcrs: &Pcrs, firmware: &'a [FirmwareProfile]) -> Option<&'a FirmwareProfile> {
    let matches = |profile: &FirmwareProfile| {
        let equal = |(pcr, value): (&u8, &Hex32)| pcrs.get(usize::from(*pcr)) == Some(&value.0);
        profile.pcrs.iter().filter(|entry| equal(*entry)).count()
    };
    firmware.iter().max_by_key(|profile| matches(profile))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Check, appraise};
    use crate::manifest::Hex32;
    use crate::reference_values::{FirmwareProfile, Register, TpmValues};
    use crate::tpm::Pcrs;

    const PCRS: Pcrs = [[5; 32]; 24];

    /// PCR 0 and 2 pinned, 4 predicted, the others ignored.
    fn values(firmware: &[(&str, u8, u8)]) -> TpmValues {
        let ignored = || Register::Ignored {
            reason: "not ours".to_owned(),
        };
        let mut pcrs: BTreeMap<_, _> = (0..24).map(|pcr| (pcr, ignored())).collect();
        for pcr in [0, 2] {
            pcrs.insert(
                pcr,
                Register::Pinned {
                    covers: "firmware".to_owned(),
                },
            );
        }
        let values = vec![Hex32([4; 32]), Hex32([5; 32])];
        pcrs.insert(
            4,
            Register::Predicted {
                values,
                covers: "kernel".to_owned(),
            },
        );
        let profile = |&(name, pcr0, pcr2): &(&str, u8, u8)| FirmwareProfile {
            name: name.to_owned(),
            sha256: Hex32([0; 32]),
            pcrs: [(0, Hex32([pcr0; 32])), (2, Hex32([pcr2; 32]))].into(),
        };
        TpmValues {
            pcrs,
            firmware: firmware.iter().map(profile).collect(),
        }
    }

    fn bad(checks: &[Check]) -> Vec<usize> {
        assert_eq!(checks.len(), 24);
        (0..24).filter(|pcr| !checks[*pcr].ok).collect()
    }

    #[test]
    fn accepts_registers_that_all_match() {
        let values = values(&[("old", 1, 1), ("new", 5, 5)]);
        assert!(bad(&appraise(&PCRS, &values)).is_empty());
    }

    #[test]
    fn rejects_a_mixture_of_two_firmwares() {
        let values = values(&[("old", 5, 1), ("new", 1, 5)]);
        assert_eq!(bad(&appraise(&PCRS, &values)).len(), 1);
    }

    #[test]
    fn rejects_when_no_firmware_is_known() {
        assert_eq!(bad(&appraise(&PCRS, &values(&[]))), [0, 2]);
    }

    #[test]
    fn rejects_a_register_without_reference_value() {
        let mut values = values(&[("new", 5, 5)]);
        values.pcrs.remove(&9);
        assert_eq!(bad(&appraise(&PCRS, &values)), [9]);
        values.firmware[0].pcrs.remove(&2);
        assert_eq!(bad(&appraise(&PCRS, &values)), [2, 9]);
    }

    #[test]
    fn tells_got_and_expected_of_each_register() {
        let mut pcrs = PCRS;
        pcrs[4] = [6; 32];
        let checks = appraise(&pcrs, &values(&[("new", 5, 5)]));
        assert_eq!(bad(&checks), [4]);
        assert_eq!(checks[4].name, "PCR 4: kernel");
        assert_eq!(checks[4].got, "06".repeat(32));
        assert_eq!(
            checks[4].expected,
            format!("{} or {}", "04".repeat(32), "05".repeat(32))
        );
        assert_eq!(checks[0].expected, format!("{} (new)", "05".repeat(32)));
        assert_eq!(checks[1].expected, "any value");
    }
}
