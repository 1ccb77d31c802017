//! Where file data waits between layer and image: one temporary file without a
//! name, so that nothing stays behind, whatever happens.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// A part of the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// File data, appended and read back by extent.
#[derive(Debug)]
pub struct Spool {
    file: File,
    length: u64,
    limit: u64,
}

impl Spool {
    /// Makes an empty spool in `folder` that takes at most `limit` bytes.
    ///
    /// # Errors
    /// The folder cannot hold a temporary file.
    pub fn new(folder: &Path, limit: u64) -> Result<Self> {
        let file = tempfile::tempfile_in(folder)
            .with_context(|| format!("cannot make temporary file in {}", folder.display()))?;
        Ok(Self {
            file,
            length: 0,
            limit,
        })
    }

    /// Takes a file as it is, to read from.
    ///
    /// # Errors
    /// Its size cannot be read.
    pub fn of_file(file: File) -> Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self {
            file,
            length,
            limit: length,
        })
    }

    /// Everything in it.
    pub fn whole(&self) -> Extent {
        Extent {
            offset: 0,
            size: self.length,
        }
    }

    /// Appends exactly `size` bytes of `input`.
    ///
    /// # Errors
    /// The limit is reached, the input ends early, or reading or writing fails.
    pub fn append(&mut self, input: &mut impl Read, size: u64) -> Result<Extent> {
        let end = self.length.saturating_add(size);
        ensure!(
            end <= self.limit,
            "cannot unpack image: its files take more than the limit of {} bytes (--max-size)",
            self.limit
        );
        let copied = io::copy(&mut input.take(size), &mut self.file)?;
        ensure!(copied == size, "got {copied} bytes, expected {size}");
        let extent = Extent {
            offset: self.length,
            size,
        };
        self.length = end;
        Ok(extent)
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_bytes(&mut self, bytes: &[u8]) -> Result<Extent> {
        self.append(&mut &*bytes, u64::try_from(bytes.len())?)
    }

    /// Appends `input` to its end.
    ///
    /// # Errors
    /// The limit is reached, or reading or writing fails.
    pub fn append_all(&mut self, input: &mut impl Read) -> Result<Extent> {
        let offset = self.length;
        let room = self.limit.saturating_sub(offset);
        let size = io::copy(&mut input.take(room.saturating_add(1)), &mut self.file)?;
        ensure!(
            size <= room,
            "cannot unpack image: it takes more than the limit of {} bytes (--max-size)",
            self.limit
        );
        self.length = offset.saturating_add(size);
        Ok(Extent { offset, size })
    }

    /// Reads an extent from its start.
    pub fn read(&self, extent: Extent) -> ExtentReader<'_> {
        ExtentReader {
            file: &self.file,
            extent,
        }
    }

    /// Reads up to `limit` bytes of an extent into memory.
    ///
    /// # Errors
    /// Reading fails.
    pub fn bytes(&self, extent: Extent, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read(extent).take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The bytes of one extent.
#[derive(Debug)]
pub struct ExtentReader<'a> {
    file: &'a File,
    extent: Extent,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.extent.size).unwrap_or(usize::MAX);
        let length = buffer.len().min(room);
        let Some(part) = buffer.get_mut(..length).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let read = self.file.read_at(part, self.extent.offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = u64::try_from(read).map_err(io::Error::other)?;
        self.extent.offset = self.extent.offset.saturating_add(count);
        self.extent.size = self.extent.size.saturating_sub(count);
        Ok(read)
    }
}
