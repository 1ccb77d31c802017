//! Finds the program: an absolute path inside the image that the guest's kernel
//! can execute.

use anyhow::{Context as _, Result, bail, ensure};

use crate::notes::Notes;
use crate::spool::Spool;
use crate::tree::{Content, Last, Tree};

/// What runtimes search when the image sets no PATH.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest `#!` line (Linux `BINPRM_BUF_SIZE`).
const SHEBANG: u64 = 256;
const ELF: &[u8] = b"\x7fELF";
/// `e_machine` at byte 18 (`EM_X86_64`), and `EI_CLASS` at byte 4 (`ELFCLASS64`).
const X86_64: &[u8] = &[62, 0];
const CLASS_64: u8 = 2;

/// Where programs are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search<'a> {
    /// The container's root.
    pub(super) tree: &'a Tree,
    /// Its file data.
    pub(super) spool: &'a Spool,
    /// Working directory.
    pub(super) cwd: &'a str,
    /// Value of PATH.
    pub(super) path: &'a str,
}

impl Search<'_> {
    /// Makes the first argument an absolute path. A script is replaced by its
    /// interpreter and itself, since the guest's kernel executes ELF only.
    ///
    /// # Errors
    /// There is no program, or none that can be executed.
    pub(super) fn resolve(&self, argv: &[String], notes: &mut Notes) -> Result<Vec<String>> {
        let (program, arguments) = argv
            .split_first()
            .context("cannot find a program: the image has neither entrypoint nor command, and container.argv is not set")?;
        let program = self.find(program)?;
        let head = self.head(&program)?;
        let mut resolved = Vec::new();
        if let Some(line) = head.strip_prefix(b"#!") {
            let (interpreter, argument) = shebang(line)
                .with_context(|| format!("cannot execute {program}: malformed #! line"))?;
            let interpreter = self.find(&interpreter)?;
            check_elf(&interpreter, &self.head(&interpreter)?)?;
            notes.add(format!(
                "{program} is a script and is run as {interpreter} {program}; scripts that it starts by name will not run in the guest"
            ));
            resolved.push(interpreter);
            resolved.extend(argument);
        } else {
            check_elf(&program, &head)?;
        }
        resolved.push(program);
        resolved.extend_from_slice(arguments);
        Ok(resolved)
    }

    /// An absolute path without `.` or `..`. The last name is kept as it is
    /// even if it is a link, since programs such as busybox go by it.
    fn find(&self, program: &str) -> Result<String> {
        ensure!(
            !program.is_empty(),
            "cannot find a program with an empty name"
        );
        if program.contains('/') {
            let path = join(self.cwd, program);
            self.check(&path)?;
            return self.plain(&path);
        }
        let folders = self.path.split(':').map(|folder| match folder {
            "" => self.cwd,
            folder => folder,
        });
        for folder in folders {
            let path = join(&join(self.cwd, folder), program);
            if self.check(&path).is_ok() {
                return self.plain(&path);
            }
        }
        bail!(
            "cannot find program {program:?} in the image: PATH is {}",
            self.path
        )
    }

    fn check(&self, path: &str) -> Result<()> {
        let leaf = self
            .tree
            .leaf(path.as_bytes())
            .with_context(|| format!("cannot find program {path}"))?;
        ensure!(
            matches!(leaf.content, Content::File(_)) && leaf.metadata.mode & 0o111 != 0,
            "cannot execute {path}: not an executable file"
        );
        Ok(())
    }

    fn plain(&self, path: &str) -> Result<String> {
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if !path.split('/').skip(1).any(odd) {
            return Ok(path.to_owned());
        }
        let real = self.tree.resolve(path.as_bytes(), Last::Keep)?;
        let text = String::from_utf8(real.join(&b'/'));
        Ok(format!("/{}", text.context("path is not UTF-8")?))
    }

    fn head(&self, path: &str) -> Result<Vec<u8>> {
        match self.tree.leaf(path.as_bytes())?.content {
            Content::File(extent) => self.spool.bytes(extent, SHEBANG),
            Content::Symlink(_) => bail!("cannot execute {path}: is a symbolic link"),
        }
    }
}

fn check_elf(path: &str, head: &[u8]) -> Result<()> {
    let elf = head.starts_with(ELF) && head.get(4) == Some(&CLASS_64);
    ensure!(
        elf && head.get(18..20) == Some(X86_64),
        "cannot execute {path}: not an x86-64 ELF program"
    );
    Ok(())
}

/// Interpreter and at most one argument (`fs/binfmt_script.c`).
fn shebang(line: &[u8]) -> Option<(String, Option<String>)> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim();
    let (interpreter, argument) = line
        .split_once([' ', '\t'])
        .map_or((line, None), |(path, rest)| (path, Some(rest.trim())));
    let plain = interpreter.starts_with('/');
    plain.then(|| (interpreter.to_owned(), argument.map(str::to_owned)))
}

fn join(folder: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    format!("{}/{path}", folder.trim_end_matches('/'))
}
