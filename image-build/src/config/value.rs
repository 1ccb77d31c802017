//! Values of the configuration, each read where it stands, so that an error
//! names its line.

use std::collections::BTreeMap;

use measured_boot::manifest::{REFUSED_CAPABILITIES, Rlimit};
use serde::{Deserialize, Deserializer, de::Error as _};

/// A number of bytes: an integer, or a string with a suffix `K`, `M`, `G` or `T`
/// (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Seconds: an integer, or a string such as `"10s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub u32);

/// Permission bits: an integer (TOML has octal: `0o755`), or a string of octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

/// A signal: its number, or its name with or without `SIG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub u8);

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

/// Resource limits, in order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rlimits(pub Vec<Rlimit>);

/// What TOML may hold for these.
#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Number(u64),
    Text(String),
}

macro_rules! from_raw {
    ($type:ident, $what:literal, $read:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let read: fn(Raw) -> Option<$type> = $read;
                Raw::deserialize(deserializer)
                    .ok()
                    .and_then(read)
                    .ok_or_else(|| D::Error::custom(concat!("expected ", $what)))
            }
        }
    };
}

from_raw!(
    Size,
    "a size in bytes, such as 4096 or \"64M\" (K, M, G, T)",
    |raw| {
        match raw {
            Raw::Number(bytes) => Some(Size(bytes)),
            Raw::Text(text) => {
                let shift = match text.chars().last()? {
                    'K' => 10,
                    'M' => 20,
                    'G' => 30,
                    'T' => 40,
                    _ => 0,
                };
                let digits = if shift == 0 {
                    &text
                } else {
                    text.get(..text.len().checked_sub(1)?)?
                };
                decimal(digits)?.checked_mul(1 << shift).map(Size)
            }
        }
    }
);
from_raw!(Seconds, "seconds, such as 10 or \"10s\"", |raw| {
    let seconds = match raw {
        Raw::Number(seconds) => seconds,
        Raw::Text(text) => decimal(text.strip_suffix('s').unwrap_or(&text))?,
    };
    u32::try_from(seconds).ok().map(Seconds)
});
from_raw!(Mode, "permission bits, such as 0o755 or \"755\"", |raw| {
    match raw {
        Raw::Number(bits) => u32::try_from(bits).ok().map(Mode),
        Raw::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            u32::from_str_radix(&text, 8).ok().map(Mode)
        }
        Raw::Text(_) => None,
    }
});
from_raw!(
    Signal,
    "a signal that a program can get, such as \"SIGTERM\" or 15",
    |raw| {
        match raw {
            Raw::Number(number) => Signal::from_number(number),
            Raw::Text(text) => Signal::parse(&text),
        }
    }
);

fn decimal(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// `asm-generic/signal.h`, from 1 on.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const SIGRTMIN: u64 = 34;

impl Signal {
    /// Reads a name (`SIGTERM`, `TERM`, `SIGRTMIN+3`) or a number.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        if let Some(number) = decimal(name) {
            return Self::from_number(number);
        }
        if let Some(offset) = name.strip_prefix("RTMIN+") {
            return Self::from_number(decimal(offset)?.checked_add(SIGRTMIN)?);
        }
        let index = SIGNALS.iter().position(|known| *known == name)?;
        Self::from_number(u64::try_from(index.checked_add(1)?).ok()?)
    }

    /// Not `SIGCHLD` and `SIGSTOP`: they would never reach the program, since
    /// the guest's reaper takes the one for itself and is held by the other.
    fn from_number(number: u64) -> Option<Self> {
        const SIGCHLD: u8 = 17;
        const SIGSTOP: u8 = 19;
        let number = u8::try_from(number).ok()?;
        let reaches = (1..=64).contains(&number) && ![SIGCHLD, SIGSTOP].contains(&number);
        reaches.then_some(Self(number))
    }
}

/// `linux/capability.h`, from bit 0 on.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut set = 0u64;
        for name in Vec::<String>::deserialize(deserializer)? {
            let plain = name.strip_prefix("CAP_").unwrap_or(&name);
            let bit = index(&CAPABILITIES, plain)
                .and_then(|bit| 1u64.checked_shl(bit))
                .ok_or_else(|| D::Error::custom(format!("unknown capability {name:?}")))?;
            if bit & REFUSED_CAPABILITIES != 0 {
                return Err(D::Error::custom(format!(
                    "refused capability {name:?}: it leads out of the container"
                )));
            }
            set |= bit;
        }
        Ok(Self(set))
    }
}

/// `asm-generic/resource.h`, from 0 on.
const RLIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];
const CORE: u8 = 4;
const NOFILE: u8 = 7;

impl Rlimits {
    /// These, and for what they leave out: no core dumps, and 1024 to 4096 files.
    pub fn with_defaults(&self) -> Vec<Rlimit> {
        let default = |number, soft, hard| Rlimit { number, soft, hard };
        let mut all = BTreeMap::from([
            (CORE, default(CORE, 0, 0)),
            (NOFILE, default(NOFILE, 1024, 4096)),
        ]);
        all.extend(self.0.iter().map(|limit| (limit.number, *limit)));
        all.into_values().collect()
    }
}

impl<'de> Deserialize<'de> for Rlimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut limits = BTreeMap::new();
        for (name, raw) in BTreeMap::<String, Raw>::deserialize(deserializer)? {
            let number = index(&RLIMITS, &name)
                .and_then(|number| u8::try_from(number).ok())
                .ok_or_else(|| D::Error::custom(format!("unknown resource limit {name:?}")))?;
            let limit = rlimit(number, &raw).ok_or_else(|| {
                D::Error::custom(format!(
                    "resource limit {name}: expected a number, \"unlimited\" or \"SOFT:HARD\" with SOFT at most HARD"
                ))
            })?;
            limits.insert(number, limit);
        }
        Ok(Self(limits.into_values().collect()))
    }
}

fn rlimit(number: u8, raw: &Raw) -> Option<Rlimit> {
    let value = |text: &str| match text {
        "unlimited" => Some(u64::MAX),
        text => decimal(text),
    };
    let (soft, hard) = match raw {
        Raw::Number(both) => (*both, *both),
        Raw::Text(text) => match text.split_once(':') {
            Some((soft, hard)) => (value(soft)?, value(hard)?),
            None => (value(text)?, value(text)?),
        },
    };
    (soft <= hard).then_some(Rlimit { number, soft, hard })
}

fn index(names: &[&str], name: &str) -> Option<u32> {
    let index = names.iter().position(|known| *known == name)?;
    u32::try_from(index).ok()
}
