//! The container's cgroup: its limits, its end, and whether memory ran out.

use alloc::format;

use measured_boot::manifest;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{self, Errno};

use super::report::{Attempt, Failure};
use crate::file;

const TREE: &str = "/sys/fs/cgroup";
const GROUP: &str = "/sys/fs/cgroup/container";

/// A group that holds the container and nothing else.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: OwnedFd,
}

impl Cgroup {
    /// Makes the group and sets its limits.
    pub(super) fn create(container: &manifest::Container) -> Result<Self, Failure> {
        let set = |group: &str, name: &str, value: &str| {
            file::write(&format!("{group}/{name}"), value)
                .attempt(format_args!("set {name} to {value}"))
        };
        set(TREE, "cgroup.subtree_control", "+memory +pids")?;
        rustix::fs::mkdir(GROUP, Mode::from_raw_mode(0o755)).attempt("create the cgroup")?;
        if let Some(bytes) = container.memory {
            set(GROUP, "memory.max", &format!("{bytes}"))?;
        }
        // What runs out of memory ends whole: half a workload is a state that
        // nobody has tested.
        set(GROUP, "memory.oom.group", "1")?;
        // One for the reaper.
        let pids = container.pids.saturating_add(1);
        set(GROUP, "pids.max", &format!("{pids}"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(GROUP, flags, Mode::empty()).attempt("open the cgroup")?;
        Ok(Self { directory })
    }

    /// For `clone3`.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Sends SIGKILL to every process of the group.
    pub(crate) fn kill(&self) -> io::Result<()> {
        file::write(&format!("{GROUP}/cgroup.kill"), "1")
    }

    /// Whether the kernel killed a process of the group because memory ran out.
    pub(crate) fn ran_out_of_memory(&self) -> io::Result<bool> {
        let events = file::read_line(&format!("{GROUP}/memory.events"), 1024)?;
        Ok(oom_kills(&events).ok_or(Errno::BADMSG)? > 0)
    }
}

/// The counter `oom_kill` of a `memory.events` file.
fn oom_kills(events: &str) -> Option<u64> {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::oom_kills;

    #[test]
    fn oom_kill_is_not_taken_from_its_neighbours() {
        let events = "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(oom_kills(events), Some(2));
        assert_eq!(oom_kills("oom 4\noom_group_kill 1\n"), None);
    }
}
