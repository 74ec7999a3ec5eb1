//! The disk space that guests' writes take after their VMs have ended.

use std::fs;

use serde_json::json;

use qhost_tests::{
    Done, ImageServer, Qhost,
    boot_sector::{self, Then},
};

use super::{as_tenant, named, qhost};

const MIB: u64 = 1 << 20;

/// Tasks of different names that keep their guests' writes take no more than the quota together.
#[test]
fn kept_overlays_count() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let quota = |table: &str| {
        qhost.config(&format!(
            "[overlay]\npersist = true\nmax_bytes = {}\n[tenants.acme]\n[tenants.mallory]\n[{table}]\ndisk_bytes = {}\n",
            4 * MIB,
            8 * MIB
        ));
    };
    quota("tenants.mallory.quota");
    let mut disk = boot_sector::disk("filling", Then::Fill);
    disk.resize(34 << 20, 0);
    let image = server.serve("/image", disk);
    let run = |tenant: &str, name: &str| {
        as_tenant(&qhost, tenant, &named(&qhost, &image, name, json!({"persist": true})))
    };
    run("mallory", "one").exits(0);
    run("mallory", "two").exits(0);
    let taken: u64 = overlays(&qhost).iter().map(|(_, bytes)| bytes).sum();
    assert!(taken > 7 * MIB && taken <= 8 * MIB, "{taken}");
    let refused = run("mallory", "three").exits(11);
    refused
        .says(&format!("{taken} of them by kept overlays"))
        .says("tenants.mallory.quota.disk_bytes");
    assert_eq!(overlays(&qhost).len(), 2);
    // A task's own overlay is not counted twice, and another tenant's is not counted.
    run("mallory", "two").exits(0);
    run("acme", "web").exits(0);
    // The host's sum counts all overlays.
    quota("host.quota");
    run("acme", "web").exits(16).says("host.quota.disk_bytes");
    quota("tenants.mallory.quota");
    let one = overlays(&qhost).into_iter().find(|(name, _)| name.starts_with("one-")).unwrap().0;
    qhost.run(&["overlay", "rm", &one]).exits(0);
    run("mallory", "three").exits(0);
}

/// The variables of a guest's UEFI are kept beside its overlay, and count with it.
#[test]
fn kept_variables_count() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let quota = |bytes: u64| {
        qhost.config(&format!(
            "[overlay]\npersist = true\nmax_bytes = {MIB}\n[tenants.acme.quota]\ndisk_bytes = {bytes}\n"
        ));
    };
    quota(8 * MIB);
    let image = server.serve("/image", boot_sector::disk("runs", Then::PowerOff));
    let run = |name: &str| {
        as_tenant(&qhost, "acme", &named(&qhost, &image, name, json!({"persist": true})))
    };
    run("one").exits(0);
    let (name, before) = overlays(&qhost).remove(0);
    let folder = qhost.state().join("overlays").join(name);
    for kept in ["variables-off.fd", "variables-vendor-keys.fd"] {
        fs::write(folder.join(kept), vec![1; 2 << 20]).unwrap();
    }
    let taken = overlays(&qhost).remove(0).1;
    assert_eq!(taken, before + 4 * MIB);
    quota(before + 2 * MIB);
    run("two").exits(11).says(&format!("{taken} of them by kept overlays"));
    quota(8 * MIB);
    run("two").exits(0);
}

fn overlays(qhost: &Qhost) -> Vec<(String, u64)> {
    let listed = qhost.run(&["overlay", "ls", "--json"]).exits(0).json();
    let overlays = listed["overlays"].as_array().unwrap().iter();
    overlays
        .map(|one| (one["name"].as_str().unwrap().to_owned(), one["disk_usage"].as_u64().unwrap()))
        .collect()
}

/// A launch that fails leaves no overlay's folder. The next launch removes the folder that a killed one left.
#[test]
fn failed_launches_leave_no_overlay() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[overlay]\npersist = true\n[image]\nattempts = 1\n");
    let folders = || fs::read_dir(qhost.state().join("overlays")).map_or(0, Iterator::count);
    let none = (server.url("/none"), "0".repeat(64));
    let run = |image: &(String, String), name: &str| -> Done {
        as_tenant(&qhost, "mallory", &named(&qhost, image, name, json!({"persist": true})))
    };
    run(&none, "one").exits(13);
    assert_eq!(folders(), 0);
    let image = server.serve("/image", boot_sector::disk("run", Then::Count));
    for (point, left) in [("launch.reserved", 1), ("store.recorded", 1)] {
        let job = named(&qhost, &image, "killed", json!({"persist": true}));
        let mut killed = qhost.command(&["run", "--tenant", "mallory", &job]);
        assert_eq!(killed.env("QHOST_KILL_AT", point).output().unwrap().status.code(), None);
        assert_eq!(folders(), left, "{point}");
        run(&none, "two").exits(13);
        assert_eq!(folders(), 0, "{point}");
    }
    // A guest's kept writes stay, whatever becomes of a later launch.
    run(&image, "kept").exits(0);
    run(&none, "kept").exits(13);
    assert_eq!(overlays(&qhost).len(), 1);
}
