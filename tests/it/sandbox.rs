//! Hostile policies: each ends within its limit, in exit code 12 with the limit named, and QEMU is never started. The log of a policy that
//! is merely noisy is cut and escaped.

use std::{fs, thread};

use serde_json::json;

use qhost_model::{host_facts::HostFacts, job, launch::Rules};
use qhost_policy::{Allowance, Layer, Loader, Mode, Request, Source, Verdict, limits};
use qhost_tests::{Done, ImageServer, Qhost, boot_sector, policy, root};

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
    let digest = qhost_model::digest::Sha256::of(&std::fs::read(&path).unwrap()).to_string();
    let began = std::time::Instant::now();
    run_under(&qhost, path.to_str().unwrap())
        .exits(12)
        .says(&format!("policy probe (sha256:{digest})"))
        .says(says);
    // This bound is loose, for busy machines: a limit of a second or less that does not work ends nothing within it.
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{probe} went beyond its limit");
}

/// `validate` of every policy judges the final launch: a later policy cannot slip past an earlier guard.
#[test]
fn one_that_widens_is_caught_by_a_guard_before_it() {
    let qhost = qhost();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let [limits, sets] =
        ["limits", "probe-sets"].map(|name| policy(name).to_str().unwrap().to_owned());
    let settings = r#"limits={"memory_mib": 64}"#;
    let args = [
        "plan",
        "--json",
        "--policy",
        &limits,
        "--policy",
        &sets,
        "--policy-settings",
        settings,
        "--policy-settings",
        r#"probe-sets={"memory_mib": 128}"#,
        &job,
    ];
    let decision = &qhost.run(&args).exits(11).json()["decision"];
    assert_eq!(decision["policies"][1]["changes"][0]["to"], 128);
    assert_eq!(decision["policies"][0]["violations"][0]["code"], "memory-limit");
}

/// Three of the longest chains at once need more sandboxes than the pool has: they wait for each other, and no policy is said to have
/// failed.
#[test]
fn a_full_pool_is_waited_for() {
    let loader = Loader::in_process().unwrap();
    let one = |number: usize| Source::new(format!("policy-{number}"), policy("accelerator"));
    let chain = loader.chain((0..limits::POLICIES).map(one).collect()).unwrap();
    let bytes = fs::read(root().join("tests/fixtures/jobs/valid/own-minimal.json")).unwrap();
    let task = job::parse("job.json", &bytes, "acme", None).unwrap();
    let decide = || {
        for _ in 0..5 {
            let (host, rules) = (HostFacts::default(), Rules::default());
            let time = jiff::Timestamp::UNIX_EPOCH;
            match chain.decide(Request { time, ..Request::now(task.clone(), host, rules) }) {
                Verdict::Approved(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    thread::scope(|scope| (0..6).for_each(|_| drop(scope.spawn(decide))));
}

/// Core modules of a few bytes with a memory that needs a feature that is off, each in a component.
#[test]
fn threads_and_memory64_are_off() {
    for (memory, says) in [
        ([0x05, 0x04, 0x01, 0x03, 0x01, 0x01].as_slice(), "threads"),
        (&[0x05, 0x03, 0x01, 0x04, 0x01], "memory64"),
    ] {
        let module = [b"\0asm\x01\0\0\0", memory].concat();
        let size = u8::try_from(module.len()).unwrap();
        let component = [b"\0asm\x0d\0\x01\0", [0x01, size].as_slice(), &module].concat();
        let qhost = qhost();
        let file = qhost.file("file.wasm", component);
        run_under(&qhost, &file).exits(12).says(says).says("must be enabled");
    }
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
    // A panic's message is in the error, with its place.
    fails("probe-traps", "it said: panicked at probe-traps/src/lib.rs:");
    fails("probe-traps", "a policy has no standard error: the log has this");
}

/// A question about an operation is within the same limits as one about a launch, and the operation is not done if the question fails.
#[test]
fn one_that_is_hostile_about_operations_meets_the_same_limits() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.file("secrets.json", r#"{"key": "an operator's"}"#);
    let does = |what: &str| {
        let probe = qhost_tests::configured("probe", "probe-permits", json!({"does": what}), "");
        let chain = "[host]\nchain = [\"probe\"]\n[data.secrets]\nfile = \"secrets.json\"\n";
        qhost.config(&(probe + chain));
    };
    does("nothing");
    let image = server.serve("/image", boot_sector::disk("runs", boot_sector::Then::Hang));
    qhost.run(&["run", "--detach", &qhost.job(&image, json!({}))]).exits(0);
    for (what, code, says) in [
        ("traps", 12, "it said: panicked at probe-permits/src/lib.rs:"),
        ("spins", 12, "in permit: it ran longer than its deadline of 1000 ms"),
        ("answers-much", 12, "handed over more than 1024 KiB in one call"),
        ("escapes", 11, r"\u{1b}[2J"),
        // This policy's `describe` does not name the table.
        ("looks-up", 11, "found None of 0 keys"),
    ] {
        does(what);
        let began = std::time::Instant::now();
        let refused = qhost.run(&["pause", "test"]).exits(code).says(says);
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{what}");
        for text in [&refused.stdout, &refused.stderr] {
            let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(steers), "{text:?}");
            assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{text}");
        }
        let vm = qhost.run(&["inspect", "--json", "test"]).exits(0).json();
        assert_eq!(vm["state"], "running", "{what}");
    }
    qhost.run(&["kill", "test"]).exits(0);
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
fn one_that_imports_wasi_is_refused_by_name_unless_it_is_granted() {
    fails("probe-wasi", "imports wasi:cli/environment@0.2.0, wasi:clocks/");
}

/// The view of a policy that is granted WASI by name: the decision's own time, and randomness that grows from the request, and nothing
/// else.
#[test]
fn one_with_wasi_gets_an_empty_one() {
    let wasi = Allowance { wasi: true, ..Allowance::default() };
    let source = Source {
        name: "probe-wasi".into(),
        path: policy("probe-wasi"),
        pin: None,
        signers: None,
        settings: "{}".into(),
        allowance: wasi,
        mode: Mode::Enforce,
        layer: Layer::Host,
        unseen: vec![],
    };
    let chain = Loader::in_process().unwrap().chain(vec![source]).unwrap();
    let seen = |index, second| {
        let mut request = crate::decisions::request("acme", index);
        request.time = jiff::Timestamp::new(second, 500).unwrap();
        chain.decide(request).decision().launch.warnings.clone()
    };
    let first = seen(1, 1_790_000_000);
    assert_eq!(
        first[..5],
        [
            "environment 0",
            "arguments 0",
            "folders 0",
            "time 1790000000.000000500",
            "monotonic 1790000000000000500"
        ]
    );
    assert_eq!(first, seen(1, 1_790_000_000), "the same request at the same time");
    let later = seen(1, 1_790_000_001);
    assert_eq!(later[6], first[6], "the same request has the same randomness");
    assert_ne!(later[3], first[3]);
    assert_ne!(seen(2, 1_790_000_000)[6], first[6], "another request has another");
}

#[test]
fn one_with_wasi_can_neither_wait_nor_connect() {
    let qhost = qhost();
    let config = |settings| {
        qhost_tests::configured("probe", "probe-wasi", settings, "wasi = true")
            + "[host]\nchain = [\"probe\"]\n"
    };
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    qhost.config(&config(json!({"wait": true})));
    qhost.run(&["plan", &job]).exits(12).says("a policy cannot wait: its clock stands still");
    qhost.config(&config(json!({})));
    qhost.run(&["plan", &job]).exits(0).says("socket access-denied");
}

#[test]
fn one_that_never_answers_twice_the_same_does_not_settle() {
    fails(
        "probe-fickle",
        "does not settle: asked again about the chosen launch, it changed resources.memory_mib from 33 to 35",
    );
}

#[test]
fn the_same_input_gives_the_same_decision() {
    let qhost = qhost();
    let fickle = policy("probe-fickle");
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let decide = || {
        let args = ["plan", "--json", "--policy", fickle.to_str().unwrap(), &job];
        let mut report = qhost.run(&args).exits(12).json();
        // The cost differs from time to time, and nothing else does.
        report["decision"]["policies"][0].as_object_mut().expect("a record").remove("cost");
        report
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
    for args in [&["policy", "inspect"][..], &["policy", "inspect", "--json"]] {
        let inspection = qhost.run(&[args, &[path.to_str().unwrap()]].concat()).exits(0);
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!inspection.stdout.contains(steers), "{:?}", inspection.stdout);
    }
}
