//! `qhost policy audit`: what the policies configured now say of the running VMs.

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    configured,
};

use crate::{
    decisions::{records, records_of},
    qhost,
};

/// A host of two tenants that asks one policy.
fn asks(qhost: &Qhost, module: &str, settings: Value, more: &str) {
    let policy = configured("rule", module, settings, more);
    qhost.config(&format!(
        "{policy}[host]\nchain = [\"rule\"]\n[tenants.acme]\n[tenants.mallory]\n"
    ));
}

fn start(qhost: &Qhost, server: &ImageServer, tenant: &str, config: Value) {
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    qhost.run(&["run", "--detach", "--tenant", tenant, &qhost.job(&image, config)]).exits(0);
}

fn outcomes(qhost: &Qhost, code: i32) -> Vec<(String, String)> {
    let audited = qhost.run(&["policy", "audit", "--json"]).exits(code).json();
    let one = |vm: &Value| {
        [&vm["tenant"], &vm["outcome"]].map(|text| text.as_str().unwrap().to_owned()).into()
    };
    audited["vms"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn it_names_the_vms_that_would_be_refused() {
    let (qhost, server) = (qhost(), ImageServer::start());
    asks(&qhost, "limits", json!({}), "");
    qhost.run(&["policy", "audit"]).exits(0).says("0 VMs run; 0 of them");
    start(&qhost, &server, "acme", json!({"port_map": {"http": 80}}));
    start(&qhost, &server, "mallory", json!({}));
    let both = |first: &str, second: &str| {
        vec![("acme".to_owned(), first.to_owned()), ("mallory".to_owned(), second.to_owned())]
    };
    assert_eq!(outcomes(&qhost, 0), both("allowed", "allowed"));
    asks(&qhost, "limits", json!({"ports": 0}), "");
    assert_eq!(outcomes(&qhost, 1), both("refused", "allowed"));
    let told = qhost.run(&["policy", "audit"]).exits(1);
    let told = told.says("rule: ports-limit: 1 ports is more than the 0 that a task may have");
    told.says("2 VMs run; 1 of them would not be launched as they run");
    qhost.run(&["policy", "audit", "--tenant", "mallory"]).exits(0).says("1 VMs run; 0 of them");
    // A policy in monitor mode refuses no VM.
    asks(&qhost, "limits", json!({"ports": 0}), "mode = \"monitor\"");
    assert_eq!(outcomes(&qhost, 0), both("allowed", "allowed"));
    // These policies choose otherwise, fail, or act on an audit alone.
    asks(&qhost, "probe-sets", json!({"memory_mib": 16}), "");
    assert_eq!(outcomes(&qhost, 1), both("changed", "changed"));
    qhost.run(&["policy", "audit"]).exits(1).says("resources.memory_mib from 32 to 16");
    asks(&qhost, "probe-traps", json!({}), "");
    assert_eq!(outcomes(&qhost, 1), both("unknown", "unknown"));
    asks(&qhost, "probe-sets", json!({"refuse_on": "launch"}), "");
    assert_eq!(outcomes(&qhost, 0), both("allowed", "allowed"));
    asks(&qhost, "probe-sets", json!({"refuse_on": "audit"}), "");
    assert_eq!(outcomes(&qhost, 1), both("refused", "refused"));
    // The host's own rules count too.
    qhost.config("[tenants.acme]\n[tenants.mallory]\n[ports]\nallow = [\"1-1\"]\n");
    assert_eq!(outcomes(&qhost, 1), both("refused", "allowed"));

    // No VM was stopped, and no decision was recorded.
    assert_eq!(qhost.qemus().len(), 2);
    for tenant in ["acme", "mallory"] {
        assert_eq!(records_of(&qhost, tenant).len(), 1);
        qhost.run(&["kill", &format!("{tenant}/test")]).exits(0);
    }
    qhost.run(&["policy", "audit"]).exits(0).says("0 VMs run");
    // A VM that an audit refuses is not started again either.
    qhost.run(&["restart", "acme/test"]).exits(11).says("host.port-not-allowed");
}

/// A policy that picks free ports is asked as if the VM's ports were free, since the launch is the VM's own.
#[test]
fn an_audited_vms_ports_count_as_free() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let policy = configured("ports", "ports", json!({"first": 20000, "last": 20999}), "");
    qhost.config(&format!("{policy}[host]\nchain = [\"ports\"]\n"));
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let job = qhost.job(&image, json!({"port_map": {"http": 80}}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    let port = records(&qhost)[0]["decision"]["launch"]["ports"][0]["host"].as_u64().unwrap();
    assert!((20000..21000).contains(&port));
    qhost.run(&["policy", "audit"]).exits(0).says("allowed");
    qhost.run(&["kill", "test"]).exits(0);
}

/// Policies would miss the parts of a job that were not kept, so that no outcome is given for such a VM.
#[test]
fn a_secret_that_was_not_kept_makes_it_unknown() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let job = qhost.job(&(format!("{url}?signature=hush-hush"), sha256), json!({}));
    let mut job: Value = serde_json::from_str(&std::fs::read_to_string(job).unwrap()).unwrap();
    job["meta"] = json!({"signed": "by hush-hush"});
    let job = qhost.file("job.json", job.to_string());
    qhost.run(&["run", "--detach", &job]).exits(0);
    let audited = qhost.run(&["policy", "audit"]).exits(1).says("unknown");
    let audited = audited.says("meta.signed of the job was masked as a secret");
    assert!(!audited.stdout.contains("hush"), "{}", audited.stdout);
    qhost.run(&["kill", "test"]).exits(0);
}
