//! How the machine ends: one line, then power off.

use core::fmt;

use measured_boot::code::Code;
use rustix::system::{RebootCommand, reboot};

use crate::console;
use crate::error::BootError;
use crate::supervise::Outcome;

/// The only reaction to a step that failed.
pub fn fail_closed(error: &BootError) -> ! {
    last_words(format_args!("fatal: {error}"))
}

/// The end of a panic. Its message is not printed, since it may quote data.
pub fn fail_in_panic(location: Option<&core::panic::Location<'_>>) -> ! {
    let code = Code::Internal;
    match location {
        Some(at) => last_words(format_args!("fatal: {code} panic: cannot go on: {at}")),
        None => last_words(format_args!(
            "fatal: {code} panic: cannot go on: unknown place"
        )),
    }
}

/// The end of a boot whose container ended by itself or was asked to.
pub fn power_off(outcome: &Outcome) -> ! {
    last_words(format_args!("done: {outcome}"))
}

fn last_words(text: fmt::Arguments<'_>) -> ! {
    console::line(format_args!("init: {text}"));
    console::drain();
    rustix::fs::sync();
    // Both return only where the platform cannot do it. Then nothing is left to
    // run, and PID 1 just stays.
    for command in [RebootCommand::PowerOff, RebootCommand::Restart] {
        reboot(command).ok();
    }
    loop {
        rustix::event::pause();
    }
}
