//! As much of HTTP/1.1 (RFC 9112) as the KBS protocol needs: one request, one
//! answer with a bounded head and a bounded body.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use measured_boot::code::Code;

use super::protocol;
use crate::error::Failure;

/// Status line and fields.
const MAX_HEAD: usize = 16 * 1024;
/// One chunk's size line, with its extensions.
const MAX_CHUNK_LINE: usize = 256;
/// A session identifier and its name.
const MAX_COOKIE: usize = 256;
const COOKIE: &str = "kbs-session-id=";

/// A request: POST with JSON, or GET without.
pub(super) fn request(
    authority: &str,
    cookie: Option<&str>,
    path: &str,
    json: Option<&str>,
) -> String {
    let method = if json.is_some() { "POST" } else { "GET" };
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n");
    text.push_str("Accept: application/json\r\n");
    if let Some(cookie) = cookie {
        text.push_str(&format!("Cookie: {cookie}\r\n"));
    }
    if let Some(json) = json {
        let length = json.len();
        text.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {length}\r\n"
        ));
    }
    text.push_str("\r\n");
    text.push_str(json.unwrap_or_default());
    text
}

/// An answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// `kbs-session-id=...`, as it is to be sent back.
    pub(super) cookie: Option<String>,
    /// The connection must not be used again.
    pub(super) close: bool,
    length: Option<usize>,
    chunked: bool,
    pub(super) body: Vec<u8>,
}

/// Reads one answer whose body has at most `limit` bytes. `read` appends at least
/// one byte to a buffer, or fails.
///
/// # Errors
/// `E_BROKER_CONNECT` only before the first byte: the connection was stale.
pub(super) fn read_response(
    mut read: impl FnMut(&mut Vec<u8>) -> Result<(), Failure>,
    limit: usize,
) -> Result<Response, Failure> {
    let mut buffer = Vec::new();
    read(&mut buffer)?;
    let mut answer = Answer { buffer, read };
    let head = answer.take_until(b"\r\n\r\n", MAX_HEAD, "the head")?;
    let mut response =
        Response::parse_head(&head).ok_or_else(|| protocol("the head is malformed"))?;
    if (300..400).contains(&response.status) {
        let cause = format!("got a redirect (status {})", response.status);
        return Err(Failure::new(Code::BrokerRedirect, cause));
    }
    // A body that ends with the connection is not accepted: who cuts the connection
    // would then choose the length. Two lengths are how requests are smuggled.
    response.body = match (response.length, response.chunked) {
        (Some(length), false) if length > limit => return Err(too_large(limit)),
        (Some(length), false) => answer.take(length)?,
        (None, true) => answer.take_chunks(limit)?,
        _ => return Err(protocol("got no length of the body, or two")),
    };
    // Nothing was asked for after this answer.
    if !answer.buffer.is_empty() {
        return Err(protocol("bytes follow the answer"));
    }
    Ok(response)
}

fn too_large(limit: usize) -> Failure {
    let cause = format!("the answer exceeds {limit} bytes");
    Failure::new(Code::BrokerSize, cause)
}

/// What was received of an answer and not yet taken.
struct Answer<R> {
    buffer: Vec<u8>,
    read: R,
}

impl<R: FnMut(&mut Vec<u8>) -> Result<(), Failure>> Answer<R> {
    /// Reads on; an end here is in the middle of the answer.
    fn more(&mut self) -> Result<(), Failure> {
        (self.read)(&mut self.buffer).map_err(|failure| {
            if failure.code != Code::BrokerConnect {
                return failure;
            }
            protocol(format!("the answer ends early: {}", failure.cause))
        })
    }

    /// The next `length` bytes.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.buffer.len() < length {
            self.more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// At most `limit` bytes up to the next `end`, which is dropped.
    fn take_until(&mut self, end: &[u8], limit: usize, what: &str) -> Result<Vec<u8>, Failure> {
        let most = limit.saturating_add(end.len());
        loop {
            let found = self.buffer.windows(end.len()).position(|w| w == end);
            match found {
                Some(length) if length <= limit => {
                    let taken = self.take(length)?;
                    self.take(end.len())?;
                    return Ok(taken);
                }
                None if self.buffer.len() < most => self.more()?,
                _ => return Err(protocol(format!("{what} exceeds {limit} bytes"))),
            }
        }
    }

    /// RFC 9112 section 7.1. Trailer fields are refused: nothing asks for any.
    fn take_chunks(&mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        let malformed = || protocol("a chunk is malformed");
        let mut body = Vec::new();
        loop {
            let line = self.take_until(b"\r\n", MAX_CHUNK_LINE, "a chunk's size")?;
            let size = parse_chunk_size(&line).ok_or_else(malformed)?;
            if size > limit.saturating_sub(body.len()) {
                return Err(too_large(limit));
            }
            body.append(&mut self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return Err(malformed());
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// Hexadecimal digits, then perhaps extensions, which are ignored.
fn parse_chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii_end();
    let plain = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = core::str::from_utf8(digits).ok().filter(|_| plain)?;
    usize::from_str_radix(text, 16).ok()
}

impl Response {
    /// Reads a head without its empty line. `None` for anything RFC 9112 forbids,
    /// for anything that two readers could read in two ways, and for answers
    /// that announce another answer (1xx).
    fn parse_head(bytes: &[u8]) -> Option<Self> {
        let mut lines = core::str::from_utf8(bytes).ok()?.split("\r\n");
        let mut head = Self {
            status: parse_status(lines.next()?)?,
            ..Self::default()
        };
        for line in lines {
            let (name, value) = parse_field(line)?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                    let value = plain.then(|| value.parse().unwrap_or(usize::MAX))?;
                    if head.length.replace(value).is_some() {
                        return None;
                    }
                }
                "transfer-encoding" => {
                    if head.chunked || !value.eq_ignore_ascii_case("chunked") {
                        return None;
                    }
                    head.chunked = true;
                }
                "connection" => {
                    let mut options = value.split(',');
                    head.close |= options.any(|v| v.trim().eq_ignore_ascii_case("close"));
                }
                "set-cookie" if value.starts_with(COOKIE) => {
                    head.cookie = Some(parse_cookie(value)?);
                }
                _ => {}
            }
        }
        Some(head)
    }
}

fn parse_status(line: &str) -> Option<u16> {
    let digits = line.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    let plain = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
    let status = digits.parse().ok().filter(|_| plain)?;
    (200..600).contains(&status).then_some(status)
}

fn parse_field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let visible = |b: u8| b == b'\t' || (b >= b' ' && b != 0x7f);
    let ok = !name.is_empty() && name.bytes().all(token) && value.bytes().all(visible);
    ok.then(|| (name, value.trim_matches([' ', '\t'])))
}

/// The pair without its attributes. The identifier goes back into a request
/// head, so it may hold nothing that means something there.
fn parse_cookie(value: &str) -> Option<String> {
    let pair = value.split(';').next()?.trim_end();
    let identifier = pair.strip_prefix(COOKIE)?;
    let plain = identifier
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.~+/=".contains(&b));
    (plain && !identifier.is_empty() && pair.len() <= MAX_COOKIE).then(|| pair.into())
}

#[cfg(test)]
mod tests;
