//! From the kernel's jump to `main` (System V ABI for x86-64, sections 3.4.1 and
//! 5.2; ELF gABI "Dynamic Section").

use core::arch::global_asm;

use rustix::mm::{MprotectFlags, mprotect};

/// `Elf64_Dyn`.
#[repr(C)]
struct Dynamic {
    tag: u64,
    value: usize,
}

const DT_NULL: u64 = 0;
const DT_RELA: u64 = 7;
const DT_RELRSZ: u64 = 35;
const DT_RELR: u64 = 36;

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

/// Adds the load address to every pointer the image holds (gABI "Relative
/// Relocation Table": an even word is the address of a pointer, an odd one has a
/// bit for each of the 63 words that follow).
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
            DT_RELR => table = *value,
            DT_RELRSZ => size = *value,
            // The linker is told to pack; any other kind would go unrelocated.
            // SAFETY: ends the process.
            DT_RELA => unsafe { core::arch::asm!("ud2", options(noreturn)) },
            _ => {}
        }
        // SAFETY: not at the terminator yet, so there is one more entry.
        entry = unsafe { entry.add(1) };
    }

    let words = base.wrapping_add(table).cast::<usize>();
    let mut next = base.cast_mut().cast::<usize>();
    for index in 0..size.wrapping_div(8) {
        // SAFETY: DT_RELR and DT_RELRSZ describe the linker's table.
        let word = unsafe { words.wrapping_add(index).read() };
        if word & 1 == 0 {
            next = base.wrapping_add(word).cast_mut().cast();
            // SAFETY: the linker says this is an aligned, writable pointer.
            unsafe { add(next, base) };
            next = next.wrapping_add(1);
        } else {
            for bit in 1..usize::BITS {
                if word >> bit & 1 == 1 {
                    // SAFETY: as above.
                    unsafe { add(next.wrapping_add(bit as usize).wrapping_sub(1), base) };
                }
            }
            next = next.wrapping_add(usize::BITS as usize).wrapping_sub(1);
        }
    }
}

/// # Safety
/// `place` is an aligned, writable word of the image.
unsafe fn add(place: *mut usize, base: *const u8) {
    // SAFETY: the caller's promise.
    let value = unsafe { place.read() };
    // SAFETY: the caller's promise.
    unsafe { place.write(value.wrapping_add(base.addr())) };
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
    let offset = unsafe { base.wrapping_add(E_PHOFF).cast::<usize>().read() };
    // SAFETY: as above.
    let count = unsafe { base.wrapping_add(E_PHNUM).cast::<u16>().read() };
    for index in 0..usize::from(count) {
        let header = base
            .wrapping_add(offset)
            .wrapping_add(index.wrapping_mul(PHDR_SIZE));
        // SAFETY: the header table has `count` entries and is mapped.
        let kind = unsafe { header.cast::<u32>().read() };
        if kind == PT_GNU_RELRO {
            // SAFETY: p_vaddr of this program header.
            let address = unsafe { header.wrapping_add(16).cast::<usize>().read() };
            // SAFETY: p_memsz of this program header.
            let size = unsafe { header.wrapping_add(40).cast::<usize>().read() };
            let start = base.wrapping_add(address).cast_mut();
            // SAFETY: the linker padded this range to whole pages that hold
            // nothing written after relocation.
            let protected = unsafe { mprotect(start.cast(), size, MprotectFlags::READ) };
            debug_assert!(protected.is_ok());
        }
    }
}
