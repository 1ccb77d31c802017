//! One connection at a time to the broker, and the cookie that ties requests
//! together.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;

use measured_boot::code::Code;
use measured_boot::manifest::Broker;
use rustix::io::Errno;
use rustls::ClientConfig;

use super::error::{Error, printable};
use super::http::{Request, Response, Source, read_response};
use super::url::Url;
use crate::network::deadline::Deadline;
use crate::tls::{self, TlsStream, client_config};

/// For one answer, with whatever connection it takes.
const ANSWER: Duration = Duration::from_secs(20);

/// How long the broker may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For everything.
    pub(super) overall: Deadline,
    /// For one answer.
    pub(super) answer: Duration,
}

impl Limits {
    /// `overall` from now, 20 seconds of it for each answer.
    pub(super) fn within(overall: Duration) -> Self {
        Self {
            overall: Deadline::after(overall),
            answer: ANSWER,
        }
    }
}

/// The broker, authenticated anew by each connection.
pub(super) struct Connection {
    url: Url,
    config: Arc<ClientConfig>,
    addresses: Vec<SocketAddrV4>,
    limits: Limits,
    stream: Option<TlsStream>,
    cookie: Option<String>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        broker: &Broker,
        url: Url,
        addresses: Vec<SocketAddrV4>,
        limits: Limits,
    ) -> Result<Self, Error> {
        Ok(Self {
            url,
            config: client_config(broker)?,
            addresses,
            limits,
            stream: None,
            cookie: None,
        })
    }

    /// Sends a request and reads the body of its answer, which must be a success.
    pub(super) fn call(&mut self, request: Request<'_>, limit: usize) -> Result<Vec<u8>, Error> {
        let deadline = Deadline::after(self.limits.answer).min(self.limits.overall);
        let response = self.exchange(request, limit, deadline)?;
        if response.cookie.is_some() {
            self.cookie = response.cookie;
        }
        match response.status {
            200 => Ok(response.body),
            401 | 403 | 404 => {
                let cause = refusal(response.status, &response.body);
                Err(Error::new(Code::BrokerRefused, cause))
            }
            status => Err(Error::protocol(format!(
                "got status {status}, expected 200"
            ))),
        }
    }

    /// A connection that is kept open may be closed by the broker just when the
    /// next request leaves (RFC 9112 section 9.3.1). Only that is tried again,
    /// once and on a new connection.
    fn exchange(
        &mut self,
        request: Request<'_>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Response, Error> {
        if let Some(stream) = self.stream.take() {
            match self.exchange_on(stream, request, limit, deadline) {
                Err(Error::Tls(
                    tls::Error::Closed | tls::Error::Connect(Errno::CONNRESET | Errno::PIPE),
                )) => {}
                result => return result,
            }
        }
        let name = self.url.name.clone();
        let stream = TlsStream::connect(&self.config, name, &self.addresses, deadline)?;
        self.exchange_on(stream, request, limit, deadline)
    }

    fn exchange_on(
        &mut self,
        mut stream: TlsStream,
        request: Request<'_>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Response, Error> {
        let bytes = request.encode(&self.url.authority(), self.cookie.as_deref());
        stream.write(bytes.as_bytes(), deadline)?;
        let mut source = Timed {
            stream: &mut stream,
            deadline,
        };
        let response = read_response(&mut source, limit)?;
        if !response.close {
            self.stream = Some(stream);
        }
        Ok(response)
    }
}

struct Timed<'a> {
    stream: &'a mut TlsStream,
    deadline: Deadline,
}

impl Source for Timed<'_> {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<(), tls::Error> {
        self.stream.read(buffer, self.deadline)
    }
}

/// `ErrorInformation` of the KBS protocol; its `type` is a URI whose last part
/// says what happened. Sent without a content type, so none is looked at.
#[derive(serde::Deserialize)]
struct ErrorInformation {
    r#type: String,
    #[serde(default)]
    detail: String,
}

fn refusal(status: u16, body: &[u8]) -> String {
    let Ok(error) = serde_json::from_slice::<ErrorInformation>(body) else {
        return format!("refused: status {status} without error information");
    };
    let variant = error.r#type.rsplit('/').next().unwrap_or_default();
    printable(&format!("refused: {variant}: {}", error.detail))
}
