//! The processor's own random number generator.

use core::arch::x86_64::{__cpuid, _rdrand64_step};

/// Attempts before a draw counts as failed (Intel SDM volume 1, section 7.3.17.1,
/// advises ten).
const ATTEMPTS: u32 = 10;

/// Draws one value from RDRAND; `None` when the processor has no RDRAND or it
/// keeps failing.
pub fn rdrand() -> Option<u64> {
    /// CPUID.01H:ECX bit 30 (Intel SDM volume 2, CPUID).
    const RDRAND: u32 = 1 << 30;
    if __cpuid(1).ecx & RDRAND == 0 {
        return None;
    }
    (0..ATTEMPTS).find_map(|_| {
        // SAFETY: the processor has RDRAND, as CPUID just said.
        unsafe { draw() }
    })
}

#[target_feature(enable = "rdrand")]
fn draw() -> Option<u64> {
    let mut value = 0;
    (_rdrand64_step(&mut value) == 1).then_some(value)
}
