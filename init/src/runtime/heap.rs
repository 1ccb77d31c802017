//! The heap: free lists by size class over chunks from the kernel. Large blocks
//! are mappings of their own. A freed block is zeroed first, so that a secret
//! outlives its owner by no copy.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr::{self, NonNull};

use super::memory;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes of the smallest class; each next one is twice as large.
const SMALLEST: usize = 16;
/// Classes from 16 bytes to 32 KiB.
const CLASSES: usize = 12;
/// Bytes asked from the kernel at a time: a block of the largest class.
const CHUNK: usize = SMALLEST << (CLASSES - 1);
const PAGE: usize = 4096;

#[global_allocator]
static HEAP: Heap = Heap {
    free: [const { Cell::new(None) }; CLASSES],
};

/// A freed block holds the link to the next one.
struct Free {
    next: Option<NonNull<Self>>,
}

/// The free blocks of each class.
struct Heap {
    free: [Cell<Option<NonNull<Free>>>; CLASSES],
}

// SAFETY: init never starts a thread, and a fork copies the heap.
unsafe impl Sync for Heap {}

impl Heap {
    /// The list of a block's class and the class's size, or `None` for a block
    /// that is a mapping of its own. A block of a class is aligned to its size, but
    /// not above a page, chunks being page-aligned.
    fn class(&self, layout: &Layout) -> Option<(&Cell<Option<NonNull<Free>>>, usize)> {
        let least = layout.size().max(layout.align()).max(SMALLEST);
        let size = least.checked_next_power_of_two()?;
        let class = size
            .trailing_zeros()
            .wrapping_sub(SMALLEST.trailing_zeros());
        Some((self.free.get(class as usize)?, size))
    }
}

fn map(size: usize) -> *mut u8 {
    let flags = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new anonymous mapping touches no existing memory.
    let mapping = unsafe { mmap_anonymous(ptr::null_mut(), size, flags.0, flags.1) };
    mapping.map_or(ptr::null_mut(), <*mut _>::cast)
}

/// Puts a block on its list.
///
/// # Safety
/// The block is large and aligned enough for a link, and nobody else's.
unsafe fn push(list: &Cell<Option<NonNull<Free>>>, block: *mut u8) {
    if let Some(free) = NonNull::new(block.cast::<Free>()) {
        // SAFETY: as the caller promises.
        unsafe { free.write(Free { next: list.get() }) };
        list.set(Some(free));
    }
}

// SAFETY: blocks are disjoint, aligned to their class (at most a page), and stay
// valid until freed; nothing here panics or unwinds.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE {
            return ptr::null_mut();
        }
        let Some((list, size)) = self.class(&layout) else {
            return map(layout.size());
        };
        if list.get().is_none() {
            let chunk = map(CHUNK);
            let blocks = if chunk.is_null() { 0 } else { CHUNK };
            for offset in (0..blocks).step_by(size) {
                // SAFETY: disjoint parts of the new chunk, each of a whole class.
                unsafe { push(list, chunk.wrapping_add(offset)) };
            }
        }
        let Some(block) = list.get() else {
            return ptr::null_mut();
        };
        // SAFETY: a block on the list is free and holds its link.
        list.set(unsafe { block.read().next });
        block.as_ptr().cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((list, _)) = self.class(&layout) else {
            // SAFETY: such a block is a whole mapping, which ends here.
            unsafe { munmap(block.cast(), layout.size()) }.ok();
            return;
        };
        // SAFETY: the caller gives the whole block back.
        unsafe { memory::fill(block, 0, layout.size()) };
        // SAFETY: the smallest class has room for a link.
        unsafe { push(list, block) };
    }
}
