//! A unified kernel image: systemd-stub, with kernel, initrd and command line
//! beside it as sections ("Unified Kernel Images", UAPI group specification 5).
//!
//! The stub is an input like the kernel. Its sections stay where they are; the
//! new ones follow them in memory and in the file, so the same inputs give the
//! same bits on any machine.

use anyhow::{Context as _, Result, ensure};

/// Offsets from the PE signature, and sizes, of "PE Format" sections 2 to 4.
const NUMBER_OF_SECTIONS: usize = 6;
const SIZE_OF_OPTIONAL_HEADER: usize = 20;
const OPTIONAL_HEADER: usize = 24;
const SECTION_ALIGNMENT: usize = OPTIONAL_HEADER + 32;
const FILE_ALIGNMENT: usize = OPTIONAL_HEADER + 36;
const SIZE_OF_IMAGE: usize = OPTIONAL_HEADER + 56;
const SIZE_OF_HEADERS: usize = OPTIONAL_HEADER + 60;
const CERTIFICATES: usize = OPTIONAL_HEADER + 112 + 4 * 8;
const PE32_PLUS: u32 = 0x20b;
const HEADER: u32 = 40;
/// Initialised data that is read.
const DATA: u32 = 0x4000_0040;
const PAGE: u32 = 4096;

/// `ID=` names the system; the stub needs the section to be there.
const OS_RELEASE: &[u8] = b"ID=anchorhold\n";

/// Puts the parts of a boot into one file that firmware starts.
///
/// # Errors
/// The stub is not a PE32+ image with room for four section headers.
pub fn unify(stub: &[u8], kernel: &[u8], initrd: &[u8], cmdline: &str) -> Result<Vec<u8>> {
    let mut image = Image(stub.to_vec());
    image.check().context("cannot use UKI stub")?;
    let sections: [(&[u8; 8], &[u8]); 4] = [
        (b".osrel\0\0", OS_RELEASE),
        (b".cmdline", cmdline.as_bytes()),
        (b".initrd\0", initrd),
        (b".linux\0\0", kernel),
    ];
    for (name, data) in sections {
        image.add(name, data).context("cannot use UKI stub")?;
    }
    Ok(image.0)
}

struct Image(Vec<u8>);

impl Image {
    fn check(&self) -> Result<()> {
        ensure!(self.0.starts_with(b"MZ"), "offset 0x0: got no MZ signature");
        let pe = self.number::<4>(0x3c)?;
        ensure!(
            self.number::<4>(pe)? == u32::from_le_bytes(*b"PE\0\0"),
            "offset {pe:#x}: got no PE signature"
        );
        let magic = self.field::<2>(OPTIONAL_HEADER)?;
        ensure!(
            magic == PE32_PLUS,
            "offset {pe:#x}: got optional header {magic:#x}, expected {PE32_PLUS:#x}"
        );
        ensure!(
            self.field::<4>(CERTIFICATES)? == 0,
            "got a signed stub, expected one without a signature, which would not hold"
        );
        for alignment in [SECTION_ALIGNMENT, FILE_ALIGNMENT] {
            let got = self.field::<4>(alignment)?;
            ensure!(
                got.is_power_of_two() && got <= PAGE,
                "got alignment {got:#x}, expected a power of two up to {PAGE:#x}"
            );
        }
        Ok(())
    }

    fn add(&mut self, name: &[u8; 8], data: &[u8]) -> Result<()> {
        let too_large = "the image would be over 4 GiB";
        let count = self.field::<2>(NUMBER_OF_SECTIONS)?;
        let table = u32::try_from(OPTIONAL_HEADER)?
            .checked_add(self.number::<4>(0x3c)?)
            .and_then(|at| at.checked_add(self.field::<2>(SIZE_OF_OPTIONAL_HEADER).ok()?))
            .context(too_large)?;
        let header = count
            .checked_mul(HEADER)
            .and_then(|at| at.checked_add(table));
        let header = header.context(too_large)?;
        let after = header.checked_add(HEADER).context(too_large)?;
        let headers = self.field::<4>(SIZE_OF_HEADERS)?;
        ensure!(
            after <= headers,
            "offset {header:#x}: got headers of {headers:#x} bytes, expected room for a section header of {HEADER}"
        );
        let mut end = headers;
        for index in 0..count {
            let at = index.saturating_mul(HEADER).saturating_add(table);
            let [size, address] = [8, 12].map(|field| self.number::<4>(at.saturating_add(field)));
            let section = address?.checked_add(size?).context(too_large)?;
            end = end.max(section);
        }
        let align = |value: u32, to: u32| value.checked_next_multiple_of(to).context(too_large);
        let file_alignment = self.field::<4>(FILE_ALIGNMENT)?;
        let address = align(end, PAGE)?;
        let size = u32::try_from(data.len()).context(too_large)?;
        let offset = align(
            u32::try_from(self.0.len()).context(too_large)?,
            file_alignment,
        )?;
        let padded = align(size, file_alignment)?;

        self.0.resize(usize::try_from(offset)?, 0);
        self.0.extend_from_slice(data);
        let file_end = offset.checked_add(padded).context(too_large)?;
        self.0.resize(usize::try_from(file_end)?, 0);
        self.put(header, name)?;
        let numbers = [size, address, padded, offset, 0, 0, 0, DATA];
        for (at, number) in (header.saturating_add(8)..).step_by(4).zip(numbers) {
            self.put(at, &number.to_le_bytes())?;
        }
        let image_end = align(
            address.checked_add(size).context(too_large)?,
            self.field::<4>(SECTION_ALIGNMENT)?,
        )?;
        let pe = self.number::<4>(0x3c)?;
        let at = |field: usize| pe.saturating_add(u32::try_from(field).unwrap_or(u32::MAX));
        self.put(at(SIZE_OF_IMAGE), &image_end.to_le_bytes())?;
        let count = u16::try_from(count.saturating_add(1))?;
        self.put(at(NUMBER_OF_SECTIONS), &count.to_le_bytes())
    }

    /// A number at an offset from the PE signature.
    fn field<const N: usize>(&self, field: usize) -> Result<u32> {
        let pe = self.number::<4>(0x3c)?;
        self.number::<N>(pe.saturating_add(u32::try_from(field)?))
    }

    fn number<const N: usize>(&self, offset: u32) -> Result<u32> {
        let at = usize::try_from(offset)?;
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk::<N>);
        let bytes = bytes.with_context(|| {
            let length = self.0.len();
            format!("offset {offset:#x}: got a file of {length:#x} bytes, expected {N} more")
        })?;
        let fold = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        Ok(bytes.iter().rev().fold(0, fold))
    }

    fn put(&mut self, offset: u32, bytes: &[u8]) -> Result<()> {
        let at = usize::try_from(offset)?;
        let end = at.saturating_add(bytes.len());
        let target = self.0.get_mut(at..end);
        target
            .with_context(|| format!("offset {offset:#x}: got the end of the file"))?
            .copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod tests {
    use std::fs;

    use super::unify;
    use measured_boot::predict::{LowMemory, Payload, tpm};

    /// Headers of a stub with one section, and room for four more.
    fn stub() -> Vec<u8> {
        let mut image = vec![0; 0x600];
        let mut put = |offset: usize, bytes: &[u8]| {
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, b"MZ");
        put(0x3c, &0x40u32.to_le_bytes());
        put(0x40, b"PE\0\0");
        put(0x46, &1u16.to_le_bytes());
        put(0x54, &240u16.to_le_bytes());
        put(0x58, &0x20bu16.to_le_bytes());
        put(0x58 + 32, &0x1000u32.to_le_bytes());
        put(0x58 + 36, &0x200u32.to_le_bytes());
        put(0x58 + 60, &0x400u32.to_le_bytes());
        put(0x58 + 108, &16u32.to_le_bytes());
        put(0x148, b".sdmagic");
        for (at, number) in [0x40u32, 0x5000, 0x200, 0x400].into_iter().enumerate() {
            put(0x150 + 4 * at, &number.to_le_bytes());
        }
        put(0x400, b"#### LoaderInfo: systemd-stub 252.39-1 ####");
        image
    }

    #[test]
    fn the_result_is_what_the_predictor_reads() {
        let image = unify(&stub(), &stub(), b"initrd", "console=ttyS0").unwrap();
        assert_eq!(image.len() % 0x200, 0);
        let tpm = |image: &[u8]| tpm(&Payload::Uki(image), LowMemory::Usual, Vec::new());
        let genuine = tpm(&image).unwrap();
        let other = unify(&stub(), &stub(), b"initrd", "console=ttyS1").unwrap();
        let other = tpm(&other).unwrap();
        for pcr in [4, 9, 11] {
            assert_ne!(genuine.pcrs[&pcr], other.pcrs[&pcr], "PCR {pcr}");
        }
    }

    #[test]
    fn refuses_a_stub_without_room_or_with_a_signature() {
        let refused = |offset: usize, byte: u8| {
            let mut stub = stub();
            stub[offset] = byte;
            format!("{:#}", unify(&stub, b"k", b"i", "c").unwrap_err())
        };
        assert!(refused(0, 0).contains("offset 0x0: got no MZ"));
        assert!(refused(0x40, 0).contains("offset 0x40: got no PE"));
        assert!(refused(0x58 + 61, 1).contains("expected room for a section header"));
        assert!(refused(0x58 + 112 + 32, 1).contains("a signed stub"));
        assert!(refused(0x58 + 36, 3).contains("power of two"));
    }

    #[test]
    fn no_stub_makes_it_panic() {
        let mut state = 1u64;
        let mut random = |bound: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % bound
        };
        for _ in 0..5_000 {
            let mut stub = stub();
            for _ in 0..3 {
                stub[random(0x178)] = u8::try_from(random(256)).unwrap();
            }
            stub.truncate(random(0x601));
            // Either verdict is right; reaching the next line is the test.
            let _either = unify(&stub, b"kernel", b"initrd", "a");
        }
    }

    /// Another reader of PE images agrees.
    #[test]
    fn kernel_is_given_back_by_objcopy() {
        let image = unify(&stub(), b"the kernel", b"the initrd", "a b").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("u.efi"), folder.path().join("linux"));
        fs::write(&file, image).unwrap();
        let done = std::process::Command::new("objcopy")
            .args(["-O", "binary", "--only-section=.linux"])
            .args([&file, &out])
            .output();
        // binutils comes with the linker that built this test.
        let done = done.unwrap();
        assert!(done.status.success(), "{done:?}");
        assert!(fs::read(out).unwrap().starts_with(b"the kernel"));
    }
}
