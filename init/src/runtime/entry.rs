//! From the kernel's jump to `main` (System V ABI for x86-64, sections 3.4.1 and
//! 5.2; ELF gABI "Dynamic Section").

use core::arch::global_asm;
use core::slice;

use rustix::mm::{MprotectFlags, mprotect};

/// `Elf64_Dyn`.
#[repr(C)]
struct Dynamic {
    tag: u64,
    value: u64,
}

/// `Elf64_Rela`.
#[repr(C)]
struct Relocation {
    offset: usize,
    info: u64,
    addend: usize,
}

const DT_NULL: u64 = 0;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const R_X86_64_RELATIVE: u64 = 8;

// The kernel enters with an aligned stack and nothing else promised. Argument
// vector and environment lie on that stack and stay unread. Both symbols come
// from the linker; found relative to the instruction, they need no relocation.
global_asm!(
    ".globl _start",
    ".hidden _DYNAMIC",
    ".hidden __ehdr_start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "lea rdi, [rip + __ehdr_start]",
    "lea rsi, [rip + _DYNAMIC]",
    "and rsp, -16",
    "call {entry}",
    "ud2",
    entry = sym entry,
);

unsafe extern "C" fn entry(base: *const u8, dynamic: *const Dynamic) -> ! {
    // SAFETY: the linker placed the image at `base` and its dynamic section at
    // `dynamic`, and nothing that needs relocating was used before this line.
    unsafe { relocate(base, dynamic) };
    // SAFETY: the image is relocated, so its program headers describe it.
    unsafe { protect_relocated(base) };
    crate::main()
}

/// Adds the load address to every pointer the image holds.
///
/// # Safety
/// `base` and `dynamic` are this image's start and dynamic section. Called once.
unsafe fn relocate(base: *const u8, dynamic: *const Dynamic) {
    let (mut table, mut size) = (0, 0);
    let mut entry = dynamic;
    loop {
        // SAFETY: the dynamic section is an array that ends with DT_NULL.
        let Dynamic { tag, value } = unsafe { &*entry };
        match *tag {
            DT_NULL => break,
            DT_RELA => table = *value as usize,
            DT_RELASZ => size = *value as usize,
            _ => {}
        }
        // SAFETY: not at the terminator yet, so there is one more entry.
        entry = unsafe { entry.add(1) };
    }
    let count = size / size_of::<Relocation>();
    // SAFETY: DT_RELA and DT_RELASZ describe the linker's table of relocations.
    let relocations = unsafe { slice::from_raw_parts(base.add(table).cast::<Relocation>(), count) };
    for relocation in relocations {
        if relocation.info != R_X86_64_RELATIVE {
            core::hint::cold_path();
            // SAFETY: ends the process; a static image has no other kind.
            unsafe { core::arch::asm!("ud2", options(noreturn)) };
        }
        let place = base
            .wrapping_add(relocation.offset)
            .cast_mut()
            .cast::<usize>();
        // SAFETY: the linker says that this aligned word of the image's
        // writable part is a pointer to be set to base + addend.
        unsafe { place.write(base.addr().wrapping_add(relocation.addend)) };
    }
}

/// Makes the pointers that were just relocated read-only (`PT_GNU_RELRO`).
///
/// # Safety
/// `base` is this image's start, and it is relocated.
unsafe fn protect_relocated(base: *const u8) {
    const E_PHOFF: usize = 32;
    const E_PHNUM: usize = 56;
    const PHDR_SIZE: usize = 56;
    const PT_GNU_RELRO: u32 = 0x6474_e552;
    // SAFETY: the ELF header is mapped at `base` and these fields are aligned.
    let offset = unsafe { base.add(E_PHOFF).cast::<usize>().read() };
    // SAFETY: as above.
    let count = unsafe { base.add(E_PHNUM).cast::<u16>().read() };
    for index in 0..usize::from(count) {
        let header = base
            .wrapping_add(offset)
            .wrapping_add(index.wrapping_mul(PHDR_SIZE));
        // SAFETY: the header table has `count` entries and is mapped.
        let kind = unsafe { header.cast::<u32>().read() };
        if kind == PT_GNU_RELRO {
            // SAFETY: p_vaddr of this program header.
            let address = unsafe { header.add(16).cast::<usize>().read() };
            // SAFETY: p_memsz of this program header.
            let size = unsafe { header.add(40).cast::<usize>().read() };
            let start = base.wrapping_add(address).cast_mut();
            // SAFETY: the linker padded this range to whole pages that hold
            // nothing written after relocation.
            let protected = unsafe { mprotect(start.cast(), size, MprotectFlags::READ) };
            debug_assert!(protected.is_ok());
        }
    }
}
