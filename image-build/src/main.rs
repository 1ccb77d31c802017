//! The command `image-build`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use image_build::build::{self, Built, Request};
use image_build::open_commands::open_commands;
use image_build::progress::Progress;
use image_build::{key, run, volume};

/// Turns an OCI image into a measured virtual machine's image, and boots it.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image from a container image and a config
    Build(BuildArgs),
    /// Boot an image under QEMU and exit with its container's exit status
    Run(run::Args),
    /// Make keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make persistent volumes, and read them back
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Print the commands that open an image with veritysetup and cryptsetup
    OpenCommands(OpenArgs),
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a new key for a boot filesystem or a volume: 32 random bytes that only you can read
    New {
        /// File to make; it must not exist
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Make an empty volume: the disk that the guest opens, and never formats
    Create(VolumeArgs),
    /// Check every sector of a volume that no guest uses, and write the filesystem in it
    Extract {
        /// The volume's disk
        volume: PathBuf,
        #[command(flatten)]
        args: VolumeArgs,
    },
}

#[derive(Debug, Args)]
struct VolumeArgs {
    /// Config of the image (TOML), which describes the volume
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the volume
    #[arg(long)]
    name: String,
    /// Master key of the volume, from `image-build key new`
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// File to make; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// OCI layout (folder or tar) or docker-archive (`docker save`)
    #[arg(long, value_name = "PATH")]
    oci: PathBuf,
    /// Config of the image (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Master key of the encrypted boot filesystem, from `image-build key new`
    #[arg(long, value_name = "FILE")]
    boot_key: Option<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The guest's kernel
    #[arg(long, value_name = "BZIMAGE", env = "ANCHORHOLD_KERNEL")]
    kernel: Option<PathBuf>,
    /// The guest's PID 1
    #[arg(long, value_name = "BINARY", env = "ANCHORHOLD_INIT")]
    init: Option<PathBuf>,
    /// Also make image.efi around this systemd-stub: one file that firmware starts from a disk, and
    /// that the registers are then predicted for
    #[arg(long, value_name = "STUB")]
    uki_stub: Option<PathBuf>,
    /// Predict for this firmware only; may be repeated (default: all known ones)
    #[arg(long, value_name = "FILE")]
    firmware: Vec<PathBuf>,
    /// Largest total of the image's files, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 30)]
    max_size: u64,
    /// Replace the output folder if it exists
    #[arg(long)]
    force: bool,
    /// Print the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct OpenArgs {
    /// Folder that `image-build build` wrote
    image: PathBuf,
    /// Master key of the encrypted boot filesystem
    #[arg(long, value_name = "FILE")]
    boot_key: Option<PathBuf>,
    /// Write the derived dm-crypt key to this new file
    #[arg(long, value_name = "FILE", requires = "boot_key")]
    key_out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(args) => build(args),
        Command::Run(args) => return run::main(args),
        Command::Key(KeyCommand::New { file }) => key::create(&file),
        Command::Volume(VolumeCommand::Create(args)) => {
            let VolumeArgs { config, name, .. } = &args;
            volume::create(config, name, &args.key_file, &args.out)
        }
        Command::Volume(VolumeCommand::Extract { volume, args }) => {
            let VolumeArgs { config, name, .. } = &args;
            volume::extract(config, name, &args.key_file, &volume, &args.out)
        }
        Command::OpenCommands(args) => open_commands(
            &args.image,
            args.boot_key.as_deref(),
            args.key_out.as_deref(),
        )
        .map(|text| print!("{text}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image-build: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build(args: BuildArgs) -> Result<()> {
    let progress = if args.json {
        Progress::quiet()
    } else {
        Progress::new()
    };
    let request = Request {
        kernel: guest_part("kernel", "make kernel", args.kernel)?,
        init: guest_part("init", "make init", args.init)?,
        oci: args.oci,
        config: args.config,
        boot_key: args.boot_key,
        out: args.out,
        uki_stub: args.uki_stub,
        firmware: args.firmware,
        max_size: args.max_size,
        force: args.force,
    };
    let result = build::build(&request, &progress);
    progress.finish();
    let built = result?;
    for note in built.notes.as_slice() {
        eprintln!("image-build: note: {note}");
    }
    if args.json {
        println!("{}", json(&built, &request.out)?);
    } else {
        let image = &built.reference_values.image;
        println!(
            "built {} version {} in {}",
            image.name,
            image.version,
            request.out.display()
        );
        println!("cmdline: {}", built.reference_values.cmdline);
    }
    Ok(())
}

fn guest_part(what: &str, make: &str, path: Option<PathBuf>) -> Result<PathBuf> {
    let variable = what.to_uppercase();
    let path = path.with_context(|| {
        format!(
            "no {what} given: build it with `{make}`, then give --{what} FILE or set ANCHORHOLD_{variable}"
        )
    })?;
    ensure!(
        path.is_file(),
        "cannot find {what} {}: build it with `{make}`",
        path.display()
    );
    Ok(path)
}

fn json(built: &Built, out: &Path) -> Result<String> {
    let value = serde_json::json!({
        "out": out,
        "image_digest": built.image_digest,
        "notes": built.notes.as_slice(),
        "reference_values": built.reference_values,
    });
    Ok(serde_json::to_string(&value)?)
}
