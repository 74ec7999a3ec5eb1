//! The allocator of policies. A sandbox lives for one decision, so that little need be given back: memory is handed out from an arena
//! that lies in the module's initial memory, and the arena grows only when that is used up. A memory that grows costs its host two system
//! calls a decision, which hold up decisions of other threads of the same process.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::{Cell, UnsafeCell},
    ptr,
};

/// What a decision about the largest launch of the examples takes some five times over.
const ARENA_BYTES: usize = 256 << 10;
/// What a memory grows by at least, in bytes.
const GROWTH_BYTES: usize = 1 << 20;
/// A page of a Wasm memory.
const PAGE_BYTES: usize = 64 << 10;

#[repr(align(16))]
struct Initial(UnsafeCell<[u8; ARENA_BYTES]>);

/// Hands out memory from its beginning to its end.
struct Arena {
    initial: Initial,
    /// What is handed out next; null before the first time.
    next: Cell<*mut u8>,
    /// Behind what can be handed out.
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
    /// So many bytes from the end of what is handed out, or null where the memory cannot grow.
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
        // What is left of the area before is given up, unless that has grown too and the new pages follow on it.
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
        // What was given back is not zero any more.
        let part = self.take(layout);
        if !part.is_null() {
            // SAFETY: it is of this size.
            unsafe { part.write_bytes(0, layout.size()) };
        }
        part
    }

    unsafe fn dealloc(&self, part: *mut u8, layout: Layout) {
        // The last part can be handed out again.
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
        // SAFETY: the alignment was of a layout already, and the caller answers for the size.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let new = self.take(larger);
        if !new.is_null() {
            // SAFETY: they do not overlap: the old part is before what is handed out next.
            unsafe { ptr::copy_nonoverlapping(part, new, layout.size()) };
        }
        new
    }
}
