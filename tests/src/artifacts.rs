//! What the tests run: built once, with the commands that users have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The programs a case may use. The defence under test may be missing in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// `/init` of the guest.
    pub init: PathBuf,
    /// The broker's command.
    pub key_broker: PathBuf,
    /// The builder's command.
    pub image_build: PathBuf,
}

/// Everything that is built once for all cases.
#[derive(Debug)]
pub struct Artifacts {
    /// The product.
    pub product: Parts,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The probing container, a static program.
    pub probe: PathBuf,
    /// The replacement init, a static program.
    pub attacker: PathBuf,
}

/// Root of the workspace.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Where cargo builds, as it does for users.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Where what only the tests build is kept: guest programs and mutants.
pub fn work_folder() -> PathBuf {
    target_folder().join("lab")
}

/// Builds everything on first use.
///
/// # Errors
/// A build that failed, with its output.
pub fn artifacts() -> Result<&'static Artifacts> {
    static ARTIFACTS: OnceLock<Result<Artifacts, String>> = OnceLock::new();
    ARTIFACTS
        .get_or_init(|| build_all().map_err(|e| format!("{e:#}")))
        .as_ref()
        .map_err(|e| anyhow::anyhow!("{e}"))
}

fn build_all() -> Result<Artifacts> {
    let root = workspace();
    fs::create_dir_all(work_folder())?;
    let kernel = PathBuf::from(output(Command::new(root.join("kernel-config/build")))?);
    let init = PathBuf::from(output(&mut build_init(&root, &target_folder()))?);
    let tools = tools(&root, &target_folder())?;
    let guest = build_guest_programs(&root)?;
    Ok(Artifacts {
        product: Parts {
            init,
            key_broker: tools.join("key-broker"),
            image_build: tools.join("image-build"),
        },
        kernel: kernel.join("bzImage"),
        probe: guest.join("probe"),
        attacker: guest.join("attacker"),
    })
}

/// The product's kernel with the emulated provider of configfs-tsm, built on
/// first use.
///
/// # Errors
/// A build that failed, with its output.
pub fn test_kernel() -> Result<PathBuf> {
    static KERNEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || output(&mut Command::new(workspace().join("tests/kernel/build")));
    let folder = KERNEL.get_or_init(|| build().map(Into::into).map_err(|e| format!("{e:#}")));
    let folder = folder.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok(folder.join("bzImage"))
}

/// The command that builds `/init` of a workspace and prints its path.
pub fn build_init(root: &Path, target: &Path) -> Command {
    let mut command = Command::new(root.join("scripts/build-init"));
    command.env("CARGO_TARGET_DIR", target);
    command
}

/// Builds the host's commands of a workspace; returns their folder.
///
/// # Errors
/// The build's output.
pub fn tools(root: &Path, target: &Path) -> Result<PathBuf> {
    run(Command::new("cargo")
        .current_dir(root)
        .args(["build", "--quiet", "--locked", "--profile", "tools"])
        .args(["-p", "image-build", "-p", "key-broker"])
        .env("CARGO_TARGET_DIR", target))?;
    Ok(target.join("tools"))
}

fn build_guest_programs(root: &Path) -> Result<PathBuf> {
    const TRIPLE: &str = "x86_64-unknown-linux-gnu";
    let target = work_folder().join("guest");
    run(Command::new("cargo")
        .current_dir(root)
        .args(["build", "--quiet", "--locked", "--profile", "tools"])
        // Explicit, so that the flags do not reach build scripts.
        .args(["-p", "test-guest", "--target", TRIPLE])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join(TRIPLE).join("tools"))
}

/// Runs a command that must succeed; its output becomes the error.
///
/// # Errors
/// It did not start, or ended otherwise.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let shown = format!("{command:?}");
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    ensure!(
        done.status.success(),
        "cannot run {shown}: {}\n{out}{err}",
        done.status
    );
    Ok(done.stdout)
}

/// The last line that a command prints.
fn output(mut command: impl std::borrow::BorrowMut<Command>) -> Result<String> {
    let out = String::from_utf8(run(command.borrow_mut())?)?;
    Ok(out.trim_end().lines().last().unwrap_or_default().to_owned())
}
