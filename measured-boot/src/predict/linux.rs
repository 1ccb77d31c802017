//! The kernel as QEMU hands it to the firmware.
//!
//! `x86_load_linux` of QEMU fills the setup header (Linux "x86 Boot Protocol")
//! for the sake of a BIOS boot, and OVMF measures the result. Where the initrd
//! would lie depends on its size and on the memory below 4 GiB, so that the
//! measured kernel is one of few. SEV guests, and guests of later versions, are
//! given the file as it is.

use std::fmt;

use super::Error;

/// Memory below 4 GiB of the machines we predict for. A q35 guest has all its
/// memory there, up to 2815 MiB, and 2048 MiB when it has more.
pub const LOW_MEMORY_MIB: [u32; 6] = [256, 512, 768, 1024, 1536, 2048];

/// ACPI tables at the end of low memory (`acpi_data_size` of a PC machine).
const ACPI_DATA: usize = 0x2_8000;
const PAGE: usize = 4096;

/// Oldest protocol with `xloadflags`.
const PROTOCOL: u16 = 0x20c;
const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 0x80;
const CAN_BE_LOADED_ABOVE_4G: u16 = 2;
/// "QEMU", in the table of loaders.
const LOADER_TYPE: u8 = 0xb0;
/// The command line lies behind the real-mode code and its heap.
const CMDLINE_ADDRESS: u32 = 0x2_0000;
const HEAP_END: u16 = 0xfe00;

/// Memory below 4 GiB of the machines that are predicted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowMemory {
    /// Each of [`LOW_MEMORY_MIB`].
    Usual,
    /// One size, in MiB.
    Mib([u32; 1]),
}

impl LowMemory {
    /// The low memory of a q35 machine with this much memory, in MiB.
    pub fn of(memory_mib: u32) -> Self {
        // `pc_q35_init`: less than 0xb0000000 bytes lie below 4 GiB in one piece.
        Self::Mib([if memory_mib < 2816 { memory_mib } else { 2048 }])
    }

    pub(super) fn sizes(&self) -> &[u32] {
        match self {
            Self::Usual => &LOW_MEMORY_MIB,
            Self::Mib(size) => size,
        }
    }
}

impl fmt::Display for LowMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<_> = self.sizes().iter().map(u32::to_string).collect();
        write!(f, "{} MiB", sizes.join(", "))
    }
}

/// The kernel file with the setup header that QEMU writes. Without an initrd
/// the initrd's fields stay as they are in the file, at any memory size.
///
/// # Errors
/// The file has no setup header that QEMU would fill, or the initrd does not fit.
pub fn rewritten(
    kernel: &[u8],
    initrd_size: Option<usize>,
    memory_mib: u32,
) -> Result<Vec<u8>, Error> {
    let mut image = kernel.to_vec();
    if let Some(size) = initrd_size {
        fill_header(&mut image, size, memory_mib)?;
        return Ok(image);
    }
    let initrd = *field::<8>(&mut image, 0x218)?;
    let [any_memory, ..] = LOW_MEMORY_MIB;
    fill_header(&mut image, 0, any_memory)?;
    *field(&mut image, 0x218)? = initrd;
    Ok(image)
}

fn fill_header(kernel: &mut [u8], initrd_size: usize, memory_mib: u32) -> Result<(), Error> {
    let size = u32::try_from(initrd_size);
    let address = initrd_address(initrd_size, memory_mib);
    let (Ok(size), Some(address)) = (size, address) else {
        return Err(Error::Initrd {
            size: initrd_size,
            memory_mib,
        });
    };
    let [flags, ..] = *field::<1>(kernel, 0x211)?;
    let protocol = u16::from_le_bytes(*field(kernel, 0x206)?);
    let xloadflags = u16::from_le_bytes(*field(kernel, 0x236)?);
    if field(kernel, 0x202)? != b"HdrS" || protocol < PROTOCOL {
        return Err(refused(
            0x202,
            "got no setup header of boot protocol 2.12 or later",
        ));
    }
    if flags & LOADED_HIGH == 0 || xloadflags & CAN_BE_LOADED_ABOVE_4G == 0 {
        return Err(refused(
            0x236,
            "got a kernel that cannot be loaded above 4 GiB",
        ));
    }
    *field(kernel, 0x210)? = [LOADER_TYPE];
    *field(kernel, 0x211)? = [flags | CAN_USE_HEAP];
    *field(kernel, 0x218)? = address.to_le_bytes();
    *field(kernel, 0x21c)? = size.to_le_bytes();
    *field(kernel, 0x224)? = HEAP_END.to_le_bytes();
    *field(kernel, 0x228)? = CMDLINE_ADDRESS.to_le_bytes();
    Ok(())
}

/// The last whole pages below the ACPI tables.
fn initrd_address(size: usize, memory_mib: u32) -> Option<u32> {
    let memory = usize::try_from(memory_mib).ok()?.checked_mul(1 << 20)?;
    let last = memory.checked_sub(ACPI_DATA)?.checked_sub(1)?;
    let address = last.checked_sub(size)?;
    u32::try_from(address & !(PAGE - 1)).ok()
}

fn field<const N: usize>(kernel: &mut [u8], offset: usize) -> Result<&mut [u8; N], Error> {
    kernel
        .get_mut(offset..)
        .and_then(<[u8]>::first_chunk_mut)
        .ok_or_else(|| refused(offset, "got the end of the file in the setup header"))
}

fn refused(offset: usize, cause: &str) -> Error {
    Error::Kernel {
        offset,
        cause: cause.to_owned(),
    }
}
