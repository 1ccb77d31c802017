//! The memory functions that compiled code calls by name (C17 section 7.24).
//!
//! String instructions keep them short and keep the compiler from recognising a
//! loop and turning it into a call of the very function it is in.

use core::arch::asm;

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller owns `count` bytes at both ends; the direction flag is
    // clear at every call (System V ABI section 3.2.1).
    unsafe {
        asm!(
            "rep movsq", "mov ecx, {tail:e}", "rep movsb",
            tail = in(reg) count & 7,
            inout("rcx") count >> 3 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: `to` is not inside the source, so copying upwards reads every
        // byte before it is overwritten.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: as for `memcpy`, downwards; the direction flag is cleared again.
    unsafe {
        asm!(
            "std", "rep movsb", "cld",
            inout("rcx") count => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            options(nostack),
        );
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    let [byte, ..] = value.to_le_bytes();
    // SAFETY: the caller owns `count` bytes at `to`.
    unsafe { fill(to, byte, count) };
    to
}

/// Fills memory, and is never optimised away: assembly without `pure` stays.
///
/// # Safety
/// The caller owns `count` bytes at `to`.
pub(super) unsafe fn fill(to: *mut u8, byte: u8, count: usize) {
    let word = u64::from_ne_bytes([byte; 8]);
    // SAFETY: as the caller promises; the direction flag is clear.
    unsafe {
        asm!(
            "rep stosq", "mov ecx, {tail:e}", "rep stosb",
            tail = in(reg) count & 7,
            inout("rcx") count >> 3 => _, inout("rdi") to => _, in("rax") word,
            options(nostack, preserves_flags),
        );
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: the caller owns `count` bytes at `left`.
        let a = unsafe { left.wrapping_add(index).read_volatile() };
        // SAFETY: and at `right`.
        let b = unsafe { right.wrapping_add(index).read_volatile() };
        if a != b {
            return i32::from(a).wrapping_sub(i32::from(b));
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, count) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length: usize = 0;
    // SAFETY: the caller's string ends with a zero byte, and so far none was.
    while unsafe { text.wrapping_add(length).read_volatile() } != 0 {
        length = length.wrapping_add(1);
    }
    length
}
