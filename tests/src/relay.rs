//! The host's end of the replacement init's TPM relay: the guest's own TPM, in
//! the guest's own boot, driven command by command from the test.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use measured_boot::tpm::Transport;

/// Waits for a guest to connect.
#[derive(Debug)]
pub struct Relay(TcpListener);

/// A TPM inside a guest.
#[derive(Debug)]
pub struct RemoteTpm(TcpStream);

impl Relay {
    /// Listens on the host's loopback.
    ///
    /// # Errors
    /// No port is free.
    pub fn listen() -> io::Result<Self> {
        TcpListener::bind(("127.0.0.1", 0)).map(Self)
    }

    /// Where the guest has to connect to.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn port(&self) -> io::Result<u16> {
        self.0.local_addr().map(|address| address.port())
    }

    /// The guest's TPM, once it connected.
    ///
    /// # Errors
    /// The connection failed.
    pub fn accept(&self) -> io::Result<RemoteTpm> {
        let (stream, _) = self.0.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(RemoteTpm(stream))
    }
}

impl Transport for RemoteTpm {
    type Error = io::Error;

    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, io::Error> {
        let length = u32::try_from(command.len()).map_err(io::Error::other)?;
        self.0.write_all(&length.to_be_bytes())?;
        self.0.write_all(command)?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        let mut response = vec![0; length.min(4096)];
        self.0.read_exact(&mut response)?;
        Ok(response)
    }
}
