//! The policies of the host's configuration: chains, tenants, pins, limits, monitor mode; and chains whose policies disagree.

use serde_json::{Value, json};

use qhost_model::{digest::Sha256, launch::FIELDS};
use qhost_tests::{Done, Qhost, configured, policy};

use crate::{qhost, snapshot};

/// A job with two ports, 1 CPU, 32 MiB, isolated, by tcg.
fn job(qhost: &Qhost) -> String {
    job_with(qhost, json!({}))
}

fn job_with(qhost: &Qhost, more: Value) -> String {
    let mut config = json!({"port_map": {"http": {"guest": 80, "host": 20001}, "ssh": 22}});
    config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    qhost.job(&("https://images.example/web.qcow2".into(), "0".repeat(64)), config)
}

fn plan(qhost: &Qhost, tenant: &str) -> Done {
    qhost.run(&["plan", "--json", "--tenant", tenant, &job(qhost)])
}

#[test]
fn a_tenant_is_asked_after_the_host() {
    let qhost = qhost();
    let config = [
        configured("host-limits", "limits", json!({"memory_mib": 64}), "deadline_ms = 5000"),
        configured("acme", "probe-sets", json!({"memory_mib": 16}), ""),
        "[host]\nchain = [\"host-limits\"]\n[tenants.acme]\nchain = [\"acme\"]\n[tenants.other]\n"
            .into(),
    ];
    qhost.config(&config.concat());
    let decision = &plan(&qhost, "acme").exits(0).json()["decision"];
    let names: Vec<_> = [0, 1].map(|at| decision["policies"][at]["name"].clone()).into();
    assert_eq!(names, ["host-limits", "acme"]);
    assert_eq!(decision["policies"][1]["layer"], "tenant");
    assert_eq!(decision["launch"]["resources"]["memory_mib"], 16);
    let decision = &plan(&qhost, "other").exits(0).json()["decision"];
    assert_eq!(decision["policies"].as_array().expect("a list").len(), 1);
    plan(&qhost, "mallory")
        .exits(2)
        .says("tenant mallory: the configuration has no such tenant; it has acme, other");
    // A policy that is tried out comes first.
    let widens = policy("probe-sets");
    let try_out =
        ["plan", "--json", "--tenant", "acme", "--policy", widens.to_str().unwrap(), &job(&qhost)];
    let decision = &qhost.run(&try_out).exits(0).json()["decision"];
    assert_eq!(decision["policies"][0]["name"], "probe-sets");
    let path = format!("acme={}", widens.display());
    qhost
        .run(&["plan", "--tenant", "acme", "--policy", &path, &job(&qhost)])
        .exits(2)
        .says("--policy acme");
}

/// The effect of a tenant's policy on a job, after a host's policy.
fn tenant_sets(job: Value, host: Value, tenant: Value) -> (Qhost, Done) {
    let qhost = qhost();
    let config = [
        "[ports]\nbind = [\"127.0.0.1\", \"127.0.0.2\"]\n[network]\ninternet = true\n".into(),
        configured("host", "probe-sets", host, ""),
        configured("acme", "probe-sets", tenant, ""),
        "[host]\nchain = [\"host\"]\n[tenants.acme]\nchain = [\"acme\"]\n".into(),
    ];
    qhost.config(&config.concat());
    let done = qhost.run(&["plan", "--json", "--tenant", "acme", &job_with(&qhost, job)]);
    (qhost, done)
}

#[track_caller]
fn widens(host: Value, tenant: Value, says: &str) {
    let (_qhost, done) = tenant_sets(json!({}), host, tenant);
    done.exits(12).says(&format!("a tenant's, widens {says}")).says("can only tighten");
}

#[track_caller]
fn tightens(job: Value, host: Value, tenant: Value) {
    let (_qhost, done) = tenant_sets(job, host, tenant);
    done.exits(0);
}

const MIB: u64 = 1 << 20;

/// The test fails for a new field without its widening.
#[test]
fn every_field_that_a_tenant_widens_is_refused() {
    for field in FIELDS {
        let tenant = match field.name {
            "resources" => json!({"cpus": 2}),
            "accelerator" => json!({"accelerator": "kvm"}),
            "ports" => json!({"guest": 23}),
            "egress" => json!({"egress": "internet"}),
            "disk_bytes" => json!({"disk_bytes": MIB}),
            "disk_rate" => json!({"operations": 11}),
            "persist" => json!({"persist": true}),
            "disks" => json!({"data_mib": 2}),
            "seed" => json!({"hostname": "probe"}),
            "firmware" => json!({"firmware": "uefi"}),
            "machine" => json!({"nested": true}),
            "nics" => json!({"network": "other"}),
            "access" => json!({"agent": "interact"}),
            "grace_s" => json!({"grace_seconds": 31}),
            "warnings" => json!({"warnings": []}),
            "extensions" => json!({"extension": "x"}),
            name => panic!("what a tenant's policy makes wider of {name} is not tried"),
        };
        let host = json!({"warn": "a"});
        let disks = json!([{"name": "data", "size": "1MiB"}]);
        let rate = json!({"iops": 10});
        let job = json!({"hostname": "web", "disks": disks, "disk_rate": rate});
        let (_qhost, done) = tenant_sets(job, host, tenant);
        done.exits(12).says(&format!("a tenant's, widens {}", field.name));
    }
}

#[test]
fn a_tenant_cannot_widen_the_accelerator() {
    widens(json!({}), json!({"accelerator": "kvm"}), r#"accelerator from \"tcg\" to \"kvm\""#);
}

#[test]
fn a_tenant_cannot_widen_the_cpus() {
    widens(json!({}), json!({"cpus": 2}), "resources.cpus from 1 to 2");
}

#[test]
fn a_tenant_cannot_widen_the_memory() {
    widens(json!({}), json!({"memory_mib": 33}), "resources.memory_mib from 32 to 33");
}

#[test]
fn a_tenant_cannot_widen_the_egress() {
    widens(json!({}), json!({"egress": "internet"}), r#"egress from \"isolated\" to \"internet\""#);
    tightens(json!({"egress": "internet"}), json!({}), json!({"egress": "isolated"}));
}

#[test]
fn a_tenant_cannot_silence_a_warning() {
    let host = json!({"warn": "a"});
    widens(host.clone(), json!({"warnings": []}), r#"warnings from [\"a\"] to []"#);
    tightens(json!({}), host, json!({"warn": "b"}));
}

#[test]
fn a_tenant_cannot_change_the_extensions() {
    widens(json!({}), json!({"extension": "x"}), r#"extensions from [] to [[\"probe\",\"x\"]]"#);
}

#[test]
fn a_tenant_cannot_widen_the_disk() {
    widens(json!({}), json!({"disk_bytes": MIB}), "disk_bytes from null to 1048576");
    let host = json!({"disk_bytes": MIB});
    widens(host, json!({"disk_bytes": 2 * MIB}), "disk_bytes from 1048576 to 2097152");
    tightens(json!({"disk_bytes": 2 * MIB}), json!({}), json!({"disk_bytes": MIB}));
}

#[test]
fn a_tenant_cannot_rename_or_add_a_port() {
    widens(json!({}), json!({"label": "extra"}), "ports.extra from null to {");
}

#[test]
fn a_tenant_cannot_change_a_guest_port() {
    widens(json!({}), json!({"guest": 23}), "ports.http.guest from 80 to 23");
}

#[test]
fn a_tenant_cannot_change_a_ports_protocol() {
    widens(json!({}), json!({"protocol": "udp"}), r#"ports.http.protocol from \"tcp\" to \"udp\""#);
}

#[test]
fn a_tenant_cannot_move_a_host_port() {
    widens(json!({}), json!({"host": 20002}), "ports.http.host from 20001 to 20002");
    tightens(json!({"port_map": {"http": 80}}), json!({}), json!({"host": 20005}));
}

#[test]
fn a_tenant_cannot_widen_a_bind() {
    let says = r#"ports.http.bind from \"127.0.0.1\" to \"0.0.0.0\""#;
    widens(json!({}), json!({"bind": "0.0.0.0"}), says);
    tightens(json!({}), json!({"bind_loopback": "0.0.0.0"}), json!({"bind": "127.0.0.2"}));
}

#[test]
fn a_tenant_can_drop_ports_and_take_less() {
    tightens(json!({}), json!({}), json!({"memory_mib": 16, "drop_ports": true}));
}

#[test]
fn two_policies_that_write_one_field_differently() {
    let qhost = qhost();
    let config = [
        configured(
            "first",
            "probe-sets",
            json!({"cpus": 1, "memory_mib": 48, "warnings": ["x"]}),
            "",
        ),
        configured("second", "probe-sets", json!({"memory_mib": 40, "warnings": ["x"]}), ""),
        "[host]\nchain = [\"first\", \"second\"]\n".into(),
    ];
    qhost.config(&config.concat());
    let done = plan(&qhost, "anyone").exits(12);
    let report = done.json();
    assert_eq!(
        report["decision"]["conflicts"],
        json!([{"field": "resources.memory_mib", "writers": [
            {"policy": "first", "to": 48}, {"policy": "second", "to": 40}
        ]}])
    );
    // Each policy insists, so that it is not known what was decided.
    done.says("policy first").says(
        "does not settle: asked again about the chosen launch, it changed resources.memory_mib from 40 to 48; it \
         disagrees with second, which wrote the same",
    );
    let text = qhost.run(&["plan", &job(&qhost)]).exits(12);
    text.says("conflict resources.memory_mib: first wrote 48, then second wrote 40");
}

#[test]
fn monitor_mode_records_and_changes_nothing() {
    let qhost = qhost();
    let watched = json!({"memory_mib": 48, "refuse": "no-way"});
    let config = [
        configured("watched", "probe-sets", watched, "mode = \"monitor\""),
        configured("broken", "probe-spins", json!({}), "mode = \"monitor\"\ndeadline_ms = 20"),
        configured("limits", "limits", json!({"memory_mib": 32}), ""),
        "[host]\nchain = [\"watched\", \"broken\", \"limits\"]\n".into(),
    ];
    qhost.config(&config.concat());
    let decision = &plan(&qhost, "anyone").exits(0).json()["decision"];
    assert_eq!(decision["launch"]["resources"]["memory_mib"], 32, "nothing was applied");
    let [watched, broken, limits] = [0, 1, 2].map(|at| &decision["policies"][at]);
    assert_eq!(watched["changes"][0]["to"], 48);
    assert_eq!(watched["violations"][0]["code"], "no-way");
    assert_eq!(broken["answer"], "failed");
    assert_eq!(broken["fault"], "in choose: it ran longer than its deadline of 20 ms");
    assert_eq!(limits["answer"], "allowed");
    let text = qhost.run(&["plan", &job(&qhost)]).exits(0).stdout;
    let text: Vec<_> = text.lines().take_while(|line| !line.starts_with("launch")).collect();
    snapshot("monitor", &without_digests(&text.join("\n")), &qhost);
}

/// Removes the short digests at the ends of lines.
fn without_digests(text: &str) -> String {
    let short = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let line = |line: &str| {
        line.split(' ')
            .map(|word| match word.strip_prefix("sha256:") {
                Some(digest) if short(digest) => "sha256:DIGEST",
                Some(_) | None => word,
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn limits_are_each_policys_own() {
    let qhost = qhost();
    for (module, more, says) in [
        ("probe-spins", "deadline_ms = 30", "ran longer than its deadline of 30 ms"),
        ("probe-hoards", "memory_mib = 3", "needed more than its 3 MiB of memory"),
    ] {
        qhost.config(&(configured("p", module, json!({}), more) + "[host]\nchain = [\"p\"]\n"));
        plan(&qhost, "anyone").exits(12).says(says);
    }
}

#[test]
fn a_policy_must_be_the_one_that_is_pinned() {
    let qhost = qhost();
    let config = configured("limits", "limits", json!({}), "") + "[host]\nchain = [\"limits\"]\n";
    let pinned = Sha256::of(&std::fs::read(policy("limits")).unwrap()).to_string();
    qhost.config(&config.replace(&pinned, &"0".repeat(64)));
    let says = format!("has sha256:{pinned}, and the configuration pins sha256:{}", "0".repeat(64));
    plan(&qhost, "anyone").exits(12).says(&says);
    qhost.run(&["config", "check"]).exits(2).says(&says);
}

#[test]
fn a_configuration_is_checked_whole() {
    let qhost = qhost();
    let good = [
        configured("limits", "limits", json!({"memory_mib": 64}), ""),
        configured(
            "watched",
            "accelerator",
            json!({"untrusted_tenants": []}),
            "mode = \"monitor\"",
        ),
        "[host]\nchain = [\"limits\"]\n".into(),
    ];
    qhost.config(&good.concat());
    let done = qhost.run(&["config", "check"]).exits(0);
    assert_eq!(done.stdout.lines().filter(|line| line.starts_with("policy ")).count(), 2);
    let json = qhost.run(&["config", "check", "--json"]).exits(0).json();
    assert_eq!(json["policies"][1]["mode"], "monitor");
    let bad = [
        configured("limits", "limits", json!({}), "deadline_ms = 0\nmemory_mib = 4096"),
        "[host]\nchain = [\"limit\", \"limits\", \"limits\"]\n[tenants.\"a b\"]\nchain = [\"limits\"]\n".into(),
    ];
    qhost.config(&bad.concat());
    let done = qhost.run(&["config", "check"]).exits(2);
    snapshot("config-problems", &done.stdout, &qhost);
    plan(&qhost, "anyone").exits(2).says("6 problems");
    let refused = [
        configured("a", "limits", json!({"memory": 64}), ""),
        configured("b", "limits", json!({}), "").replace("limits.wasm", "gone.wasm"),
        configured("c", "limits", json!({}), "settings_file = \"gone.json\"")
            .replace("settings = {  }", ""),
    ];
    qhost.config(&refused.concat());
    let json = qhost.run(&["config", "check", "--json"]).exits(2).json();
    let places: Vec<_> = [0, 1, 2].map(|at| json["problems"][at]["place"].clone()).into();
    assert_eq!(places, ["policies.a", "policies.b", "policies.c"]);
}

#[test]
fn the_schema_knows_what_the_configuration_knows() {
    let qhost = qhost();
    let schema = qhost.run(&["config", "schema"]).exits(0).json();
    let valid = jsonschema::validator_for(&schema).expect("a schema");
    let pinned = json!({"module": "x.wasm", "sha256": "0".repeat(64)});
    assert!(valid.is_valid(&json!({})));
    assert!(valid.is_valid(&json!({
        "policies": {"x": pinned}, "host": {"chain": ["x"]}, "tenants": {"acme": {"chain": []}},
        "ports": {"allow": ["1-2"], "bind": ["127.0.0.1"]}, "image": {"network": {"allow": ["127.0.0.0/8"]}}
    })));
    for wrong in [
        json!({"policy": {}}),
        json!({"policies": {"x": {"sha256": "0".repeat(64)}}}),
        json!({"policies": {"x": {"module": "x.wasm", "sha256": "0", "mode": "off"}}}),
        json!({"policies": {"x": {"module": "x.wasm", "sha256": "0", "deadline_ms": 0}}}),
        json!({"image": {"max_byte": 1}}),
    ] {
        assert!(!valid.is_valid(&wrong), "{wrong}");
    }
}

/// A tenant's values replace a policy's own, and the policy checks the result.
#[test]
fn a_tenant_has_settings_of_its_own() {
    let qhost = qhost();
    let config = |acme: &str| {
        let limits = configured("limits", "limits", json!({"memory_mib": 16, "cpus": 1}), "");
        let tenants =
            format!("[host]\nchain = [\"limits\"]\n[tenants.other]\n[tenants.acme]\n{acme}");
        qhost.config(&(limits + &tenants));
    };
    config("[tenants.acme.settings.limits]\nmemory_mib = 64\n");
    let denied = qhost.run(&["plan", "--tenant", "other", &job(&qhost)]).exits(11);
    denied.says("32 MiB is more than the 16");
    plan(&qhost, "acme").exits(0);
    config("[tenants.acme.settings.limits]\nmemory_mib = 64\ncpus = 0\n");
    qhost
        .run(&["plan", "--tenant", "acme", &job(&qhost)])
        .exits(11)
        .says("1 CPUs is more than the 0");
    config("[tenants.acme.settings.limits]\nmemory = 64\n");
    qhost.run(&["config", "check"]).exits(2).says("limits").says("memory");
    plan(&qhost, "other").exits(11);
    plan(&qhost, "acme").exits(2);
    config("[tenants.acme.settings.limit]\nmemory_mib = 64\n");
    let unknown = qhost.run(&["config", "check"]).exits(2).says("tenants.acme.settings.limit");
    unknown.says("not asked about this tenant's tasks; did you mean limits?");
}
