//! How the C library's allocator keeps what this process gives back.

/// Has all threads of this process share one arena, for a process that lives long: with one for each thread, as glibc has by itself
/// (mallopt(3), `M_ARENA_MAX`), what a burst of work takes stays scattered over them. To be called before other threads are started: an arena
/// that is there stays. Other allocators are left as they are.
///
/// # Example
/// ```
/// qhost_sys::memory::share_one_arena();
/// ```
#[expect(unsafe_code, reason = "rustix has no function for it")]
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 0 {
        tracing::debug!("the allocator's arenas stay as they are");
    }
}

/// Gives memory back to the kernel that was freed and lies between what is in use, which glibc does not do by itself (malloc_trim(3)): some
/// milliseconds for some hundred MiB. Other allocators are left as they are.
///
/// # Example
/// ```
/// qhost_sys::memory::give_back();
/// ```
#[expect(unsafe_code, reason = "rustix has no function for it")]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and locks what it looks at.
    if unsafe { libc::malloc_trim(0) } == 0 {
        tracing::trace!("there was no memory to give back");
    }
}
