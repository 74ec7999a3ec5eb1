//! What a policy adds to `qhost plan` once its compiled code is kept, and what the process itself costs.
//!
//! Each round starts every contender once, in turn. `cargo bench -p qhost-tests --bench plan`. The Python policy is
//! the one that the tests built (`tests/prepare-languages`); without it the line says so.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use qhost_tests::{Qhost, policy};
use serde_json::json;

const ROUNDS: usize = 60;

fn main() {
    let qhost = Qhost::new(env!("CARGO_BIN_EXE_qhost-under-test"));
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let rust = policy("limits").to_str().expect("UTF-8").to_owned();
    let python = python(&qhost);
    let mut contenders = vec![
        ("the process: --version", vec!["--version"], false),
        ("plan, no policy", vec!["plan", &job], true),
        ("plan, a Rust policy", vec!["plan", "--policy", &rust, &job], true),
    ];
    let settings = r#"python={"teams":[],"memory_mib":4096}"#;
    if let Some(python) = &python {
        let args = vec!["plan", "--policy", python, "--policy-settings", settings, &job];
        contenders.push(("plan, a Python policy", args, true));
    }
    // Compiled once, and the policies' files old enough for their digests to be kept.
    contenders.iter().for_each(|(_, args, _)| drop(qhost.run(args)));
    std::thread::sleep(qhost::limits::FILE_SETTLED + Duration::from_secs(1));
    contenders.iter().for_each(|(_, args, _)| drop(qhost.run(args)));
    let mut took = vec![vec![]; contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, args, _), took) in contenders.iter().zip(&mut took) {
            let began = Instant::now();
            qhost.run(args);
            took.push(began.elapsed());
        }
    }
    let medians: Vec<f64> = took.into_iter().map(median).collect();
    let without = medians[1];
    println!("Side by side, {ROUNDS} rounds of each, median:");
    for ((name, _, is_plan), median) in contenders.iter().zip(&medians) {
        let more = if *is_plan {
            format!("   {:+.1} ms on no policy", median - without)
        } else {
            String::new()
        };
        println!("{name:<26} {median:>6.1} ms{more}");
    }
    if python.is_none() {
        println!(
            "plan, a Python policy      not measured: tests/prepare-languages and the tests build one"
        );
    }
}

fn median(mut took: Vec<Duration>) -> f64 {
    took.sort();
    took[took.len() / 2].as_secs_f64() * 1e3
}

/// A Python policy that the tests have built, copied beside the job.
fn python(qhost: &Qhost) -> Option<String> {
    let named = std::env::var_os("QHOST_PYTHON_POLICY").map(PathBuf::from)?;
    Some(qhost.file("python.wasm", fs::read(named).expect("QHOST_PYTHON_POLICY")))
}
