//! The initrd: a cpio archive (Linux `Documentation/driver-api/early-userspace/
//! buffer-format.rst`, "newc") that holds one file, `/init`, and nothing else.

use anyhow::{Context as _, Result};

const REGULAR_0755: u32 = 0o100_755;
const ALIGNMENT: usize = 4;

/// Archives `init`.
///
/// # Errors
/// It is over 4 GiB, the bound of the format.
pub fn archive(init: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry(&mut bytes, "init", 1, REGULAR_0755, init)?;
    entry(&mut bytes, "TRAILER!!!", 0, 0, &[])?;
    Ok(bytes)
}

/// One entry. Owner, times and devices are zero; only the inode number differs.
fn entry(bytes: &mut Vec<u8>, name: &str, inode: u32, mode: u32, data: &[u8]) -> Result<()> {
    let size = u32::try_from(data.len()).context("cannot archive init: over 4 GiB")?;
    let name_size = u32::try_from(name.len().saturating_add(1))?;
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(data);
    pad(bytes);
    Ok(())
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_lists_one_file() {
        let archive = super::archive(b"\x7fELF, three").unwrap();
        let mut cpio = Command::new("cpio")
            .args(["--quiet", "-tvn"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let listed = cpio.wait_with_output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(listed.lines().count(), 1, "{listed}");
        assert!(
            listed.starts_with("-rwxr-xr-x   1 0        0              11"),
            "{listed}"
        );
        assert!(listed.trim_end().ends_with(" init"), "{listed}");
    }
}
