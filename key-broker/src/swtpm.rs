//! Reads the attestation key out of a software TPM, before its first boot.
//!
//! The key is made from the TPM's endorsement seed by a fixed template, so the
//! guest's TPM, on the same state, will have the very same one.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use measured_boot::tpm::{self, MAX_RESPONSE, Transport};

/// For one command. Making an RSA key takes seconds on a slow machine.
const COMMAND_TIME: Duration = Duration::from_secs(60);
const START_TIME: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// The data channel of a running swtpm: TPM frames, one after the other.
struct Socket(Box<dyn Stream>);

impl Transport for Socket {
    type Error = io::Error;

    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        // TPM 2.0 Part 1 section 18: tag (2), size of the whole (4), code (4).
        let mut head = [0; 10];
        self.0.read_exact(&mut head)?;
        let [_, _, a, b, c, d, ..] = head;
        let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let rest = size
            .checked_sub(head.len())
            .filter(|_| size <= MAX_RESPONSE)
            .ok_or_else(|| io::Error::other(format!("got a response of {size} bytes")))?;
        let mut answer = head.to_vec();
        answer.resize(head.len().saturating_add(rest), 0);
        let body = answer.get_mut(head.len()..).unwrap_or_default();
        self.0.read_exact(body)?;
        Ok(answer)
    }
}

/// The key of a running, started TPM: a path is a Unix socket, `HOST:PORT` TCP.
pub(crate) fn ak_of_socket(address: &str) -> Result<Vec<u8>> {
    let socket =
        connect(address).with_context(|| format!("cannot connect to the TPM at {address}"))?;
    ak(socket).with_context(|| format!("cannot read the attestation key of {address}"))
}

fn connect(address: &str) -> io::Result<Socket> {
    Ok(if address.contains('/') {
        let stream = UnixStream::connect(address)?;
        stream.set_read_timeout(Some(COMMAND_TIME))?;
        stream.set_write_timeout(Some(COMMAND_TIME))?;
        Socket(Box::new(stream))
    } else {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(COMMAND_TIME))?;
        stream.set_write_timeout(Some(COMMAND_TIME))?;
        Socket(Box::new(stream))
    })
}

fn ak(mut socket: Socket) -> Result<Vec<u8>> {
    let ak = tpm::create_ak(&mut socket)?;
    let public = ak.public_der.clone();
    tpm::flush(&mut socket, ak)?;
    Ok(public)
}

/// The key of a TPM whose state is in `dir`, which no swtpm may be using.
pub(crate) fn ak_of_state(dir: &Path) -> Result<Vec<u8>> {
    let dir = dir
        .canonicalize()
        .with_context(|| format!("cannot open the TPM state {}", dir.display()))?;
    if !dir.join("tpm2-00.permall").is_file() {
        // swtpm would make a new TPM here, whose key says nothing.
        bail!(
            "cannot open the TPM state {}: expected tpm2-00.permall, as swtpm_setup makes it",
            dir.display()
        );
    }
    let sockets = tempfile::tempdir().context("cannot create a directory for swtpm's socket")?;
    let data = sockets.path().join("data");
    let mut process = Swtpm::start(&dir, sockets.path())?;
    let socket = process.connect(&data.to_string_lossy())?;
    let key = ak(socket)
        .with_context(|| format!("cannot read the attestation key of {}", dir.display()))?;
    process.stop()?;
    Ok(key)
}

/// A child that is gone when this is.
struct Swtpm(Child);

impl Swtpm {
    fn start(state: &Path, sockets: &Path) -> Result<Self> {
        let path = |name| sockets.join(name).display().to_string();
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--terminate"])
            .arg(format!("--tpmstate=dir={}", state.display()))
            .arg(format!("--server=type=unixio,path={}", path("data")))
            .arg(format!("--ctrl=type=unixio,path={}", path("control")))
            .arg("--flags=not-need-init,startup-clear")
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start swtpm; is it installed?")?;
        Ok(Self(child))
    }

    /// Connects once swtpm listens. Its socket exists a moment before that, and
    /// refuses.
    fn connect(&mut self, socket: &str) -> Result<Socket> {
        let start = Instant::now();
        loop {
            let cause = match connect(socket) {
                Ok(socket) => return Ok(socket),
                Err(cause) => cause,
            };
            if let Some(status) = self.0.try_wait().context("cannot wait for swtpm")? {
                bail!("cannot use swtpm: it ended with {status}; is its state in use?");
            }
            if start.elapsed() > START_TIME {
                bail!("cannot use swtpm: it does not listen: {cause}");
            }
            sleep(PAUSE);
        }
    }

    /// Waits until it ended by itself (`--terminate`, once the connection is
    /// gone), so that its state is written and unlocked.
    fn stop(mut self) -> Result<()> {
        let start = Instant::now();
        while self
            .0
            .try_wait()
            .context("cannot wait for swtpm")?
            .is_none()
        {
            if start.elapsed() > START_TIME {
                bail!("cannot end swtpm: it still runs after the connection closed");
            }
            sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
