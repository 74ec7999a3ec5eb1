//! VMs as an operator sees them: `qhost ps`, `inspect`, `logs`, `stop`, `kill`, `wait` and `rm`.

use std::{fs, time::Duration};

use qhost_tests::{
    ImageServer, Qhost, Reply, Running,
    boot_sector::{self, Then},
    wait_for,
};
use serde_json::{Value, json};

use crate::qhost;

/// A task of this name that runs until it is stopped.
fn start(qhost: &Qhost, server: &ImageServer, name: &str, then: Then) -> Running {
    let image = server.serve(&format!("/{name}"), boot_sector::disk(&format!("I am {name}"), then));
    let job = fs::read_to_string(qhost.job(&image, json!({"port_map": {"http": 80}}))).unwrap();
    let job = qhost.file(&format!("{name}.json"), job.replace("\"test\"", &format!("\"{name}\"")));
    qhost.start(&["run", "--grace", "1", &job])
}

fn vms(qhost: &Qhost, args: &[&str]) -> Vec<Value> {
    let report = qhost.run(&[&["ps", "--json"], args].concat()).exits(0).json();
    report["vms"].as_array().unwrap().clone()
}

fn state(qhost: &Qhost, vm: &str) -> String {
    let found = qhost.run(&["inspect", "--json", vm]).exits(0).json();
    found["state"].as_str().unwrap().to_owned()
}

fn runs(qhost: &Qhost, vm: &str) {
    wait_for("the guest", || {
        vms(qhost, &[])
            .iter()
            .any(|one| one["task"] == vm && one["state"] == "running")
            .then_some(())
    });
}

#[test]
fn from_its_start_to_its_end() {
    let (qhost, server) = (qhost(), ImageServer::start());
    assert_eq!(qhost.run(&["ps"]).exits(0).stdout.lines().count(), 1);
    let [web, db] = ["web", "db"].map(|name| start(&qhost, &server, name, Then::Hang));
    runs(&qhost, "web");
    runs(&qhost, "db");
    let both = vms(&qhost, &[]);
    assert_eq!(both.len(), 2);
    let id = |name: &str| {
        let one = both.iter().find(|vm| vm["task"] == name).unwrap();
        one["id"].as_str().unwrap().to_owned()
    };
    qhost.run(&["ps"]).exits(0).says(&id("web")).says("→80/tcp").says("32 MiB");
    // By its task's name, its id, and the beginning of that.
    for name in ["web", &id("web"), &id("web")[..6]] {
        let found = qhost.run(&["inspect", "--json", name]).exits(0).json();
        assert_eq!(found["id"], json!(id("web")));
        let states: Vec<_> = found["changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| change["state"].clone())
            .collect();
        assert_eq!(states, ["created", "fetching", "starting", "running"]);
        assert!(found["qemu"]["pid"].as_u64() > Some(1));
    }
    qhost
        .run(&["inspect", "db"])
        .exits(0)
        .says("takes      1 CPUs, 32 MiB")
        .says("qemu       process");
    qhost.run(&["inspect", "none"]).exits(2).says("no VM's id begins with \"none\"");
    qhost.run(&["rm", "web"]).exits(16).says("has not ended; stop it first: qhost stop web-");
    qhost.console_has("I am web");
    qhost.run(&["logs", "web"]).exits(0).says("I am web");

    // This guest is deaf: QEMU quits for it once its grace is over.
    qhost
        .run(&["stop", "web"])
        .exits(0)
        .says("exited")
        .says("the guest did not power off in time, QEMU quit");
    web.end().exits(130);
    assert_eq!(state(&qhost, "web"), "exited");
    qhost.run(&["stop", "web"]).exits(16).says("has ended: exited");
    qhost.run(&["kill", "db"]).exits(0).says("exited");
    db.end().exits(130);
    assert!(vms(&qhost, &[]).is_empty());
    assert_eq!(vms(&qhost, &["--all"]).len(), 2);
    qhost.run(&["rm", "web", &id("db")]).exits(0).says("removed");
    assert!(vms(&qhost, &["--all"]).is_empty() && qhost.vms().is_empty());
}

#[test]
fn it_is_waited_for_and_its_console_followed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let run = start(&qhost, &server, "web", Then::Hang);
    runs(&qhost, "web");
    let logs = qhost.start(&["logs", "--follow", "web"]);
    logs.says("I am web");
    qhost.run(&["wait", "--timeout", "0", "web"]).exits(16).says("has not ended within 0 s");
    let wait = qhost.start(&["wait", "web"]);
    let stop = qhost.run(&["stop", "--json", "web"]).exits(0).json();
    assert_eq!(stop["vms"][0]["ended"]["reason"], "stopped");
    wait.end().exits(0).says("exited");
    logs.end().exits(0);
    run.end().exits(130);
    // A guest that fails.
    let run = start(&qhost, &server, "bad", Then::Panic);
    run.end().exits(20);
    qhost.run(&["wait", "bad"]).exits(20).says("failed").says("the guest's kernel panicked");
}

/// A VM that is not there yet is one all the same; stopped, it leaves nothing.
#[test]
fn one_whose_image_is_on_its_way() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let disk = boot_sector::disk("late", Then::Hang);
    let sha256 = ::qhost::digest::Sha256::of(&disk).to_string();
    server.set("/image", Reply::Slow(disk.into(), Duration::from_secs(1)));
    let run = qhost.start(&["run", &qhost.job(&(server.url("/image"), sha256), json!({}))]);
    wait_for("the fetch", || {
        vms(&qhost, &[]).iter().any(|vm| vm["state"] == "fetching").then_some(())
    });
    qhost.run(&["logs", "test"]).exits(0);
    qhost.run(&["stop", "test"]).exits(0);
    run.end().exits(130);
    assert!(qhost.vms().is_empty());
}

/// Whoever looked after it was killed: nobody says that it runs.
#[test]
fn the_truth_about_the_lost() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let run = start(&qhost, &server, "web", Then::Hang);
    runs(&qhost, "web");
    run.signal("KILL");
    run.end();
    let lost = || vms(&qhost, &["--all"]).iter().any(|vm| vm["state"] == "lost").then_some(());
    wait_for("the truth", lost);
    assert!(vms(&qhost, &[]).is_empty());
    qhost.run(&["inspect", "web"]).exits(0).says("lost").says("whoever looked after it was killed");
    qhost.run(&["stop", "web"]).exits(16).says("has ended: lost");
    qhost.run(&["wait", "web"]).exits(20);
    // Of two of a name, one that goes on is meant.
    let again = start(&qhost, &server, "web", Then::Hang);
    runs(&qhost, "web");
    assert_eq!(state(&qhost, "web"), "running");
    qhost.run(&["stop", "web"]).exits(0);
    again.end().exits(130);
    qhost.run(&["inspect", "web"]).exits(2).says("several VMs are meant by \"web\"");
}
