//! Which interface, from sysfs.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use measured_boot::base16;
use rustix::fs::{CWD, readlinkat};

use crate::file;

/// The kernel's list of interfaces.
pub(super) const SYSFS: &str = "/sys/class/net";
const DRIVER: &str = "virtio_net";

/// The one network device of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
}

impl Link {
    /// Finds the one interface besides loopback, which must be virtio's. Two
    /// would leave the choice to the host.
    ///
    /// # Errors
    /// The kernel's, or what is wrong with the interfaces.
    pub(super) fn find(sysfs: &str) -> Result<Self, String> {
        let mut names = file::names(sysfs, "").map_err(|errno| errno.to_string())?;
        names.retain(|name| !matches!(name.as_str(), "." | ".." | "lo"));
        let [name] = names.as_slice() else {
            return Err(format!("got {} interfaces, expected 1", names.len()));
        };
        let driver = readlinkat(CWD, format!("{sysfs}/{name}/device/driver"), Vec::new())
            .map_err(|errno| errno.to_string())?;
        if driver.to_bytes().rsplit(|b| *b == b'/').next() != Some(DRIVER.as_bytes()) {
            return Err(format!("its driver is not {DRIVER}"));
        }
        let attribute = |file: &str| {
            file::read_line(&format!("{sysfs}/{name}/{file}"), 64)
                .map_err(|errno| errno.to_string())
        };
        let index = attribute("ifindex")?.parse().ok();
        let mac = base16::decode(&attribute("address")?.replace(':', ""));
        index
            .zip(mac)
            .map(|(index, mac)| Self { index, mac })
            .ok_or_else(|| "its index or address is malformed".into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::Link;

    fn sysfs(interfaces: &[(&str, &str)], address: &str) -> tempfile::TempDir {
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
            fs::write(device.join("../address"), address).unwrap();
        }
        dir
    }

    fn find(interfaces: &[(&str, &str)]) -> Result<Link, std::string::String> {
        let sysfs = sysfs(interfaces, "52:54:00:12:34:56\n");
        Link::find(sysfs.path().to_str().unwrap())
    }

    #[test]
    fn finds_the_one_virtio_interface() {
        let link = find(&[("eth0", "virtio_net")]).unwrap();
        assert_eq!(link.index, 2);
        assert_eq!(link.mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    }

    #[test]
    fn rejects_none_two_and_another_driver() {
        for (interfaces, expected) in [
            (&[][..], "got 0 interfaces, expected 1"),
            (
                &[("eth0", "virtio_net"), ("eth1", "virtio_net")],
                "got 2 interfaces, expected 1",
            ),
            (&[("eth0", "e1000")], "its driver is not virtio_net"),
        ] {
            assert_eq!(find(interfaces), Err(expected.into()));
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
            let sysfs = sysfs(&[("eth0", "virtio_net")], text);
            let error = Link::find(sysfs.path().to_str().unwrap()).unwrap_err();
            assert_eq!(error, "its index or address is malformed", "{text}");
        }
    }
}
