//! Decisions of policies: chains, settings, the host's own rules.

use std::path::PathBuf;

use serde_json::{Value, json};

use qhost_tests::{ImageServer, Qhost, policy, root};

use crate::{qhost, snapshot};

/// A job that nothing is fetched for.
fn job(qhost: &Qhost, config: Value) -> String {
    qhost.job(&("https://images.example/web.qcow2".into(), "0".repeat(64)), config)
}

fn arg(path: PathBuf) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn the_example_policies_decide_together() {
    let qhost = qhost();
    let job = job(&qhost, json!({"port_map": {"http": {"guest": 80, "host": 8080}, "ssh": 22}}));
    let policies =
        ["trusted-images", "accelerator", "ports", "limits"].map(|name| arg(policy(name)));
    let settings = [
        r#"trusted-images={"hosts": ["images.example"]}"#,
        r#"ports={"first": 20000, "last": 20009}"#,
        r#"limits={"memory_mib": 64, "cpus": 1, "ports": 2}"#,
    ];
    let mut args = vec!["plan", "--json"];
    args.extend(policies.iter().flat_map(|path| ["--policy", path]));
    args.extend(settings.iter().flat_map(|settings| ["--policy-settings", settings]));
    args.push(&job);
    let plan = qhost.run(&args).exits(0).json();
    let ports = &plan["decision"]["launch"]["ports"];
    let hosts: Vec<_> = [0, 1].map(|index| ports[index]["host"].as_u64().expect("a port")).into();
    assert!(
        hosts.iter().all(|port| (20000..=20009).contains(port)) && hosts[0] != hosts[1],
        "{hosts:?}"
    );
    let changes = &plan["decision"]["policies"][2]["changes"];
    assert_eq!(changes[0]["field"], "ports.http.host");
    assert_eq!(changes[0]["from"], 8080);
    // One policy's setting is stricter here.
    let stricter = args.iter().map(|arg| arg.replace("\"ports\": 2", "\"ports\": 1"));
    let stricter: Vec<_> = stricter.collect();
    let stricter: Vec<_> = stricter.iter().map(String::as_str).collect();
    let denied = qhost.run(&stricter).exits(11).json();
    assert_eq!(denied["outcome"], "denied");
    assert_eq!(denied["decision"]["policies"][3]["violations"][0]["code"], "ports-limit");
}

/// `ports` refuses to choose when its range is full; then no policy after it is asked.
#[test]
fn a_refusal_to_choose_ends_the_chain() {
    let qhost = qhost();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let job = job(&qhost, json!({"port_map": {"http": 80}}));
    let (ports, limits) = (arg(policy("ports")), arg(policy("limits")));
    let settings = format!(r#"ports={{"first": {port}, "last": {port}}}"#);
    let args = [
        "plan",
        "--json",
        "--policy",
        &ports,
        "--policy",
        &limits,
        "--policy-settings",
        &settings,
        &job,
    ];
    let decision = &qhost.run(&args).exits(11).json()["decision"];
    assert_eq!(decision["policies"][0]["violations"][0]["code"], "no-free-port");
    let answers = [&decision["policies"][0], &decision["policies"][1], &decision["host"]];
    let answers = answers.map(|answer| answer["answer"].as_str());
    assert_eq!(answers, [Some("refused"), Some("not-asked"), Some("not-asked")]);
}

/// A policy that is asked again, about the launch as a later policy changed it, may refuse it.
#[test]
fn a_refusal_of_the_chosen_launch_counts() {
    let qhost = qhost();
    let job = job(&qhost, json!({}));
    let sets = arg(policy("probe-sets"));
    let [cap, bigger] = ["cap", "bigger"].map(|name| format!("{name}={sets}"));
    let args = [
        "plan",
        "--json",
        "--policy",
        &cap,
        "--policy",
        &bigger,
        "--policy-settings",
        r#"cap={"memory_mib": 64, "refuse_to_choose_above_mib": 2048}"#,
        "--policy-settings",
        r#"bigger={"memory_mib": 4096}"#,
        &job,
    ];
    let decision = &qhost.run(&args).exits(11).json()["decision"];
    assert_eq!(decision["policies"][0]["answer"], "refused");
    assert_eq!(decision["policies"][0]["violations"][0]["code"], "too-much");
    assert_eq!(decision["launch"]["resources"]["memory_mib"], 4096);
}

#[test]
fn a_refusal_reads_well() {
    let qhost = qhost();
    let job = job(&qhost, json!({}));
    let trusted = arg(policy("trusted-images"));
    let settings = r#"trusted-images={"hosts": ["images.other"]}"#;
    let done =
        qhost.run(&["plan", "--policy", &trusted, "--policy-settings", settings, &job]).exits(11);
    let digest = regex_digest(&done.stdout);
    snapshot("denied", &done.stdout.replace(&digest, "DIGEST"), &qhost);
}

/// The short digest at the end of a policy's line.
fn regex_digest(text: &str) -> String {
    let line = text.lines().find(|line| line.starts_with("policy")).expect("a policy's line");
    line.rsplit(' ').next().expect("a word").to_owned()
}

#[test]
fn untrusted_tenants_need_kvm() {
    let qhost = qhost();
    let job = job(&qhost, json!({"accelerator": "tcg"}));
    let accelerator = arg(policy("accelerator"));
    let settings = r#"accelerator={"untrusted_tenants": ["mallory"]}"#;
    let args = |tenant| {
        ["plan", "--policy", &accelerator, "--policy-settings", settings, "--tenant", tenant, &job]
            .map(str::to_owned)
    };
    for (tenant, code) in [("mallory", 11), ("alice", 0)] {
        let args = args(tenant);
        qhost.run(&args.each_ref().map(String::as_str)).exits(code);
    }
}

#[test]
fn without_a_policy_the_hosts_rules_decide_alone() {
    let qhost = qhost();
    qhost
        .run(&["plan", &job(&qhost, json!({}))])
        .exits(0)
        .says("the host's own rules decided alone");
}

#[test]
fn a_policy_cannot_widen_what_the_host_allows() {
    let qhost = qhost();
    qhost.config("[ports]\nallow = [\"30000-30001\"]\n");
    let job = job(&qhost, json!({"port_map": {"http": 80}}));
    let ports = arg(policy("ports"));
    let settings = r#"ports={"first": 20000, "last": 20009}"#;
    let args = ["plan", "--json", "--policy", &ports, "--policy-settings", settings, &job];
    let denied = qhost.run(&args).exits(11).json();
    assert_eq!(denied["decision"]["host"]["violations"][0]["code"], "host.port-not-allowed");
    assert_eq!(denied["decision"]["policies"][0]["violations"], json!([]));
}

#[test]
fn the_hosts_own_rules() {
    let qhost = qhost();
    for (config, toml, code, violation) in [
        (json!({"egress": "internet"}), "", 11, Some("host.egress-not-allowed")),
        (json!({"egress": "internet"}), "[network]\ninternet = true\n", 0, None),
        (
            json!({"port_map": {"ssh": {"guest": 22, "host": 22}}}),
            "",
            11,
            Some("host.port-not-allowed"),
        ),
        (
            json!({"port_map": {"ssh": 22}}),
            "[ports]\nbind = [\"192.0.2.1\"]\n",
            11,
            Some("host.bind-not-allowed"),
        ),
        (json!({"args": ["-cpu", "host"]}), "", 11, Some("host.argument-not-allowed")),
        (json!({"args": ["-cpu", "host"]}), "[qemu]\nargs = [[\"-cpu\", \"host\"]]\n", 0, None),
        (
            json!({"args": ["-cpu", "host"]}),
            "[qemu]\nargs = [[\"-cpu\", \"max\"], [\"-cpu\"]]\n",
            11,
            Some("host.argument-not-allowed"),
        ),
        (
            json!({"args": ["-cpu"]}),
            "[qemu]\nargs = [[\"-cpu\", \"max\"]]\n",
            11,
            Some("host.argument-not-allowed"),
        ),
    ] {
        // The test is about the verdict, and not about whether this host's cage is whole.
        qhost.config(&format!("{toml}[cage]\nlevel = \"best-effort\"\n"));
        let plan = qhost.run(&["plan", "--json", &job(&qhost, config)]).exits(code).json();
        assert_eq!(plan["decision"]["host"]["violations"][0]["code"].as_str(), violation, "{toml}");
    }
    qhost.config("");
    let mut large: Value =
        serde_json::from_slice(&std::fs::read(job(&qhost, json!({}))).unwrap()).unwrap();
    large["resources"] = json!({"memory_mib": 4194304, "cpus": 256});
    let large = qhost.file("large.json", large.to_string());
    let plan = qhost.run(&["plan", "--json", &large]).exits(16).json();
    assert_eq!(plan["outcome"], "cannot-run");
    assert_eq!(plan["decision"]["host"]["violations"][0]["code"], "host.capacity");
}

#[test]
fn a_core_module_is_made_a_component() {
    let qhost = qhost();
    let target = std::env::var_os("QHOST_GUEST_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| root().join("guest-policies/target"));
    let module = arg(target.join("wasm32-unknown-unknown/release/trusted_images.wasm"));
    let component = arg(policy("trusted-images"));
    let inspect = |path: &str| qhost.run(&["policy", "inspect", "--json", path]).exits(0).json();
    let (module_says, component_says) = (inspect(&module), inspect(&component));
    assert_eq!(module_says["kind"], "core module");
    assert_eq!(component_says["kind"], "component");
    for key in ["name", "version", "imports", "exports", "settings_schema"] {
        assert_eq!(module_says[key], component_says[key], "{key}");
    }
    let job = job(&qhost, json!({}));
    qhost.run(&["plan", "--policy", &module, &job]).exits(11).says("refused by trusted-images");
}

#[test]
fn inspect_says_what_a_policy_is() {
    let qhost = qhost();
    let limits = arg(policy("limits"));
    let inspection = qhost.run(&["policy", "inspect", "--json", &limits]).exits(0).json();
    assert_eq!(inspection["name"], "limits");
    assert_eq!(inspection["world"], "qhost:policy/policy@0.2.0");
    assert_eq!(inspection["settings_schema"]["properties"]["cpus"]["type"], "integer");
    assert_eq!(inspection["sha256"].as_str().map(str::len), Some(64));
    qhost.run(&["policy", "inspect", &limits]).exits(0).says("Bounds the memory");
    qhost.run(&["policy", "inspect", "none.wasm"]).exits(12).says("cannot read none.wasm");
}

#[test]
fn policies_import_nothing_but_the_log() {
    let qhost = qhost();
    for name in ["trusted-images", "accelerator", "ports", "limits"] {
        let inspection =
            qhost.run(&["policy", "inspect", "--json", &arg(policy(name))]).exits(0).json();
        for import in inspection["imports"].as_array().expect("a list") {
            let import = import.as_str().expect("a name");
            assert_eq!(import, "qhost:policy/log@0.2.0", "{name}");
        }
    }
}

#[test]
fn settings_come_from_a_file_too() {
    let qhost = qhost();
    let job = job(&qhost, json!({}));
    let limits = arg(policy("limits"));
    let file = qhost.file("limits.json", r#"{"memory_mib": 16}"#);
    let settings = format!("mine={file}");
    qhost
        .run(&["plan", "--policy", &format!("mine={limits}"), "--policy-settings", &settings, &job])
        .exits(11)
        .says("refused by mine")
        .says("32 MiB is more than the 16");
}

#[test]
fn a_denied_job_makes_no_request() {
    let qhost = qhost();
    let server = ImageServer::start();
    let job = qhost.job(&server.serve("/image", vec![0; 4096]), json!({}));
    let limits = arg(policy("limits"));
    let denying =
        ["run", "--policy", &limits, "--policy-settings", r#"limits={"memory_mib": 16}"#, &job];
    qhost.run(&denying).exits(11);
    assert_eq!(server.requests(), [""; 0]);
    assert!(qhost.stored_images().is_empty() && qhost.vms().is_empty());
}

#[test]
fn a_plan_touches_nothing() {
    let qhost = qhost();
    let server = ImageServer::start();
    let job = qhost.job(&server.serve("/image", vec![0; 4096]), json!({}));
    let state = qhost.folder().join("untouched");
    qhost.run(&["plan", "--state-dir", state.to_str().unwrap(), &job]).exits(0);
    assert_eq!(server.requests(), [""; 0]);
    assert!(!state.exists());
}
