use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use measured_boot::diff::{self, Difference, Part, erofs};
use measured_boot::manifest::Manifest;
use measured_boot::reference_values::ReferenceValues;

use super::{Request, build};
use crate::fixture::{Layer, kernel, layers, layout, runtime};
use crate::open_commands::open_commands;
use crate::progress::Progress;

const CONFIG: &str = r#"
[image]
name = "demo"
version = 1
[attestation]
tee = ["tpm"]
[broker]
url = "https://10.0.2.2:8443"
ca = "ca.pem"
[network]
mode = "dhcp"
[boot]
source = "private"
key = "kbs:///demo/boot/key"
mount = "/private"
[container]
writable = "1M"
"#;

/// A certificate authority of NIST P-256, valid from 2026-01-01T00:00:00Z.
const CA: &str = include_str!("ca.pem");

/// All inputs in a new folder.
fn inputs(folder: &Path, config: &str) -> Request {
    layout(&folder.join("oci"), &layers(), &runtime());
    fs::create_dir(folder.join("private")).unwrap();
    fs::write(folder.join("private/note"), "canary-of-the-private-file").unwrap();
    fs::write(folder.join("ca.pem"), CA).unwrap();
    fs::write(folder.join("config.toml"), config).unwrap();
    fs::write(folder.join("key"), [9; 32]).unwrap();
    fs::write(folder.join("kernel"), kernel()).unwrap();
    fs::write(folder.join("config"), "CONFIG_A=y\n").unwrap();
    fs::write(folder.join("init"), "init").unwrap();
    Request {
        oci: folder.join("oci"),
        config: folder.join("config.toml"),
        boot_key: Some(folder.join("key")),
        out: folder.join("out"),
        kernel: folder.join("kernel"),
        init: folder.join("init"),
        uki_stub: None,
        firmware: Vec::new(),
        max_size: 1 << 30,
        force: false,
    }
}

fn outputs(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644);
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    entries.collect()
}

fn error(request: &Request) -> String {
    format!(
        "{:#}",
        build(request, &Progress::quiet()).map(drop).unwrap_err()
    )
}

fn leftovers(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap();
    let hidden = entries.filter(|e| {
        let name = e.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with('.') || name == "out"
    });
    hidden.count()
}

#[test]
fn builds_an_image_whose_parts_agree() {
    let folder = tempfile::tempdir().unwrap();
    let request = inputs(folder.path(), CONFIG);
    let built = build(&request, &Progress::quiet()).unwrap();
    let files = outputs(&request.out);
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "boot.img",
            "bzImage",
            "cmdline",
            "initrd.cpio",
            "kernel.config",
            "manifest.json",
            "reference-values.json",
            "rootfs.img"
        ]
    );
    let values = ReferenceValues::parse(&files["reference-values.json"]).unwrap();
    assert_eq!(values, built.reference_values);
    assert_eq!(values.cmdline.as_bytes(), files["cmdline"]);
    let manifest = Manifest::parse(&files["manifest.json"]).unwrap();
    assert_eq!(manifest.broker.unwrap().not_before, 1_767_225_600);
    let boot = manifest.boot.unwrap();
    assert_eq!(
        boot.root_hash,
        values.boot.as_ref().unwrap().verity.root_hash
    );

    // The private file and the key are in no output in the clear.
    for (name, bytes) in &files {
        for secret in [&b"canary-of-the-private-file"[..], &[9; 32]] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{name}");
        }
    }
    let verified = std::process::Command::new("veritysetup")
        .args(["verify", "--no-superblock", "--salt=-"])
        .arg(format!("--data-blocks={}", values.rootfs.data_blocks))
        .arg(format!("--hash-offset={}", values.rootfs.hash_offset))
        .args([
            request.out.join("rootfs.img"),
            request.out.join("rootfs.img"),
        ])
        .arg(measured_boot::base16::encode(&values.rootfs.root_hash.0))
        .status();
    assert!(verified.unwrap().success());

    let key_out = folder.path().join("derived");
    let text = open_commands(
        &request.out,
        Some(&folder.path().join("key")),
        Some(&key_out),
    );
    let text = text.unwrap();
    let derived = fs::read(&key_out).unwrap();
    assert_eq!(derived.len(), 64);
    assert_eq!(
        fs::metadata(&key_out).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!text.contains(&measured_boot::base16::encode(&derived[..16])));
    assert!(text.contains("cryptsetup open --type plain"), "{text}");
}

#[test]
fn same_inputs_give_the_same_bits_elsewhere() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = inputs(one.path(), CONFIG);
    let second = inputs(two.path(), CONFIG);
    // What differs between checkouts: group and other permissions, and times.
    let note = two.path().join("private/note");
    fs::set_permissions(&note, fs::Permissions::from_mode(0o600)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH;
    fs::File::options()
        .append(true)
        .open(&note)
        .unwrap()
        .set_modified(old)
        .unwrap();
    build(&first, &Progress::quiet()).unwrap();
    let alone = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    alone
        .install(|| build(&second, &Progress::quiet()))
        .unwrap();
    let (first, second) = (outputs(&first.out), outputs(&second.out));
    for (name, bytes) in &first {
        assert!(second.get(name) == Some(bytes), "{name} differs");
    }
    assert_eq!(first.len(), second.len());
}

#[test]
fn another_key_or_file_changes_the_ciphertext() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = inputs(folder.path(), CONFIG);
    build(&request, &Progress::quiet()).unwrap();
    let first = fs::read(request.out.join("boot.img")).unwrap();
    fs::write(folder.path().join("key"), [10; 32]).unwrap();
    assert!(error(&request).contains("exists already (--force"));
    request.force = true;
    build(&request, &Progress::quiet()).unwrap();
    let second = fs::read(request.out.join("boot.img")).unwrap();
    assert!(first.chunks(16).zip(second.chunks(16)).all(|(a, b)| a != b));
    assert_eq!(leftovers(folder.path()), 1);
}

#[test]
fn a_confidential_image_has_only_the_manifest_on_its_rootfs() {
    let config = CONFIG
        .replace("source = \"private\"\n", "")
        .replace("mount = \"/private\"\n", "")
        + "root = \"boot\"\n";
    let folder = tempfile::tempdir().unwrap();
    let request = inputs(folder.path(), &config);
    build(&request, &Progress::quiet()).unwrap();
    let listing = std::process::Command::new("dump.erofs")
        .args(["--ls", "--path=/"])
        .arg(request.out.join("rootfs.img"))
        .output()
        .unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert!(listing.contains(" manifest.json"), "{listing}");
    assert!(!listing.contains(" rootfs"), "{listing}");
}

#[test]
fn an_image_for_hardware_tees_is_built_alike_and_not_booted_by_the_launcher() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = inputs(folder.path(), CONFIG);
    build(&request, &Progress::quiet()).unwrap();
    crate::run::check_tee(&request.out).unwrap();
    let for_tpm = outputs(&request.out);

    let config = CONFIG.replace("[\"tpm\"]", "[\"snp\", \"tdx\"]");
    fs::write(&request.config, &config).unwrap();
    request.out = folder.path().join("hardware");
    let built = build(&request, &Progress::quiet()).unwrap();
    assert_eq!(built.reference_values.tpm, None);
    let for_hardware = outputs(&request.out);
    assert!(for_tpm.keys().eq(for_hardware.keys()));
    let error = crate::run::check_tee(&request.out).unwrap_err().to_string();
    assert!(
        error.contains("it attests with snp and tdx, and this machine has a TPM"),
        "{error}"
    );

    let config = config.replace("\"tdx\"", "\"tpm\"");
    fs::write(&request.config, config).unwrap();
    request.out = folder.path().join("mixed");
    let error = self::error(&request);
    assert!(error.contains("tpm alone or hardware TEEs"), "{error}");
}

#[test]
fn errors_leave_nothing_behind() {
    for (from, to, expected) in [
        ("source = \"private\"", "source = \"absent\"", "boot.source"),
        ("mount = \"/private\"", "", "need each other"),
        ("mode = \"dhcp\"", "mode = \"carrier pigeon\"", "line "),
        (
            "url = \"https:",
            "url = \"http:",
            "broker.url must be https",
        ),
        ("ca = \"ca.pem\"", "ca = \"config.toml\"", "broker.ca"),
        ("name = \"demo\"", "name = \"Demo\"", "image.name must be"),
        (
            "writable = \"1M\"",
            "writable = \"1\"",
            "container.writable must be",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let request = inputs(folder.path(), &CONFIG.replace(from, to));
        let text = error(&request);
        assert!(text.contains(expected), "{text}");
        assert_eq!(leftovers(folder.path()), 0, "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut request = inputs(folder.path(), CONFIG);
    fs::write(folder.path().join("key"), [9; 31]).unwrap();
    assert!(error(&request).contains("got 31 bytes, expected 32"));
    request.boot_key = None;
    assert!(error(&request).contains("--boot-key"));
    assert_eq!(leftovers(folder.path()), 0);
}

#[test]
fn keys_are_new_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    crate::key::create(&path).unwrap();
    let first = fs::read(&path).unwrap();
    assert_eq!(first.len(), 32);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(crate::key::create(&path).is_err());
    assert_eq!(fs::read(&path).unwrap(), first);
    let second = folder.path().join("second");
    crate::key::create(&second).unwrap();
    assert_ne!(fs::read(&second).unwrap(), first);
}

/// The measured files of an image folder.
struct Image(BTreeMap<String, Vec<u8>>);

impl Image {
    /// Builds an image from changed inputs.
    fn build(change: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let request = inputs(folder.path(), CONFIG);
        change(folder.path());
        build(&request, &Progress::quiet()).unwrap();
        Self(outputs(&request.out))
    }

    fn files(&self) -> diff::Image<'_> {
        diff::Image {
            kernel: &self.0["bzImage"],
            kernel_config: Some(&self.0["kernel.config"]),
            initrd: &self.0["initrd.cpio"],
            cmdline: &self.0["cmdline"],
            rootfs: &self.0["rootfs.img"],
        }
    }

    fn differences(&self, other: &Self) -> Vec<Difference> {
        diff::images(&self.files(), &other.files()).unwrap()
    }
}

/// Appends to a file of the inputs.
fn append(folder: &Path, name: &str, text: &str) {
    let mut content = fs::read(folder.join(name)).unwrap();
    content.extend_from_slice(text.as_bytes());
    fs::write(folder.join(name), content).unwrap();
}

#[test]
fn diff_names_where_images_differ() {
    let plain = Image::build(|_| {});
    assert_eq!(plain.differences(&Image::build(|_| {})), []);
    let places = |change: &dyn Fn(&Path)| {
        let found = plain.differences(&Image::build(change));
        let places = found.into_iter().filter(|one| one.part != Part::Cmdline);
        places.map(|one| (one.part, one.place)).collect::<Vec<_>>()
    };
    let one = |part, place: &str| vec![(part, place.to_owned())];

    let found = places(&|folder| append(folder, "config.toml", "cwd = \"/etc\"\n"));
    assert_eq!(found, one(Part::Manifest, "container.cwd"));
    let found = places(&|folder| append(folder, "config.toml", "memory = \"64M\"\n"));
    assert_eq!(found[0], (Part::Manifest, "container.memory".to_owned()));
    let found = places(&|folder| append(folder, "init", "2"));
    let place = "/init: offset 0x4, in no section";
    assert_eq!(found, one(Part::Initrd, place));
    let found = places(&|folder| append(folder, "kernel", "2"));
    let place = format!("offset {:#x}, in no section", kernel().len());
    assert_eq!(found, one(Part::Kernel, &place));
    let found = places(&|folder| append(folder, "config", "CONFIG_B=y\n"));
    assert_eq!(found, one(Part::KernelConfig, "CONFIG_B"));
    // What is encrypted shows in the manifest alone.
    let found = places(&|folder| append(folder, "private/note", "more"));
    let names = ["boot.content_id", "boot.root_hash"];
    assert_eq!(found, names.map(|name| (Part::Manifest, name.to_owned())));

    let found = places(&|folder| {
        fs::remove_dir_all(folder.join("oci")).unwrap();
        let mut layers = layers();
        let file = Layer::new()
            .file("srv/data", 0o644, &[8; 10_000])
            .file("srv/new", 0o644, b"");
        layers.push(file.finish());
        layout(&folder.join("oci"), &layers, &runtime());
    });
    let rootfs = |place: &str| (Part::Rootfs, place.to_owned());
    let expected = [
        rootfs("/rootfs/srv/data: contents from offset 0x0"),
        rootfs("/rootfs/srv/new"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn diff_names_a_rootfs_that_its_command_line_does_not_promise() {
    let plain = Image::build(|_| {});
    let mut altered = Image::build(|_| {});
    let rootfs = altered.0.get_mut("rootfs.img").unwrap();
    let at = rootfs
        .windows(4)
        .position(|window| window == [7; 4])
        .unwrap();
    rootfs[at] = 9;
    let places: Vec<_> = plain.differences(&altered);
    let places: Vec<_> = places.iter().map(|one| one.place.as_str()).collect();
    // The part after its last whole block is kept with its inode, before its blocks.
    let file = "/rootfs/srv/data: contents from offset 0x2000";
    assert_eq!(places, ["root hash of the file", file]);
}

#[test]
fn no_altered_rootfs_makes_its_reader_panic() {
    let image = Image::build(|_| {}).0.remove("rootfs.img").unwrap();
    let listing = erofs::list(&image).unwrap();
    assert!(listing.len() > 10, "{}", listing.len());
    for length in 0..image.len() {
        let _read = erofs::list(&image[..length]);
    }
    let mut refused = 0;
    for offset in 1024..image.len().min(16_384) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut altered = image.clone();
            altered[offset] = value;
            refused += usize::from(erofs::list(&altered).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
}
