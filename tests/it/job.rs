//! Job files: both forms, and the errors of bad ones. A new case is a new file in `fixtures/jobs`.

use std::{fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use qhost_model::{job, launch::Launch};
use qhost_tests::root;

use crate::{qhost, snapshot};

fn fixtures(kind: &str) -> Vec<(String, PathBuf)> {
    let entries =
        fs::read_dir(root().join("tests/fixtures/jobs").join(kind)).expect("the fixtures");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a fixture").path()).collect();
    files.sort();
    let name = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.into_iter().map(|path| (name(&path), path)).collect()
}

#[test]
fn valid_jobs_become_tasks() {
    let qhost = qhost();
    for (name, path) in fixtures("valid") {
        let bytes = fs::read(&path).unwrap();
        let task = job::parse("job.json", &bytes, "acme", None)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        snapshot(&format!("job-{name}"), &serde_json::to_string_pretty(&task).unwrap(), &qhost);
    }
}

#[test]
fn each_bad_job_has_its_error() {
    let qhost = qhost();
    let fixtures = fixtures("invalid");
    assert!(fixtures.len() >= 60, "{} bad job files", fixtures.len());
    for (name, path) in fixtures {
        let bytes = fs::read(&path).unwrap();
        let error = job::parse("job.json", &bytes, "acme", None).expect_err(&name);
        let causes =
            std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        let text: String = causes.map(|cause| format!("\n  because: {cause}")).collect();
        snapshot(&format!("bad-job-{name}"), &format!("{error}{text}"), &qhost);
    }
}

/// Jobs of the shapes that people publish for Nomad's driver: each ends in a task, or in an error that a person can act upon.
#[test]
fn published_jobs_end_in_a_task_or_an_error() {
    let qhost = qhost();
    let fixtures = fixtures("nomad");
    assert!(fixtures.len() >= 12, "{} jobs for Nomad", fixtures.len());
    for (name, path) in fixtures {
        let file = path.file_name().unwrap().to_string_lossy();
        let text = match job::parse(&file, &fs::read(&path).unwrap(), "acme", None) {
            Ok(task) => serde_json::to_string_pretty(&task).unwrap(),
            Err(error) => error.to_string(),
        };
        snapshot(&format!("nomad-job-{name}"), &text, &qhost);
    }
}

/// One reader is for both forms: the specification in HCL gives the task that the JSON of Nomad's own command gives.
#[test]
fn a_specification_in_hcl_is_the_job_in_json() {
    let read = |name: &str, bytes: &[u8]| {
        let mut task = job::parse(name, bytes, "acme", None).unwrap();
        // Places in HCL have lines, which JSON has not.
        task.not_looked_at.clear();
        task
    };
    let path = root().join("tests/fixtures/jobs/nomad/bridge-and-vnc.hcl");
    let json = r#"{"Job": {"ID": "desktop", "Name": "desktop", "Datacenters": ["dc1", "dc2"], "TaskGroups": [{
        "Name": "vm", "RestartPolicy": {"Attempts": 3, "Delay": 5000000000, "Interval": 3600000000000, "Mode": "fail"},
        "Networks": [{"Mode": "bridge", "ReservedPorts": [{"Label": "vnc", "Value": 5901, "To": -1}],
            "DynamicPorts": [{"Label": "rdp", "To": 3389}]}],
        "Services": [{"Name": "desktop", "PortLabel": "vnc"}],
        "Tasks": [{"Name": "desktop", "Driver": "qemu", "KillTimeout": 90000000000, "KillSignal": "SIGTERM",
            "RestartPolicy": {"Attempts": 5}, "Resources": {"Cores": 4, "MemoryMB": 4096}, "Config": {
                "image_source": "https://images.example/desktop.qcow2",
                "checksum": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}]}]}}"#;
    assert_eq!(read("job.hcl", &fs::read(path).unwrap()), read("job.json", json.as_bytes()));
}

#[test]
fn a_specification_in_hcl_is_planned_and_says_what_was_not_looked_at() {
    let qhost = qhost();
    let path = root().join("tests/fixtures/jobs/nomad/variables.hcl");
    let path = path.to_str().expect("UTF-8");
    let done = qhost.run(&["plan", path]).exits(0);
    let note = "note      not looked at, as only Nomad acts on them: /Datacenters (line 25), /Constraints/1 (line 38)";
    assert_eq!(done.stderr.matches("not looked at").count(), 1, "{}", done.stderr);
    done.says(note).says("guest 8080/tcp").says("2 CPUs, 2048 MiB");
    let json = qhost.run(&["plan", "--json", path]).exits(0).json();
    assert_eq!(json["task"]["not_looked_at"][0], "/Datacenters (line 25)");
    let bad = root().join("tests/fixtures/jobs/nomad/needs-an-agent.hcl");
    let bad = bad.to_str().expect("UTF-8");
    qhost
        .run(&["plan", bad])
        .exits(10)
        .says("needs-an-agent.hcl: 4 problems")
        .says("line 11, column 24");
    let json = qhost.run(&["plan", "--json", bad]).exits(10).json();
    assert_eq!(json["error"]["problems"][1]["line"], 11);
}

#[test]
fn a_bad_job_is_exit_10_in_text_and_json() {
    let qhost = qhost();
    let job =
        qhost.file("job.json", r#"{"name": "x", "driver": "qemu", "confg": {}, "resources": {}}"#);
    let done = qhost.run(&["run", &job]).exits(10);
    assert_eq!(done.stdout, "");
    done.says("job.json: 3 problems")
        .says("/confg")
        .says("did you mean config?")
        .says("/resources/memory_mib");
    let json = qhost.run(&["run", "--json", &job]).exits(10).json();
    assert_eq!(json["outcome"], "job-not-understood");
    assert_eq!(json["error"]["problems"][0]["pointer"], "/confg");
    qhost.run(&["run", "none.json"]).exits(10).says("cannot read the job file none.json");
    let large = qhost.file("large.json", vec![b' '; (1 << 20) + 1]);
    qhost.run(&["run", &large]).exits(10).says("larger than 1048576 bytes");
}

/// A user who comes from Nomad's drivers, or has a command line of QEMU's, is told what to use instead.
#[test]
fn each_hint_is_told() {
    let own = |driver: &str, key: &str| json!({"name": "web", "driver": driver, "config": {key: "x"}, "resources": {"memory_mib": 64}});
    let nomad = |driver: &str, key: &str| {
        let task = json!({"Name": "web", "Driver": driver, "Config": {key: "x"}, "Resources": {"MemoryMB": 64}});
        json!({"ID": "web", "TaskGroups": [{"Name": "group", "Tasks": [task]}]})
    };
    let hints = |job: Value| {
        let error = job::parse("j", job.to_string().as_bytes(), "t", None).unwrap_err();
        let hints = error.problems().iter().map(|problem| problem.hint.clone().unwrap_or_default());
        hints.collect::<Vec<_>>()
    };
    for (key, hint) in job::HINTS {
        for job in [own("qemu", key), nomad("qemu", key)] {
            let found = hints(job.clone());
            // The image_path of a Nomad task may name its artifact.
            let is_told = found.iter().any(|one| one == hint);
            assert!(is_told || (key == "image_path" && job["ID"] == "web"), "{job}: {found:?}");
        }
    }
    for job in [own("virt", "hostname"), nomad("virt", "hostname")] {
        let found = hints(job);
        assert!(found.iter().any(|one| one.contains("the driver is \"qemu\" here")), "{found:?}");
    }
    for (options, key) in job::INSTEAD {
        for option in
            options.iter().flat_map(|option| [format!("-{option}"), format!("--{option}")])
        {
            let mut request = crate::decisions::request("acme", 1);
            request.task.args = vec![option.clone(), "x".into()];
            let launch = Launch::default_for(&request.task.asked);
            let findings = job::check(&request.task, &launch, &request.rules, &request.host);
            let refused = findings.refused.iter().find(|one| one.field == "args").unwrap();
            assert_eq!(refused.hint.as_deref(), Some(*key), "{option}");
        }
    }
}

#[test]
fn a_nomad_job_with_several_qemu_tasks_needs_a_name() {
    let bytes =
        fs::read(root().join("tests/fixtures/jobs/invalid/nomad-several-tasks.json")).unwrap();
    for (select, expected) in [("two", "two"), ("group/one", "one")] {
        assert_eq!(job::parse("j", &bytes, "acme", Some(select)).unwrap().name, expected);
    }
    for (select, says) in
        [(None, "\"group/one\", \"group/two\""), (Some("three"), "no qemu task \"three\"")]
    {
        let error = job::parse("j", &bytes, "acme", select).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// A file of nothing but faults, at the end of a long path, costs no more than others.
#[test]
fn faults_without_end_are_bounded() {
    let key = "k".repeat(400_000);
    let twice = r#""a":0,"#.repeat(80_000);
    let duplicates = format!(r#"{{"{key}": {{{twice}"b":0}}}}"#);
    let labels: Vec<_> =
        (0..64).map(|n| format!(r#"{{"Label":"{}{n}"}}"#, "l".repeat(60))).collect();
    let unknown: Vec<_> = (0..12_000).map(|n| format!(r#""{}x{n}":1"#, "l".repeat(20))).collect();
    let port_map = format!(
        r#"{{"ID":"x","TaskGroups":[{{"Name":"g","Networks":[{{"DynamicPorts":[{}]}}],"Tasks":[{{"Name":"t",
        "Driver":"qemu","Config":{{"port_map":{{{}}}}},"Resources":{{"MemoryMB":64}}}}]}}]}}"#,
        labels.join(","),
        unknown.join(",")
    );
    let unknown_keys = format!("{{{}}}", unknown.join(","));
    for file in [duplicates, port_map, unknown_keys] {
        let error = job::parse("j", file.as_bytes(), "t", None).unwrap_err();
        assert!(error.problems().len() <= qhost_model::limits::PROBLEMS);
        let size: usize = error.problems().iter().map(|problem| problem.to_string().len()).sum();
        assert!(size < 8 << 20, "{size} bytes of problems");
    }
}

/// Faults that a JSON Schema cannot express, or that are not in the JSON at all.
const BEYOND_THE_SCHEMA: &[&str] = &[
    // Not JSON, or not what a JSON parser reports.
    "not-json",
    "not-utf-8",
    "empty",
    "cut-off",
    "trailing",
    "nested-too-deep",
    "key-twice",
    // Characters and URL parts, of which the schema checks only the scheme.
    "name-with-newline",
    "args-with-newline",
    "image-source-credentials",
    "image-source-fragment",
    "image-source-newline",
    "image-source-bad-port",
    "image-source-no-host",
    "mirror-with-a-password",
    "mirror-twice",
    // The parts of the job do not go together.
    "aarch64-with-bios",
    "aarch64-with-pc",
    "architecture-and-another-emulator",
    "ready-by-an-agent-without-a-channel",
    "ignition-beside-cloud-init",
    "ignition-not-json",
    "disk-cds-too-many",
    "guest-ports-without-host-port",
    "guest-ports-two-without-reserved",
    "host-port-alone",
    "host-port-with-port-map",
    "port-map-and-guest-ports",
    "port-map-host-taken-twice",
    "nomad-several-tasks",
    "nomad-no-qemu-task",
    "nomad-port-map-label-unknown",
    "nomad-port-map-without-network",
    "nomad-guest-ports-count",
    "nomad-port-without-guest-port",
    "nomad-reserved-without-value",
    "nomad-label-twice",
    "nomad-artifacts",
    "nomad-devices",
    // Nomad's own keys, which the schema leaves to Nomad.
    "nomad-key-misspelt",
    "nomad-group-key-misspelt",
    "nomad-task-key-misspelt",
];

#[test]
fn the_schema_agrees_with_the_fixtures() {
    let printed = qhost().run(&["job", "schema"]).exits(0).json();
    let schema = jsonschema::validator_for(&printed).expect("a JSON Schema");
    let read = |path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).ok();
    for (name, path) in fixtures("valid") {
        let job = read(path).expect("JSON");
        let errors: Vec<_> = schema.iter_errors(&job).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
    for (name, path) in fixtures("invalid") {
        let refused = read(path).is_some_and(|job| !schema.is_valid(&job));
        let beyond = BEYOND_THE_SCHEMA.contains(&name.as_str());
        assert!(
            refused != beyond,
            "{name}: refused by the schema: {refused}, listed as beyond it: {beyond}"
        );
    }
}

/// JSON like a job's: its keys, and values of every type.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "https?://[a-z]{1,5}/.{0,5}".prop_map(Value::from),
        "[0-9a-f]{64}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        let key = prop_oneof![
            prop::sample::select(vec![
                "name",
                "driver",
                "config",
                "resources",
                "meta",
                "image_source",
                "checksum",
                "port_map",
                "guest_ports",
                "host_port",
                "args",
                "egress",
                "memory_mib",
                "Job",
                "ID",
                "TaskGroups",
                "Tasks",
                "Name",
                "Driver",
                "Config",
                "Resources",
                "MemoryMB",
                "Networks",
                "ReservedPorts",
                "Label",
                "Value",
                "To",
                "Meta",
            ])
            .prop_map(String::from),
            ".{0,6}".prop_map(String::from),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(job in json(), select in prop::option::of(".{0,5}")) {
        let error = job::parse("j", job.to_string().as_bytes(), "t", select.as_deref());
        if let Err(error) = error {
            prop_assert!(!error.to_string().contains(|c: char| c.is_control() && c != '\n'));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(job::parse("j", &bytes, "t", None).is_err());
    }
}
