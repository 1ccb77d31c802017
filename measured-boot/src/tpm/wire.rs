//! Frames (Part 1 section 18), big-endian fields and `TPM2B` buffers (Part 2
//! section 4).

use alloc::vec::Vec;

/// `TPM_ST_NO_SESSIONS`: a command without authorization, and every refusal.
pub(super) const NO_SESSIONS: u16 = 0x8001;
/// `TPM_ST_SESSIONS`: a command with one authorization.
pub(super) const SESSIONS: u16 = 0x8002;
/// Size of the area, then one `TPMS_AUTH_COMMAND`: `TPM_RS_PW`, no nonce, no
/// attributes, the empty password (Part 2 section 10.13.2).
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// Largest answer read: `TPM_MAX_RESPONSE_SIZE` of common TPMs.
pub const MAX_RESPONSE: usize = 4096;

/// Bytes that are not what the specification lets a TPM answer here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Malformed {}

/// One command of Part 3.
pub(super) struct Command {
    /// Part 3's name of it.
    pub(super) name: &'static str,
    tag: u16,
    code: u32,
}

impl Command {
    pub(super) const fn new(name: &'static str, tag: u16, code: u32) -> Self {
        Self { name, tag, code }
    }

    /// Header, handle, authorization where the command has one, parameters.
    pub(super) fn frame(&self, handle: &[u8], parameters: &[u8]) -> Vec<u8> {
        let authorization = if self.tag == SESSIONS {
            &EMPTY_PASSWORD[..]
        } else {
            &[]
        };
        let body = [handle, authorization, parameters].concat();
        // Header of 10 bytes; no command of ours comes near the limit.
        let size = u32::try_from(body.len().saturating_add(10)).unwrap_or(u32::MAX);
        let (tag, size, code) = (
            self.tag.to_be_bytes(),
            size.to_be_bytes(),
            self.code.to_be_bytes(),
        );
        [&tag[..], &size, &code, &body].concat()
    }

    /// The `TPM_RC` of an answer, zero for success, and what follows the header.
    pub(super) fn answer<'a>(&self, frame: &'a [u8]) -> Result<(u32, Reader<'a>), Malformed> {
        let mut reader = Reader(frame);
        let (tag, size, code) = (reader.u16()?, reader.u32()?, reader.u32()?);
        if usize::try_from(size) != Ok(frame.len()) || frame.len() > MAX_RESPONSE {
            return Err(Malformed(
                "got a frame of another length than its header says",
            ));
        }
        // A refusal is a bare header (Part 1 section 18.4); the tag 0x00c4 of a
        // TPM 1.2 is none of ours.
        if code != 0 && (tag != NO_SESSIONS || !reader.0.is_empty()) {
            return Err(Malformed("got a refusal with an unknown tag or a body"));
        }
        if code == 0 && tag != self.tag {
            return Err(Malformed("got another tag than the command's"));
        }
        Ok((code, reader))
    }
}

/// What is left of a structure. Every read fails rather than run past the end.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let cut = Malformed("got a truncated structure");
        let (head, rest) = self.0.split_at_checked(length).ok_or(cut)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.bytes(N)?;
        bytes
            .try_into()
            .map_err(|_| Malformed("got a truncated structure"))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A `TPM2B`: 16 bits of size, then the bytes.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    /// Exactly these bytes, or `otherwise`.
    pub(super) fn expect(&mut self, bytes: &[u8], otherwise: Malformed) -> Result<(), Malformed> {
        self.0 = self.0.strip_prefix(bytes).ok_or(otherwise)?;
        Ok(())
    }

    /// The parameters of an answer to an authorized command: their size, they,
    /// and a session area in which a password has nothing but attributes
    /// (`TPMS_AUTH_RESPONSE`, Part 2 section 10.13.3).
    pub(super) fn parameters(mut self) -> Result<Self, Malformed> {
        let size = self.u32()?;
        let parameters = self.bytes(usize::try_from(size).unwrap_or(usize::MAX))?;
        if !matches!(self.array()?, [0, 0, _, 0, 0]) {
            return Err(Malformed("got a session area with a nonce or an HMAC"));
        }
        self.end()?;
        Ok(Reader(parameters))
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        let over = Malformed("got bytes after the end of a structure");
        self.0.is_empty().then_some(()).ok_or(over)
    }
}
