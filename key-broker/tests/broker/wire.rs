//! Requests as bytes, many on one connection.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::{Server, Tls};

/// A request, before it is bytes.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn new(method: &str, target: &str, body: &[u8]) -> Self {
        let headers = [
            ("Host", "localhost"),
            ("Content-Type", "application/json"),
            ("Accept", "*/*"),
        ];
        let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        Self {
            method: method.into(),
            target: target.into(),
            version: "HTTP/1.1".into(),
            headers: headers.iter().map(owned).collect(),
            body: body.into(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a length, unless the message brings a framing of its own.
    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} {}\r\n", self.method, self.target, self.version);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if self.is_framed() {
            text += "Connection: close\r\n";
        } else {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        [text.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// Whether it says itself where its body ends. What is behind that end must
    /// not be taken for the next request.
    pub(crate) fn is_framed(&self) -> bool {
        self.headers.iter().any(|(name, _)| {
            ["content-length", "transfer-encoding"].contains(&name.to_lowercase().trim())
        })
    }
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The broker's code, if it was the broker that answered.
    pub(crate) fn code(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let detail = body["detail"].as_str()?;
        let at = detail.find("R_")?;
        detail[at..].split(':').next().map(Into::into)
    }
}

/// A client that keeps its connection as long as the server lets it.
pub(crate) struct Wire<'a> {
    server: &'a Server,
    stream: Option<(Tls, Instant)>,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(server: &'a Server) -> Self {
        let stream = None;
        Self { server, stream }
    }

    /// `None` when the server closes without an answer.
    pub(crate) fn exchange(&mut self, message: &Message) -> Option<Answer> {
        let kept = self.stream.take();
        // The server ends every connection after a minute.
        let kept = kept.filter(|(_, since)| since.elapsed() < Duration::from_secs(40));
        let idle = kept.is_some();
        match self.exchange_on(kept, message) {
            // It may just have closed what was idle for too long.
            None if idle => self.exchange_on(None, message),
            answer => answer,
        }
    }

    fn exchange_on(&mut self, kept: Option<(Tls, Instant)>, message: &Message) -> Option<Answer> {
        let (mut stream, since) = kept.unwrap_or_else(|| {
            let stream = self.server.tls(&self.server.site.store, "localhost");
            (stream.unwrap(), Instant::now())
        });
        // It may refuse, and close, before it has read all.
        drop(
            stream
                .write_all(&message.bytes())
                .and_then(|()| stream.flush()),
        );
        let answer = read(&mut stream, message.method == "HEAD")?;
        let closes = answer.head.to_lowercase().contains("connection: close");
        if !closes && !message.is_framed() {
            self.stream = Some((stream, since));
        }
        Some(answer)
    }
}

fn read(stream: &mut Tls, without_body: bool) -> Option<Answer> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head
                .to_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            let wanted = if without_body { 0 } else { length };
            if bytes.len() - end - 4 >= wanted {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                let body = bytes[end + 4..].to_vec();
                return Some(Answer { status, head, body });
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => bytes.extend(&buffer[..length]),
        }
    }
}
