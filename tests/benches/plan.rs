//! What a policy adds to `qhost plan` once its compiled code is kept, and what the process itself costs.
//!
//! Each round starts every contender once, in turn. `cargo bench -p qhost-tests --bench plan`. The Python policy is made
//! from the template; where componentize-py is not installed, the line says so.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;

use qhost_tests::{Qhost, languages::can_build, policy};

const ROUNDS: usize = 60;

fn main() {
    let qhost = Qhost::new(env!("CARGO_BIN_EXE_qhost-under-test")).as_author();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let mut with_team: serde_json::Value =
        serde_json::from_slice(&fs::read(&job).expect("the job")).expect("JSON");
    with_team["meta"] = json!({"team": "web"});
    let job = qhost.file("job.json", with_team.to_string());
    let rust = policy("limits").to_str().expect("UTF-8").to_owned();
    let python = can_build("python").then(|| qhost.project("python", "team-rules"));
    let python = python.map(|file| file.to_str().expect("UTF-8").to_owned());
    let mut contenders = vec![
        ("the process: --version", vec!["--version"], false),
        ("plan, no policy", vec!["plan", &job], true),
        ("plan, a Rust policy", vec!["plan", "--policy", &rust, &job], true),
    ];
    let settings = r#"team-rules={"teams":["web"],"memory_mib":4096}"#;
    if let Some(python) = &python {
        let args = vec!["plan", "--policy", python, "--policy-settings", settings, &job];
        contenders.push(("plan, a Python policy", args, true));
    }
    // The policies are compiled once, and their files are old enough for their digests to be kept.
    contenders.iter().for_each(|(_, args, _)| drop(qhost.run(args)));
    std::thread::sleep(qhost_policy::limits::FILE_SETTLED + Duration::from_secs(1));
    contenders.iter().for_each(|(_, args, _)| drop(qhost.run(args)));
    let mut took = vec![vec![]; contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, args, _), took) in contenders.iter().zip(&mut took) {
            let began = Instant::now();
            let done = qhost.run(args);
            took.push(began.elapsed());
            assert_eq!(done.code, 0, "{}", done.stderr);
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
            "plan, a Python policy      not measured: componentize-py is missing (tests/languages)"
        );
    }
}

fn median(mut took: Vec<Duration>) -> f64 {
    took.sort();
    took[took.len() / 2].as_secs_f64() * 1e3
}
