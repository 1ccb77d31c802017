//! Commands, as Part 3 gives them, with the answers each may get.

use alloc::vec::Vec;

use super::wire::{Malformed, Reader, Selection};

const ST_NO_SESSIONS: u16 = 0x8001;
const ST_SESSIONS: u16 = 0x8002;
/// `TPM_RH_ENDORSEMENT`: its seed outlives `TPM2_Clear`, unlike the owner's.
const RH_ENDORSEMENT: u32 = 0x4000_000b;
/// Size of the area, then one `TPMS_AUTH_COMMAND`: `TPM_RS_PW`, no nonce, no
/// attributes, the empty password (Part 2 section 10.13.2).
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// Largest answer read: `TPM_MAX_RESPONSE_SIZE` of common TPMs.
pub const MAX_RESPONSE: usize = 4096;

/// One command frame, and the form of its answer.
#[derive(Debug)]
pub(super) struct Command {
    /// Part 3's name of it.
    pub(super) name: &'static str,
    pub(super) frame: Vec<u8>,
    tag: u16,
    returns_handle: bool,
}

/// Handle and parameters of a successful answer.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) handle: Option<u32>,
    pub(super) parameters: Reader<'a>,
}

/// What came back: an answer, or the `TPM_RC` of a refusal.
#[derive(Debug)]
pub(super) enum Outcome<'a> {
    Success(Answer<'a>),
    Refused(u32),
}

impl Command {
    fn new(name: &'static str, tag: u16, code: u32, body: &[&[u8]]) -> Self {
        let body = body.concat();
        // Header of 10 bytes; no command of ours comes near the limit.
        let size = u32::try_from(body.len().saturating_add(10)).unwrap_or(u32::MAX);
        let frame = [
            &tag.to_be_bytes()[..],
            &size.to_be_bytes(),
            &code.to_be_bytes(),
            &body,
        ]
        .concat();
        Self {
            name,
            frame,
            tag,
            returns_handle: false,
        }
    }

    /// Part 3 section 24.1, with the key's own template and nothing else.
    pub(super) fn create_primary(template: &[u8]) -> Self {
        let size = u16::try_from(template.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        // inSensitive: 4 bytes, no authorization value, no data.
        let sensitive = [0, 4, 0, 0, 0, 0];
        // outsideInfo empty, creationPCR an empty list.
        let rest = [0; 6];
        let body: [&[u8]; 6] = [
            &RH_ENDORSEMENT.to_be_bytes(),
            &EMPTY_PASSWORD,
            &sensitive,
            &size,
            template,
            &rest,
        ];
        let command = Self::new("TPM2_CreatePrimary", ST_SESSIONS, 0x131, &body);
        Self {
            returns_handle: true,
            ..command
        }
    }

    /// Part 3 section 22.4.
    pub(super) fn pcr_read(selection: Selection) -> Self {
        let mut body = Vec::new();
        selection.write(&mut body);
        Self::new("TPM2_PCR_Read", ST_NO_SESSIONS, 0x17e, &[&body])
    }

    /// Part 3 section 22.2, one digest for the SHA-256 bank.
    pub(super) fn pcr_extend(pcr: u8, digest: &[u8; 32]) -> Self {
        let [high, low] = super::ALG_SHA256.to_be_bytes();
        let body: [&[u8]; 4] = [
            &u32::from(pcr).to_be_bytes(),
            &EMPTY_PASSWORD,
            &[0, 0, 0, 1, high, low],
            digest,
        ];
        Self::new("TPM2_PCR_Extend", ST_SESSIONS, 0x182, &body)
    }

    /// Part 3 section 18.4, in the key's own scheme (`TPM_ALG_NULL`).
    pub(super) fn quote(key: u32, qualifying_data: &[u8; 32], selection: Selection) -> Self {
        let mut pcrs = Vec::new();
        selection.write(&mut pcrs);
        let body: [&[u8]; 6] = [
            &key.to_be_bytes(),
            &EMPTY_PASSWORD,
            &[0, 32],
            qualifying_data,
            &[0, 0x10],
            &pcrs,
        ];
        Self::new("TPM2_Quote", ST_SESSIONS, 0x158, &body)
    }

    /// Part 3 section 28.4.
    pub(super) fn flush_context(handle: u32) -> Self {
        Self::new(
            "TPM2_FlushContext",
            ST_NO_SESSIONS,
            0x165,
            &[&handle.to_be_bytes()],
        )
    }

    /// Part 1 section 18.1: header, handle, parameters, session area, and not a
    /// byte more.
    pub(super) fn answer<'a>(&self, frame: &'a [u8]) -> Result<Outcome<'a>, Malformed> {
        let mut reader = Reader(frame);
        let (tag, size, code) = (reader.u16()?, reader.u32()?, reader.u32()?);
        if usize::try_from(size) != Ok(frame.len()) || frame.len() > MAX_RESPONSE {
            return Err(Malformed(
                "got a frame of another length than its header says",
            ));
        }
        if code != 0 {
            // A refusal is a bare header (Part 1 section 18.4); the tag 0x00c4
            // of a TPM 1.2 is none of ours.
            reader.end()?;
            let bare = tag == ST_NO_SESSIONS;
            return bare
                .then_some(Outcome::Refused(code))
                .ok_or(Malformed("got a refusal with an unknown tag"));
        }
        if tag != self.tag {
            return Err(Malformed("got another tag than the command's"));
        }
        let handle = if self.returns_handle {
            Some(reader.u32()?)
        } else {
            None
        };
        let parameters = if self.tag == ST_SESSIONS {
            let size = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
            let parameters = reader.bytes(size)?;
            // TPMS_AUTH_RESPONSE of a password: nothing but the attributes.
            let session: [u8; 5] = reader.array()?;
            if !matches!(session, [0, 0, _, 0, 0]) {
                return Err(Malformed("got a session area with a nonce or an HMAC"));
            }
            reader.end()?;
            Reader(parameters)
        } else {
            reader
        };
        Ok(Outcome::Success(Answer { handle, parameters }))
    }
}
