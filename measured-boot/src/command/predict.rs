//! `measured-boot predict`: what an image will measure.

mod snp;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::image::Image;

/// What an image will measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Image folder, as `image-build build` writes it.
    image: PathBuf,
    /// What measures the boot.
    #[arg(long, value_enum)]
    tee: Tee,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    snp: snp::Options,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Tee {
    /// AMD SEV-SNP: the launch digest.
    Snp,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let image = Image::read(&arguments.image)?;
    match arguments.tee {
        Tee::Snp => snp::run(&image, &arguments.snp, arguments.json)?,
    }
    Ok(ExitCode::SUCCESS)
}
