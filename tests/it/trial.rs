//! Trying policies out: their cases, lint's findings, a benchmark's output.

use std::fs;

use serde_json::json;

use qhost_model::digest::Sha256;
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
    for module in
        ["limits", "guests", "sizes", "ports", "accelerator", "trusted-images", "standard"]
    {
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
    qhost.run(&["policy", "test", "empty"]).exits(2).says("qhost policy build empty makes it");
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
        // This policy does not use the SDK either, whose allocator needs no growth.
        ("probe-wasi", wasi, vec!["not-deterministic", "grows-its-memory"]),
    ] {
        let project = project(&qhost, module, Some(cases));
        let found = qhost.run(&["policy", "lint", &project, "--json"]).exits(1).json();
        let found: Vec<_> = found["findings"].as_array().expect("a list").iter().collect();
        let mut found: Vec<_> =
            found.iter().map(|one| one["code"].as_str().expect("text")).collect();
        // Any policy may be slow on a machine that is busy with other tests.
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
    // The one of its three cases whose settings are refused has no cost.
    assert_eq!(json["cases"].as_array().map(Vec::len), Some(2));
    assert!(json["cases"][0]["p50_us"].as_f64().expect("a number") > 0.0);
    assert!(json["cases"][0]["ratio"].as_f64().expect("a number") > 0.0);
    assert!(json["cases"][0]["peak_memory"].as_u64().expect("bytes") > 65_536);
    let args = ["policy", "bench", &project, "--baseline", "gone.json"];
    qhost.run(&args).exits(2).says("cannot read gone.json");
}

const OTHERWISE: &str = r#"settings_file = "../limits.json"

[[case]]
name = "only the verdict is expected"
job = { resources = { memory_mib = 128 } }
[case.expect]
verdict = "allowed"

[[case]]
name = "settings of its own, in a file"
settings_file = "../wrong.json"
[case.expect]
verdict = "allowed"

[[case]]
name = "settings of its own"
job = { resources = { memory_mib = 128 } }
settings = { memory_mib = 128 }
[case.expect]
verdict = "allowed"
"#;

#[test]
fn a_verdict_that_is_not_as_expected_has_its_reasons_beside_it() {
    let qhost = qhost();
    let project = project(&qhost, "limits", Some(OTHERWISE));
    let folder = qhost.folder().join("limits");
    fs::write(folder.join("limits.json"), r#"{"memory_mib": 64}"#).unwrap();
    fs::write(folder.join("wrong.json"), r#"{"memory_mib": -1}"#).unwrap();
    let done = qhost.run(&["policy", "test", &project]).exits(1);
    let sha256 = Sha256::of(&fs::read(policy("limits")).unwrap()).to_string();
    snapshot("trial-otherwise", &done.stdout.replace(&sha256, "DIGEST"), &qhost);
    fs::write(folder.join("wrong.json"), r#"{"cpus": 1, "cpus": 2}"#).unwrap();
    qhost.run(&["policy", "test", &project]).exits(2).says("wrong.json: /cpus: the same key twice");
    let both = OTHERWISE.replacen("[[case]]", "[settings]\ncpus = 1\n[[case]]", 1);
    fs::write(folder.join("cases/cases.toml"), both).unwrap();
    qhost.run(&["policy", "test", &project]).exits(2).says("settings or settings_file, found both");
}

/// A program that reads codes, and a person who reads messages, must not find them empty or cut.
#[test]
fn answers_are_held_to_the_contract() {
    let qhost = qhost();
    let long = "x".repeat(2000);
    let cases = format!(
        "[settings]\nrefuse = \"\"\nwarnings = [\"{long}\"]\n[[case]]\nname = \"x\"\n[case.expect]\nverdict = \"denied\"\n"
    );
    let project = project(&qhost, "probe-sets", Some(&cases));
    let done = qhost.run(&["policy", "test", &project, "--junit", "results.xml"]).exits(1);
    done.says("! contract breach: the code of a violation is empty")
        .says("! contract breach: a warning has 2000 bytes, and the contract allows 1024");
    let xml = fs::read_to_string(qhost.folder().join("results.xml")).unwrap();
    assert!(xml.contains("! contract breach: the code"), "{xml}");
    qhost.run(&["policy", "test", &project, "--update"]).exits(1).says("1 failed");
    let found = qhost.run(&["policy", "lint", &project, "--json"]).exits(1).json();
    let found = found["findings"].as_array().expect("a list");
    let count = found.iter().filter(|finding| finding["code"] == "contract-breach").count();
    assert_eq!(count, 2, "{found:?}");
}

#[test]
fn a_component_that_is_older_than_its_source_is_noticed() {
    let qhost = qhost();
    let project = project(&qhost, "limits", None);
    let source = qhost.folder().join("limits/src/deep/rules.rs");
    let silent = |command: &str| {
        let done = qhost.run(&["policy", command, &project]);
        assert!(!done.stderr.contains("is older than"), "{}", done.stderr);
    };
    let file = |name: &str| qhost.folder().join("limits").join(name);
    let build_anew = || {
        let module = fs::read(file("limits.wasm")).unwrap();
        fs::write(file("limits.wasm"), module).unwrap();
    };
    fs::create_dir_all(source.parent().unwrap()).unwrap();
    fs::create_dir_all(file("target")).unwrap();
    fs::write(&source, "").unwrap();
    // Outside of a project, nothing is known of sources.
    silent("test");
    fs::write(file("Cargo.toml"), "").unwrap();
    build_anew();
    for no_source in ["target/generated.rs", "README.md", "cases/more.toml", "rules.test.js"] {
        fs::write(file(no_source), "").unwrap();
    }
    silent("test");
    fs::write(&source, "").unwrap();
    for command in ["test", "lint"] {
        let done = qhost.run(&["policy", command, &project]);
        let says = format!("limits/src/deep/rules.rs; to rebuild it: qhost policy build {project}");
        assert!(done.stderr.replace("\n          ", "").contains(&says), "{}", done.stderr);
    }
    build_anew();
    silent("test");
}

#[test]
fn what_cases_are_laid_over_is_printed() {
    let qhost = qhost();
    for more in [&["--json"][..], &[]] {
        let args = [&["policy", "test", "--example"], more].concat();
        let example = qhost.run(&args).exits(0).json();
        assert_eq!(example["job"]["config"]["checksum"], "0".repeat(64));
        assert_eq!(example["host"]["accelerators"], json!(["tcg", "kvm"]));
    }
}

/// Two thousand decisions that end at their deadline would take half an hour.
#[test]
fn a_benchmark_of_a_policy_that_spins_ends_and_names_the_case() {
    let qhost = qhost();
    let cases = "[[case]]\nname = \"the slow one\"\n";
    let spins = project(&qhost, "probe-spins", Some(cases));
    qhost
        .run(&["policy", "bench", &spins])
        .exits(12)
        .says("case \"the slow one\": the policy failed")
        .says("longer than its deadline");
    let cases = format!("{cases}[case.expect]\nverdict = \"failed\"\n");
    let expected = project(&qhost, "probe-spins", Some(&cases));
    let json = qhost.run(&["policy", "bench", &expected, "--json"]).exits(0).json();
    assert_eq!(json["cases"], json!([]));
}

/// A case with an operation is asked about by `permit`, in all three commands.
#[test]
fn cases_of_operations_are_asked_about_as_operations() {
    let qhost = qhost();
    let codes = |cases: &str| {
        let project = project(&qhost, "probe-permits", Some(cases));
        let found = qhost.run(&["policy", "lint", &project, "--json"]).json();
        let found = found["findings"].as_array().expect("a list").iter();
        let code = |one: &serde_json::Value| one["code"].as_str().expect("text").to_owned();
        // Any policy is slow on a machine that is busy with other tests.
        found.map(code).filter(|code| code != "slow").collect::<Vec<_>>()
    };
    for (does, says) in [
        ("traps", "an operation is not permitted by a trap"),
        ("spins", "longer than its deadline"),
    ] {
        let launch = format!("[settings]\ndoes = \"{does}\"\n[[case]]\nname = \"a launch\"\n");
        let stop =
            format!("{launch}[[case]]\nname = \"a stop\"\noperation = {{ do = \"stop\" }}\n");
        assert_eq!(codes(&launch), [""; 0]);
        assert_eq!(codes(&stop), ["fails"]);
        let stop = project(&qhost, "probe-permits", Some(&stop));
        let bench = qhost.run(&["policy", "bench", &stop, "--decisions", "10"]).exits(12);
        bench.says("case \"a stop\": the policy failed").says(says);
        let tried = qhost.run(&["policy", "test", &stop, "--json"]).exits(0).json();
        assert_eq!(tried["cases"][0]["found"]["verdict"], "allowed");
        assert_eq!(tried["cases"][1]["found"]["verdict"], "failed");
    }
}

/// Every key that a case may have is in the help of the command, and every finding in that of the other.
#[test]
fn help_names_every_key_and_every_finding() {
    let qhost = qhost();
    let help = |command: &str| qhost.run(&["policy", command, "--help"]).exits(0).stdout;
    let test = help("test");
    let unknown = project(&qhost, "limits", Some("[[case]]\nname = \"x\"\nnone = 1\n"));
    let keys = |says: String| {
        let (_, listed) = says.split_once("expected one of ").expect("the keys");
        let listed: Vec<_> = listed.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        listed
    };
    let of_case = keys(qhost.run(&["policy", "test", &unknown]).exits(2).stderr);
    let unknown = project(&qhost, "limits", Some("none = 1\n"));
    let of_file = keys(qhost.run(&["policy", "test", &unknown]).exits(2).stderr);
    assert!(of_case.len() > 10 && of_file.len() > 3, "{of_case:?} {of_file:?}");
    for key in of_case.iter().chain(&of_file) {
        let forms = [format!("{key} ="), format!("[{key}"), format!("{key}]")];
        assert!(forms.iter().any(|form| test.contains(form)), "{key} is not in\n{test}");
    }
    let source = root().join("host/qhost/src/trial/lint.rs");
    let source = fs::read_to_string(source).unwrap();
    let lint = help("lint").replace("\n", " ");
    for code in source.split('"').skip(1).step_by(2) {
        let is_code =
            code.contains('-') && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        if is_code && code != "qhost-lint-no-such-setting" {
            assert!(lint.contains(code), "{code} is not in\n{lint}");
        }
    }
}

/// A policy that is granted the texts of seeds is tried with them.
#[test]
fn a_case_can_grant_the_texts_of_a_seed() {
    let qhost = qhost();
    let case = |grant: &str| {
        format!(
            "[settings]\nsaw = \"seed\"\n[[case]]\nname = \"x\"\njob = {{ config = {{ user_data = \"#cloud-config\\nx: 1\\n\" }} }}\n{grant}"
        )
    };
    for (grant, seen) in [("", "text: None"), ("seed_text = true\n", "text: Some(\"#cloud-config")]
    {
        let project = project(&qhost, "probe-sets", Some(&case(grant)));
        let tried = qhost.run(&["policy", "test", &project, "--json"]).exits(0).json();
        let changes = &tried["cases"][0]["found"]["changes"];
        let saw = changes[0]["to"].as_str().or_else(|| changes[0]["to"][0].as_str()).unwrap();
        assert!(saw.contains(seen), "{tried}");
    }
}

/// The error has the author's words, the keys with their ranges, and how to give them.
#[test]
fn settings_that_are_refused_say_how_to_give_them() {
    let qhost = qhost();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let limits = policy("limits").display().to_string();
    let plan = |settings: &str| {
        let settings = format!("limits={settings}");
        qhost.run(&["plan", "--policy", &limits, "--policy-settings", &settings, &job]).exits(2)
    };
    for (settings, says) in [
        (r#"{"memory_mib": "much"}"#, "refuses its settings: memory_mib: invalid type: string"),
        (r#"{"memory_mb": 1}"#, "refuses its settings: unknown field `memory_mb`"),
    ] {
        plan(settings)
            .says(says)
            .says("memory_mib (integer, 0 or more)")
            .says("hint: give them with --policy-settings limits=FILE or limits='{…}'");
    }
    plan(r#"{"cpus": 1, "cpus": 2}"#).says("--policy-settings limits: /cpus: the same key twice");
}
