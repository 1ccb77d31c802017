//! The log of a TD ("TCG PC Client Platform Firmware Profile" 1.06, section
//! 10.2): a header, then one record for each digest.

use anyhow::Result;
use sha2::{Digest, Sha384};

const SHA384: u16 = 0x000c;
const SHA384_LEN: u16 = 48;
const EV_NO_ACTION: u32 = 3;
const EV_EVENT_TAG: u32 = 6;
const EV_EFI_ACTION: u32 = 0x8000_0007;
const EV_EFI_PLATFORM_FIRMWARE_BLOB2: u32 = 0x8000_000a;
const KINDS: [u32; 3] = [EV_EFI_PLATFORM_FIRMWARE_BLOB2, EV_EFI_ACTION, EV_EVENT_TAG];

/// The digests of RTMR0, RTMR1 and RTMR2; the log counts registers from MRTD.
pub(super) fn encode(rtmrs: &[&[[u8; 48]]; 3]) -> Result<Vec<u8>> {
    // `TCG_EfiSpecIdEvent`: class 0, version 2.0 errata 0, UINTN of 8 bytes, one algorithm.
    let mut header = b"Spec ID Event03\0".to_vec();
    header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    header.extend(1u32.to_le_bytes());
    header.extend(SHA384.to_le_bytes());
    header.extend(SHA384_LEN.to_le_bytes());
    header.push(0);
    let mut log = Vec::new();
    log.extend(0u32.to_le_bytes());
    log.extend(EV_NO_ACTION.to_le_bytes());
    log.extend([0; 20]);
    log.extend(u32::try_from(header.len())?.to_le_bytes());
    log.extend(header);
    for (register, (digests, kind)) in (1u32..).zip(rtmrs.iter().zip(KINDS)) {
        for digest in *digests {
            log.extend(register.to_le_bytes());
            log.extend(kind.to_le_bytes());
            log.extend(1u32.to_le_bytes());
            log.extend(SHA384.to_le_bytes());
            log.extend(digest);
            log.extend(0u32.to_le_bytes());
        }
    }
    Ok(log)
}

/// A register after these digests.
pub(super) fn replay(digests: &[[u8; 48]]) -> [u8; 48] {
    digests.iter().fold([0; 48], |register, digest| {
        let extended = Sha384::new().chain_update(register).chain_update(digest);
        extended.finalize().into()
    })
}
