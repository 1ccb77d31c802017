//! Which interface, from sysfs.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use rustix::fs::{CWD, Dir, Mode, OFlags, open, readlinkat};
use rustix::io::Errno;

use super::Error;
use super::netlink::Index;
use crate::file;

/// The kernel's list of interfaces.
pub(super) const SYSFS: &str = "/sys/class/net";
const DRIVER: &str = "virtio_net";

/// The one network device of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: Index,
    pub(super) mac: [u8; 6],
}

impl Link {
    /// Finds the one interface besides loopback, which must be virtio's. Two
    /// would leave the choice to the host.
    pub(super) fn find(sysfs: &str) -> Result<Self, Error> {
        let names = interfaces(sysfs)?;
        let [name] = names.as_slice() else {
            let found = names.len();
            return Err(Error::Device(format!("got {found} interfaces, expected 1")));
        };
        let driver = readlinkat(CWD, format!("{sysfs}/{name}/device/driver"), Vec::new())?;
        if driver.to_bytes().rsplit(|b| *b == b'/').next() != Some(DRIVER.as_bytes()) {
            return Err(Error::Device(format!("its driver is not {DRIVER}")));
        }
        let attribute = |file: &str| file::read_line(&format!("{sysfs}/{name}/{file}"), 64);
        let index = attribute("ifindex")?.parse().ok();
        let mac = parse_mac(&attribute("address")?);
        match (index, mac) {
            (Some(index), Some(mac)) => Ok(Self {
                index: Index(index),
                mac,
            }),
            _ => Err(Error::Device("its index or address is malformed".into())),
        }
    }
}

fn interfaces(sysfs: &str) -> Result<Vec<String>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::new(open(sysfs, flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name().to_str().map_err(|_| Errno::ILSEQ)?;
        if !matches!(name, "." | ".." | "lo") {
            names.push(name.to_string());
        }
    }
    Ok(names)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = parts
            .next()
            .filter(|part| part.len() == 2)
            .and_then(|part| u8::from_str_radix(part, 16).ok())?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::{Error, Index, Link, parse_mac};

    fn sysfs(interfaces: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lo")).unwrap();
        for (name, driver) in interfaces {
            let device = dir.path().join(name).join("device");
            fs::create_dir_all(&device).unwrap();
            symlink(
                std::format!("../../bus/drivers/{driver}"),
                device.join("driver"),
            )
            .unwrap();
            fs::write(device.join("../ifindex"), "2\n").unwrap();
            fs::write(device.join("../address"), "52:54:00:12:34:56\n").unwrap();
        }
        dir
    }

    fn find(interfaces: &[(&str, &str)]) -> Result<Link, Error> {
        Link::find(sysfs(interfaces).path().to_str().unwrap())
    }

    #[test]
    fn finds_the_one_virtio_interface() {
        let link = find(&[("eth0", "virtio_net")]).unwrap();
        assert_eq!(link.index, Index(2));
        assert_eq!(link.mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    }

    #[test]
    fn rejects_none_two_and_another_driver() {
        for interfaces in [
            &[][..],
            &[("eth0", "virtio_net"), ("eth1", "virtio_net")],
            &[("eth0", "e1000")],
        ] {
            assert!(matches!(find(interfaces), Err(Error::Device(_))));
        }
    }

    #[test]
    fn rejects_malformed_hardware_addresses() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:5",
            "x",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }
}
