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
const LARGEST: usize = SMALLEST << (CLASSES - 1);
/// Bytes asked from the kernel at a time.
const CHUNK: usize = 256 * 1024;
const PAGE: usize = 4096;

#[global_allocator]
static HEAP: Heap = Heap {
    free: [const { Cell::new(None) }; CLASSES],
    next: Cell::new(ptr::null_mut()),
    left: Cell::new(0),
};

/// A freed block holds the link to the next one.
struct Free {
    next: Option<NonNull<Self>>,
}

struct Heap {
    free: [Cell<Option<NonNull<Free>>>; CLASSES],
    next: Cell<*mut u8>,
    left: Cell<usize>,
}

// SAFETY: init never starts a thread, and a fork copies the heap.
unsafe impl Sync for Heap {}

/// The class of a block, or `None` for one that is a mapping of its own. A block
/// of a class is aligned to its size, chunks being page-aligned.
fn class(layout: &Layout) -> Option<usize> {
    let size = layout
        .size()
        .max(layout.align())
        .max(SMALLEST)
        .checked_next_power_of_two()?;
    (size <= LARGEST && layout.align() <= PAGE).then(|| {
        size.trailing_zeros()
            .wrapping_sub(SMALLEST.trailing_zeros()) as usize
    })
}

fn map(size: usize) -> *mut u8 {
    let flags = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new anonymous mapping touches no existing memory.
    let mapping = unsafe { mmap_anonymous(ptr::null_mut(), size, flags.0, flags.1) };
    mapping.map_or(ptr::null_mut(), <*mut _>::cast)
}

impl Heap {
    /// Cuts a block of `size` bytes, a power of two, from the current chunk.
    fn cut(&self, size: usize) -> *mut u8 {
        let padding = self.next.get().align_offset(size.min(PAGE));
        if self.left.get() < size.wrapping_add(padding) {
            let chunk = map(CHUNK);
            self.next.set(chunk);
            self.left.set(if chunk.is_null() { 0 } else { CHUNK });
            if chunk.is_null() {
                return chunk;
            }
            return self.take(size);
        }
        self.take(padding);
        self.take(size)
    }

    fn take(&self, size: usize) -> *mut u8 {
        let block = self.next.get();
        self.next.set(block.wrapping_add(size));
        self.left.set(self.left.get().wrapping_sub(size));
        block
    }
}

// SAFETY: blocks are disjoint, aligned to their class (at most a page), and stay
// valid until freed; nothing here panics or unwinds.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(&layout) else {
            return if layout.align() <= PAGE {
                map(layout.size())
            } else {
                ptr::null_mut()
            };
        };
        let Some(list) = self.free.get(class) else {
            return ptr::null_mut();
        };
        match list.get() {
            None => self.cut(SMALLEST << class),
            Some(block) => {
                // SAFETY: a block on the list is free and holds its link.
                list.set(unsafe { block.read().next });
                block.as_ptr().cast()
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class(&layout) else {
            // SAFETY: such a block is a whole mapping, which ends here.
            unsafe { munmap(block.cast(), layout.size()) }.ok();
            return;
        };
        // SAFETY: the caller gives the whole block back.
        unsafe { memory::fill(block, 0, layout.size()) };
        let Some(free) = NonNull::new(block.cast::<Free>()) else {
            return;
        };
        let Some(list) = self.free.get(class) else {
            return;
        };
        // SAFETY: the block is large and aligned enough for a link.
        unsafe { free.write(Free { next: list.get() }) };
        list.set(Some(free));
    }
}
