//! What a libc would do before and under `main`: entry, relocation, memory
//! functions, heap, panic. Nothing else of a libc is needed, since every call
//! into the kernel goes through rustix.
#![allow(
    unsafe_code,
    reason = "the entry, the heap and the memory functions are below Rust"
)]

mod entry;
mod heap;
mod memory;

use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    init::halt::fail_in_panic(info.location())
}

/// `core` and `alloc` come compiled with unwinding and name these two symbols;
/// with `panic = "abort"` neither is ever called.
mod unwinding {
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}

    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Resume() -> ! {
        init::halt::fail_in_panic(None)
    }
}
