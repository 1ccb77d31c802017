//! What the container does not see, or cannot change, of its `/proc`.

/// How an entry is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// As an empty file.
    Empty,
    /// As an empty directory.
    EmptyDirectory,
    /// As it is, read-only.
    ReadOnly,
}

use Shown::{Empty, EmptyDirectory, ReadOnly};

/// Entry, how it is shown, why. A kernel may lack any of them.
pub(super) const PROC_FILES: &[(&str, Shown, &str)] = &[
    (
        "acpi",
        EmptyDirectory,
        "state of the machine, partly writable",
    ),
    (
        "asound",
        EmptyDirectory,
        "devices the container has no business with",
    ),
    ("scsi", EmptyDirectory, "accepts commands that remove disks"),
    ("driver", EmptyDirectory, "state of devices"),
    (
        "cmdline",
        Empty,
        "names the boot; a container needs none of it",
    ),
    ("config.gz", Empty, "options of the kernel"),
    ("iomem", Empty, "physical addresses"),
    ("ioports", Empty, "physical addresses"),
    ("kallsyms", Empty, "addresses in the kernel"),
    ("kcore", Empty, "memory of the kernel"),
    ("keys", Empty, "keys in the kernel"),
    ("key-users", Empty, "keys in the kernel"),
    (
        "kmsg",
        Empty,
        "messages of the kernel; reading takes them away",
    ),
    ("latency_stats", Empty, "timing of other processes"),
    ("modules", Empty, "addresses in the kernel"),
    ("mtrr", Empty, "writable machine state"),
    ("pagetypeinfo", Empty, "layout of memory"),
    ("sched_debug", Empty, "timing of other processes"),
    ("slabinfo", Empty, "layout of memory"),
    ("sysrq-trigger", Empty, "commands to the kernel"),
    ("timer_list", Empty, "addresses and timing"),
    ("timer_stats", Empty, "timing of other processes"),
    ("vmallocinfo", Empty, "addresses in the kernel"),
    ("bus", ReadOnly, "configuration space of PCI devices"),
    ("fs", ReadOnly, "settings of file systems"),
    ("irq", ReadOnly, "routing of interrupts"),
    ("sys", ReadOnly, "settings of the whole guest"),
];

#[cfg(test)]
mod tests {
    use super::PROC_FILES;

    #[test]
    fn entries_are_single_names_given_once_with_a_reason() {
        for (index, (name, _, reason)) in PROC_FILES.iter().enumerate() {
            assert!(
                !name.is_empty() && !name.contains('/') && !reason.is_empty(),
                "{name}"
            );
            assert!(
                PROC_FILES
                    .iter()
                    .skip(index + 1)
                    .all(|(other, ..)| other != name),
                "{name}"
            );
        }
    }
}
