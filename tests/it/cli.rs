//! The command line: help that teaches, and usage errors.

use std::fs;

use qhost_tests::policy;

use crate::{qhost, snapshot};

#[test]
fn help() {
    let qhost = qhost();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["plan", "--help"],
        &["policy", "inspect", "--help"],
        &["image", "--help"],
        &["image", "pull", "--help"],
        &["image", "gc", "--help"],
        &["completions", "--help"],
    ] {
        let done = qhost.run(args).exits(0);
        snapshot(&["help", &args[..args.len() - 1].join("-")].join("-"), &done.stdout, &qhost);
    }
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        qhost().run(&["completions", shell]).exits(0).says("QHOST_COMPLETE");
    }
}

#[test]
fn a_man_page_for_each_command() {
    let (qhost, folder) = (qhost(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    qhost.run(&["man", folder.to_str().unwrap()]).exits(0);
    let page = |name: &str| fs::read_to_string(folder.join(name));
    assert!(page("qhost.1").unwrap().contains("qhost\\-run(1)"));
    assert!(page("qhost-image-pull.1").unwrap().contains("\\-\\-checksum"));
    page("qhost-launch.1").expect_err("a command that no person calls");
    let nowhere = folder.join("none");
    qhost.run(&["man", nowhere.to_str().unwrap()]).exits(2).says("cannot write man pages to");
}

#[test]
fn wrong_usage_is_exit_2() {
    let qhost = qhost();
    let job = qhost.file("job.json", "{}");
    let limits = policy("limits");
    let limits = limits.to_str().unwrap();
    for (args, says) in [
        (vec!["run"], "<JOB>"),
        (vec!["run", "--grace", "9999", &job], "3600"),
        (vec!["run", "--tenant", "a b", &job], "1 to 64 letters"),
        (vec!["run", "--policy", "bad name.wasm", &job], "write NAME=FILE"),
        (vec!["run", "--image-allow", "localhost", &job], "--image-allow"),
        (vec!["completions", "tcsh"], "possible values"),
    ] {
        qhost.run(&args).exits(2).says(says);
    }
    // These errors show only once the job is understood.
    let job = qhost.job(&("http://127.0.0.1:1/x".into(), "0".repeat(64)), serde_json::json!({}));
    for (args, says) in [
        (vec!["--policy", limits, "--policy", limits], "two policies are called limits"),
        (vec!["--policy-settings", "limits={}"], "but no --policy"),
        (vec!["--policy", limits, "--policy-settings", "limit={}"], "the policies are limits"),
        (
            vec!["--policy", limits, "--policy-settings", "limits=none.json"],
            "cannot read none.json",
        ),
        (vec!["--policy", limits, "--policy-settings", "limits={"], "not JSON"),
        (
            vec![
                "--policy",
                limits,
                "--policy-settings",
                "limits={}",
                "--policy-settings",
                "limits={}",
            ],
            "limits twice",
        ),
        (
            vec!["--policy", limits, "--policy-settings", r#"limits={"memory": 1}"#],
            "policy limits (sha256:",
        ),
    ] {
        let args: Vec<_> = ["plan"].into_iter().chain(args).chain([job.as_str()]).collect();
        qhost.run(&args).exits(2).says(says);
    }
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused() {
    let qhost = qhost();
    qhost.config("[image]\nmax_byte = 1\n");
    let job = qhost.file("job.json", "{}");
    qhost.run(&["plan", &job]).exits(2).says("qhost.toml").says("max_byte").says("max_bytes");
    qhost.run(&["plan", "--config", "none.toml", &job]).exits(2).says("none.toml");
}
