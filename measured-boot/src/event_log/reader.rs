//! Little-endian fields of a log, never past its end.

use super::{Algorithm, Error, Event, EventDigest, EventType, HIGHEST_REGISTER, Padding};

/// What is left of a log, and how far from its start that is.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
    /// Where the bytes begin that are the log's last one up to its end.
    run: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(log: &'a [u8]) -> Self {
        let run = log.last().and_then(|last| {
            let before = log.iter().rposition(|byte| byte != last)?;
            Some(before.saturating_add(1))
        });
        Self {
            rest: log,
            offset: 0,
            run: run.unwrap_or(0),
        }
    }

    /// Reads inside the data of an event that ends where `log`'s first event does.
    pub(super) fn within(log: &'a [u8], event: &Event<'a>) -> Result<Self, Error> {
        let mut reader = Self::new(log);
        reader.bytes(event.offset, "event")?;
        // Register, type, one SHA-1 digest and the size are before the data.
        reader.bytes(4 + 4 + 20 + 4, "event header")?;
        reader.rest = event.data;
        Ok(reader)
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn bytes(&mut self, length: usize, field: &str) -> Result<&'a [u8], Error> {
        let Some((head, rest)) = self.rest.split_at_checked(length) else {
            let left = self.rest.len();
            let cause = format!("{field}: got {left} bytes to the end, expected {length}");
            return Err(Error::at(self.offset, cause));
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(length);
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        let at = self.offset;
        let bytes = self.bytes(N, field)?.try_into();
        bytes.map_err(|_| Error::at(at, format!("{field}: got other than {N} bytes")))
    }

    pub(super) fn u8(&mut self, field: &str) -> Result<u8, Error> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, field: &str) -> Result<u16, Error> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, Error> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn end(&self, what: &str) -> Result<(), Error> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let cause = format!(
            "got {} bytes after the {what}, expected none",
            self.rest.len()
        );
        Err(Error::at(self.offset, cause))
    }

    /// Between two events: whether what is left is only padding. An event of
    /// zeros alone would measure nothing, one of 0xFF alone has no such register.
    pub(super) fn padding(&self) -> Option<Padding> {
        // Found once, since this is asked before each event.
        let only_run = self.offset >= self.run;
        match self.rest.first() {
            None => Some(Padding::None),
            Some(0) if only_run => Some(Padding::Zeros),
            Some(0xff) if only_run => Some(Padding::Ones),
            Some(_) => None,
        }
    }

    /// `TCG_PCR_EVENT`, also the first event of a crypto-agile log.
    pub(super) fn sha1_event(&mut self) -> Result<Event<'a>, Error> {
        let offset = self.offset;
        let (register, kind) = self.header()?;
        let digests = vec![EventDigest {
            algorithm: Algorithm::Sha1,
            value: self.bytes(20, "SHA-1 digest")?,
        }];
        let data = self.data()?;
        Ok(Event {
            offset,
            register,
            kind,
            digests,
            data,
        })
    }

    /// `TCG_PCR_EVENT2`: exactly the declared algorithms, in any order.
    pub(super) fn agile_event(
        &mut self,
        algorithms: &[(Algorithm, usize)],
    ) -> Result<Event<'a>, Error> {
        let offset = self.offset;
        let (register, kind) = self.header()?;
        let at = self.offset;
        let count = self.u32("digest count")?;
        let expected = algorithms.len();
        if usize::try_from(count) != Ok(expected) {
            let cause = format!("digest count: got {count}, expected {expected}");
            return Err(Error::at(at, cause));
        }
        let mut found = Vec::new();
        for _ in 0..count {
            let digest = self.digest(algorithms)?;
            found.push(digest);
        }
        let mut digests = Vec::new();
        for (algorithm, _) in algorithms {
            let of_bank = |digest: &&EventDigest<'_>| digest.algorithm == *algorithm;
            let Some(digest) = found.iter().find(of_bank) else {
                let cause = format!("digests: got one algorithm twice, expected {algorithm} too");
                return Err(Error::at(at, cause));
            };
            digests.push(*digest);
        }
        let data = self.data()?;
        Ok(Event {
            offset,
            register,
            kind,
            digests,
            data,
        })
    }

    fn header(&mut self) -> Result<(u32, EventType), Error> {
        let at = self.offset;
        let register = self.u32("register index")?;
        if register > HIGHEST_REGISTER {
            let cause = format!("register index: got {register}, expected 0 to {HIGHEST_REGISTER}");
            return Err(Error::at(at, cause));
        }
        Ok((register, EventType(self.u32("event type")?)))
    }

    fn digest(&mut self, algorithms: &[(Algorithm, usize)]) -> Result<EventDigest<'a>, Error> {
        let at = self.offset;
        let algorithm = Algorithm::from_id(self.u16("algorithm")?);
        let declared = algorithms.iter().find(|(other, _)| *other == algorithm);
        let Some((_, size)) = declared else {
            let cause = format!("got digest of {algorithm}, which the log does not declare");
            return Err(Error::at(at, cause));
        };
        let value = self.bytes(*size, "digest")?;
        Ok(EventDigest { algorithm, value })
    }

    fn data(&mut self) -> Result<&'a [u8], Error> {
        let at = self.offset;
        let size = self.u32("event size")?;
        let length = usize::try_from(size)
            .map_err(|_| Error::at(at, format!("event size: got {size} bytes")))?;
        self.bytes(length, "event data")
    }
}
