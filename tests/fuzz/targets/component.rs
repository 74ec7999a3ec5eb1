//! Any bytes as a policy's file: it is identified, made a component, compiled and asked what it is, or refused.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use qhost_policy::{Allowance, Loader};

static LOADER: LazyLock<Loader> = LazyLock::new(|| Loader::in_process().expect("a sandbox"));

/// In memory, where the system has such a folder.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("qhost-fuzz-{}.wasm", std::process::id()))
});

fuzz_target!(|bytes: &[u8]| {
    // A core module is made a component in the compiler's own process, because what reads its embedded types
    // (wit-parser 0.263) overflows its stack over packages that name each other: tests/fixtures/policies.
    if bytes.starts_with(b"\0asm\x01\0\0\0") {
        return;
    }
    fs::write(&*FILE, bytes).expect("a file in the scratch folder");
    let deadline = std::time::Duration::from_millis(50);
    let allowance = Allowance { deadline, wasi: true, ..Allowance::default() };
    if let Err(error) = LOADER.inspect("fuzzed", &FILE, &allowance) {
        let shown = error.to_string();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
});
