//! Programs of the host: found before they are started, ended when dropped.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

/// A file the launcher needs and the Debian package that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    file: PathBuf,
    package: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())
    }
}

/// The command that installs what is missing.
pub(super) fn install_command(missing: &[Missing]) -> String {
    let mut packages: Vec<_> = missing.iter().map(|m| m.package).collect();
    packages.sort_unstable();
    packages.dedup();
    format!(
        "apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Looks for programs (on PATH) and files (absolute), each with its package.
pub(super) fn find_missing(needed: &[(&Path, &'static str)]) -> Vec<Missing> {
    needed
        .iter()
        .filter(|(file, _)| find_program(file.as_os_str()).is_none())
        .map(|&(file, package)| Missing {
            file: file.into(),
            package,
        })
        .collect()
}

/// Where a program is. `swtpm_setup` is in `/usr/bin`, but other tools of a
/// host are in `sbin`, which is not on every user's PATH.
fn find_program(name: &OsStr) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")]);
    folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A program that ends when this value is dropped, and with the thread that
/// started it, even if that is killed.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Process {
    /// Starts `program`, set up by `prepare`.
    pub(super) fn start(program: &str, prepare: impl FnOnce(&mut Command)) -> io::Result<Self> {
        let mut command = match find_program(OsStr::new("setpriv")) {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--", program]);
                command
            }
            None => Command::new(program),
        };
        // Out of the terminal's foreground group: Ctrl-C is for the launcher, which
        // presses the power button.
        command.process_group(0);
        prepare(&mut command);
        command.spawn().map(Self)
    }

    /// The child, to take its pipes.
    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// The status if it has ended.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Waits until it ends.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }

    /// Kills it and waits.
    pub(super) fn kill(&mut self) {
        // Both fail only when it has ended and been waited for, which is the goal.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::{Process, find_missing, install_command};
    use std::path::Path;

    #[test]
    fn missing_tools_come_with_the_command_that_installs_them() {
        let needed = [
            ("sh", "dash"),
            ("no-such-program-b", "package-b"),
            ("/no/such/file", "package-a"),
            ("no-such-program-c", "package-b"),
        ];
        let missing = find_missing(&needed.map(|(file, package)| (Path::new(file), package)));
        assert_eq!(missing.len(), 3);
        assert_eq!(
            install_command(&missing),
            "apt-get install --no-install-recommends package-a package-b"
        );
    }

    #[test]
    fn process_ends_when_dropped() {
        let mut process = Process::start("sleep", |command| {
            command.arg("600");
        })
        .unwrap();
        let proc_entry = format!("/proc/{}", process.child().id());
        assert!(Path::new(&proc_entry).exists());
        drop(process);
        assert!(!Path::new(&proc_entry).exists());
    }
}
