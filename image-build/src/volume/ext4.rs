//! The empty filesystem of a new volume, made by `mke2fs`.
//!
//! A sector that was never written cannot be read in the guest. So `mke2fs` is
//! told to write out all that the kernel may read before it wrote it (inode
//! tables, the journal), and what it wrote is what the file has data for.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use tempfile::NamedTempFile;

const BLOCK: u64 = 4096;
/// Named one by one, so that no configuration of the host's has a say.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// Makes an ext4 of so many blocks in a sparse temporary file.
pub(super) fn make(blocks: u64, folder: &Path) -> Result<NamedTempFile> {
    let file = NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot make temporary file in {}", folder.display()))?;
    file.as_file().set_len(blocks.saturating_mul(BLOCK))?;
    let journal = format!("size={}", (blocks >> 14).clamp(4, 64));
    // Not in the PATH of every user.
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsString::from(":/usr/sbin:/sbin"));
    let done = Command::new("mke2fs")
        .env("PATH", path)
        .env("LC_ALL", "C")
        .env("MKE2FS_CONFIG", "/dev/null")
        // Zeros are written, not left out.
        .env("UNIX_IO_NOZEROOUT", "1")
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-i", "16384"])
        .args(["-m", "0", "-J", &journal, "-O", FEATURES, "-E"])
        .arg("lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0")
        .arg(file.path())
        .stdin(Stdio::null())
        .output();
    let done = match done {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("cannot make filesystem: mke2fs is missing; install with: apt install e2fsprogs")
        }
        done => done.context("cannot run mke2fs")?,
    };
    ensure!(
        done.status.success(),
        "cannot make filesystem: mke2fs: {}: {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(file)
}

/// Which blocks of a sparse file were written.
pub(super) fn extents(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut extents = Vec::new();
    let mut position = 0;
    loop {
        let data = match lseek(file, position, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(extents),
            other => other?,
        };
        position = lseek(file, data, Whence::SeekHole)?;
        let [start, end] = [data, position].map(|at| u64::try_from(at).unwrap_or_default());
        extents.push(start / BLOCK..end.div_ceil(BLOCK));
    }
}
