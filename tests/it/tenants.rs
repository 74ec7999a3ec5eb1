//! One tenant beside another, mallory, who is hostile: names, records, quotas.

mod names;
mod records;
mod disks;
mod images;

use std::fs;

use serde_json::{Value, json};

use qhost_tests::{
    Done, ImageServer, Qhost, Running,
    boot_sector::{self, Then},
    wait_for,
};

use crate::qhost;

/// A job of this name that boots a sector.
fn job(qhost: &Qhost, server: &ImageServer, name: &str, then: Then) -> String {
    let says = format!("I am {name}");
    let image = server.serve(&format!("/{}", says.len()), boot_sector::disk(&says, then));
    named(qhost, &image, name, json!({}))
}

/// A job of this name for an image.
fn named(qhost: &Qhost, image: &(String, String), name: &str, more: Value) -> String {
    let job = fs::read_to_string(qhost.job(image, more)).unwrap();
    let file = format!("job-{}.json", fs::read_dir(qhost.folder()).unwrap().count());
    qhost.file(&file, job.replace("\"test\"", &json!(name).to_string()))
}

/// Runs a tenant's task to its end; gives its VM's id.
fn run(qhost: &Qhost, server: &ImageServer, tenant: &str, name: &str) -> String {
    let job = job(qhost, server, name, Then::PowerOff);
    let report = qhost.run(&["run", "--json", "--tenant", tenant, &job]).exits(0).json();
    report["vm"]["id"].as_str().unwrap().to_owned()
}

/// Starts a tenant's VM that runs until it is stopped; gives its id.
fn start(qhost: &Qhost, server: &ImageServer, tenant: &str, name: &str) -> (Running, String) {
    let job = job(qhost, server, name, Then::Hang);
    let running = qhost.start(&["run", "--grace", "0", "--tenant", tenant, &job]);
    let id = wait_for("the guest", || {
        let vms = qhost.run(&["ps", "--json"]).exits(0).json();
        let vms = vms["vms"].as_array().unwrap().clone();
        let is_it =
            |vm: &&Value| vm["task"] == name && vm["tenant"] == tenant && vm["state"] == "running";
        Some(vms.iter().find(is_it)?["id"].as_str().unwrap().to_owned())
    });
    (running, id)
}

fn as_tenant(qhost: &Qhost, tenant: &str, job: &str) -> Done {
    qhost.run(&["run", "--tenant", tenant, job])
}
