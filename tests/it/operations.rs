//! Operations on a running VM, each denied by a policy: not done, recorded with its actor, told of, and denied again in a replay.

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    configured,
};

use crate::{decisions::records_of, qhost};

/// A policy that refuses one operation and nothing else.
fn refuse(qhost: &Qhost, operation: &str) {
    let rules = configured("rules", "probe-sets", json!({"refuse_operation": operation}), "");
    qhost.config(&format!("{rules}[host]\nchain = [\"rules\"]\n[tenants.acme]\n"));
}

/// Starts a tenant's VM with an agent's channel, a display and a volume; gives its id.
fn start(qhost: &Qhost, server: &ImageServer) -> String {
    refuse(qhost, "none");
    qhost.run(&["volume", "create", "acme/data", "--size", "1MiB"]).exits(0);
    let config = json!({
        "guest_agent": true,
        "display": true,
        "disks": [{"name": "data", "volume": "data"}],
    });
    let job = qhost.job(&server.serve("/image", boot_sector::disk("runs", Then::Hang)), config);
    qhost.run(&["run", "--detach", "--tenant", "acme", &job]).exits(0);
    qhost.vms()[0].file_name().unwrap().to_string_lossy().into_owned()
}

/// The parts of a VM that an operation would change.
fn state(qhost: &Qhost) -> Value {
    let vm = qhost.run(&["inspect", "--json", "acme/test"]).exits(0).json();
    json!([vm["state"], vm["started_at"], vm["qemu"]["pid"]])
}

#[test]
fn each_is_denied_recorded_and_replayed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let id = start(&qhost, &server);
    let before = state(&qhost);
    let uid = format!("uid {}", rustix::process::geteuid().as_raw());
    let mut decisions = records_of(&qhost, "acme").len();
    for (operation, command, recorded) in [
        ("console", &["console", "acme/test"][..], json!("console")),
        ("screenshot", &["screenshot", "acme/test", "--output", "no.png"], json!("screenshot")),
        ("exec", &["exec", "acme/test", "--", "id", "-un"], json!({"exec": ["id", "-un"]})),
        ("stop", &["stop", "acme/test"], json!("stop")),
        ("restart", &["restart", "acme/test"], json!("restart")),
        ("pause", &["pause", "acme/test"], json!("pause")),
        ("pause", &["resume", "acme/test"], json!("pause")),
        // Policies are asked even if a tenant pauses its own VM.
        ("pause", &["pause", "--tenant", "acme", "test"], json!("pause")),
        ("snapshot", &["volume", "copy", "acme/data", "copy"], json!("snapshot")),
    ] {
        refuse(&qhost, operation);
        let denied = qhost.run(command).exits(11);
        denied.says("refused by rules").says(&format!("{uid} may not {operation} {id}"));
        let all = records_of(&qhost, "acme");
        decisions += 1;
        assert_eq!(all.len(), decisions, "{command:?}");
        let record = all.last().unwrap();
        let tenant = command.contains(&"--tenant").then_some("acme");
        let mut actor = json!({"name": uid, "door": "cli"});
        if let Some(tenant) = tenant {
            actor["tenant"] = tenant.into();
        }
        assert_eq!(
            (&record["outcome"], &record["occasion"]),
            (&json!("denied"), &json!("operation"))
        );
        let of = &record["operation"];
        assert_eq!((&of["vm"], &of["operation"], &of["actor"]), (&json!(id), &recorded, &actor));
        assert_eq!(record["decision"]["policies"][0]["violations"][0]["code"], "no-operation");
        let line = format!("acme/test {operation}");
        let told = qhost.run(&["decisions", "--outcome", "denied", "--tail", "1"]).exits(0).stdout;
        assert!(told.lines().any(|one| one.contains(&line) && one.contains("rules")), "{told}");
        assert_eq!(state(&qhost), before, "{command:?}");
        // The decision is the same when it is made again, and is not under a policy that refuses something else.
        let log = qhost.file("one.jsonl", format!("{record}\n"));
        qhost.run(&["policy", "replay", &log]).exits(0).says("1 identical");
        refuse(&qhost, "none");
        qhost.run(&["policy", "replay", &log]).exits(1).says("1 different");
    }
    assert!(!qhost.folder().join("no.png").exists());
    let volumes = qhost.run(&["volume", "ls", "--json"]).exits(0).json();
    assert_eq!(volumes["volumes"].as_array().map(Vec::len), Some(1), "{volumes}");
    qhost.run(&["kill", "acme/test"]).exits(0);
    qhost.assert_nothing_left();
}

/// An operation that is denied to all others is not asked about if a tenant does it to its own VM; `kill` asks no policy.
#[test]
fn a_tenants_own_stop_and_restart_are_not_asked_about() {
    let (qhost, server) = (qhost(), ImageServer::start());
    start(&qhost, &server);
    let decisions = records_of(&qhost, "acme").len();
    refuse(&qhost, "restart");
    qhost.run(&["restart", "--grace", "0", "acme/test"]).exits(11);
    qhost.run(&["restart", "--grace", "0", "--tenant", "acme", "test"]).exits(0);
    refuse(&qhost, "stop");
    qhost.run(&["stop", "--grace", "0", "acme/test"]).exits(11);
    qhost.run(&["stop", "--grace", "0", "--tenant", "acme", "test"]).exits(0);
    assert_eq!(records_of(&qhost, "acme").len(), decisions + 2, "the operator's");
    qhost.assert_nothing_left();
}
