//! Small files, read whole and with a bound; and directories.

use alloc::string::String;
use alloc::vec::Vec;

use rustix::fd::AsFd;
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::{self, Errno};

/// Reads the file at `path`, which must not be a symbolic link.
///
/// # Errors
/// `EFBIG` when it is longer than `limit` bytes, otherwise what the kernel says.
pub fn read(path: &str, limit: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    read_all(rustix::fs::open(path, flags, Mode::empty())?, limit)
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

/// Names in the directory at `path` but for `.` and `..`, in no order.
///
/// # Errors
/// What the kernel says, and `EILSEQ` for a name that is not UTF-8.
pub fn list(path: &str) -> io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::new(rustix::fs::open(path, flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name().to_str().map_err(|_| Errno::ILSEQ)?;
        if !matches!(name, "." | "..") {
            names.push(name.into());
        }
    }
    Ok(names)
}

fn read_all(file: impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let (read, _) = io::read(&file, &mut chunk[..])
            .map(|length| chunk.split_at(length.min(chunk.len())))?;
        if read.is_empty() {
            return Ok(content);
        }
        if content.len().saturating_add(read.len()) > limit {
            return Err(Errno::FBIG);
        }
        content.extend_from_slice(read);
    }
}
