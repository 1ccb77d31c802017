//! Reads tar archives: ustar, PAX (POSIX.1-2001) and GNU long names.
//!
//! The `tar` crate decodes the headers. The framing is our own, because that
//! crate splits PAX records at newlines, which a binary attribute such as
//! `security.capability` may contain.

use std::collections::BTreeMap;
use std::io::{self, Read};

use anyhow::{Context as _, Result, bail, ensure};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// Long names and PAX headers are bounded: a name has at most 4096 bytes, all
/// attributes of a file at most 64 KiB each.
const MAX_EXTENSION: u64 = 1 << 20;
const XATTR: &[u8] = b"SCHILY.xattr.";

/// One member, its name as it is in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// As written, not yet judged.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data that follow.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// Another name of a member before it.
    Hardlink(Vec<u8>),
    /// A device or a FIFO.
    Special,
}

/// A tar archive as a stream.
#[derive(Debug)]
pub struct Archive<R> {
    input: R,
    position: u64,
    /// Data of the current member still unread, and the padding after it.
    unread: u64,
    padding: u64,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> Archive<R> {
    /// Starts at the first header.
    pub fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            unread: 0,
            padding: 0,
            global: BTreeMap::new(),
        }
    }

    /// Offset of the current member's data.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next member; `None` at the end. Data of the one before is skipped.
    ///
    /// # Errors
    /// What is malformed, with the offset of its header.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        let mut local = BTreeMap::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip_data()?;
            let offset = self.position;
            let at = || format!("cannot read tar header at offset {offset}");
            let Some(block) = self.read_header().with_context(at)? else {
                let dangling = !local.is_empty() || long_name.is_some() || long_link.is_some();
                ensure!(!dangling, "{}: no member follows its extension", at());
                return Ok(None);
            };
            let header = Header::from_byte_slice(&block);
            let size = header.entry_size().with_context(at)?;
            let kind = header.entry_type();
            if kind.is_pax_local_extensions() {
                local =
                    pax_records(&self.read_extension(size).with_context(at)?).with_context(at)?;
            } else if kind.is_pax_global_extensions() {
                let records = self.read_extension(size).with_context(at)?;
                self.global.extend(pax_records(&records).with_context(at)?);
            } else if kind.is_gnu_longname() {
                long_name = Some(until_nul(self.read_extension(size).with_context(at)?));
            } else if kind.is_gnu_longlink() {
                long_link = Some(until_nul(self.read_extension(size).with_context(at)?));
            } else {
                let mut pax = self.global.clone();
                pax.extend(local);
                let member = member(header, size, pax, long_name, long_link).with_context(at)?;
                self.begin_data(member.size);
                return Ok(Some(member));
            }
        }
    }

    /// Reads the rest of the archive, so that whoever reads along sees all of it.
    ///
    /// # Errors
    /// The input's error.
    pub fn drain(mut self) -> io::Result<()> {
        io::copy(&mut self.input, &mut io::sink()).map(drop)
    }

    fn begin_data(&mut self, size: u64) {
        self.unread = size;
        self.padding = size.next_multiple_of(BLOCK).saturating_sub(size);
    }

    fn skip_data(&mut self) -> Result<()> {
        let rest = self.unread.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink())?;
        // The padding of the last member may be cut off; its data may not.
        ensure!(
            skipped >= self.unread,
            "cannot read tar archive: it ends inside a member's data"
        );
        self.position = self.position.saturating_add(skipped);
        (self.unread, self.padding) = (0, 0);
        Ok(())
    }

    /// A header block, or `None` at the end: a zero block or the end of input.
    fn read_header(&mut self) -> Result<Option<[u8; 512]>> {
        let mut block = [0; 512];
        let mut filled = 0usize;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest)? {
                0 if filled == 0 => return Ok(None),
                0 => bail!("got {filled} bytes, expected 512"),
                read => filled = filled.saturating_add(read),
            }
        }
        self.position = self.position.saturating_add(BLOCK);
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let field = 148..156;
        let sum = block.iter().enumerate().fold(0u32, |sum, (index, byte)| {
            let byte = if field.contains(&index) { b' ' } else { *byte };
            sum.saturating_add(u32::from(byte))
        });
        let stored = Header::from_byte_slice(&block).cksum()?;
        ensure!(stored == sum, "got checksum {stored}, expected {sum}");
        Ok(Some(block))
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>> {
        ensure!(
            size <= MAX_EXTENSION,
            "got an extension of {size} bytes, expected at most {MAX_EXTENSION}"
        );
        self.begin_data(size);
        let mut data = Vec::new();
        self.read_to_end(&mut data)?;
        Ok(data)
    }
}

/// Reads the data of the current member.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.input).take(self.unread).read(buffer)?;
        if read == 0 && self.unread > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = u64::try_from(read).map_err(io::Error::other)?;
        self.unread = self.unread.saturating_sub(count);
        self.position = self.position.saturating_add(count);
        Ok(read)
    }
}

fn member(
    header: &Header,
    size: u64,
    mut pax: BTreeMap<Vec<u8>, Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
) -> Result<Member> {
    let name = pax
        .remove(b"path".as_slice())
        .or(long_name)
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let shown = String::from_utf8_lossy(&name).into_owned();
    let number = |key: &str, otherwise: io::Result<u64>| -> Result<u64> {
        match pax.get(key.as_bytes()) {
            None => otherwise.with_context(|| format!("{shown}: cannot read {key}")),
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .with_context(|| format!("{shown}: PAX record {key} is not a number")),
        }
    };
    let id = |key: &str, otherwise| -> Result<u32> {
        u32::try_from(number(key, otherwise)?)
            .with_context(|| format!("{shown}: {key} is over 32 bits"))
    };
    let (uid, gid) = (id("uid", header.uid())?, id("gid", header.gid())?);
    let size = number("size", Ok(size))?;
    if pax.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
        bail!("{shown}: sparse files are not supported; repack the layer without them");
    }
    let mode = header
        .mode()
        .with_context(|| format!("{shown}: cannot read mode"))?;
    let link = || {
        pax.get(b"linkpath".as_slice())
            .cloned()
            .or(long_link)
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
            .with_context(|| format!("{shown}: link without a target"))
    };
    let entry_type = header.entry_type();
    let regular = matches!(entry_type, EntryType::Regular | EntryType::Continuous);
    // Before POSIX, a name with a slash at its end was how a directory looked.
    let kind = if entry_type.is_dir() || regular && name.ends_with(b"/") {
        Kind::Directory
    } else if regular {
        Kind::File
    } else if entry_type.is_symlink() {
        Kind::Symlink(link()?)
    } else if entry_type.is_hard_link() {
        Kind::Hardlink(link()?)
    } else if matches!(
        entry_type,
        EntryType::Char | EntryType::Block | EntryType::Fifo
    ) {
        Kind::Special
    } else if entry_type.is_gnu_sparse() {
        bail!("{shown}: sparse files are not supported; repack the layer without them")
    } else {
        bail!(
            "{shown}: unknown member type {:?}",
            char::from(entry_type.as_byte())
        )
    };
    let has_data = matches!(kind, Kind::File);
    let xattrs = pax
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?.to_vec(), value)))
        .collect();
    Ok(Member {
        name,
        mode: u16::try_from(mode & 0o7777)?,
        uid,
        gid,
        // Some writers repeat the target's size on a hardlink, without data.
        size: if has_data { size } else { 0 },
        xattrs,
        kind,
    })
}

/// PAX records: `LENGTH KEY=VALUE\n`, LENGTH counting the whole record.
fn pax_records(mut data: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    while !data.is_empty() {
        let length = pax_length(data).context("malformed length of a PAX record")?;
        let (record, rest) = data
            .split_at_checked(length)
            .context("PAX record is cut off")?;
        let (key, value) = pax_pair(record).context("malformed PAX record")?;
        records.insert(key.to_vec(), value.to_vec());
        data = rest;
    }
    Ok(records)
}

/// Never 0, so that a reader always gets on.
fn pax_length(data: &[u8]) -> Option<usize> {
    let digits = data.split(|byte| *byte == b' ').next()?;
    let length = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (length > digits.len()).then_some(length)
}

fn pax_pair(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = record.iter().position(|byte| *byte == b' ')?;
    let body = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (key, value) = body.split_at_checked(equals)?;
    Some((key, value.get(1..)?))
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    let end = data.iter().position(|byte| *byte == 0);
    data.truncate(end.unwrap_or(data.len()));
    data
}
