//! One connection at a time to the broker, and the cookie that ties requests
//! together.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddrV4;
use core::time::Duration;

use measured_boot::code::Code;
use measured_boot::manifest::Broker;
use rustls::ClientConfig;

use super::http::{Response, read_response, request};
use super::protocol;
use super::url::Url;
use crate::error::{Failure, printable};
use crate::network::deadline::Deadline;
use crate::tls::{TlsStream, client_config};

/// For one answer, with whatever connection it takes.
const ANSWER: Duration = Duration::from_secs(20);

/// The broker, authenticated anew by each connection.
pub(super) struct Connection {
    url: Url,
    config: Arc<ClientConfig>,
    addresses: Vec<SocketAddrV4>,
    /// For everything.
    overall: Deadline,
    /// For one answer.
    pub(super) answer: Duration,
    stream: Option<TlsStream>,
    cookie: Option<String>,
}

impl Connection {
    pub(super) fn new(
        broker: &Broker,
        url: Url,
        addresses: Vec<SocketAddrV4>,
        overall: Deadline,
    ) -> Result<Self, Failure> {
        Ok(Self {
            url,
            config: client_config(broker)?,
            addresses,
            overall,
            answer: ANSWER,
            stream: None,
            cookie: None,
        })
    }

    /// Gets `path`, or posts `json` to it, and reads the body of the answer, which
    /// must be a success.
    pub(super) fn call(
        &mut self,
        path: &str,
        json: Option<&str>,
        limit: usize,
    ) -> Result<Vec<u8>, Failure> {
        let request = request(&self.url.authority, self.cookie.as_deref(), path, json);
        let response = self.exchange(&request, limit)?;
        if response.cookie.is_some() {
            self.cookie = response.cookie;
        }
        match response.status {
            200 => Ok(response.body),
            401 | 403 | 404 => {
                let cause = refusal(response.status, &response.body);
                Err(Failure::new(Code::BrokerRefused, cause))
            }
            status => Err(protocol(format!("got status {status}, expected 200"))),
        }
    }

    /// A connection that is kept open may be closed by the broker just when the
    /// next request leaves (RFC 9112 section 9.3.1). Only that is tried again,
    /// once and on a new connection.
    fn exchange(&mut self, request: &str, limit: usize) -> Result<Response, Failure> {
        let deadline = Deadline::after(self.answer).min(self.overall);
        if let Some(mut stream) = self.stream.take() {
            stream.deadline = deadline;
            match self.exchange_on(stream, request, limit) {
                Err(failure) if failure.code == Code::BrokerConnect => {}
                result => return result,
            }
        }
        let name = self.url.name.clone();
        let stream = TlsStream::connect(&self.config, name, &self.addresses, deadline)?;
        self.exchange_on(stream, request, limit)
    }

    fn exchange_on(
        &mut self,
        mut stream: TlsStream,
        request: &str,
        limit: usize,
    ) -> Result<Response, Failure> {
        stream.write(request.as_bytes())?;
        let response = read_response(|buffer| stream.read(buffer), limit)?;
        if !response.close {
            self.stream = Some(stream);
        }
        Ok(response)
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
