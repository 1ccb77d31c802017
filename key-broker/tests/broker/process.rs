//! The broker as a process, which can be measured and killed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const BROKER: &str = env!("CARGO_BIN_EXE_key-broker");

pub(crate) struct Process {
    child: Child,
    dir: PathBuf,
}

impl Process {
    /// Serves the store in `dir/store`; its log and its errors are in `dir`,
    /// appended to those of the process before.
    pub(crate) fn serve(dir: &Path) -> (Self, SocketAddr) {
        let port_file = dir.join("port");
        drop(fs::remove_file(&port_file));
        let errors = fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("stderr"))
            .unwrap();
        let child = Command::new(BROKER)
            .args(["serve", "store", "--listen", "127.0.0.1:0"])
            .args(["--port-file", "port", "--log", "log"])
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let dir = dir.into();
        let process = Self { child, dir };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            let text = fs::read_to_string(&port_file).unwrap_or_default();
            if let Ok(port) = text.trim().parse::<u16>() {
                return (process, SocketAddr::from(([127, 0, 0, 1], port)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the broker does not serve: {}", process.said());
    }

    /// SIGKILL: nothing is finished, nothing is tidied up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A figure of /proc/PID/status, in KiB.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let figure = line.unwrap().trim_start_matches(':').trim();
        figure.split(' ').next().unwrap().parse().unwrap()
    }

    /// Log and standard error, of this process and of those before.
    pub(crate) fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        read("log") + &read("stderr")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
