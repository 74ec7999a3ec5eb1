//! Trying policies out: their cases, what lint finds, what a benchmark prints.

use std::fs;

use serde_json::json;

use qhost_tests::{Qhost, policy, root};

use crate::{qhost, snapshot};

/// A project in the scratch folder: a built policy, and its cases or others.
fn project(qhost: &Qhost, module: &str, cases: Option<&str>) -> String {
    let folder = qhost.folder().join(module);
    fs::create_dir_all(folder.join("cases")).unwrap();
    fs::copy(policy(module), folder.join(module).with_extension("wasm")).unwrap();
    let own =
        root().join("guest-policies").join(module).join("cases").join(format!("{module}.toml"));
    let cases = cases.map_or_else(|| fs::read_to_string(own).expect("its cases"), str::to_owned);
    fs::write(folder.join("cases/cases.toml"), cases).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn the_example_policies_pass_their_cases_and_lint() {
    let qhost = qhost();
    for module in ["limits", "ports", "accelerator", "trusted-images", "standard"] {
        let project = project(&qhost, module, None);
        qhost.run(&["policy", "test", &project]).exits(0).says("0 failed");
        qhost.run(&["policy", "lint", &project]).exits(0).says("nothing found");
    }
}

const WRONG: &str = r#"# A comment that stays.
[settings]
memory_mib = 64

[[case]]
name = "expected to be allowed"   # and this one
job = { resources = { memory_mib = 128 } }
[case.expect]
verdict = "allowed"
violations = []
changes = [{ field = "resources.cpus", to = 1 }]

[[case]]
name = "as expected"
[case.expect]
verdict = "denied"

[[case]]
name = "nothing expected"
job = { resources = { memory_mib = 32 } }
"#;

#[test]
fn what_is_not_as_expected_is_shown_and_can_be_written() {
    let qhost = qhost();
    let project = project(&qhost, "limits", Some(WRONG));
    let done = qhost.run(&["policy", "test", &project, "--junit", "results.xml"]).exits(1);
    snapshot("trial", &done.stdout, &qhost);
    let xml = fs::read_to_string(qhost.folder().join("results.xml")).unwrap();
    assert!(xml.contains(r#"tests="3""#) && xml.contains(r#"failures="1""#), "{xml}");
    assert!(xml.contains("+ violation memory-limit resources.memory-mib"), "{xml}");
    let json = qhost.run(&["policy", "test", &project, "--json"]).exits(1).json();
    assert_eq!((&json["passed"], &json["failed"]), (&json!(2), &json!(1)));
    assert_eq!(json["cases"][0]["found"]["violations"][0]["code"], "memory-limit");
    qhost.run(&["policy", "test", &project, "--update"]).exits(0).says("2 rewritten");
    let file = fs::read_to_string(qhost.folder().join("limits/cases/cases.toml")).unwrap();
    snapshot("trial-updated", &file, &qhost);
    qhost.run(&["policy", "test", &project]).exits(0).says("3 passed, 0 failed");
}

#[test]
fn a_case_that_is_not_understood() {
    let qhost = qhost();
    let place = |cases: &str| project(&qhost, "limits", Some(cases));
    for (cases, says) in [
        ("[[case]]\nnam = \"x\"\n", "cases.toml:2: unknown field `nam`"),
        ("\n[[case]]\nname = \"x\"\njob = { nam = \"y\" }\n", "cases.toml:2: case \"x\": job"),
        ("[[case]]\nname = \"x\"\nhost = { cpus = 1 }\n", "host.cpus is no fact of a host"),
        ("[[case]]\nname = \"x\"\njob_file = \"gone.json\"\n", "gone.json"),
        ("[[case]]\nname = \"x\"\n[case.expect]\nverdict = \"maybe\"\n", "unknown variant `maybe`"),
        ("", "has no cases/*.toml"),
    ] {
        qhost.run(&["policy", "test", &place(cases)]).exits(2).says(says);
    }
    fs::create_dir(qhost.folder().join("empty")).unwrap();
    qhost.run(&["policy", "test", "empty"]).exits(2).says("qhost policy build makes it");
}

#[test]
fn lint_finds_what_cases_do_not_show() {
    let qhost = qhost();
    let one = "[[case]]\nname = \"x\"\n";
    let sets = "[settings]\nwarn = \"x\"\n[[case]]\nname = \"x\"\n";
    let wasi = "wasi = true\n[[case]]\nname = \"x\"\n";
    for (module, cases, codes) in [
        ("probe-fickle", one, vec!["not-idempotent"]),
        ("probe-traps", one, vec!["fails"]),
        ("probe-floods-log", one, vec!["near-its-limits"]),
        ("probe-sets", sets, vec!["settings-without-schema"]),
        ("probe-wasi", wasi, vec!["not-deterministic"]),
    ] {
        let project = project(&qhost, module, Some(cases));
        let found = qhost.run(&["policy", "lint", &project, "--json"]).exits(1).json();
        let found: Vec<_> = found["findings"].as_array().expect("a list").iter().collect();
        let mut found: Vec<_> =
            found.iter().map(|one| one["code"].as_str().expect("text")).collect();
        // Any of them is slow on a machine that is busy with other tests.
        found.retain(|code| *code != "slow");
        assert_eq!(found, codes, "{module}");
    }
}

#[test]
fn a_benchmark_beside_its_baseline() {
    let qhost = qhost();
    let project = project(&qhost, "limits", None);
    let bench = |more: &[&str]| {
        let args = [&["policy", "bench", &project, "--decisions", "50"], more].concat();
        qhost.run(&args).exits(0)
    };
    bench(&["--save"]).says("none");
    bench(&[]).says(" of it");
    let json = bench(&["--json"]).json();
    // Of its three cases, the one whose settings are refused has no cost.
    assert_eq!(json["cases"].as_array().map(Vec::len), Some(2));
    assert!(json["cases"][0]["p50_us"].as_f64().expect("a number") > 0.0);
    assert!(json["cases"][0]["ratio"].as_f64().expect("a number") > 0.0);
    assert!(json["cases"][0]["peak_memory"].as_u64().expect("bytes") > 65_536);
    let args = ["policy", "bench", &project, "--baseline", "gone.json"];
    qhost.run(&args).exits(2).says("cannot read gone.json");
}
