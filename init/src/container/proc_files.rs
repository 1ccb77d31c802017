//! What the container does not see, or cannot change, of its `/proc`: each entry
//! and why. A kernel may lack any of them.

/// Shown as empty directories.
pub(super) const EMPTY_DIRECTORIES: &[(&str, &str)] = &[
    ("acpi", "state of the machine, partly writable"),
    ("asound", "devices the container has no business with"),
    ("scsi", "accepts commands that remove disks"),
    ("driver", "state of devices"),
];

/// Shown as empty files.
pub(super) const EMPTY_FILES: &[(&str, &str)] = &[
    ("cmdline", "names the boot; a container needs none of it"),
    ("config.gz", "options of the kernel"),
    ("iomem", "physical addresses"),
    ("ioports", "physical addresses"),
    ("kallsyms", "addresses in the kernel"),
    ("kcore", "memory of the kernel"),
    ("keys", "keys in the kernel"),
    ("key-users", "keys in the kernel"),
    ("kmsg", "messages of the kernel; reading takes them away"),
    ("latency_stats", "timing of other processes"),
    ("modules", "addresses in the kernel"),
    ("mtrr", "writable machine state"),
    ("pagetypeinfo", "layout of memory"),
    ("sched_debug", "timing of other processes"),
    ("slabinfo", "layout of memory"),
    ("sysrq-trigger", "commands to the kernel"),
    ("timer_list", "addresses and timing"),
    ("timer_stats", "timing of other processes"),
    ("vmallocinfo", "addresses in the kernel"),
];

/// Shown as they are, read-only.
pub(super) const READ_ONLY_ENTRIES: &[(&str, &str)] = &[
    ("bus", "configuration space of PCI devices"),
    ("fs", "settings of file systems"),
    ("irq", "routing of interrupts"),
    ("sys", "settings of the whole guest"),
];

#[cfg(test)]
mod tests {
    use super::{EMPTY_DIRECTORIES, EMPTY_FILES, READ_ONLY_ENTRIES};

    #[test]
    fn entries_are_single_names_given_once_with_a_reason() {
        let entries = [EMPTY_DIRECTORIES, EMPTY_FILES, READ_ONLY_ENTRIES].concat();
        assert_eq!(entries.len(), 27);
        for (index, (name, reason)) in entries.iter().enumerate() {
            assert!(
                !name.is_empty() && !name.contains('/') && !reason.is_empty(),
                "{name}"
            );
            assert!(
                entries
                    .iter()
                    .skip(index + 1)
                    .all(|(other, _)| other != name),
                "{name}"
            );
        }
    }
}
