//! The output folder: written beside its place and moved there when complete,
//! so that an error leaves nothing behind.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// A folder that does not have its name yet.
#[derive(Debug)]
pub struct Output {
    folder: TempDir,
    target: PathBuf,
}

impl Output {
    /// Starts a folder that will become `target`.
    ///
    /// # Errors
    /// `target` exists and `replace` is false, or its parent cannot be written.
    pub fn new(target: &Path, replace: bool) -> Result<Self> {
        let shown = target.display();
        let exists = fs::symlink_metadata(target).is_ok();
        ensure!(
            replace || !exists,
            "cannot write {shown}: it exists already (--force replaces it)"
        );
        ensure!(
            !exists || target.is_dir(),
            "cannot replace {shown}: not a folder"
        );
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder = tempfile::Builder::new()
            .prefix(".image-build-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot write in {}", parent.display()))?;
        Ok(Self {
            folder,
            target: target.into(),
        })
    }

    /// Where temporary files go: the same filesystem as the result.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a file of the result, for writing and reading back.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn file(&self, name: &str) -> Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.folder.path().join(name))
            .with_context(|| format!("cannot write {name}"))?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        Ok(file)
    }

    /// Writes a whole file of the result.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        use std::io::Write as _;
        let mut file = self.file(name)?;
        file.write_all(bytes)
            .with_context(|| format!("cannot write {name}"))
    }

    /// Gives the folder its name; what had it before is removed.
    ///
    /// # Errors
    /// It cannot be moved; then `target` is as it was.
    pub fn publish(self) -> Result<()> {
        let shown = self.target.display();
        let write = || format!("cannot write {shown}");
        let path = self.folder.path();
        fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)).with_context(write)?;
        if fs::symlink_metadata(&self.target).is_err() {
            fs::rename(path, &self.target).with_context(write)?;
            // Its name is gone, so there is nothing to remove.
            let _moved = self.folder.keep();
            return Ok(());
        }
        let old = tempfile::Builder::new()
            .prefix(".image-build-old-")
            .tempdir_in(path.parent().unwrap_or(Path::new(".")))
            .with_context(write)?;
        let kept = old.path().join("image");
        fs::rename(&self.target, &kept).with_context(write)?;
        let moved = fs::rename(path, &self.target);
        if moved.is_err() {
            fs::rename(&kept, &self.target).with_context(write)?;
        }
        moved.with_context(write)?;
        let _moved = self.folder.keep();
        Ok(())
    }
}
