//! Small files, read whole and with a bound, or written at once.

use alloc::string::String;
use alloc::vec::Vec;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::{self, Errno};

/// Reads the file at `path`, which must not be a symbolic link.
///
/// # Errors
/// `EFBIG` when it is longer than `limit` bytes, otherwise what the kernel says.
pub fn read(path: &str, limit: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let mut content = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = io::read(&file, &mut chunk[..])?;
        let read = chunk.get(..length).unwrap_or_default();
        if read.is_empty() {
            return Ok(content);
        }
        if content.len().saturating_add(read.len()) > limit {
            return Err(Errno::FBIG);
        }
        content.extend_from_slice(read);
    }
}

/// Reads a text file of the kernel's (`/proc`, `/sys`) without its final newline.
///
/// # Errors
/// As [`read`], and `EILSEQ` for text that is not UTF-8.
pub fn read_line(path: &str, limit: usize) -> io::Result<String> {
    let mut text = String::from_utf8(read(path, limit)?).map_err(|_| Errno::ILSEQ)?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Writes `value` to a file of the kernel's, in one call.
///
/// # Errors
/// What the kernel says.
pub fn write(path: &str, value: impl AsRef<[u8]>) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    io::write(file, value.as_ref()).map(drop)
}

/// Names of a directory's entries that start with `prefix`, in no order.
///
/// # Errors
/// What the kernel says.
pub fn names(directory: &str, prefix: &str) -> io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        names.extend(
            name.filter(|name| name.starts_with(prefix))
                .map(String::from),
        );
    }
    Ok(names)
}
