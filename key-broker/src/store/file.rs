//! Files of the store: bounded reads, atomic writes.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::{Error, Store};

/// No file of the store is larger.
const MAX_FILE: u64 = 1 << 20;
/// What the name of a file being written begins with.
const UNFINISHED: &str = ".new-";

impl Store {
    /// The bytes of a file; `None` when there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &path)(e)),
        };
        let length = file.metadata().map_err(Error::io("read", &path))?.len();
        let capacity = usize::try_from(length.min(MAX_FILE)).unwrap_or(0);
        // One allocation, so that no copy of a secret stays in freed memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity.saturating_add(1)));
        file.take(MAX_FILE.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &path))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
            return Err(Error::invalid("read", &path, "it is larger than 1 MiB"));
        }
        Ok(Some(bytes))
    }

    /// As [`Self::read`], for text that must be there.
    pub(super) fn read_text(&self, name: &str) -> Result<Zeroizing<String>, Error> {
        let path = self.path(name);
        let bytes = self
            .read(name)?
            .ok_or_else(|| Error::invalid("read", &path, "it is missing"))?;
        let text = std::str::from_utf8(&bytes).map_err(|e| Error::invalid("read", &path, e))?;
        Ok(Zeroizing::new(text.into()))
    }

    /// A file's JSON; `None` when there is no file.
    pub(super) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::invalid("read", &self.path(name), e))
    }

    /// Replaces or creates a file: written beside it, synced, renamed. Mode
    /// 0600 whatever the umask.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        path.parent().map_or(Ok(()), sweep)?;
        self.write_unswept(name, bytes)
    }

    /// As [`Self::write`], without a look at every name beside it: for what is
    /// written often and is no secret.
    pub(super) fn write_unswept(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        let dir = path.parent().unwrap_or(&self.dir);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io("create", dir))?;
        let mut file = NamedTempFile::with_prefix_in(UNFINISHED, dir)
            .map_err(Error::io("create a file in", dir))?;
        file.write_all(bytes).map_err(Error::io("write", &path))?;
        file.as_file()
            .sync_all()
            .map_err(Error::io("sync", &path))?;
        file.persist(&path)
            .map_err(|e| Error::io("replace", &path)(e.error))?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io("sync", dir))
    }

    /// As [`Self::write`], for JSON without secrets.
    pub(super) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Error> {
        let mut json = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::invalid("write", &self.path(name), e))?;
        json.push(b'\n');
        self.write(name, &json)
    }

    /// Removes a file; `false` when there was none.
    pub(super) fn remove_file(&self, name: &str) -> Result<bool, Error> {
        let path = self.path(name);
        path.parent().map_or(Ok(()), sweep)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("remove", &path)(e)),
        }
    }

    /// Names in a directory, sorted, without hidden ones (a file being
    /// written); none when there is no directory.
    pub(super) fn names(&self, dir: &str) -> Result<Vec<String>, Error> {
        let path = self.path(dir);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io("read", &path))?.file_name();
            let name = name.into_string().map_err(|name| {
                Error::invalid("read", &path, format!("got the name {}", name.display()))
            })?;
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Removes what writers that were killed left behind, since it may hold a
/// secret. Whoever writes or removes has the lock, so nothing else is here.
fn sweep(dir: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", dir)(e)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("read", dir))?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(UNFINISHED.as_bytes())
        {
            let path = entry.path();
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Reads a file of the administrator's, bounded as those of the store.
pub(super) fn read_input(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(Error::invalid("read", path, "it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// The certificates and CRLs of a PEM file, or the file as DER.
pub(super) fn der_inputs(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if !bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
        return Ok(vec![bytes.to_vec()]);
    }
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes);
    let mut all = Vec::new();
    for section in sections {
        match section.map_err(|e| e.to_string())? {
            (SectionKind::Certificate | SectionKind::Crl, der) => all.push(der),
            (kind, _) => return Err(format!("got a PEM section {kind:?}")),
        }
    }
    match all.is_empty() {
        true => Err("got PEM without a certificate or CRL".into()),
        false => Ok(all),
    }
}
