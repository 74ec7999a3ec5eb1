//! The allocator of policies. A sandbox lives for one decision, so that little memory need be given back: memory is handed out from an
//! arena that lies in the module's initial memory, and the arena grows only when that is used up. A memory that grows costs its host two
//! system calls a decision, which hold up decisions of other threads of the same process.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::{Cell, UnsafeCell},
    ptr,
};

/// Some five times what a decision about the largest launch of the examples takes.
const ARENA_BYTES: usize = 256 << 10;
/// The least that a memory grows by, in bytes.
const GROWTH_BYTES: usize = 1 << 20;
/// The bytes of a page of a Wasm memory.
const PAGE_BYTES: usize = 64 << 10;

#[repr(align(16))]
struct Initial(UnsafeCell<[u8; ARENA_BYTES]>);

/// Hands out memory from its beginning to its end.
struct Arena {
    initial: Initial,
    /// The place of the next part; null before the first part is taken.
    next: Cell<*mut u8>,
    /// The end of the memory that can be handed out.
    end: Cell<*mut u8>,
}

#[cfg(target_feature = "atomics")]
compile_error!("the arena is for modules of one thread");

// SAFETY: a core module has one thread, as the target has no atomics.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena {
    initial: Initial(UnsafeCell::new([0; ARENA_BYTES])),
    next: Cell::new(ptr::null_mut()),
    end: Cell::new(ptr::null_mut()),
};

impl Arena {
    /// Hands out so many bytes, or null where the memory cannot grow.
    fn take(&self, layout: Layout) -> *mut u8 {
        if self.next.get().is_null() {
            let first = self.initial.0.get().cast::<u8>();
            self.next.set(first);
            self.end.set(first.wrapping_add(ARENA_BYTES));
        }
        let next = self.next.get();
        let start = next.wrapping_add(next.align_offset(layout.align()));
        let left = (self.end.get() as usize).checked_sub(start as usize);
        if left.is_some_and(|left| layout.size() <= left) {
            self.next.set(start.wrapping_add(layout.size()));
            return start;
        }
        self.grow(layout)
    }

    #[cold]
    fn grow(&self, layout: Layout) -> *mut u8 {
        let Some(needed) = layout.size().checked_add(layout.align()) else {
            return ptr::null_mut();
        };
        let pages = needed.max(GROWTH_BYTES).div_ceil(PAGE_BYTES);
        let before = core::arch::wasm32::memory_grow(0, pages);
        if before == usize::MAX {
            return ptr::null_mut();
        }
        // The rest of the arena is given up, unless it has grown before and the new pages follow on it.
        let first = (before * PAGE_BYTES) as *mut u8;
        let initial = self.initial.0.get().cast::<u8>().wrapping_add(ARENA_BYTES);
        if self.end.get() != first || first == initial {
            self.next.set(first);
        }
        self.end.set(first.wrapping_add(pages * PAGE_BYTES));
        self.take(layout)
    }
}

// SAFETY: each part is handed out once, aligned, and lies between what was handed out before and the arena's end.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // Memory that was given back is not zero any more.
        let part = self.take(layout);
        if !part.is_null() {
            // SAFETY: the part is of this size.
            unsafe { part.write_bytes(0, layout.size()) };
        }
        part
    }

    unsafe fn dealloc(&self, part: *mut u8, layout: Layout) {
        // Only the last part can be handed out again.
        if part.wrapping_add(layout.size()) == self.next.get() {
            self.next.set(part);
        }
    }

    unsafe fn realloc(&self, part: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_last = part.wrapping_add(layout.size()) == self.next.get();
        if is_last && size <= self.end.get() as usize - part as usize {
            self.next.set(part.wrapping_add(size));
            return part;
        }
        if size <= layout.size() {
            return part;
        }
        // SAFETY: the alignment is that of a layout, and the caller guarantees the size.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let new = self.take(larger);
        if !new.is_null() {
            // SAFETY: the parts do not overlap, since the old part is before the place of the next one.
            unsafe { ptr::copy_nonoverlapping(part, new, layout.size()) };
        }
        new
    }
}
