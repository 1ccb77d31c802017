//! The broker's store: one directory, one small file per thing.
//!
//! ```text
//! DIR/                       0700
//!   store.json               version of this layout
//!   ca.pem                   the CA: what images pin
//!   ca-key.pem               0600
//!   server.pem               the server's certificate, signed by the CA
//!   server-key.pem           0600
//!   token-key.pem            0600, signs attestation tokens
//!   lock                     held by a command that writes
//!   images/NAME/VERSION.json reference values
//!   images/NAME/minimum.json the lowest version that gets anything
//!   attesters/ID.json        enrolled attestation keys; ID is SHA-256 of the SPKI
//!   ak-authorities/ID.der    CAs that certify attestation keys
//!   boots/ID.json            the boot of a TPM that last got resources
//!   launches/XX/ID.json      a launch of SNP that got resources; ID is REPORT_ID
//!   policy.json              what machines must be
//!   endorsements/            certificates, CRLs, collateral
//!   trust-roots/ID.json      roots of tests; in a development store only
//!   resources/A/B/C.json     0600, bytes with their binding
//! ```
//!
//! Every file is written beside its place and renamed, so that a reader sees
//! the old one or the new one. The server reads the store at each request, so
//! a command's effect is immediate.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub mod attesters;
pub mod authority;
pub mod boots;
pub mod endorsements;
mod file;
pub mod images;
pub mod launches;
pub mod platform;
pub mod resources;

pub use authority::InitOptions;

const VERSION: u32 = 1;

/// An opened store. Holding one says the directory is private and of this
/// layout.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    development: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    version: u32,
    /// Whether roots of tests may be trusted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    development: bool,
}

impl Store {
    /// Makes a store with its own CA, a server certificate and a token key.
    ///
    /// # Errors
    /// The directory exists and is not empty, or something cannot be written.
    pub fn init(dir: &Path, options: &InitOptions) -> Result<Self, Error> {
        let made = !dir.exists();
        if made {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(Error::io("create", dir))?;
        } else if fs::read_dir(dir)
            .map_err(Error::io("read", dir))?
            .next()
            .is_some()
        {
            return Err(Error::invalid("create store in", dir, "it is not empty"));
        }
        let store = Self {
            dir: dir.into(),
            development: options.development,
        };
        let filled = store.fill(options);
        if filled.is_err() {
            // Half a store must not stay behind: it would refuse the next init.
            // The first error is the one to report.
            let emptied = fs::remove_dir_all(dir);
            if !made && emptied.is_ok() {
                DirBuilder::new()
                    .mode(0o700)
                    .create(dir)
                    .map_err(Error::io("create", dir))?;
            }
        }
        filled.map(|()| store)
    }

    fn fill(&self, options: &InitOptions) -> Result<(), Error> {
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))
            .map_err(Error::io("set mode of", &self.dir))?;
        self.create_authority(options)?;
        // Last, since it is what makes the directory a store.
        let layout = Layout {
            version: VERSION,
            development: self.development,
        };
        self.write_json("store.json", &layout)
    }

    /// Opens a store.
    ///
    /// # Errors
    /// Not a store, another version, or open to other users.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let mut store = Self {
            dir: dir.into(),
            development: false,
        };
        let layout: Layout = store
            .read_json("store.json")?
            .ok_or_else(|| Error::invalid("open store", dir, "it has no store.json"))?;
        if layout.version != VERSION {
            let cause = format!("got version {}, expected {VERSION}", layout.version);
            return Err(Error::invalid("open store", dir, cause));
        }
        store.development = layout.development;
        let mode = fs::metadata(dir)
            .map_err(Error::io("read", dir))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            let cause = format!("got mode {:04o}, expected 0700", mode & 0o7777);
            return Err(Error::invalid("open store", dir, cause));
        }
        Ok(store)
    }

    /// Whether this store may trust roots of tests.
    pub fn is_development(&self) -> bool {
        self.development
    }

    /// Where the CA's certificate is.
    pub fn ca_path(&self) -> PathBuf {
        self.path("ca.pem")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Waits until no other process writes; released when dropped.
    fn lock(&self) -> Result<File, Error> {
        let path = self.path("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }
}

/// Why the store could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as store::Error"
)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file or directory is not what it should be.
    #[error("cannot {action} {}: {cause}", path.display())]
    Invalid {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Got and expected.
        cause: String,
    },
    /// What was asked for cannot be done.
    #[error("cannot {action} {object}: {cause}")]
    Refused {
        /// What was being done.
        action: &'static str,
        /// To what.
        object: String,
        /// Got and expected.
        cause: String,
    },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    fn invalid(action: &'static str, path: &Path, cause: impl ToString) -> Self {
        Self::Invalid {
            action,
            path: path.into(),
            cause: cause.to_string(),
        }
    }

    fn refused(action: &'static str, object: impl ToString, cause: impl ToString) -> Self {
        Self::Refused {
            action,
            object: object.to_string(),
            cause: cause.to_string(),
        }
    }
}
