//! How the C library's allocator keeps memory that this process has freed.

/// Has all threads of this process share one arena, for a process that lives long. With one arena for each thread, which is glibc's default
/// (mallopt(3), `M_ARENA_MAX`), the memory of a burst of work stays scattered over the arenas. This must be called before other threads are
/// started, since existing arenas stay. Other allocators are left as they are.
///
/// # Example
/// ```
/// qhost_sys::memory::share_one_arena();
/// ```
#[expect(unsafe_code, reason = "rustix has no function for it")]
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes two numbers.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 0 {
        tracing::debug!("the allocator's arenas stay as they are");
    }
}

/// Gives freed memory that lies between used memory back to the kernel, which glibc does not do by itself (malloc_trim(3)). This takes some
/// milliseconds for some hundred MiB. Other allocators are left as they are.
///
/// # Example
/// ```
/// qhost_sys::memory::give_back();
/// ```
#[expect(unsafe_code, reason = "rustix has no function for it")]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number, and locks the memory that it looks at.
    if unsafe { libc::malloc_trim(0) } == 0 {
        tracing::trace!("there was no memory to give back");
    }
}
