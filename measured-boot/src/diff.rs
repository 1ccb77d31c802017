//! Which measured bytes of two images differ, and where they come from.
//!
//! That two digests differ is no answer. Each measured file is taken apart as
//! far as its format goes, and what differs is named with both values: the
//! section of the kernel or of `/init`, the parameter of the command line, the
//! file in the rootfs, the member of the manifest.

pub mod cpio;
pub mod erofs;
mod executable;
mod files;
mod rootfs;
mod text;

#[cfg(test)]
mod tests;

use core::fmt;

use serde::Serialize;

/// The files of an image that are measured, or reached by what is.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The kernel file.
    pub kernel: &'a [u8],
    /// The kernel's configuration, if it was kept: not measured, but what the
    /// kernel was made from.
    pub kernel_config: Option<&'a [u8]>,
    /// The initrd, a cpio archive.
    pub initrd: &'a [u8],
    /// The command line.
    pub cmdline: &'a [u8],
    /// The rootfs: an EROFS and its hash tree.
    pub rootfs: &'a [u8],
}

/// A part of an image that is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The kernel file.
    Kernel,
    /// The kernel's configuration.
    KernelConfig,
    /// The initrd.
    Initrd,
    /// The command line.
    Cmdline,
    /// Files of the rootfs, but for the manifest.
    Rootfs,
    /// `/manifest.json` on the rootfs.
    Manifest,
}

impl Part {
    /// How a verifier sees it.
    pub fn measured_by(self) -> &'static str {
        match self {
            Self::Kernel => "SNP: kernel hash; TDX: RTMR1; TPM: PCR 4",
            Self::KernelConfig => "not measured; the kernel is made from it",
            Self::Initrd => "SNP: initrd hash; TDX: RTMR2; TPM: PCR 9",
            Self::Cmdline => "SNP: command line hash; TDX: RTMR2; TPM: PCR 9",
            Self::Rootfs | Self::Manifest => "root hash in the command line",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::KernelConfig => "kernel configuration",
            Self::Initrd => "initrd",
            Self::Cmdline => "command line",
            Self::Rootfs => "rootfs",
            Self::Manifest => "manifest",
        })
    }
}

/// One place where two images differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// In which part.
    pub part: Part,
    /// Where in it: a section, a path, a member, a parameter.
    pub place: String,
    /// What the first image has there; nothing when the place is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<String>,
    /// What the second image has there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<String>,
}

/// Why an image cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {part} at offset {offset:#x}: {field}: got {got}, expected {expected}")]
pub struct FormatError {
    /// Which part of the image.
    pub part: &'static str,
    /// Where in its file.
    pub offset: usize,
    /// Which field.
    pub field: &'static str,
    /// Its value.
    pub got: String,
    /// What it must be.
    pub expected: String,
}

/// Compares two images. No difference: both give the same measurements.
///
/// # Errors
/// A file that differs and is not of its format.
pub fn images(a: &Image<'_>, b: &Image<'_>) -> Result<Vec<Difference>, FormatError> {
    let mut differences = files::kernel(a.kernel, b.kernel);
    if let (Some(a), Some(b)) = (a.kernel_config, b.kernel_config) {
        differences.extend(text::options(a, b));
    }
    differences.extend(files::initrd(a.initrd, b.initrd)?);
    differences.extend(text::parameters(a.cmdline, b.cmdline));
    differences.extend(rootfs::compare(a, b)?);
    Ok(differences)
}

/// Where two byte strings first differ, which may be the end of one.
fn first_difference(a: &[u8], b: &[u8]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b);
    same.count()
}

/// Length and the bytes from where they differ, for people.
fn excerpt(bytes: &[u8], offset: usize) -> String {
    let from = bytes.get(offset..).unwrap_or_default();
    let shown = crate::base16::encode(from.get(..16).unwrap_or(from));
    let more = if from.len() > 16 { "…" } else { "" };
    format!("{} bytes, there {shown}{more}", bytes.len())
}
