//! Giving up capabilities for good.

use rustix::io::{self, Errno};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits,
};

/// User 0 has no capabilities for being user 0, and that cannot be changed back.
const ROOT_IS_ORDINARY: CapabilitiesSecureBits =
    CapabilitiesSecureBits::NO_ROOT.union(CapabilitiesSecureBits::NO_ROOT_LOCKED);

/// Before a change of the user id: lets capabilities survive it, until
/// [`restrict_to`] sets them.
pub(super) fn keep_across_user_change() -> io::Result<()> {
    set_capabilities_secure_bits(ROOT_IS_ORDINARY | CapabilitiesSecureBits::NO_SETUID_FIXUP)
}

/// Leaves exactly `wanted` in every set, so that they last over `execve` for any
/// user, as long as the program does not change its user itself.
pub(super) fn restrict_to(wanted: CapabilitySet) -> io::Result<()> {
    for capability in singles(!wanted.bits()) {
        match remove_capability_from_bounding_set(capability) {
            // Beyond the last capability the kernel knows.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    let all = CapabilitySet::from_bits_retain(known());
    let inheritable = CapabilitySets {
        effective: all,
        permitted: all,
        inheritable: wanted,
    };
    set_capabilities(None, inheritable)?;
    clear_ambient_capability_set()?;
    for capability in singles(wanted.bits()) {
        configure_capability_in_ambient_set(capability, true)?;
    }
    set_capabilities_secure_bits(ROOT_IS_ORDINARY)?;
    let only = CapabilitySets {
        effective: wanted,
        permitted: wanted,
        inheritable: wanted,
    };
    set_capabilities(None, only)
}

/// What the process may have now.
fn known() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits())
}

fn singles(set: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|number| 1_u64 << number)
        .filter(move |bit| set & bit != 0)
        .map(CapabilitySet::from_bits_retain)
}

#[cfg(test)]
mod tests {
    use super::singles;
    use std::vec::Vec;

    #[test]
    fn a_set_is_taken_apart_into_its_bits() {
        let bits: Vec<u64> = singles(1 << 63 | 1 << 21 | 1).map(|c| c.bits()).collect();
        assert_eq!(bits, [1, 1 << 21, 1 << 63]);
    }
}
