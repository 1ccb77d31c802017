//! `image-build open-commands`: how to look into an image with the stock tools,
//! every number taken from its `reference-values.json`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use measured_boot::base16;
use measured_boot::keys::ContentId;
use measured_boot::reference_values::{ReferenceValues, VerityValues};

use crate::key;

/// Name of the file with the derived dm-crypt key when none is given.
const KEY_PLACEHOLDER: &str = "VOLUME_KEY_FILE";

/// The commands that open the image in `folder`.
///
/// With the boot key, those for the boot filesystem too; the derived dm-crypt
/// key is written to `key_out` and never printed. The salt is printed: it is an
/// argument of `veritysetup`, and secret as far as it confirms guesses of the
/// contents.
///
/// # Errors
/// The folder or the key cannot be read, or `key_out` cannot be written.
pub fn open_commands(
    folder: &Path,
    boot_key: Option<&Path>,
    key_out: Option<&Path>,
) -> Result<String> {
    let path = folder.join("reference-values.json");
    let json = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let values = ReferenceValues::parse(&json)?;
    let mut text = String::new();
    let name = &values.image.name;
    let rootfs = quote(&folder.join("rootfs.img"));
    writeln!(text, "# rootfs, read-only, every block checked")?;
    writeln!(
        text,
        "{}",
        veritysetup(&values.rootfs, &rootfs, &format!("{name}-rootfs"), "-")
    )?;
    writeln!(text, "mount -o ro /dev/mapper/{name}-rootfs /mnt")?;
    let Some(boot) = &values.boot else {
        return Ok(text);
    };
    let Some(boot_key) = boot_key else {
        writeln!(text, "# the boot filesystem needs --boot-key FILE")?;
        return Ok(text);
    };
    let keys = key::read(boot_key)?.boot_filesystem(&ContentId(boot.content_id.0));
    let key_file = match key_out {
        None => KEY_PLACEHOLDER.to_owned(),
        Some(path) => {
            key::write_secret(path, &*keys.volume_key)?;
            quote(path)
        }
    };
    let image = quote(&folder.join("boot.img"));
    writeln!(text, "\n# boot filesystem: decrypt, then check every block")?;
    if key_out.is_none() {
        writeln!(text, "# --key-out FILE writes {KEY_PLACEHOLDER}")?;
    }
    writeln!(
        text,
        "cryptsetup open --type plain --readonly --cipher {} --key-size {} --sector-size {} --key-file {key_file} {image} {name}-boot-plain",
        boot.cipher, boot.key_bits, boot.sector_size
    )?;
    let device = format!("/dev/mapper/{name}-boot-plain");
    let salt = base16::encode(&*keys.salt);
    writeln!(
        text,
        "{}",
        veritysetup(&boot.verity, &device, &format!("{name}-boot"), &salt)
    )?;
    writeln!(text, "mount -o ro /dev/mapper/{name}-boot /mnt")?;
    Ok(text)
}

fn veritysetup(values: &VerityValues, device: &str, name: &str, salt: &str) -> String {
    format!(
        "veritysetup open --no-superblock --format=1 --hash=sha256 --data-block-size=4096 --hash-block-size=4096 --data-blocks={} --hash-offset={} --salt={salt} {device} {name} {device} {}",
        values.data_blocks,
        values.hash_offset,
        base16::encode(&values.root_hash.0)
    )
}

/// A path as one word of a POSIX shell.
fn quote(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) && !text.starts_with('-') {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
