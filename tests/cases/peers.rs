//! The formats are what their owners' tools say they are, with the numbers of
//! `reference-values.json`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use measured_boot::base16;
use measured_boot::keys::{BootKey, ContentId};
use measured_boot::reference_values::{ReferenceValues, VerityValues};
use tests::artifacts::{artifacts, run};
use tests::site::{Site, path};

use crate::Fact;
use crate::scene::flipped;

pub(crate) const FACTS: &[Fact] = &[
    ("peers/rootfs-opens-with-veritysetup", rootfs),
    (
        "peers/boot-filesystem-opens-with-cryptsetup-and-veritysetup",
        boot_filesystem,
    ),
    ("peers/rootfs-passes-fsck-erofs", fsck),
    ("peers/two-builds-are-equal", two_builds),
];

/// `veritysetup verify` walks the whole tree and needs no device mapper.
fn veritysetup(file: &Path, verity: &VerityValues, salt: &str) -> Command {
    let mut command = Command::new("veritysetup");
    command.args(["verify", "--no-superblock", "--hash=sha256"]);
    command.args(["--data-block-size=4096", "--hash-block-size=4096"]);
    command.arg(format!("--salt={salt}"));
    command.arg(format!("--data-blocks={}", verity.data_blocks));
    command.arg(format!("--hash-offset={}", verity.hash_offset));
    command
        .arg(file)
        .arg(file)
        .arg(base16::encode(&verity.root_hash.0));
    command
}

fn image() -> Result<(Site, std::path::PathBuf, ReferenceValues)> {
    let site = Site::open(&artifacts()?.product)?;
    let image = site.build(&site.spec(&["exit", "0"])?, &artifacts()?.product.init)?;
    let values = ReferenceValues::parse(&fs::read(image.join("reference-values.json"))?)?;
    Ok((site, image, values))
}

fn rootfs() -> Result<()> {
    let (_site, image, values) = image()?;
    let file = image.join("rootfs.img");
    run(&mut veritysetup(&file, &values.rootfs, "-"))?;
    let changed = flipped(&file, 4096, "changed.img")?;
    ensure!(
        run(&mut veritysetup(&changed, &values.rootfs, "-")).is_err(),
        "a change was not seen"
    );
    Ok(())
}

/// Decrypts in user space with OpenSSL's XTS, an implementation that shares
/// nothing with the builder's; the kernel's dm-crypt does the same in every
/// other case that boots.
fn boot_filesystem() -> Result<()> {
    let (site, image, values) = image()?;
    let boot = values.boot.context("no boot filesystem")?;
    ensure!(
        (boot.cipher.as_str(), boot.key_bits, boot.sector_size) == ("aes-xts-plain64", 512, 4096)
    );
    let master = BootKey::from_slice(&fs::read(site.boot_key()?)?).context("no boot key")?;
    let keys = master.boot_filesystem(&ContentId(boot.content_id.0));
    let plain = site.path().join("plain.img");
    decrypt(&image.join("boot.img"), &*keys.volume_key, &plain)?;
    run(&mut veritysetup(
        &plain,
        &boot.verity,
        &base16::encode(&*keys.salt),
    ))?;
    ensure!(
        run(&mut veritysetup(&plain, &boot.verity, "-")).is_err(),
        "the tree does not depend on the derived salt"
    );
    let erofs = fs::read(&plain)?;
    let data = usize::try_from(boot.verity.hash_offset)?;
    let erofs_file = site.path().join("boot.erofs");
    fs::write(&erofs_file, erofs.get(..data).context("short")?)?;
    run(Command::new("fsck.erofs").arg(&erofs_file))?;
    Ok(())
}

const DECRYPT: &str = "
import sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
key = bytes.fromhex(sys.stdin.read())
with open(sys.argv[1], 'rb') as source, open(sys.argv[2], 'wb') as target:
    sector = 0
    while block := source.read(4096):
        tweak = (sector * 8).to_bytes(16, 'little')
        decryptor = Cipher(algorithms.AES(key), modes.XTS(tweak)).decryptor()
        target.write(decryptor.update(block) + decryptor.finalize())
        sector += 1
";

fn decrypt(from: &Path, key: &[u8], to: &Path) -> Result<()> {
    use std::io::Write;
    use std::process::Stdio;
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", DECRYPT, path(from), path(to)])
        .stdin(Stdio::piped())
        .spawn()?;
    python
        .stdin
        .take()
        .context("no pipe")?
        .write_all(base16::encode(key).as_bytes())?;
    ensure!(
        python.wait()?.success(),
        "python3-cryptography could not decrypt"
    );
    Ok(())
}

fn fsck() -> Result<()> {
    let (site, image, values) = image()?;
    let data = usize::try_from(values.rootfs.hash_offset)?;
    let erofs = site.path().join("rootfs.erofs");
    let bytes = fs::read(image.join("rootfs.img"))?;
    fs::write(&erofs, bytes.get(..data).context("short")?)?;
    run(Command::new("fsck.erofs").arg(&erofs))?;
    Ok(())
}

/// The same inputs, key and tools: the same bits, file by file.
fn two_builds() -> Result<()> {
    let site = Site::open(&artifacts()?.product)?;
    let spec = site.spec(&["exit", "0"])?;
    let (one, two) = (
        site.build(&spec, &artifacts()?.product.init)?,
        site.build(&spec, &artifacts()?.product.init)?,
    );
    let mut compared = 0;
    for entry in fs::read_dir(&one)?.flatten() {
        let name = entry.file_name();
        ensure!(
            fs::read(entry.path())? == fs::read(two.join(&name))?,
            "{} differs",
            name.display()
        );
        compared += 1;
    }
    ensure!(compared >= 6, "only {compared} files compared");
    Ok(())
}
