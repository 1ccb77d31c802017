//! What a host can do to the disks that keep what the container wrote.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use image_build::run::{Disk, Machine, Report};
use tests::artifacts::{Parts, artifacts, run};
use tests::defences::{self, Attack, Verdict};
use tests::mutation;
use tests::site::{Site, boot, expect_exit, stop_code};

use crate::Fact;
use crate::scene::{self, find, verdict};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "volume-header",
        attempt: |parts| first_boot_with(parts, |disk| flip(disk, 4095)),
        control: first_boot,
    },
    Attack {
        name: "volume-epoch",
        attempt: earlier_epoch,
        control: first_boot,
    },
    Attack {
        name: "volume-swapped",
        attempt: |parts| two_volumes(parts, true).and_then(|report| verdict(&report)),
        control: |parts| expect_exit(&two_volumes(parts, false)?, 0),
    },
    Attack {
        // A byte that dm-integrity does not read in this mode.
        name: "volume-superblock",
        attempt: |parts| first_boot_with(parts, |disk| flip(disk, 4096 + 29)),
        control: first_boot,
    },
    Attack {
        name: "volume-data",
        attempt: |parts| second_boot_with(parts, |written| written.flip(BLOCKS / 2)),
        control: second_boot,
    },
    Attack {
        name: "volume-moved",
        attempt: |parts| second_boot_with(parts, |written| written.copy(10, BLOCKS / 2)),
        control: second_boot,
    },
    Attack {
        name: "volume-ambiguous",
        attempt: ambiguous,
        control: first_boot,
    },
    Attack {
        name: "volume-key-length",
        attempt: key_length,
        control: first_boot,
    },
];

pub(crate) const FACTS: &[Fact] = &[
    ("volumes/kept-and-closed", kept_and_closed),
    ("volumes/wrong-key", wrong_key),
    ("volumes/missing", missing),
    ("volumes/short", short),
    ("volumes/read-only", read_only),
    ("volumes/every-field", every_field),
    ("volumes/superblock-changed-later", superblock_changed_later),
    ("volumes/never-formatted", never_formatted),
    ("volumes/filesystem-altered", filesystem_altered),
    ("volumes/larger-disk", larger_disk),
];

/// Blocks of the file that the probe writes.
const BLOCKS: u64 = 256;
const GOOD: &str = "probe: volume 256 good 0 failed 0 altered";
const WRITTEN: &str = "probe: volume write: succeeded";

/// An image with a volume, and the volume.
struct Scene {
    site: Site,
    image: PathBuf,
    disk: PathBuf,
}

fn table(name: &str, epoch: u64) -> String {
    format!(
        "[[volume]]\nname = \"{name}\"\nkey = \"kbs:///probe/data/key\"\n\
         mount = \"/{name}\"\nsize = \"16M\"\nepoch = {epoch}\n"
    )
}

impl Scene {
    fn new(parts: &Parts) -> Result<Self> {
        Self::with(parts, &table("data", 1))
    }

    fn with(parts: &Parts, tables: &str) -> Result<Self> {
        let site = Site::open(parts)?;
        let mut spec = site.spec(&["volume", "/data/file"])?;
        spec.private.clear();
        spec.tables = tables.into();
        let image = site.enrolled(&spec)?;
        site.put("probe/data/key", &site.boot_key()?, "probe")?;
        let mut scene = Self {
            site,
            image,
            disk: PathBuf::new(),
        };
        scene.disk = scene.create(parts, "data")?;
        Ok(scene)
    }

    fn config(&self) -> PathBuf {
        self.image.with_file_name("config.toml")
    }

    fn volume(&self, parts: &Parts, action: &str, name: &str, out: &Path) -> Result<Command> {
        let mut command = Command::new(&parts.image_build);
        command.args(["volume", action, "--name", name]);
        command.arg("--config").arg(self.config());
        command.arg("--key-file").arg(self.site.boot_key()?);
        command.arg("--out").arg(out);
        Ok(command)
    }

    fn create(&self, parts: &Parts, name: &str) -> Result<PathBuf> {
        let out = self.image.with_file_name(format!("{name}.volume"));
        run(&mut self.volume(parts, "create", name, &out)?)?;
        Ok(out)
    }

    /// The next version of the image, around the init of `parts`, with the
    /// volume in another epoch.
    fn build_next(&self, parts: &Parts, epoch: u64) -> Result<PathBuf> {
        let mut spec = self.site.spec(&["volume", "/data/file"])?;
        spec.private.clear();
        spec.version = 2;
        spec.tables = table("data", epoch);
        let image = self.site.build(&spec, &parts.init)?;
        self.site.enroll(&spec, &image)?;
        Ok(image)
    }

    fn machine(&self) -> Result<Machine> {
        self.next_machine(&self.image)
    }

    fn next_machine(&self, image: &Path) -> Result<Machine> {
        let mut machine = self.site.machine(image)?;
        machine.disks.push(disk("data", &self.disk));
        Ok(machine)
    }

    /// Boots, and requires that the container found its volume empty.
    fn write(&self) -> Result<()> {
        let report = boot(&self.machine()?)?;
        expect_exit(&report, 0)?;
        scene::said(&report, WRITTEN)
    }

    fn stops(&self, machine: &Machine, code: &str) -> Result<()> {
        let got = stop_code(&boot(machine)?)?;
        ensure!(got == code, "got {got}, expected {code}");
        Ok(())
    }
}

fn disk(name: &str, file: &Path) -> Disk {
    Disk {
        serial: format!("volume-{name}"),
        file: file.into(),
        writable: true,
    }
}

fn flip(disk: &Path, offset: u64) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(disk)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 0x40], offset)?;
    Ok(())
}

/// A volume with the probe's file in it, and where its blocks are.
struct Written {
    disk: PathBuf,
    /// Number of the block of the volume that has the file's first block.
    first: u64,
}

impl Written {
    /// Where tag and data of a block of the file are: 16 MiB have one area.
    fn places(&self, block: u64) -> (u64, u64) {
        let area = (16 + 2 * 264) * 512;
        let number = self.first + block;
        (area + number * 32, area + 256 * 512 + number * 4096)
    }

    fn flip(&self, block: u64) -> Result<()> {
        flip(&self.disk, self.places(block).1 + 99)
    }

    fn copy(&self, from: u64, to: u64) -> Result<()> {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(&self.disk)?;
        let (from, to) = (self.places(from), self.places(to));
        for (from, to, length) in [(from.0, to.0, 32), (from.1, to.1, 4096)] {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, from)?;
            file.write_all_at(&bytes, to)?;
        }
        Ok(())
    }
}

fn first_boot(parts: &Parts) -> Result<()> {
    Scene::new(parts)?.write()
}

fn first_boot_with(parts: &Parts, attack: fn(&Path) -> Result<()>) -> Result<Verdict> {
    let scene = Scene::new(parts)?;
    attack(&scene.disk)?;
    verdict(&boot(&scene.machine()?)?)
}

fn second_boot(parts: &Parts) -> Result<()> {
    let report = second_boot_report(parts, |_| Ok(()))?;
    scene::said(&report, GOOD)
}

/// The container reads 255 blocks of the file; altered bytes in the last are the
/// attacker's success.
fn second_boot_with(parts: &Parts, attack: fn(&Written) -> Result<()>) -> Result<Verdict> {
    let report = second_boot_report(parts, attack)?;
    let line = scene::line(&report, "probe: volume ")?;
    if line.ends_with("255 good 1 failed 0 altered") {
        return Ok(Verdict::Stopped("EIO".into()));
    }
    ensure!(line.ends_with("255 good 0 failed 1 altered"), "{line}");
    Ok(Verdict::Succeeded(line))
}

fn second_boot_report(parts: &Parts, attack: fn(&Written) -> Result<()>) -> Result<Report> {
    // Written by the product, so that there is a tag for every block.
    let scene = Scene::new(product()?)?;
    scene.write()?;
    // The owner's own view tells where the file is.
    let plain = scene.image.with_file_name("plain.ext4");
    let mut extract = scene.volume(product()?, "extract", "data", &plain)?;
    run(extract.arg(&scene.disk))?;
    let first = find(&plain, &1u64.to_be_bytes().repeat(512))? / 4096;
    attack(&Written {
        disk: scene.disk.clone(),
        first,
    })?;
    let image = scene.build_next(parts, 1)?;
    let report = boot(&scene.next_machine(&image)?)?;
    expect_exit(&report, 0)?;
    Ok(report)
}

/// The owner raised the epoch and made a new volume; the host keeps the old one.
fn earlier_epoch(parts: &Parts) -> Result<Verdict> {
    let scene = Scene::new(parts)?;
    let image = scene.build_next(parts, 2)?;
    verdict(&boot(&scene.next_machine(&image)?)?)
}

fn two_volumes(parts: &Parts, swap: bool) -> Result<Report> {
    let scene = Scene::with(parts, &(table("data", 1) + &table("logs", 1)))?;
    let logs = scene.create(parts, "logs")?;
    let mut machine = scene.site.machine(&scene.image)?;
    let (data, logs) = if swap {
        (&logs, &scene.disk)
    } else {
        (&scene.disk, &logs)
    };
    machine
        .disks
        .extend([disk("data", data), disk("logs", logs)]);
    boot(&machine)
}

fn ambiguous(parts: &Parts) -> Result<Verdict> {
    let scene = Scene::new(parts)?;
    let copy = scene.image.with_file_name("copy.volume");
    fs::copy(&scene.disk, &copy)?;
    let mut machine = scene.machine()?;
    machine.disks.push(disk("data", &copy));
    verdict(&boot(&machine)?)
}

/// A key that the owner filled up with zeros, and put into the broker without.
fn key_length(parts: &Parts) -> Result<Verdict> {
    let scene = Scene::new(parts)?;
    let (padded, short) = ([[7; 16], [0; 16]].concat(), [7; 16]);
    fs::write(scene.site.boot_key()?, padded)?;
    fs::remove_file(&scene.disk)?;
    scene.create(parts, "data")?;
    let file = scene.site.path().join("short.key");
    fs::write(&file, short)?;
    scene.site.put("probe/data/key", &file, "probe")?;
    verdict(&boot(&scene.machine()?)?)
}

fn product() -> Result<&'static Parts> {
    Ok(&artifacts()?.product)
}

/// What the first boot wrote the second reads; the host has seen none of it; the
/// guest wrote everything out, so that nothing has to be replayed.
fn kept_and_closed() -> Result<()> {
    let scene = Scene::new(product()?)?;
    scene.write()?;
    let pattern = 200u64.to_be_bytes().repeat(4);
    let disk = fs::read(&scene.disk)?;
    let seen = disk.windows(pattern.len()).any(|bytes| bytes == pattern);
    ensure!(!seen, "the disk has what the container wrote in plain");
    let plain = scene.image.with_file_name("plain.ext4");
    run(scene
        .volume(product()?, "extract", "data", &plain)?
        .arg(&scene.disk))?;
    run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&plain))?;
    let said = run(Command::new("/usr/sbin/dumpe2fs").arg("-h").arg(&plain))?;
    let said = String::from_utf8_lossy(&said);
    ensure!(
        said.contains("Filesystem state:         clean") && !said.contains("needs_recovery"),
        "the filesystem was not unmounted: {said}"
    );
    let report = boot(&scene.machine()?)?;
    expect_exit(&report, 0)?;
    scene::said(&report, GOOD)
}

/// The broker is made to give out another key of the right length.
fn wrong_key() -> Result<()> {
    let scene = Scene::new(product()?)?;
    let other = scene.site.path().join("other.key");
    fs::write(&other, [9; 32])?;
    scene.site.put("probe/data/key", &other, "probe")?;
    scene.stops(&scene.machine()?, "E_VOLUME_HEADER")
}

fn missing() -> Result<()> {
    let scene = Scene::new(product()?)?;
    let machine = scene.machine()?.without_disk("volume-data");
    scene.stops(&machine, "E_VOLUME_MISSING")
}

fn short() -> Result<()> {
    let scene = Scene::new(product()?)?;
    let file = fs::File::options().write(true).open(&scene.disk)?;
    file.set_len(file.metadata()?.len().saturating_sub(512))?;
    scene.stops(&scene.machine()?, "E_VOLUME_SIZE")
}

fn read_only() -> Result<()> {
    let scene = Scene::new(product()?)?;
    let mut machine = scene.machine()?;
    for disk in &mut machine.disks {
        disk.writable = false;
    }
    scene.stops(&machine, "E_VOLUME_INTEGRITY")
}

/// One byte in every field of header and superblock.
fn every_field() -> Result<()> {
    let scene = Scene::new(product()?)?;
    for (offset, code) in [
        (0, "E_VOLUME_HEADER"),
        (16, "E_VOLUME_HEADER"),
        (48, "E_VOLUME_HEADER"),
        (80, "E_VOLUME_HEADER"),
        (88, "E_VOLUME_HEADER"),
        (127, "E_VOLUME_HEADER"),
        (4096, "E_VOLUME_SUPERBLOCK"),
        (4096 + 8, "E_VOLUME_SUPERBLOCK"),
        (4096 + 9, "E_VOLUME_SUPERBLOCK"),
        (4096 + 10, "E_VOLUME_SUPERBLOCK"),
        (4096 + 12, "E_VOLUME_SUPERBLOCK"),
        (4096 + 16, "E_VOLUME_SUPERBLOCK"),
        (4096 + 24, "E_VOLUME_SUPERBLOCK"),
        (4096 + 28, "E_VOLUME_SUPERBLOCK"),
        (4096 + 32, "E_VOLUME_SUPERBLOCK"),
        (8191, "E_VOLUME_SUPERBLOCK"),
    ] {
        flip(&scene.disk, offset)?;
        scene
            .stops(&scene.machine()?, code)
            .with_context(|| format!("offset {offset}"))?;
        flip(&scene.disk, offset)?;
    }
    scene.write()
}

/// A host that answers the kernel's own read of the superblock with another one
/// than init's: here an init that does not look. A shorter journal moves the
/// place where the kernel looks for tags.
fn superblock_changed_later() -> Result<()> {
    let table = defences::read()?;
    let mutant = mutation::build("volume-superblock", &table.mutation["volume-superblock"])?;
    let scene = Scene::new(&mutant)?;
    let file = fs::File::options().write(true).open(&scene.disk)?;
    file.write_all_at(&[1], 4096 + 12)?;
    scene.stops(&scene.machine()?, "E_VOLUME_SUPERBLOCK")
}

/// A disk of zeros, a disk whose first MiB was wiped: init stops, and no byte of
/// the disk is another one afterwards.
fn never_formatted() -> Result<()> {
    let scene = Scene::new(product()?)?;
    scene.write()?;
    let whole = fs::read(&scene.disk)?;
    let mut wiped = whole.clone();
    wiped[..1 << 20].fill(0);
    for content in [wiped, vec![0; whole.len()]] {
        fs::write(&scene.disk, &content)?;
        scene.stops(&scene.machine()?, "E_VOLUME_HEADER")?;
        ensure!(fs::read(&scene.disk)? == content, "the guest wrote to it");
    }
    Ok(())
}

/// A block that ext4 reads at once: init says so.
fn filesystem_altered() -> Result<()> {
    let scene = Scene::new(product()?)?;
    let first = Written {
        disk: scene.disk.clone(),
        first: 0,
    };
    first.flip(0)?;
    scene.stops(&scene.machine()?, "E_VOLUME_INTEGRITY")
}

/// A disk may be larger than the volume. The kernel sees no more than the volume,
/// so it does not adapt the superblock.
fn larger_disk() -> Result<()> {
    let scene = Scene::new(product()?)?;
    let file = fs::File::options().write(true).open(&scene.disk)?;
    file.set_len(64 << 20)?;
    scene.write()?;
    let report = boot(&scene.machine()?)?;
    scene::said(&report, GOOD)
}
