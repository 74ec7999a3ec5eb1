//! Disks beside the root disk that begin with images, or are images: fetched, checked and held like the root disk's, and ruled by policies.

use std::fs;

use serde_json::{Value, json};

use qhost_image::{SeedFile, seed_disk};
use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    configured, succeed,
};

use crate::{decisions::records, qhost};

const MIB: usize = 1 << 20;

/// A root disk, and the URL and digest of another image.
struct Images {
    root: (String, String),
    tools: (String, String),
}

fn serve(server: &ImageServer) -> Images {
    Images {
        root: server.serve("/root", boot_sector::disk("runs", Then::Hang)),
        tools: server.serve("/tools", vec![7; MIB]),
    }
}

fn disk(name: &str, (url, sha256): &(String, String), more: Value) -> Value {
    let mut disk = json!({"name": name, "image_source": url, "checksum": sha256});
    disk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    disk
}

fn job(qhost: &Qhost, root: &(String, String), disks: &[Value]) -> String {
    qhost.job(root, json!({ "disks": disks }))
}

/// The VMs that use each stored image.
fn users(qhost: &Qhost) -> Vec<Value> {
    let listed = qhost.run(&["image", "ls", "--json"]).exits(0).json();
    listed["images"].as_array().unwrap().iter().map(|one| one["used_by"].clone()).collect()
}

#[test]
fn images_of_disks_are_held_while_their_vm_is_there() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[image.network]\nallow = [\"127.0.0.0/8\"]\n");
    let Images { root, tools } = serve(&server);
    let cd = server.serve("/cd.iso", seed_disk(&[SeedFile { name: "note", bytes: b"x" }]));
    let limited = json!({"read_only": true, "rate": {"iops": 10}});
    let disks = [
        disk("over", &tools, json!({"size": "4MiB", "rate": {"kib_per_s": 64}})),
        disk("read", &tools, limited),
        disk("cd", &cd, json!({"cdrom": true})),
    ];
    qhost.run(&["run", "--detach", &job(&qhost, &root, &disks)]).exits(0);
    let vm = qhost.vms()[0].clone();
    let id = vm.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(vm.join("disk-over.qcow2").exists() && !vm.join("disk-read.qcow2").exists());
    assert_eq!(users(&qhost), vec![json!([id]); 3]);
    let told = qhost.run(&["inspect", "test"]).exits(0);
    told.says(&format!("over, the image sha256:{}", tools.1));
    // The VM's supervisor is gone, and its QEMU has the images open.
    succeed("kill", &[&["-9"][..], &[&qhost.supervisors()[0]]].concat());
    assert_eq!(users(&qhost), vec![json!([id]); 3]);
    assert!(qhost.run(&["image", "rm", &tools.1]).code != 0);
    qhost.run(&["ps"]).exits(0).says("running");
    assert!(qhost.run(&["image", "rm", &tools.1]).code != 0);
    qhost.run(&["restart", "--grace", "0", "test"]).exits(0);
    qhost.run(&["kill", "test"]).exits(0);
    assert!(!vm.join("disk-over.qcow2").exists());
    // A restarted VM has the images anew; one that is not stored any more is fetched once more.
    qhost.run(&["image", "rm", &tools.1]).exits(0);
    qhost.run(&["restart", "test"]).exits(0);
    assert_eq!(users(&qhost), vec![json!([id]); 3]);
    qhost.run(&["kill", "test"]).exits(0);
    qhost.assert_nothing_left();
}

#[test]
fn an_image_that_does_not_fit_is_told() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Images { root, tools } = serve(&server);
    let cd = server.serve("/cd.iso", seed_disk(&[SeedFile { name: "note", bytes: b"x" }]));
    let large = server.serve("/large", vec![7; 2 * MIB]);
    let other = (tools.0.clone(), "1".repeat(64));
    for (one, code, says) in [
        (disk("d", &other, json!({"read_only": true})), 14, "checksum mismatch"),
        (
            disk("d", &large, json!({"size": "1MiB"})),
            16,
            "the task's disk d: its size is 1048576 bytes, and the disk in its image has 2097152",
        ),
        (disk("d", &cd, json!({"size": "1MiB"})), 16, "leave size out, set cdrom: true"),
        (
            disk("d", &tools, json!({"cdrom": true})),
            16,
            "a CD must be an ISO image; leave cdrom out",
        ),
    ] {
        let done = qhost.run(&["run", &job(&qhost, &root, std::slice::from_ref(&one))]);
        assert_eq!(done.code, code, "{one}: {}{}", done.stdout, done.stderr);
        assert!(
            done.stderr.contains(says) || done.stdout.contains(says),
            "{says}: {}",
            done.stderr
        );
    }
    qhost.assert_nothing_left();
}

#[test]
fn policies_rule_them() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Images { root, tools } = serve(&server);
    let asks = |module: &str, settings: Value, more: &str| {
        let policy = configured("rules", module, settings, more);
        qhost.config(&format!("{policy}[host]\nchain = [\"rules\"]\n"));
    };
    let elsewhere = ("https://evil.example/x".to_owned(), tools.1.clone());
    let disks = [disk("over", &elsewhere, json!({"size": "4MiB"}))];
    asks("trusted-images", json!({"hosts": ["127.0.0.1"]}), "");
    let refused = qhost.run(&["plan", &job(&qhost, &root, &disks)]).exits(11);
    refused.says("disks.over.image").says("evil.example is not a trusted image host");
    asks("probe-v0-1", json!({}), "");
    qhost.run(&["plan", &job(&qhost, &root, &disks)]).exits(11).says("no word for disks");
    // A disk that a policy makes read-only is the image itself.
    let signed = (format!("{}?sig=its-own-signature", tools.0), tools.1.clone());
    asks("probe-sets", json!({"read_only": true}), "");
    let disks = [disk("over", &signed, json!({"size": "4MiB"}))];
    qhost.run(&["run", "--detach", &job(&qhost, &root, &disks)]).exits(0);
    assert!(!qhost.vms()[0].join("disk-over.qcow2").exists());
    let record = records(&qhost).pop().unwrap();
    let change = &record["decision"]["policies"][0]["changes"][0];
    assert_eq!((&change["field"], &change["to"]), (&json!("disks.over.read_only"), &json!(true)));
    assert!(!record.to_string().contains("its-own-signature"), "{record}");
    let plan = fs::read_to_string(qhost.vms()[0].join("plan.json")).unwrap();
    assert!(!plan.contains("its-own-signature") && plan.contains(r#""read_only": true"#), "{plan}");
    qhost.run(&["kill", "test"]).exits(0);
    // The launch as a policy changed it shows nothing of the task's secret.
    asks("probe-sets", json!({"drop_disks": true}), "");
    let dropped = qhost.run(&["plan", "--json", &job(&qhost, &root, &disks)]).exits(0).stdout;
    assert!(!dropped.contains("its-own-signature"), "{dropped}");
}
