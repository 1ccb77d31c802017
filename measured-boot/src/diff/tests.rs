#![allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]

use super::{Difference, Image, Part, cpio, erofs, images};
use crate::predict::tests::kernel;

/// One entry of a cpio archive, padded.
fn entry(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let [size, name_size] = [data.len(), name.len() + 1].map(|size| u32::try_from(size).unwrap());
    let fields = [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    let fields = fields.map(|field| format!("{field:08x}")).concat();
    let head = format!("070701{fields}");
    let mut bytes = [head.as_bytes(), name.as_bytes(), b"\0"].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn archive(init: &[u8]) -> Vec<u8> {
    [entry("init", 0o100_755, init), entry("TRAILER!!!", 0, b"")].concat()
}

/// An ELF with the sections `.text` and `.data` of 16 bytes.
fn elf(text: &[u8; 16], data: &[u8; 16]) -> Vec<u8> {
    let names = b"\0.text\0.data\0.shstrtab\0";
    let mut file = vec![0; 64];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    let mut put = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(16, &[3, 0, 62, 0, 1]);
    put(40, &128u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 0, 0, 64, 0, 4, 0, 3, 0]);
    file.extend(text);
    file.extend(data);
    file.extend(names);
    file.resize(128, 0);
    let section = |name: u32, kind: u32, offset: u64, size: usize| {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&offset.to_le_bytes());
        header[32..40].copy_from_slice(&u64::try_from(size).unwrap().to_le_bytes());
        header
    };
    file.extend([0; 64]);
    file.extend(section(1, 1, 64, 16));
    file.extend(section(7, 1, 80, 16));
    file.extend(section(13, 3, 96, names.len()));
    file
}

struct Files {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    cmdline: Vec<u8>,
    config: Option<Vec<u8>>,
}

impl Files {
    fn new() -> Self {
        Self {
            kernel: kernel(),
            initrd: archive(&elf(&[1; 16], &[2; 16])),
            cmdline: b"console=ttyS0 quiet".to_vec(),
            config: Some(b"CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n".to_vec()),
        }
    }

    fn image(&self) -> Image<'_> {
        Image {
            kernel: &self.kernel,
            kernel_config: self.config.as_deref(),
            initrd: &self.initrd,
            cmdline: &self.cmdline,
            rootfs: b"",
        }
    }
}

/// Differences to the plain files, each as part, place and values.
fn compared(change: impl FnOnce(&mut Files)) -> Vec<Difference> {
    let (a, mut b) = (Files::new(), Files::new());
    change(&mut b);
    images(&a.image(), &b.image()).unwrap()
}

fn difference(part: Part, place: &str, a: Option<&str>, b: Option<&str>) -> Difference {
    Difference {
        part,
        place: place.into(),
        a: a.map(Into::into),
        b: b.map(Into::into),
    }
}

#[test]
fn equal_images_have_no_difference() {
    assert_eq!(compared(|_| {}), []);
}

#[test]
fn names_the_parameter_of_the_command_line() {
    let found = compared(|b| b.cmdline = b"console=ttyS1 debug quiet".to_vec());
    let part = Part::Cmdline;
    let expected = [
        difference(part, "console", Some("ttyS0"), Some("ttyS1")),
        difference(part, "debug", None, Some("")),
    ];
    assert_eq!(found, expected);
    let order = compared(|b| b.cmdline = b"quiet console=ttyS0".to_vec());
    assert_eq!(order[0].place, "order and spaces");
}

#[test]
fn names_the_option_of_the_kernel() {
    let found = compared(|b| {
        b.config = Some(b"CONFIG_B=y\nCONFIG_C=\"x\"\n".to_vec());
        b.kernel[0x1900] ^= 1;
    });
    let part = Part::KernelConfig;
    let options = [
        difference(part, "CONFIG_A", Some("y"), None),
        difference(part, "CONFIG_B", None, Some("y")),
    ];
    assert_eq!(found[1..], options);
    assert_eq!(found[0].part, Part::Kernel);
    assert!(found[0].place.contains("0x1900"), "{}", found[0].place);
}

#[test]
fn names_the_section_of_init() {
    let found = compared(|b| {
        let mut data = [2; 16];
        data[9] = 3;
        b.initrd = archive(&elf(&[1; 16], &data));
    });
    let place = "/init: section .data from offset 0x9 (file offset 0x59)";
    let (a, b) = (
        "16 bytes, there 02020202020202",
        "16 bytes, there 03020202020202",
    );
    assert_eq!(found, [difference(Part::Initrd, place, Some(a), Some(b))]);
}

#[test]
fn names_entries_of_the_initrd_that_only_one_has() {
    let init = elf(&[1; 16], &[2; 16]);
    let found = compared(|b| b.initrd = [entry("sh", 0o100_755, b""), archive(&init)].concat());
    let part = Part::Initrd;
    let expected = [
        difference(part, "entry 0", Some("/init"), Some("/sh")),
        difference(part, "entry 1", None, Some("/init")),
    ];
    assert_eq!(found, expected);
}

#[test]
fn names_an_initrd_that_is_not_read() {
    let (a, mut b) = (Files::new(), Files::new());
    b.initrd.extend(b"more");
    let error = images(&a.image(), &b.image()).unwrap_err().to_string();
    let end = a.initrd.len();
    let expected = format!(
        "cannot read initrd at offset {end:#x}: end: got 4 bytes, expected nothing behind the trailer"
    );
    assert_eq!(error, expected);
}

#[test]
fn no_truncated_or_altered_archive_panics() {
    let archive = archive(&elf(&[1; 16], &[2; 16]));
    assert_eq!(cpio::read(&archive).unwrap().len(), 1);
    for length in 0..archive.len() {
        assert!(cpio::read(&archive[..length]).is_err(), "{length}");
    }
    for offset in 0..archive.len() {
        for value in [0, b'f', b'7', 0xff] {
            let mut altered = archive.clone();
            altered[offset] = value;
            let _read = cpio::read(&altered);
        }
    }
}

#[test]
fn rejects_what_is_no_erofs() {
    for image in [&[][..], &[0; 4096], &[0xff; 8192]] {
        let error = erofs::list(image).unwrap_err();
        assert_eq!((error.part, error.offset), ("rootfs", 1024));
    }
}
