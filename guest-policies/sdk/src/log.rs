//! Notes for the operator. In native unit tests they go to standard error.

#[cfg(target_arch = "wasm32")]
use crate::bindings::qhost::policy::log::{Level, log};

/// Notes how an answer came about.
pub fn debug(message: &str) {
    #[cfg(target_arch = "wasm32")]
    log(Level::Debug, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("debug: {message}");
}

/// Notes something that an operator wants to see.
pub fn info(message: &str) {
    #[cfg(target_arch = "wasm32")]
    log(Level::Info, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("info: {message}");
}

/// Notes that something is not as it should be.
pub fn warn(message: &str) {
    #[cfg(target_arch = "wasm32")]
    log(Level::Warn, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("warn: {message}");
}

/// Has a panic's message, file and line logged before the policy traps; the trap would tell none of them.
#[doc(hidden)]
pub fn panics() {
    #[cfg(target_arch = "wasm32")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|panic| {
                log(Level::Error, &panic.to_string().replace('\n', " "));
            }));
        });
    }
}
