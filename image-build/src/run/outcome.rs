//! How a boot ended: init's last words, the kernel's, or the lack of them.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

/// How one run of a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// The container ended by itself.
    Exited {
        /// Its exit status.
        status: u8,
    },
    /// The container was ended by a signal.
    Signaled {
        /// The signal's number.
        signal: u8,
        /// Whether the kernel killed it because memory ran out.
        oom: bool,
    },
    /// Init stopped the boot.
    Fatal {
        /// The stable code, such as `E_CMDLINE`.
        code: String,
        /// The whole line.
        line: String,
    },
    /// The guest's kernel panicked.
    Panic {
        /// The kernel's line.
        line: String,
    },
    /// The deadline passed; the machine was killed.
    Timeout,
    /// The machine ended without a word of init's or the kernel's about why.
    NoReport,
    /// The machine did not start, or QEMU failed.
    Launch {
        /// What failed.
        cause: String,
    },
}

/// Exit status of `image-build run` when init stopped the boot.
pub const STATUS_FATAL: u8 = 200;
/// Exit status when the guest's kernel panicked.
pub const STATUS_PANIC: u8 = 201;
/// Exit status when the deadline passed.
pub const STATUS_TIMEOUT: u8 = 202;
/// Exit status when the machine ended without a report.
pub const STATUS_NO_REPORT: u8 = 203;
/// Exit status when the machine did not start or QEMU failed.
pub const STATUS_LAUNCH: u8 = 204;

impl Outcome {
    /// The exit status of `image-build run`: the container's own, 128 plus the
    /// signal that ended it, or one of the `STATUS_*`.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exited { status } => *status,
            Self::Signaled { signal, .. } => signal.saturating_add(128),
            Self::Fatal { .. } => STATUS_FATAL,
            Self::Panic { .. } => STATUS_PANIC,
            Self::Timeout => STATUS_TIMEOUT,
            Self::NoReport => STATUS_NO_REPORT,
            Self::Launch { .. } => STATUS_LAUNCH,
        }
    }

    /// What a line says about the end, if it is the line that says it.
    ///
    /// Only what init or the kernel writes at the start of a line counts. The
    /// container cannot write there: init puts `container: ` before each line.
    pub fn parse(line: &str) -> Option<Self> {
        if let Some(rest) = line.strip_prefix("init: done: ") {
            return parse_done(rest);
        }
        if let Some(rest) = line.strip_prefix("init: fatal: ") {
            let code = rest.split(' ').next().filter(|code| is_code(code))?;
            return Some(Self::Fatal {
                code: code.into(),
                line: line.into(),
            });
        }
        strip_kernel_time(line)
            .starts_with("Kernel panic - not syncing")
            .then(|| Self::Panic { line: line.into() })
    }
}

impl From<&Outcome> for ExitCode {
    fn from(outcome: &Outcome) -> Self {
        Self::from(outcome.exit_status())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status } => write!(f, "the container exited with status {status}"),
            Self::Signaled { signal, oom } => {
                write!(f, "the container was ended by signal {signal}")?;
                f.write_str(if *oom { " (out of memory)" } else { "" })
            }
            Self::Fatal { code, .. } => write!(f, "init stopped the boot with {code}"),
            Self::Panic { .. } => f.write_str("the guest's kernel panicked"),
            Self::Timeout => f.write_str("the deadline passed"),
            Self::NoReport => f.write_str("the machine ended without a report"),
            Self::Launch { cause } => f.write_str(cause),
        }
    }
}

/// `exited N` or `signaled N`, the latter with an optional reason.
fn parse_done(rest: &str) -> Option<Outcome> {
    if let Some(status) = rest.strip_prefix("exited ") {
        return Some(Outcome::Exited {
            status: parse_decimal(status)?,
        });
    }
    let signal = rest.strip_prefix("signaled ")?;
    let killed_for_memory = signal.strip_suffix(" (out of memory)");
    let number = parse_decimal(killed_for_memory.unwrap_or(signal))?;
    (1..=64).contains(&number).then_some(Outcome::Signaled {
        signal: number,
        oom: killed_for_memory.is_some(),
    })
}

/// Digits only: `u8::from_str` would take a sign.
fn parse_decimal(text: &str) -> Option<u8> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn is_code(text: &str) -> bool {
    text.strip_prefix("E_").is_some_and(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    })
}

/// Takes `[    1.234567] ` away, which the kernel puts there when it was built
/// to print the time.
fn strip_kernel_time(line: &str) -> &str {
    let stamped = || {
        let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
        let digits = time.trim_start_matches(' ');
        let is_time = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        is_time.then_some(rest)
    };
    stamped().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn reads_the_last_words_of_init_and_kernel() {
        let panic = "[   12.345678] Kernel panic - not syncing: dm-verity device has a bad block";
        let fatal = "init: fatal: E_CMDLINE cmdline: cannot read the command line: bad";
        let cases = [
            ("init: done: exited 0", Outcome::Exited { status: 0 }),
            ("init: done: exited 255", Outcome::Exited { status: 255 }),
            (
                "init: done: signaled 9 (out of memory)",
                Outcome::Signaled {
                    signal: 9,
                    oom: true,
                },
            ),
            (
                "init: done: signaled 15",
                Outcome::Signaled {
                    signal: 15,
                    oom: false,
                },
            ),
            (
                fatal,
                Outcome::Fatal {
                    code: "E_CMDLINE".into(),
                    line: fatal.into(),
                },
            ),
            (panic, Outcome::Panic { line: panic.into() }),
            (
                "Kernel panic - not syncing: x",
                Outcome::Panic {
                    line: "Kernel panic - not syncing: x".into(),
                },
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(Outcome::parse(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn rejects_everything_that_only_looks_like_last_words() {
        let lines = [
            "container: init: done: exited 0",
            "container: Kernel panic - not syncing: no",
            " init: done: exited 0",
            "init: done: exited 256",
            "init: done: exited +1",
            "init: done: exited ",
            "init: done: exited 0 ",
            "init: done: signaled 0",
            "init: done: signaled 65",
            "init: done: signaled 9 (bored)",
            "init: [1.234] done: exited 0",
            "init: fatal: cannot say",
            "init: fatal: E_ nothing",
            "init: fatal: E_lower x",
            "[container] Kernel panic - not syncing: no",
            "[1.0 x] Kernel panic - not syncing: no",
            "",
        ];
        for line in lines {
            assert_eq!(Outcome::parse(line), None, "{line}");
        }
    }

    #[test]
    fn each_kind_of_end_has_its_own_exit_status() {
        let line = String::new;
        let outcomes = [
            (Outcome::Exited { status: 7 }, 7),
            (
                Outcome::Signaled {
                    signal: 9,
                    oom: false,
                },
                137,
            ),
            (
                Outcome::Fatal {
                    code: line(),
                    line: line(),
                },
                200,
            ),
            (Outcome::Panic { line: line() }, 201),
            (Outcome::Timeout, 202),
            (Outcome::NoReport, 203),
            (Outcome::Launch { cause: line() }, 204),
        ];
        for (outcome, status) in outcomes {
            assert_eq!(outcome.exit_status(), status);
        }
    }
}
