//! As much of HTTP/1.1 (RFC 9112) as the KBS protocol needs: one request, one
//! answer with a bounded head and a bounded body.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use measured_boot::code::Code;

use super::error::Error;
use crate::tls;

/// Status line and fields.
const MAX_HEAD: usize = 16 * 1024;
/// One chunk's size line, with its extensions.
const MAX_CHUNK_LINE: usize = 256;
/// A session identifier and its name.
const MAX_COOKIE: usize = 256;
const COOKIE: &str = "kbs-session-id=";

/// A request; [`Self::encode`] adds what all have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) path: &'a str,
    pub(super) json: Option<&'a str>,
}

impl Request<'_> {
    pub(super) fn encode(&self, authority: &str, cookie: Option<&str>) -> String {
        let Self { method, path, json } = self;
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
}

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// `kbs-session-id=...`, as it is to be sent back.
    pub(super) cookie: Option<String>,
    /// The connection must not be used again.
    pub(super) close: bool,
}

/// Where bytes come from: a TLS connection, or a test.
pub(super) trait Source {
    /// Appends at least one byte to `buffer`, or fails.
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<(), tls::Error>;
}

/// Reads one answer whose body has at most `limit` bytes.
///
/// # Errors
/// [`tls::Error::Closed`] only before the first byte: the connection was stale.
pub(super) fn read_response(source: &mut impl Source, limit: usize) -> Result<Response, Error> {
    let mut buffer = Vec::new();
    source.read(&mut buffer)?;
    let head_length = loop {
        if let Some(end) = find(&buffer, b"\r\n\r\n") {
            break end.saturating_add(4);
        }
        if buffer.len() > MAX_HEAD {
            return Err(Error::protocol(format!(
                "the head exceeds {MAX_HEAD} bytes"
            )));
        }
        read_more(source, &mut buffer)?;
    };
    let (head, rest) = buffer.split_at_checked(head_length).unwrap_or_default();
    let head = Head::parse(head).ok_or_else(|| Error::protocol("the head is malformed"))?;
    if (300..400).contains(&head.status) {
        let cause = format!("got a redirect (status {})", head.status);
        return Err(Error::new(Code::BrokerRedirect, cause));
    }
    let body = match head.framing {
        Framing::Length(length) if length > limit => return Err(too_large(limit)),
        Framing::Length(length) => read_sized(source, rest.into(), length)?,
        Framing::Chunked => read_chunked(source, rest.into(), limit)?,
    };
    Ok(Response {
        status: head.status,
        body,
        cookie: head.cookie,
        close: head.close,
    })
}

fn too_large(limit: usize) -> Error {
    Error::new(
        Code::BrokerSize,
        format!("the answer exceeds {limit} bytes"),
    )
}

/// As the source, but an end here is in the middle of an answer.
fn read_more(source: &mut impl Source, buffer: &mut Vec<u8>) -> Result<(), Error> {
    let result = source.read(buffer);
    if let Err(tls::Error::Closed) = result {
        return Err(Error::protocol("the answer ends early"));
    }
    Ok(result?)
}

fn read_sized(
    source: &mut impl Source,
    mut body: Vec<u8>,
    length: usize,
) -> Result<Vec<u8>, Error> {
    while body.len() < length {
        read_more(source, &mut body)?;
    }
    // Nothing was asked for after this answer.
    if body.len() > length {
        return Err(Error::protocol("bytes follow the answer"));
    }
    Ok(body)
}

/// RFC 9112 section 7.1. Trailer fields are refused: nothing asks for any.
fn read_chunked(
    source: &mut impl Source,
    mut buffer: Vec<u8>,
    limit: usize,
) -> Result<Vec<u8>, Error> {
    let malformed = || Error::protocol("a chunk is malformed");
    let mut body = Vec::new();
    loop {
        let line_end = loop {
            match find(&buffer, b"\r\n") {
                Some(end) if end <= MAX_CHUNK_LINE => break end,
                None if buffer.len() <= MAX_CHUNK_LINE => read_more(source, &mut buffer)?,
                _ => return Err(malformed()),
            }
        };
        let line = buffer.get(..line_end).unwrap_or_default();
        let size = parse_chunk_size(line).ok_or_else(malformed)?;
        if size > limit.saturating_sub(body.len()) {
            return Err(too_large(limit));
        }
        let start = line_end.saturating_add(2);
        let end = start.saturating_add(size);
        let next = end.saturating_add(2);
        while buffer.len() < next {
            read_more(source, &mut buffer)?;
        }
        if buffer.get(end..next) != Some(b"\r\n") {
            return Err(malformed());
        }
        if size == 0 {
            if buffer.len() > next {
                return Err(Error::protocol("bytes follow the answer"));
            }
            return Ok(body);
        }
        body.extend_from_slice(buffer.get(start..end).unwrap_or_default());
        buffer.drain(..next);
    }
}

/// Hexadecimal digits, then perhaps extensions, which are ignored.
fn parse_chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii_end();
    let plain = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = core::str::from_utf8(digits).ok().filter(|_| plain)?;
    usize::from_str_radix(text, 16).ok()
}

/// How the length of a body is told. A body that ends with the connection is
/// not accepted: who cuts the connection would then choose the length.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    framing: Framing,
    cookie: Option<String>,
    close: bool,
}

impl Head {
    /// Reads a head with its empty line. `None` for anything RFC 9112 forbids,
    /// for anything that two readers could read in two ways, and for answers
    /// that announce another answer (1xx).
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
        let mut lines = text.split("\r\n");
        let (status, mut close) = parse_status(lines.next()?)?;
        let (mut length, mut chunked, mut cookie) = (None, false, None);
        for line in lines {
            let (name, value) = parse_field(line)?;
            if name.eq_ignore_ascii_case("content-length") {
                let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                let value = plain.then(|| value.parse().unwrap_or(usize::MAX))?;
                if length.replace(value).is_some() {
                    return None;
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case("chunked") {
                    return None;
                }
                chunked = true;
            } else if name.eq_ignore_ascii_case("connection") {
                close |= value
                    .split(',')
                    .any(|v| v.trim().eq_ignore_ascii_case("close"));
            } else if name.eq_ignore_ascii_case("set-cookie") && value.starts_with(COOKIE) {
                cookie = Some(parse_cookie(value)?);
            }
        }
        let framing = match (length, chunked) {
            (Some(length), false) => Framing::Length(length),
            (None, true) => Framing::Chunked,
            // Neither: a 3xx answer may do without; both: request smuggling.
            (None, false) if (300..400).contains(&status) => Framing::Length(0),
            _ => return None,
        };
        Some(Self {
            status,
            framing,
            cookie,
            close,
        })
    }
}

/// The status, and whether the version closes connections by default.
fn parse_status(line: &str) -> Option<(u16, bool)> {
    let (version, rest) = line.split_once(' ')?;
    let close = match version {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        _ => return None,
    };
    let digits = rest.split(' ').next()?;
    let plain = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
    let status = digits.parse().ok().filter(|_| plain)?;
    (200..600).contains(&status).then_some((status, close))
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

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let range: Range<usize> = 0..MAX_HEAD.saturating_add(pattern.len());
    let bytes = bytes.get(range).unwrap_or(bytes);
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

#[cfg(test)]
mod tests;
