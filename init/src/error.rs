//! The one error that leaves a step.
//!
//! Modules have leaf errors of their own where a caller tells cases apart; at
//! the step's border each becomes a [`BootError`] with its code, said once, at
//! the place that knows what was being done to what.

use alloc::format;
use alloc::string::String;
use core::fmt;

use measured_boot::code::Code;

/// Why the boot stopped. Printing it gives the fixed last line, without the
/// `init: fatal: ` in front.
#[derive(Debug)]
pub struct BootError {
    code: Code,
    step: &'static str,
    message: String,
}

impl BootError {
    /// `action` reads after "cannot": verb and object. `cause` says got and
    /// expected, or is the kernel's error. Neither may hold a secret.
    pub fn new(
        code: Code,
        step: &'static str,
        action: impl fmt::Display,
        cause: impl fmt::Display,
    ) -> Self {
        Self {
            code,
            step,
            message: format!("cannot {action}: {cause}"),
        }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.step, self.message)
    }
}

impl core::error::Error for BootError {}
