//! A TLS connection over a non-blocking socket, driven through rustls's
//! unbuffered API. Every call ends by the connection's deadline.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;

use measured_boot::code::Code;
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls_pki_types::ServerName;

use crate::error::Failure;
use crate::network::deadline::Deadline;

/// Ciphertext not yet processed: one handshake message of at most 64 KiB (more
/// rustls refuses) spread over records, and one full record.
const INCOMING_SIZE: usize = 96 * 1024;
/// Plaintext in one record (RFC 8446 section 5.1).
const RECORD_SIZE: usize = 16 * 1024;
/// Room for one more message to send: our handshake messages are small, and
/// application data goes record by record.
const OUTGOING_SIZE: usize = RECORD_SIZE + 8 * 1024;

/// For one address to accept: time for three SYNs, and for the next address.
const CONNECT: Duration = Duration::from_secs(6);

/// An authenticated connection: the peer's certificate was checked.
pub(crate) struct TlsStream {
    socket: OwnedFd,
    connection: UnbufferedClientConnection,
    /// When the call now running fails, if it is not done.
    pub(crate) deadline: Deadline,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Decrypted, not yet read.
    plaintext: Vec<u8>,
}

/// What the connection can do next.
enum Progress {
    /// Look again: something was processed.
    More,
    /// The peer must send first.
    Blocked,
    /// The handshake is done and everything received is processed.
    Open,
}

impl TlsStream {
    /// Connects to the first of `addresses` that accepts, and finishes the
    /// handshake with a peer that proves to be `name`.
    ///
    /// # Errors
    /// `E_BROKER_CONNECT` (of several addresses, the last one's failure),
    /// `E_BROKER_TIMEOUT`, `E_ENTROPY`, `E_TLS_*`.
    pub(crate) fn connect(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        addresses: &[SocketAddrV4],
        deadline: Deadline,
    ) -> Result<Self, Failure> {
        let mut socket = Err(Errno::HOSTUNREACH);
        for address in addresses {
            socket = connect_tcp(*address, Deadline::after(CONNECT).min(deadline));
            if socket.is_ok() {
                break;
            }
        }
        let mut stream = Self {
            socket: socket.map_err(failure)?,
            connection: UnbufferedClientConnection::new(Arc::clone(config), name)?,
            deadline,
            incoming: Vec::with_capacity(INCOMING_SIZE),
            outgoing: Vec::with_capacity(OUTGOING_SIZE),
            plaintext: Vec::new(),
        };
        stream.drive(&[])?;
        Ok(stream)
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    /// `E_BROKER_CONNECT`, `E_BROKER_TIMEOUT`, `E_TLS_PROTOCOL`.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        data.chunks(RECORD_SIZE)
            .try_for_each(|record| self.drive(record))
    }

    /// Goes on until the connection is open and `record` is sent.
    fn drive(&mut self, record: &[u8]) -> Result<(), Failure> {
        loop {
            match self.advance(record)? {
                Progress::More => {}
                Progress::Blocked => self.receive()?,
                Progress::Open => return Ok(()),
            }
        }
    }

    /// Appends to `output` what the peer sent, at least one byte.
    ///
    /// # Errors
    /// As [`Self::write`]; `E_BROKER_CONNECT` at the connection's end.
    pub(crate) fn read(&mut self, output: &mut Vec<u8>) -> Result<(), Failure> {
        while self.plaintext.is_empty() {
            match self.advance(&[])? {
                Progress::More => {}
                Progress::Blocked | Progress::Open => self.receive()?,
            }
        }
        output.append(&mut self.plaintext);
        Ok(())
    }

    /// Processes what was received and sends what is due; when that is done and
    /// the connection is open, sends `data` (one record).
    fn advance(&mut self, data: &[u8]) -> Result<Progress, Failure> {
        let result = self.process(data);
        match &result {
            Ok(Progress::More) => {}
            Ok(Progress::Blocked | Progress::Open) => self.flush().map_err(|e| self.failure(e))?,
            // Where a certificate is refused, rustls has an alert ready that tells the
            // broker's operator why. Whether it arrives changes nothing here.
            Err(_) => drop(self.process(&[]).is_ok_and(|_| self.flush().is_ok())),
        }
        result
    }

    fn process(&mut self, data: &[u8]) -> Result<Progress, Failure> {
        let UnbufferedStatus { mut discard, state } =
            self.connection.process_tls_records(&mut self.incoming);
        let progress = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard = discard.saturating_add(record.discard);
                    self.plaintext.extend_from_slice(record.payload);
                }
                Ok(Progress::More)
            }
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                append(&mut self.outgoing, OUTGOING_SIZE, |free| {
                    message.encode(free)
                })
                .map_err(protocol)?;
                Ok(Progress::More)
            }
            Ok(ConnectionState::TransmitTlsData(message)) => {
                // It is, before anything is waited for.
                message.done();
                Ok(Progress::More)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                if !data.is_empty() {
                    append(&mut self.outgoing, OUTGOING_SIZE, |free| {
                        traffic.encrypt(data, free)
                    })
                    .map_err(protocol)?;
                }
                Ok(Progress::Open)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Progress::Blocked),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                Err(self.failure(Errno::PIPE))
            }
            // Early data is a server's state; the enum is not exhaustive.
            Ok(ConnectionState::ReadEarlyData(_) | _) => {
                Err(protocol("unexpected connection state"))
            }
            Err(error) => Err(error.into()),
        };
        self.incoming.drain(..discard.min(self.incoming.len()));
        progress
    }

    /// Waits for ciphertext.
    fn receive(&mut self) -> Result<(), Failure> {
        let room = INCOMING_SIZE.saturating_sub(self.incoming.len());
        if room == 0 {
            return Err(protocol("message larger than the buffer"));
        }
        // A peer that sends bytes for ever does not outrun the deadline: this fails
        // once it has passed, whatever is there to read.
        let ready = self.deadline.wait(&self.socket, PollFlags::IN);
        let received = ready.and_then(|()| {
            append(&mut self.incoming, room, |free| {
                recv(&self.socket, free, RecvFlags::empty()).map(|(length, _)| length)
            })
        });
        match received {
            Ok(0) => Err(self.failure(Errno::PIPE)),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(self.failure(errno)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            self.deadline.wait(&self.socket, PollFlags::OUT)?;
            match send(&self.socket, &self.outgoing, SendFlags::NOSIGNAL) {
                Ok(length) => drop(self.outgoing.drain(..length.min(self.outgoing.len()))),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn failure(&self, errno: Errno) -> Failure {
        if errno == Errno::PIPE && self.connection.is_handshaking() {
            return protocol("closed during the handshake");
        }
        failure(errno)
    }
}

fn connect_tcp(address: SocketAddrV4, deadline: Deadline) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &address) {
        Err(Errno::INPROGRESS | Errno::INTR) => {
            deadline.wait(&socket, PollFlags::OUT)?;
            sockopt::socket_error(&socket)??;
        }
        outcome => outcome?,
    }
    Ok(socket)
}

fn protocol(cause: impl fmt::Display) -> Failure {
    Failure::new(Code::TlsProtocol, cause)
}

fn failure(errno: Errno) -> Failure {
    match errno {
        Errno::TIMEDOUT => Failure::new(Code::BrokerTimeout, "the deadline passed"),
        // Found when writing, or the end of the stream when reading.
        Errno::PIPE => Failure::new(Code::BrokerConnect, "the peer closed the connection"),
        _ => Failure::new(Code::BrokerConnect, errno),
    }
}

/// Lets `fill` write into `room` more bytes of `buffer`; it says how many it did.
fn append<E>(
    buffer: &mut Vec<u8>,
    room: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<usize, E> {
    let start = buffer.len();
    buffer.resize(start.saturating_add(room), 0);
    let filled = fill(buffer.get_mut(start..).unwrap_or_default());
    buffer.truncate(start.saturating_add(*filled.as_ref().unwrap_or(&0)));
    filled
}
