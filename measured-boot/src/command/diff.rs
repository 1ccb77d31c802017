//! `measured-boot diff`: which measured bytes of two images differ.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use measured_boot::diff::{self, Difference};
use serde_json::json;

use super::answered;
use super::image::Image;

/// Which measured bytes of two images differ.
///
/// Exit status: 0 when the images measure alike, 1 when they differ, 2 when one
/// cannot be read.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Image folder, as `image-build build` writes it.
    image_a: PathBuf,
    /// The other.
    image_b: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(answered(compare(arguments)))
}

fn compare(arguments: &Arguments) -> Result<bool> {
    let a = Files::read(&arguments.image_a)?;
    let b = Files::read(&arguments.image_b)?;
    let differences = diff::images(&a.borrowed(), &b.borrowed())
        .with_context(|| format!("{}, {}", a.image.name, b.image.name))?;
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&as_json(&differences))?);
    } else {
        print(&differences)?;
    }
    Ok(differences.is_empty())
}

fn as_json(differences: &[Difference]) -> serde_json::Value {
    let list: Vec<_> = differences
        .iter()
        .map(|difference| {
            json!({
                "part": difference.part,
                "measured_by": difference.part.measured_by(),
                "place": difference.place,
                "a": difference.a,
                "b": difference.b,
            })
        })
        .collect();
    json!({ "equal": list.is_empty(), "differences": list })
}

fn print(differences: &[Difference]) -> Result<()> {
    if differences.is_empty() {
        say!("no measured byte differs");
    }
    let mut last = None;
    for difference in differences {
        let part = difference.part;
        if last != Some(part) {
            say!("{part} ({})", part.measured_by());
            last = Some(part);
        }
        say!("  {}", difference.place);
        for (side, value) in [("a", &difference.a), ("b", &difference.b)] {
            say!("    {side}: {}", value.as_deref().unwrap_or("(not there)"));
        }
    }
    Ok(())
}

struct Files {
    image: Image,
    kernel_config: Option<Vec<u8>>,
    rootfs: Vec<u8>,
}

impl Files {
    fn read(folder: &Path) -> Result<Self> {
        let image = Image::read(folder)?;
        Ok(Self {
            kernel_config: image.kernel_config()?,
            rootfs: image.rootfs()?,
            image,
        })
    }

    fn borrowed(&self) -> diff::Image<'_> {
        diff::Image {
            kernel: &self.image.kernel,
            kernel_config: self.kernel_config.as_deref(),
            initrd: &self.image.initrd,
            cmdline: &self.image.cmdline,
            rootfs: &self.rootfs,
        }
    }
}
