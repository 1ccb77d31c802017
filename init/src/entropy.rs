//! Random numbers the host does not choose.

use measured_boot::code::Code;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::BootError;
use crate::sys::cpu;

const STEP: &str = "entropy";

/// The kernel's generator is seeded, and the processor, which the host cannot
/// read, took part in the seed.
#[derive(Debug)]
pub struct Entropy(());

/// Refuses a machine without working RDRAND: every other source a virtual
/// machine has is chosen or seen by the host. RDSEED is not asked for, since
/// QEMU's emulation has none.
///
/// # Errors
/// `E_ENTROPY`.
pub fn require() -> Result<Entropy, BootError> {
    let error = |cause: &str| BootError::new(Code::Entropy, STEP, "draw random bytes", cause);
    let draws = [(); 4].map(|()| cpu::rdrand());
    let [Some(first), Some(second), Some(third), Some(fourth)] = draws else {
        return Err(error("the processor has no working RDRAND"));
    };
    // Broken microcode is known to answer all ones for ever (AMD family 15h,
    // 16h and early 17h after resume).
    if first == second && second == third && third == fourth {
        return Err(error("RDRAND repeats itself"));
    }

    let mut probe = [0; 32];
    match getrandom(&mut probe, GetRandomFlags::empty()) {
        Ok(length) if length == probe.len() => Ok(Entropy(())),
        Ok(_) => Err(error("the kernel gave fewer bytes than asked for")),
        Err(errno) => Err(BootError::new(
            Code::Entropy,
            STEP,
            "draw random bytes",
            errno,
        )),
    }
}
