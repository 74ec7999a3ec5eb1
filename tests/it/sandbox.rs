//! Hostile policies: each ends within its limit, in exit code 12 with the limit named, and QEMU is never started. One
//! that is merely noisy ends in a log that is cut and escaped.

use qhost_tests::{Done, ImageServer, Qhost, boot_sector, policy};
use serde_json::json;

use crate::qhost;

/// Runs a job that would boot, under a policy file, and asserts that nothing was fetched and no VM was made.
fn run_under(qhost: &Qhost, file: &str) -> Done {
    let server = ImageServer::start();
    let image = server.serve("/image", boot_sector::disk("never", boot_sector::Then::PowerOff));
    let job = qhost.job(&image, json!({}));
    let done = qhost.run(&["run", "--policy", &format!("probe={file}"), &job]);
    assert_eq!(server.requests(), [""; 0], "a request was made");
    assert!(qhost.vms().is_empty(), "QEMU was started");
    done
}

fn fails(probe: &str, says: &str) {
    let qhost = qhost();
    let path = policy(probe);
    let digest = qhost::digest::Sha256::of(&std::fs::read(&path).unwrap()).to_string();
    run_under(&qhost, path.to_str().unwrap())
        .exits(12)
        .says(&format!("policy probe (sha256:{digest})"))
        .says(says);
}

#[test]
fn one_that_loops_meets_its_deadline() {
    fails("probe-spins", "ran longer than its deadline of 1000 ms");
}

#[test]
fn one_that_hoards_meets_its_memory_limit() {
    fails("probe-hoards", "needed more than its 64 MiB of memory");
}

#[test]
fn one_that_recurses_meets_its_stack_limit() {
    fails("probe-recurses", "needed more than its 512 KiB of stack");
}

#[test]
fn one_that_panics_traps() {
    fails("probe-traps", "it trapped");
}

#[test]
fn one_that_answers_too_much_is_not_copied() {
    fails("probe-huge-answer", "handed over more than 1024 KiB in one call");
}

#[test]
fn one_that_imports_files_is_refused_by_name() {
    fails("probe-wasi-files", "imports wasi:filesystem/preopens@0.2.0");
}

#[test]
fn one_of_another_world_is_no_policy() {
    fails("probe-wrong-world", "is no policy: it exports greet");
}

#[test]
fn one_that_never_answers_twice_the_same_does_not_settle() {
    fails(
        "probe-fickle",
        "does not settle: asked again about the chosen launch, it changed resources.memory_mib from 33 to 34",
    );
}

#[test]
fn the_same_input_gives_the_same_decision() {
    let qhost = qhost();
    let fickle = policy("probe-fickle");
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let decide = || {
        qhost.run(&["plan", "--json", "--policy", fickle.to_str().unwrap(), &job]).exits(12).stdout
    };
    let first = decide();
    assert!((0..3).all(|_| decide() == first), "a static survived from one sandbox to the next");
}

#[test]
fn a_file_that_is_no_wasm() {
    let qhost = qhost();
    for (bytes, says) in [
        (&b"#!/bin/sh\necho no\n"[..], "not a WebAssembly file"),
        (b"", "not a WebAssembly file"),
        (b"\0asm\x0d\0\x01\0garbage", "does not load"),
        (b"\0asm\x01\0\0\0", "is no policy: it exports nothing"),
        (b"\0asm\x01\0\0\0\x01", "cannot be made a component"),
        (b"\0asm\xff\0\0\0", "unknown version"),
    ] {
        let file = qhost.file("file.wasm", bytes);
        run_under(&qhost, &file).exits(12).says(says);
    }
}

#[test]
fn a_flood_of_log_lines_is_cut() {
    let qhost = qhost();
    let path = policy("probe-floods-log");
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let args = ["plan", "--json", "--policy", path.to_str().unwrap(), &job];
    let done = qhost.run(&args);
    assert!(done.stdout.len() < 64 << 10, "{} bytes", done.stdout.len());
    let record = &done.exits(0).json()["decision"]["policies"][0];
    let lines = record["log"].as_array().expect("lines");
    assert_eq!(lines.len(), 64);
    assert_eq!(record["log_dropped"], 10_001 - 64);
    assert!(lines[0]["message"].as_str().expect("text").ends_with('…'), "a long line is cut");
}

#[test]
fn escapes_reach_no_terminal() {
    let qhost = qhost();
    let path = policy("probe-escapes");
    let done = run_under(&qhost, path.to_str().unwrap()).exits(11);
    for text in [&done.stdout, &done.stderr] {
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(steers), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{text}");
    }
    let done = done.says(r"\u{1b}[2J");
    drop(done);
    let inspection = qhost.run(&["policy", "inspect", path.to_str().unwrap()]).exits(0);
    assert!(!inspection.stdout.contains('\x1b'), "{:?}", inspection.stdout);
}
