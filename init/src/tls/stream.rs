//! A TLS connection over a non-blocking socket, driven through rustls's
//! unbuffered API. Every call has an absolute deadline.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;

use measured_boot::code::Code;
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{AppDataRecord, ConnectionState, UnbufferedStatus};
use rustls_pki_types::ServerName;

use super::Error;
use crate::network::deadline::Deadline;

/// Ciphertext not yet processed: one handshake message of at most 64 KiB (more
/// rustls refuses) spread over records, and one full record.
const INCOMING_SIZE: usize = 96 * 1024;
/// Plaintext in one record (RFC 8446 section 5.1).
const RECORD_SIZE: usize = 16 * 1024;
/// Ciphertext not yet sent: our handshake messages are small, and application
/// data goes record by record.
const OUTGOING_SIZE: usize = RECORD_SIZE + 8 * 1024;

/// For one address to accept: time for three SYNs, and for the next address.
const CONNECT: Duration = Duration::from_secs(6);

/// An authenticated connection: the peer's certificate was checked.
pub struct TlsStream {
    socket: OwnedFd,
    connection: UnbufferedClientConnection,
    incoming: Buffer,
    outgoing: Buffer,
    /// Decrypted, not yet read.
    plaintext: Vec<u8>,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsStream")
    }
}

/// What the connection can do next.
enum Progress {
    /// Look again: something was processed.
    More,
    /// The peer must send first.
    Blocked,
    /// The handshake is done and everything received is processed.
    Open,
    /// The peer ended the connection in order.
    Closed,
}

impl TlsStream {
    /// Connects to the first of `addresses` that accepts, and finishes the
    /// handshake with a peer that proves to be `name`.
    ///
    /// # Errors
    /// Any [`Error`]; of several addresses, the last one's.
    pub fn connect(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        addresses: &[SocketAddrV4],
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let mut result = Err(Error::Connect(Errno::HOSTUNREACH));
        for address in addresses {
            result = connect_tcp(*address, Deadline::after(CONNECT).min(deadline));
            if result.is_ok() {
                break;
            }
        }
        let mut stream = Self {
            socket: result?,
            connection: UnbufferedClientConnection::new(Arc::clone(config), name)?,
            incoming: Buffer::new(INCOMING_SIZE),
            outgoing: Buffer::new(OUTGOING_SIZE),
            plaintext: Vec::new(),
        };
        match stream.drive(&[], deadline) {
            Ok(()) => Ok(stream),
            Err(Error::Closed) => Err(Error::protocol("closed during the handshake")),
            Err(error) => Err(error),
        }
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    /// Any [`Error`] of an open connection.
    pub fn write(&mut self, data: &[u8], deadline: Deadline) -> Result<(), Error> {
        data.chunks(RECORD_SIZE)
            .try_for_each(|record| self.drive(record, deadline))
    }

    /// Goes on until the connection is open and `record` is sent.
    fn drive(&mut self, record: &[u8], deadline: Deadline) -> Result<(), Error> {
        loop {
            match self.advance(record, deadline)? {
                Progress::More => {}
                Progress::Blocked => self.receive(deadline)?,
                Progress::Open => return Ok(()),
                Progress::Closed => return Err(Error::Closed),
            }
        }
    }

    /// Appends to `output` what the peer sent, at least one byte.
    ///
    /// # Errors
    /// Any [`Error`] of an open connection; [`Error::Closed`] at its end.
    pub fn read(&mut self, output: &mut Vec<u8>, deadline: Deadline) -> Result<(), Error> {
        loop {
            if !self.plaintext.is_empty() {
                output.append(&mut self.plaintext);
                return Ok(());
            }
            match self.advance(&[], deadline)? {
                Progress::More => {}
                Progress::Blocked | Progress::Open => self.receive(deadline)?,
                Progress::Closed => return Err(Error::Closed),
            }
        }
    }

    /// Processes what was received and sends what is due; when that is done and
    /// the connection is open, sends `data` (one record).
    fn advance(&mut self, data: &[u8], deadline: Deadline) -> Result<Progress, Error> {
        let result = self.process(data, deadline);
        let refused = match &result {
            Err(Error::Failed(code, _)) => *code != Code::TlsProtocol,
            Ok(_) | Err(Error::Connect(_) | Error::Closed | Error::Timeout) => false,
        };
        // Where a certificate is refused, rustls has an alert ready that tells the
        // broker's operator why. Whether it arrives changes nothing here.
        if refused && self.process(&[], deadline).is_ok() {
            flush(&self.socket, &mut self.outgoing, deadline).ok();
        }
        result
    }

    fn process(&mut self, data: &[u8], deadline: Deadline) -> Result<Progress, Error> {
        let UnbufferedStatus { mut discard, state } =
            self.connection.process_tls_records(self.incoming.filled());
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                self.incoming.discard(discard);
                return Err(error.into());
            }
        };
        let progress = match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let AppDataRecord {
                        discard: more,
                        payload,
                        ..
                    } = record?;
                    discard = discard.saturating_add(more);
                    self.plaintext.extend_from_slice(payload);
                }
                Progress::More
            }
            ConnectionState::EncodeTlsData(mut message) => {
                let length = message
                    .encode(self.outgoing.free())
                    .map_err(Error::protocol)?;
                self.outgoing.grow(length);
                Progress::More
            }
            ConnectionState::TransmitTlsData(message) => {
                flush(&self.socket, &mut self.outgoing, deadline)?;
                message.done();
                Progress::More
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                if !data.is_empty() {
                    let length = traffic
                        .encrypt(data, self.outgoing.free())
                        .map_err(Error::protocol)?;
                    self.outgoing.grow(length);
                    flush(&self.socket, &mut self.outgoing, deadline)?;
                }
                Progress::Open
            }
            ConnectionState::BlockedHandshake => Progress::Blocked,
            ConnectionState::PeerClosed | ConnectionState::Closed => Progress::Closed,
            // Early data is a server's state; the enum is not exhaustive.
            ConnectionState::ReadEarlyData(_) | _ => {
                return Err(Error::protocol("unexpected connection state"));
            }
        };
        self.incoming.discard(discard);
        Ok(progress)
    }

    /// Waits for at least one byte of ciphertext.
    fn receive(&mut self, deadline: Deadline) -> Result<(), Error> {
        let free = self.incoming.free();
        if free.is_empty() {
            return Err(Error::protocol("message larger than the buffer"));
        }
        loop {
            match recv(&self.socket, &mut *free, RecvFlags::empty()) {
                Ok((0, _)) => return Err(Error::Closed),
                Ok((length, _)) => {
                    self.incoming.grow(length);
                    // A peer that sends bytes for ever must not outrun the deadline.
                    return if deadline.passed() {
                        Err(Error::Timeout)
                    } else {
                        Ok(())
                    };
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(&self.socket, PollFlags::IN, deadline)?,
                Err(errno) => return Err(Error::Connect(errno)),
            }
        }
    }
}

fn connect_tcp(address: SocketAddrV4, deadline: Deadline) -> Result<OwnedFd, Error> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .map_err(Error::Connect)?;
    sockopt::set_tcp_nodelay(&socket, true).map_err(Error::Connect)?;
    match connect(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(Errno::INPROGRESS | Errno::INTR) => {
            wait(&socket, PollFlags::OUT, deadline)?;
            let outcome = sockopt::socket_error(&socket).map_err(Error::Connect)?;
            outcome.map_err(Error::Connect)?;
            Ok(socket)
        }
        Err(errno) => Err(Error::Connect(errno)),
    }
}

fn wait(socket: &OwnedFd, events: PollFlags, deadline: Deadline) -> Result<(), Error> {
    match deadline.wait(socket, events) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Timeout),
        Err(errno) => Err(Error::Connect(errno)),
    }
}

fn flush(socket: &OwnedFd, outgoing: &mut Buffer, deadline: Deadline) -> Result<(), Error> {
    while !outgoing.filled().is_empty() {
        match send(socket, outgoing.filled(), SendFlags::NOSIGNAL) {
            Ok(length) => outgoing.discard(length),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, PollFlags::OUT, deadline)?,
            // The peer is gone, as at the end of the stream when reading.
            Err(Errno::PIPE) => return Err(Error::Closed),
            Err(errno) => return Err(Error::Connect(errno)),
        }
    }
    Ok(())
}

/// Bytes at the front of a fixed allocation.
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl Buffer {
    fn new(size: usize) -> Self {
        Self {
            bytes: vec![0; size],
            filled: 0,
        }
    }

    fn filled(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.filled).unwrap_or_default()
    }

    fn free(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    fn grow(&mut self, length: usize) {
        self.filled = self.filled.saturating_add(length).min(self.bytes.len());
    }

    fn discard(&mut self, length: usize) {
        let length = length.min(self.filled);
        self.bytes.copy_within(length..self.filled, 0);
        self.filled = self.filled.saturating_sub(length);
    }
}
