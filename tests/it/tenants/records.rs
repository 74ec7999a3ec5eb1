//! The records of ended VMs, and of their events.

use std::{fs, path::Path};

use qhost_tests::{ImageServer, Qhost, succeed};

use super::{qhost, run};

/// Adds ended VMs of a tenant, beside one that has really run.
fn more(qhost: &Qhost, id: &str, count: usize) {
    let folder = qhost.state().join("vms").join(id);
    let folder = folder.to_str().unwrap();
    for number in 0..count {
        succeed("cp", &["-r", folder, &format!("{folder}-{number}")]);
    }
}

fn has(qhost: &Qhost, id: &str) -> bool {
    qhost.state().join("vms").join(id).exists()
}

#[test]
fn short_vms_remove_no_others() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let acmes = run(&qhost, &server, "acme", "web");
    let first = run(&qhost, &server, "mallory", "short");
    more(&qhost, &first, qhost_model::limits::ENDED_VMS);
    let last = run(&qhost, &server, "mallory", "short");
    qhost.run(&["logs", "acme/web"]).exits(0).says("I am web");
    assert!(qhost.state().join("vms").join(&acmes).join("decision.json").exists());
    // The list has as many of mallory's VMs as are kept, and the VM of the last launch.
    assert_eq!(qhost.vms().len(), 1 + qhost_model::limits::ENDED_VMS + 1);
    assert!(has(&qhost, &last));
}

#[test]
fn an_operator_says_how_many_how_large_and_how_old() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let kept = |toml: &str| {
        qhost.config(&format!("[retention]\n{toml}\n"));
        let [first, second, third] = [(); 3].map(|()| run(&qhost, &server, "acme", "web"));
        [first, second, third].map(|id| has(&qhost, &id))
    };
    assert_eq!(kept("ended_vms = 1"), [false, true, true]);
    let one = qhost.run(&["inspect", "--json", &run(&qhost, &server, "acme", "web")]).json();
    let bytes = one["kept_bytes"].as_u64().unwrap();
    assert_eq!(kept(&format!("ended_bytes = {}", bytes * 3 / 2)), [false, true, true]);
    assert_eq!(kept("days = 0"), [false, false, true]);
    assert_eq!(kept(""), [true, true, true]);
    qhost.config("[retention]\nended_vm = 1\n");
    qhost.run(&["ps"]).exits(0);
    qhost.run(&["config", "check"]).exits(2).says("unknown field `ended_vm`");
}

/// Bytes that an earlier version's supervisor did not write down are counted.
#[test]
fn records_of_an_earlier_version_are_counted() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let old = run(&qhost, &server, "acme", "web");
    let status = qhost.state().join("vms").join(&old).join("status.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(&status).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("kept_bytes").unwrap();
    fs::write(&status, record.to_string()).unwrap();
    fs::write(status.with_file_name("console.log"), vec![b'x'; 1 << 20]).unwrap();
    qhost.config("[retention]\nended_bytes = 1000000\n");
    run(&qhost, &server, "acme", "web");
    assert!(!has(&qhost, &old));
}

#[test]
fn events_of_each_tenant_and_of_an_earlier_version() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let follow = qhost.start(&["events", "--follow"]);
    run(&qhost, &server, "acme", "web");
    follow.says("acme/web");
    run(&qhost, &server, "..", "up");
    follow.says("../up");
    let event =
        r#"{"at":"2020-01-01T00:00:00Z","vm":"x","task":"old","tenant":"acme","event":"running"}"#;
    fs::write(qhost.state().join("events.jsonl"), format!("{event}\n")).unwrap();
    follow.says("acme/old");
    follow.signal("KILL");
    let all = qhost.run(&["events"]).exits(0).stdout;
    assert!(all.starts_with("2020-01-01"), "{all}");
    let times: Vec<_> = all.lines().map(|line| &line[..23]).collect();
    assert!(times.is_sorted(), "{all}");
    // A full file of mallory's events pushes out none of acme's.
    let line = format!("{}\n", event.replace("acme", "mallory"));
    let of = |name: &str| qhost.state().join("events").join(name);
    fs::write(of("mallory.jsonl"), line.repeat(60_000)).unwrap();
    run(&qhost, &server, "mallory", "short");
    assert!(of("mallory.jsonl.1").exists());
    qhost.run(&["events", "--tenant", "acme"]).exits(0).says("acme/web");
    assert!(Path::new(&of("...jsonl")).exists());
}
