//! A software TPM of its own per test, on loopback, with a state of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use measured_boot::tpm::{MAX_RESPONSE, Transport};

const PATIENCE: Duration = Duration::from_secs(120);

/// Ends with the test, state and all.
pub(crate) struct Swtpm {
    process: Child,
    port: u16,
    stream: Option<TcpStream>,
    state: tempfile::TempDir,
}

impl Swtpm {
    /// A new TPM, started and at its first boot.
    pub(crate) fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let setup = Command::new("swtpm_setup")
            .args(["--tpm2", "--tpmstate"])
            .arg(state.path())
            .output()
            .expect("swtpm-tools is a required package of the tests");
        assert!(setup.status.success(), "{setup:?}");
        let (process, port) = Self::run(state.path());
        Self {
            process,
            port,
            stream: None,
            state,
        }
    }

    /// Power off, power on: PCRs at their reset values, seeds as before.
    pub(crate) fn reboot(&mut self) {
        self.stream = None;
        self.stop();
        (self.process, self.port) = Self::run(self.state.path());
    }

    /// Runs a program of tpm2-tools on this TPM, in `directory`.
    pub(crate) fn tool(&mut self, directory: &Path, command: &str) {
        // swtpm serves one connection at a time.
        self.stream = None;
        let mut words = command.split_whitespace();
        let output = Command::new(words.next().unwrap())
            .args(words)
            .current_dir(directory)
            .env(
                "TPM2TOOLS_TCTI",
                format!("swtpm:host=127.0.0.1,port={}", self.port),
            )
            .output()
            .expect("tpm2-tools is a required package of the tests");
        assert!(output.status.success(), "{command}: {output:?}");
    }

    fn run(state: &Path) -> (Child, u16) {
        let port = free_ports();
        let state = format!("dir={}", state.display());
        let server = format!("type=tcp,bindaddr=127.0.0.1,port={port}");
        let control = format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1);
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args([
                "--tpmstate",
                &state,
                "--server",
                &server,
                "--ctrl",
                &control,
            ])
            .spawn()
            .expect("swtpm is a required package of the tests");
        (process, port)
    }

    fn stream(&mut self) -> &mut TcpStream {
        let port = self.port;
        self.stream.get_or_insert_with(|| {
            let deadline = Instant::now() + PATIENCE;
            loop {
                match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                    Ok(stream) => {
                        stream.set_read_timeout(Some(PATIENCE)).unwrap();
                        return stream;
                    }
                    Err(error) => assert!(Instant::now() < deadline, "swtpm is silent: {error}"),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Transport for Swtpm {
    type Error = std::io::Error;

    fn transact(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        let stream = self.stream();
        stream.write_all(command)?;
        let mut answer = vec![0; 10];
        stream.read_exact(&mut answer)?;
        let size = u32::from_be_bytes(answer[2..6].try_into().unwrap());
        let size = usize::try_from(size).unwrap();
        assert!(
            (10..=MAX_RESPONSE).contains(&size),
            "swtpm answers with {size} bytes"
        );
        answer.resize(size, 0);
        stream.read_exact(&mut answer[10..])?;
        Ok(answer)
    }
}

/// A free port whose successor, for swtpm's control channel, is free too.
fn free_ports() -> u16 {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let next = port.checked_add(1);
        if next.is_some_and(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, next)).is_ok()) {
            return port;
        }
    }
}
