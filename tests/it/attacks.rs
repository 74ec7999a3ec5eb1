//! Attacks by image servers and proxies, by name servers, by records left in the state folder, and by policies in languages with a runtime.
//! The result of each attempt is in a snapshot, or asserted if all are the same.

mod proxy;
mod credentials;
mod ranges;
mod names;
mod records;
mod languages;

use qhost_tests::{Done, Qhost};

/// A command's outcome in a line: its exit code and its error.
fn outcome(name: &str, done: &Done) -> String {
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(!said.contains("panicked"), "{name}: {said}");
    let message = said.lines().find(|line| line.starts_with("error:")).unwrap_or("done");
    format!("{name:<52} exit {:<3} {}\n", done.code, message.trim_start_matches("error: "))
}

/// Pseudo-random bytes, of no format.
fn file(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

fn digest(bytes: &[u8]) -> String {
    qhost_model::digest::Sha256::of(bytes).to_string()
}

/// Pulls an image with at most 400 MB of memory.
fn pull(qhost: &Qhost, sources: &[&str], sha256: &str) -> Done {
    qhost.run_within(400 << 10, &[&["image", "pull"], sources, &["--checksum", sha256]].concat())
}
