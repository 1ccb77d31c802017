//! What a host can do to the disks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_build::run::{Disk, Machine};
use measured_boot::reference_values::ReferenceValues;
use tests::artifacts::{Parts, artifacts};
use tests::defences::{Attack, Verdict};
use tests::oci::Entry;
use tests::site::{Site, Spec, boot, expect_exit, stop_code};

use crate::Fact;
use crate::scene::{self, Offline, altered, find, flipped, verdict};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "rootfs-data",
        attempt: rootfs_data,
        control: scene::offline,
    },
    Attack {
        name: "rootfs-tree",
        attempt: rootfs_tree,
        control: scene::offline,
    },
    Attack {
        name: "boot-data",
        attempt: boot_data,
        control: scene::chain,
    },
    Attack {
        name: "boot-tree",
        attempt: boot_tree,
        control: scene::chain,
    },
    Attack {
        name: "late-read",
        attempt: late_read,
        control: late_read_control,
    },
    Attack {
        name: "late-read-answer",
        attempt: late_read_answer,
        control: late_read_control,
    },
    Attack {
        name: "disk-ambiguous",
        attempt: disk_ambiguous,
        control: scene::offline,
    },
    Attack {
        name: "disk-short",
        attempt: disk_short,
        control: scene::offline,
    },
];

pub(crate) const FACTS: &[Fact] = &[
    ("disks/wrong-boot-key", wrong_boot_key),
    ("disks/rootfs-missing", rootfs_missing),
    ("disks/boot-missing", boot_missing),
    ("disks/boot-ambiguous", boot_ambiguous),
    ("disks/boot-short", boot_short),
    ("disks/swapped", swapped),
    ("disks/rootfs-of-another-image", rootfs_of_another_image),
    (
        "disks/altered-where-nobody-reads",
        altered_where_nobody_reads,
    ),
    ("disks/every-class-of-block", every_class_of_block),
];

fn product() -> Result<&'static Parts> {
    Ok(&artifacts()?.product)
}

fn values(image: &Path) -> Result<ReferenceValues> {
    Ok(ReferenceValues::parse(&fs::read(
        image.join("reference-values.json"),
    )?)?)
}

/// The argument of the container is a word of the manifest; one bit makes it
/// another status.
fn rootfs_data(parts: &Parts) -> Result<Verdict> {
    let scene = Offline::new(parts, &Spec::offline(&["exit", "0"]))?;
    let rootfs = scene.image.join("rootfs.img");
    let at = find(&rootfs, b"\"exit\",\"0\"")?.saturating_add(8);
    let changed = altered(&rootfs, "changed.img", |bytes| {
        bytes[usize::try_from(at)?] = b'8';
        Ok(())
    })?;
    match verdict(&boot(&scene.machine()?.with_disk_file("rootfs", changed))?)? {
        Verdict::Succeeded(how) if how != "container exited 8" => {
            anyhow::bail!("{how}, but the change was not seen")
        }
        verdict => Ok(verdict),
    }
}

fn rootfs_tree(parts: &Parts) -> Result<Verdict> {
    let scene = Offline::new(parts, &Spec::offline(&["exit", "0"]))?;
    let offset = values(&scene.image)?.rootfs.hash_offset;
    let changed = flipped(&scene.image.join("rootfs.img"), offset, "changed.img")?;
    verdict(&boot(&scene.machine()?.with_disk_file("rootfs", changed))?)
}

/// Block 0 holds the superblock, which init's mount reads. Its first bytes are
/// unused by EROFS, so without a defence nothing would notice; 1024 is where
/// the superblock starts, and 100 bytes on its label.
fn boot_data(parts: &Parts) -> Result<Verdict> {
    boot_flipped(parts, |_| Ok(16))
}

fn boot_tree(parts: &Parts) -> Result<Verdict> {
    boot_flipped(parts, |image| {
        Ok(values(image)?
            .boot
            .context("no boot filesystem")?
            .verity
            .hash_offset)
    })
}

fn boot_flipped(parts: &Parts, offset: fn(&Path) -> Result<u64>) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let changed = flipped(&image.join("boot.img"), offset(&image)?, "changed.img")?;
    verdict(&boot(
        &site.machine(&image)?.with_disk_file("boot", changed),
    )?)
}

/// A large private file, a byte of it changed on the disk, and a container that
/// reads it.
fn late_read(parts: &Parts) -> Result<Verdict> {
    let report = late_read_boot(parts, true)?;
    let answer = report
        .lines()
        .into_iter()
        .find(|line| line.contains("probe: digest /private/large "));
    match answer {
        Some(line) if !line.contains("failed") => Ok(Verdict::Succeeded(line)),
        _ => verdict(&report),
    }
}

/// As [`late_read`]; here any answer at all is the attacker's success, also that
/// the read failed.
fn late_read_answer(parts: &Parts) -> Result<Verdict> {
    verdict(&late_read_boot(parts, true)?)
}

fn late_read_control(parts: &Parts) -> Result<()> {
    let report = late_read_boot(parts, false)?;
    scene::line(&report, "probe: digest /private/large ")?;
    expect_exit(&report, 0)
}

fn late_read_boot(parts: &Parts, alter: bool) -> Result<image_build::run::Report> {
    let site = Site::open(parts)?;
    let mut spec = site.spec(&["read-later", "/private/large"])?;
    spec.private = vec![("large", vec![0x5a; 1 << 20])];
    let image = site.enrolled(&spec)?;
    let mut machine = site.machine(&image)?;
    if alter {
        let blocks = values(&image)?
            .boot
            .context("no boot filesystem")?
            .verity
            .data_blocks;
        let changed = flipped(
            &image.join("boot.img"),
            blocks / 2 * 4096 + 7,
            "changed.img",
        )?;
        machine = machine.with_disk_file("boot", changed);
    }
    let report = boot(&machine)?;
    // Either way the container was running when it read.
    scene::line(&report, "container: probe: running")?;
    Ok(report)
}

fn disk_ambiguous(parts: &Parts) -> Result<Verdict> {
    let scene = Offline::new(parts, &Spec::offline(&["exit", "0"]))?;
    let mut machine = scene.machine()?;
    machine
        .disks
        .push(Disk::read_only("rootfs", scene.image.join("rootfs.img")));
    verdict(&boot(&machine)?)
}

/// The tail of the hash tree is cut off.
fn disk_short(parts: &Parts) -> Result<Verdict> {
    let scene = Offline::new(parts, &Spec::offline(&["exit", "0"]))?;
    let short = shortened(&scene.image.join("rootfs.img"))?;
    verdict(&boot(&scene.machine()?.with_disk_file("rootfs", short))?)
}

fn shortened(file: &Path) -> Result<std::path::PathBuf> {
    altered(file, "short.img", |bytes| {
        bytes.truncate(bytes.len().saturating_sub(4096));
        Ok(())
    })
}

/// The broker is made to give out another key of the right length.
fn wrong_boot_key() -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let other = site.path().join("other.key");
    fs::write(&other, [7; 32])?;
    site.put("probe/boot/key", &other, "probe")?;
    stops(&site.machine(&image)?, "E_BOOT_INTEGRITY")
}

fn rootfs_missing() -> Result<()> {
    let scene = Offline::new(product()?, &Spec::offline(&["exit", "0"]))?;
    stops(&scene.machine()?.without_disk("rootfs"), "E_ROOTFS_MISSING")
}

fn boot_missing() -> Result<()> {
    let (site, image) = enrolled()?;
    stops(
        &site.machine(&image)?.without_disk("boot"),
        "E_BOOT_MISSING",
    )
}

fn boot_ambiguous() -> Result<()> {
    let (site, image) = enrolled()?;
    let mut machine = site.machine(&image)?;
    machine
        .disks
        .push(Disk::read_only("boot", image.join("boot.img")));
    stops(&machine, "E_BOOT_AMBIGUOUS")
}

fn boot_short() -> Result<()> {
    let (site, image) = enrolled()?;
    let short = shortened(&image.join("boot.img"))?;
    stops(
        &site.machine(&image)?.with_disk_file("boot", short),
        "E_BOOT_SIZE",
    )
}

/// Each disk under the other's name.
fn swapped() -> Result<()> {
    let (site, image) = enrolled()?;
    let mut machine = site.machine(&image)?;
    let (rootfs, boot) = (image.join("rootfs.img"), image.join("boot.img"));
    // Long enough for either role, so that only the contents can tell.
    let long = |file: &Path, name: &str| {
        altered(file, name, |bytes| {
            bytes.resize(bytes.len().max(16 << 20), 0);
            Ok(())
        })
    };
    machine.disks = vec![
        Disk::read_only("rootfs", long(&boot, "long-boot.img")?),
        Disk::read_only("boot", long(&rootfs, "long-rootfs.img")?),
    ];
    stops(&machine, "E_ROOTFS_INTEGRITY")
}

fn rootfs_of_another_image() -> Result<()> {
    let scene = Offline::new(product()?, &Spec::offline(&["exit", "0"]))?;
    let other = Offline::new(product()?, &Spec::offline(&["exit", "1"]))?;
    let machine = scene
        .machine()?
        .with_disk_file("rootfs", other.image.join("rootfs.img"));
    stops(&machine, "E_ROOTFS_INTEGRITY")
}

/// A block of a file that nobody reads, and bytes behind the hash tree.
fn altered_where_nobody_reads() -> Result<()> {
    let mut spec = Spec::offline(&["exit", "0"]);
    let mut unread = vec![0x77; 1 << 20];
    unread[600_000..600_016].copy_from_slice(b"nobody reads me!");
    spec.entries.push(Entry::File("unread", 0o644, unread));
    let scene = Offline::new(product()?, &spec)?;
    let rootfs = scene.image.join("rootfs.img");
    let at = find(&rootfs, b"nobody reads me!")?;
    let block = flipped(&rootfs, at, "block.img")?;
    expect_exit(&boot(&scene.machine()?.with_disk_file("rootfs", block))?, 0)?;
    let tail = altered(&rootfs, "tail.img", |bytes| {
        bytes.extend_from_slice(&[0xee; 64 << 10]);
        Ok(())
    })?;
    expect_exit(&boot(&scene.machine()?.with_disk_file("rootfs", tail))?, 0)
}

/// Every level of both hash trees and both kinds of data, one byte at a time;
/// wherever it is, the container never sees it.
fn every_class_of_block() -> Result<()> {
    let site = Site::open(product()?)?;
    let mut spec = site.spec(&["digest", "/large", "/private/large"])?;
    // Large enough for a hash tree of two levels on both disks.
    let content: Vec<u8> = (0..1_500_000_u32)
        .flat_map(u32::to_le_bytes)
        .take(1_200_000)
        .collect();
    spec.entries
        .push(Entry::File("large", 0o644, content.clone()));
    spec.private = vec![("large", content)];
    let image = site.enrolled(&spec)?;
    let good = boot(&site.machine(&image)?)?;
    expect_exit(&good, 0)?;
    let digests: Vec<String> = good
        .lines()
        .into_iter()
        .filter(|line| line.contains("probe: digest"))
        .collect();
    ensure!(digests.len() == 2, "the control run must read both files");

    let values = values(&image)?;
    let boot_values = values.boot.context("no boot filesystem")?.verity;
    for (serial, file, verity) in [
        ("rootfs", "rootfs.img", values.rootfs),
        ("boot", "boot.img", boot_values),
    ] {
        let path = image.join(file);
        let top = verity.hash_offset;
        let leaf = top.saturating_add(4096);
        let data = verity.data_blocks / 2 * 4096 + 100;
        for offset in [
            data,
            leaf.saturating_add(32 * (verity.data_blocks / 2 % 128)),
            top,
        ] {
            let changed = flipped(&path, offset, "changed.img")?;
            let report = boot(&site.machine(&image)?.with_disk_file(serial, changed))?;
            stop_code(&report).with_context(|| format!("{file}, offset {offset}"))?;
            for line in report
                .lines()
                .iter()
                .filter(|line| line.contains("probe: digest"))
            {
                ensure!(
                    digests.contains(line),
                    "altered bytes of {file} reached the container"
                );
            }
        }
    }
    Ok(())
}

fn enrolled() -> Result<(Site, std::path::PathBuf)> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    Ok((site, image))
}

fn stops(machine: &Machine, code: &str) -> Result<()> {
    let got = stop_code(&boot(machine)?)?;
    ensure!(got == code, "got {got}, expected {code}");
    Ok(())
}
