//! The container's cgroup: its limits, its end, and whether memory ran out.

use alloc::format;
use alloc::string::String;

use measured_boot::manifest;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::{self, Errno};

use super::report::{Attempt, Failure};

const TREE: &str = "/sys/fs/cgroup";
const NAME: &str = "container";

/// A group that holds the container and nothing else.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: OwnedFd,
}

impl Cgroup {
    /// Makes the group and sets its limits.
    pub(super) fn create(container: &manifest::Container) -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree = rustix::fs::open(TREE, flags, Mode::empty()).attempt("open the cgroup tree")?;
        write(tree.as_fd(), "cgroup.subtree_control", "+memory +pids")?;
        mkdirat(&tree, NAME, Mode::from_raw_mode(0o755)).attempt("create the cgroup")?;
        let directory = openat(&tree, NAME, flags, Mode::empty()).attempt("open the cgroup")?;
        let group = directory.as_fd();
        if let Some(bytes) = container.memory {
            write(group, "memory.max", &format!("{bytes}"))?;
        }
        // What runs out of memory ends whole: half a workload is a state that
        // nobody has tested.
        write(group, "memory.oom.group", "1")?;
        // One for the reaper.
        write(
            group,
            "pids.max",
            &format!("{}", container.pids.saturating_add(1)),
        )?;
        Ok(Self { directory })
    }

    /// For `clone3`.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Sends SIGKILL to every process of the group.
    pub(crate) fn kill(&self) -> io::Result<()> {
        put(self.as_fd(), "cgroup.kill", "1")
    }

    /// Whether the kernel killed a process of the group because memory ran out.
    pub(crate) fn ran_out_of_memory(&self) -> io::Result<bool> {
        let file = open(self.as_fd(), "memory.events", OFlags::RDONLY)?;
        let mut buffer = [0; 1024];
        let length = io::read(file, &mut buffer[..])?;
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        Ok(oom_kills(&text).ok_or(Errno::BADMSG)? > 0)
    }
}

/// The counter `oom_kill` of a `memory.events` file.
fn oom_kills(events: &str) -> Option<u64> {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

fn open(group: BorrowedFd<'_>, name: &str, access: OFlags) -> io::Result<OwnedFd> {
    openat(
        group,
        name,
        access | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn put(group: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    io::write(open(group, name, OFlags::WRONLY)?, value.as_bytes()).map(drop)
}

fn write(group: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), Failure> {
    put(group, name, value).attempt(format_args!("set {name} to {value}"))
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
