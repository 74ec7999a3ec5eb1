//! Disks beside the root disk: those that end with their VM, and volumes, which outlive theirs.

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
};

use serde_json::{Value, json};

use qhost_tests::{
    Done, ImageServer, Qhost,
    boot_sector::{self, Then},
    configured,
    disk::SmallDisk,
    root,
};

use crate::{
    decisions::{records, records_of},
    qhost,
};

const MIB: u64 = 1 << 20;
const TENANTS: &str = "[tenants.acme]\n[tenants.mallory]\n";

/// A job whose guest counts its runs on its second disk.
fn counts(qhost: &Qhost, server: &ImageServer, config: Value) -> String {
    let image = server.serve("/counts", boot_sector::disk("run ", Then::CountOnSecond));
    qhost.job(&image, config)
}

/// A job whose guest stays, with the volume `db`.
fn stays(qhost: &Qhost, server: &ImageServer) -> String {
    let image = server.serve("/stays", boot_sector::disk("stays", Then::Hang));
    qhost.job(&image, json!({"disks": [{"name": "data", "volume": "db"}]}))
}

/// The character that a run's guest printed last.
fn last_of(done: Done) -> char {
    let report = done.exits(0).json();
    let console = fs::read_to_string(report["vm"]["console_log"].as_str().unwrap()).unwrap();
    console.chars().last().unwrap()
}

fn run_as(qhost: &Qhost, tenant: &str, job: &str) -> Done {
    qhost.run(&["run", "--json", "--tenant", tenant, job])
}

fn create(qhost: &Qhost, name: &str, size: &str) {
    qhost.run(&["volume", "create", name, "--size", size]).exits(0);
}

fn list(qhost: &Qhost) -> Vec<Value> {
    let listed = qhost.run(&["volume", "ls", "--json"]).exits(0).json();
    listed["volumes"].as_array().unwrap().clone()
}

fn names(qhost: &Qhost) -> Vec<String> {
    let name = |one: &Value| format!("{}/{}", one["tenant"], one["name"]).replace('"', "");
    list(qhost).iter().map(name).collect()
}

/// The folders of volumes, hidden ones among them.
fn folders(qhost: &Qhost) -> Vec<PathBuf> {
    let entries = fs::read_dir(qhost.state().join("volumes")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The file of the one volume whose folder begins so.
fn file_of(qhost: &Qhost, name: &str) -> PathBuf {
    let starts = |path: &&PathBuf| {
        path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{name}-"))
    };
    folders(qhost).iter().find(starts).unwrap().join("volume.raw")
}

#[test]
fn a_volume_is_there_for_its_owners_next_vm_and_for_no_other_tenant() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(TENANTS);
    let job = counts(&qhost, &server, json!({"disks": [{"name": "data", "volume": "db"}]}));
    let missing = run_as(&qhost, "acme", &job).exits(16);
    missing.says("disk data").says("qhost volume create acme/db --size");
    create(&qhost, "acme/db", "8MiB");
    assert_eq!(last_of(run_as(&qhost, "acme", &job)), '1');
    assert_eq!(last_of(run_as(&qhost, "acme", &job)), '2');
    run_as(&qhost, "mallory", &job).exits(16).says("there is no volume mallory/db");
    qhost.run(&["volume", "create", "--tenant", "mallory", "db", "--size", "1MiB"]).exits(0);
    assert_eq!(last_of(run_as(&qhost, "mallory", &job)), '1');
    assert_eq!(last_of(run_as(&qhost, "acme", &job)), '3');
    assert_eq!(names(&qhost), ["acme/db", "mallory/db"]);
    let table = qhost.run(&["volume", "ls", "--tenant", "acme"]).exits(0);
    assert_eq!(table.stdout.lines().count(), 2, "{}", table.stdout);
    assert!(table.stdout.contains("8.00 MiB"), "{}", table.stdout);
    qhost.run(&["volume", "ls", "-q"]).exits(0).says("acme/db\nmallory/db\n");
    // The record has the volume's name, and no path.
    let record = records_of(&qhost, "acme").pop().unwrap();
    let disk = json!({"name": "data", "volume": "db"});
    assert_eq!(record["task"]["disks"], json!([disk]));
    assert_eq!(record["decision"]["launch"]["disks"], json!([disk]));
    assert!(!record.to_string().contains("volume.raw"));
    qhost.run(&["volume", "rm", "acme/db", "mallory/db"]).exits(0).says("removed    acme/db");
    assert_eq!(names(&qhost), [""; 0]);
    qhost.run(&["volume", "rm", "acme/db"]).exits(2).says("there is no volume acme/db");
    qhost.assert_nothing_left();
}

#[test]
fn a_volume_has_one_user_at_a_time() {
    let (qhost, server) = (qhost(), ImageServer::start());
    create(&qhost, "db", "4MiB");
    let job = stays(&qhost, &server);
    qhost.run(&["run", "--detach", &job]).exits(0);
    let vm = qhost.vms()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let held = format!("the volume default/db is in use by the VM {vm}");
    let is_held = || {
        for command in [
            &["run", &job][..],
            &["plan", &job],
            &["volume", "rm", "db"],
            &["volume", "resize", "db", "--size", "8MiB"],
            &["volume", "copy", "db", "other"],
        ] {
            qhost.run(command).exits(16).says(&held);
        }
    };
    is_held();
    assert_eq!(list(&qhost)[0]["in_use"], true);
    let inspected = qhost.run(&["inspect", "test"]).exits(0);
    assert!(inspected.stdout.contains("data, a volume: 4.00 MiB"), "{}", inspected.stdout);
    // The next supervisor holds the volume again.
    qhost.kill_supervisor();
    // The lock holds also by another path to the folder, and before another command has looked.
    let link = qhost.folder().join("link");
    std::os::unix::fs::symlink(qhost.state(), &link).unwrap();
    qhost.run(&["volume", "rm", "db", "--state-dir", link.to_str().unwrap()]).exits(16).says(&held);
    is_held();
    qhost.run(&["kill", "test"]).exits(0);
    assert_eq!(list(&qhost)[0]["in_use"], false);
    // A restarted VM has the volume once more, as large as it is then.
    qhost.run(&["volume", "resize", "db", "--size", "8MiB"]).exits(0).says("8.00 MiB");
    qhost.run(&["restart", "test"]).exits(0);
    let inspected = qhost.run(&["inspect", "test"]).exits(0);
    assert!(inspected.stdout.contains("data, a volume: 8.00 MiB"), "{}", inspected.stdout);
    qhost.run(&["kill", "test"]).exits(0);
    qhost.assert_nothing_left();
}

#[test]
fn a_volume_is_resized_and_copied_with_its_data() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = |volume: &str| {
        counts(&qhost, &server, json!({"disks": [{"name": "data", "volume": volume}]}))
    };
    let count = |volume: &str| last_of(qhost.run(&["run", "--json", &job(volume)]));
    create(&qhost, "db", "2MiB");
    assert_eq!(count("db"), '1');
    qhost
        .run(&["volume", "resize", "db", "--size", "1MiB"])
        .exits(2)
        .says("cannot shrink the volume");
    qhost.run(&["volume", "resize", "db", "--size", "1GiB"]).exits(0).says("resized    default/db");
    assert_eq!(fs::metadata(file_of(&qhost, "db")).unwrap().len(), 1 << 30);
    assert_eq!(count("db"), '2');
    qhost.run(&["volume", "copy", "db", "snapshot"]).exits(0).says("copied     default/snapshot");
    let copy = fs::metadata(file_of(&qhost, "snapshot")).unwrap();
    assert!(copy.len() == 1 << 30 && copy.blocks() * 512 < MIB, "{copy:?}");
    assert_eq!((count("db"), count("snapshot")), ('3', '3'));
    assert_eq!(count("snapshot"), '4');
    assert_eq!(count("db"), '4');
    qhost.run(&["volume", "copy", "db", "snapshot"]).exits(2).says("is there already");
    qhost.run(&["volume", "create", "db", "--size", "1MiB"]).exits(2).says("is there already");
    qhost.run(&["volume", "copy", "none", "more"]).exits(2).says("there is no volume default/none");
    assert_eq!(names(&qhost), ["default/db", "default/snapshot"]);
}

#[test]
fn a_name_and_a_size_are_checked() {
    let qhost = qhost();
    qhost.config(&format!("[image]\nmax_disk_bytes = {MIB}\n{TENANTS}"));
    let create = |name: &str, size: &str| qhost.run(&["volume", "create", name, "--size", size]);
    for name in ["..", "../x", ".new-x", "a b", "", "a/b/c", &"a".repeat(65)] {
        let refused = create(name, "1MiB");
        assert_eq!(refused.code, 2, "{name}: {}", refused.stderr);
    }
    for size in ["0", "1", "1.5MiB", "-1", "much", "8EiB"] {
        let refused = create("acme/db", size);
        assert_eq!(refused.code, 2, "{size}: {}", refused.stderr);
    }
    create("acme/db", "2MiB").exits(2).says("image.max_disk_bytes");
    create("nosuch/db", "1MiB").exits(2).says("nosuch");
    assert!(folders(&qhost).is_empty());
    create("acme/db", "1048576").exits(0);
}

#[test]
fn a_job_says_disks_or_what_is_wrong_with_them() {
    let qhost = qhost();
    let nowhere = ("https://images.example/x".to_owned(), "0".repeat(64));
    let plan = |disks: Value| qhost.run(&["plan", &qhost.job(&nowhere, json!({"disks": disks}))]);
    let fifteen: Vec<_> =
        (0..15).map(|number| json!({"name": format!("d{number}"), "size": "1MiB"})).collect();
    plan(json!(fifteen.clone())).exits(0).says("disk d14 of 1048576 bytes");
    for (disks, says) in [
        (json!([{"name": "a"}]), "neither size nor volume"),
        (json!([{"name": "a", "size": "1MiB", "volume": "db"}]), "either size or volume, not both"),
        (json!([{"name": "a", "size": "1MB"}]), "a size in whole MiB"),
        (json!([{"name": "a", "size": 1000}]), "a size in whole MiB"),
        (json!([{"name": "a", "size": -1}]), "a size in whole MiB"),
        (json!([{"name": "a", "volume": "../db"}]), "a volume's name"),
        (json!([{"name": "a", "volume": "/dev/sda"}]), "a volume's name"),
        (json!([{"name": "root", "size": "1MiB"}]), "root and cidata are taken"),
        (json!([{"name": "a,serial=x", "size": "1MiB"}]), "1 to 20 letters"),
        (json!([{"name": "a".repeat(21), "size": "1MiB"}]), "1 to 20 letters"),
        (json!([{"size": "1MiB"}]), "the disk's name"),
        (json!([{"name": "a", "size": "1MiB"}, {"name": "a", "size": "1MiB"}]), "a second disk"),
        (
            json!([{"name": "a", "volume": "v"}, {"name": "b", "volume": "v"}]),
            "each volume at most once",
        ),
        (json!([{"name": "a", "path": "/x"}]), "unknown key \"path\""),
        (json!([{"name": "a", "size": "1MiB", "read_only": 1}]), "true or false"),
        (json!({"name": "a"}), "an array of disks"),
        (json!([fifteen.clone(), fifteen].concat()), "at most 15 disks"),
    ] {
        plan(disks).exits(10).says("/config/disks").says(says);
    }
    // The disks are one more than the operator allows.
    qhost.config(&format!("[overlay]\nmax_bytes = {}\n", 2 * MIB));
    let two = json!([{"name": "a", "size": "1MiB"}, {"name": "b", "size": "1MiB"}]);
    plan(two).exits(0);
    let more = json!([{"name": "a", "size": "1MiB"}, {"name": "b", "size": "2MiB"}]);
    plan(more).exits(11).says("host.disks-not-allowed").says("overlay.max_bytes");
}

/// Policies see a disk, one lowers it, and it is in the record and in a replay; what a tenant's policy must not do is in `host_policies`.
#[test]
fn a_policy_makes_a_disk_smaller_and_read_only_or_drops_it() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let config = |sets: Value| {
        let more = configured("limits", "limits", json!({"disk_bytes": 16 * MIB}), "");
        let sets = configured("lowers", "probe-sets", sets, "");
        qhost.config(&format!("{sets}{more}[host]\nchain = [\"lowers\", \"limits\"]\n"));
    };
    let job = counts(&qhost, &server, json!({"disks": [{"name": "data", "size": "32MiB"}]}));
    let run = || last_of(qhost.run(&["run", "--json", &job]));
    config(json!({"data_mib": 16}));
    assert_eq!(run(), '1');
    // The disk began empty, and begins empty again.
    assert_eq!(run(), '1');
    let log = qhost.state().join("decisions/tenant-default/current.jsonl");
    qhost.run(&["policy", "replay", log.to_str().unwrap()]).exits(0).says("2 identical");
    let launched = || {
        let record = records(&qhost).pop().unwrap();
        record["decision"]["launch"]["disks"].clone()
    };
    assert_eq!(launched(), json!([{"name": "data", "bytes": 16 * MIB}]));
    config(json!({"data_mib": 16, "read_only": true}));
    assert_eq!(run(), 'F', "it cannot be written to");
    assert_eq!(launched(), json!([{"name": "data", "bytes": 16 * MIB, "read_only": true}]));
    config(json!({"data_mib": 16, "operations": 50}));
    assert_eq!(run(), '1');
    let limited = json!([{"name": "data", "bytes": 16 * MIB, "rate": {"iops": 50}}]);
    assert_eq!(launched(), limited);
    config(json!({"drop_disks": true}));
    assert_eq!(run(), 'F', "there is none");
    assert_eq!(launched(), Value::Null);
    config(json!({}));
    qhost.run(&["run", &job]).exits(11).says("33554432 bytes of disk is more");
    qhost.assert_nothing_left();
}

/// A QEMU that was taken over can change a volume's file in ways that the next VM does not inherit.
#[test]
fn a_file_of_another_length_is_made_as_long_as_it_was() {
    let (qhost, server) = (qhost(), ImageServer::start());
    create(&qhost, "db", "2MiB");
    let job = counts(&qhost, &server, json!({"disks": [{"name": "data", "volume": "db"}]}));
    assert_eq!(last_of(qhost.run(&["run", "--json", &job])), '1');
    let file = fs::File::options().write(true).open(file_of(&qhost, "db")).unwrap();
    for length in [64 * MIB, MIB] {
        file.set_len(length).unwrap();
        last_of(qhost.run(&["run", "--json", &job]));
        assert_eq!(file.metadata().unwrap().len(), 2 * MIB);
    }
}

#[test]
fn quotas_count_volumes_whether_or_not_something_runs() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let quota = |table: &str, bytes: u64| {
        let overlay = format!("[overlay]\nmax_bytes = {}\n", 4 * MIB);
        qhost.config(&format!("{overlay}{TENANTS}[{table}]\ndisk_bytes = {bytes}\n"));
    };
    quota("tenants.acme.quota", 8 * MIB);
    create(&qhost, "acme/db", "6MiB");
    let refused = qhost.run(&["volume", "create", "acme/more", "--size", "4MiB"]).exits(11);
    refused.says("tenants.acme.quota.disk_bytes").says("6291456 are taken, 6291456 of them by");
    qhost.run(&["volume", "resize", "acme/db", "--size", "9MiB"]).exits(11);
    qhost.run(&["volume", "copy", "acme/db", "copy"]).exits(11);
    let job = counts(&qhost, &server, json!({}));
    run_as(&qhost, "acme", &job).exits(11).says("tenants.acme.quota.disk_bytes");
    run_as(&qhost, "mallory", &job).exits(0);
    create(&qhost, "mallory/db", "64MiB");
    let used = qhost.run(&["quota", "--json", "--tenant", "acme"]).exits(0).json();
    assert_eq!(used["quotas"][0]["used"]["disk_bytes"], 6 * MIB, "{used}");
    quota("host.quota", 70 * MIB);
    qhost.run(&["volume", "create", "acme/more", "--size", "1MiB"]).exits(16).says("host.quota");
    quota("tenants.acme.quota", 10 * MIB);
    run_as(&qhost, "acme", &job).exits(0);
    // A VM that has a volume counts its root disk, not the volume once more; a restart counts anew.
    let volume = json!({"disks": [{"name": "data", "volume": "db"}]});
    run_as(&qhost, "acme", &counts(&qhost, &server, volume)).exits(0);
    quota("tenants.acme.quota", 11 * MIB);
    let stays = |more: Value| {
        let image = server.serve("/stays", boot_sector::disk("stays", Then::Hang));
        let job = qhost.job(&image, more);
        qhost.run(&["run", "--detach", "--tenant", "acme", &job]).exits(0);
        qhost.run(&["kill", "acme/test"]).exits(0);
    };
    stays(json!({"disk_bytes": 64 * MIB, "disks": [{"name": "data", "size": "1MiB"}]}));
    qhost.run(&["volume", "resize", "acme/db", "--size", "7MiB"]).exits(0);
    qhost.run(&["restart", "acme/test"]).exits(11).says("this VM takes 5242880");
    quota("tenants.acme.quota", 10 * MIB);
    qhost.run(&["volume", "rm", "acme/db"]).exits(0);
    create(&qhost, "acme/db", "6MiB");
    // The disks that end with a VM count with the VM.
    let disks = json!({"disks": [{"name": "data", "size": "1MiB"}]});
    run_as(&qhost, "acme", &counts(&qhost, &server, disks)).exits(11).says("this VM takes 5242880");
    assert_eq!(names(&qhost), ["acme/db", "mallory/db"]);
    assert_eq!(folders(&qhost).len(), 2, "what was refused left nothing");
}

/// After a kill at each named point of a command about volumes, no volume is lost, and none is half there.
#[test]
fn kill_9_at_each_point_loses_nothing() {
    let source = fs::read_to_string(root().join("host/image/src/volumes.rs")).unwrap();
    let named: Vec<&str> = source
        .split("failpoint::reach(\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    let rows: [(&str, &[&str], &[&str]); 8] = [
        ("volume.create.begun", &["create", "new", "--size", "2MiB"], &["db"]),
        ("volume.create.written", &["create", "new", "--size", "2MiB"], &["db"]),
        ("volume.create.renamed", &["create", "new", "--size", "2MiB"], &["db", "new"]),
        ("volume.copy.written", &["copy", "db", "new"], &["db"]),
        ("volume.resize.recorded", &["resize", "db", "--size", "8MiB"], &["db"]),
        ("volume.resize.lengthened", &["resize", "db", "--size", "8MiB"], &["db"]),
        ("volume.remove.renamed", &["rm", "gone"], &["db"]),
        ("volume.create.renamed", &["copy", "db", "new"], &["db", "new"]),
    ];
    for point in &named {
        assert!(rows.iter().any(|(tried, ..)| tried == point), "{point} is not tried");
    }
    for (point, args, left) in rows {
        let qhost = qhost();
        create(&qhost, "db", "2MiB");
        let written = fs::File::options().write(true).open(file_of(&qhost, "db")).unwrap();
        written.write_all_at(b"kept", 2 * MIB - 4).unwrap();
        if point == "volume.remove.renamed" {
            create(&qhost, "gone", "1MiB");
        }
        let mut killed = qhost.command(&[&["volume"], args].concat());
        let killed = killed.env("QHOST_KILL_AT", point).output().unwrap();
        assert_eq!(killed.status.code(), None, "{point} was not reached");
        let left: Vec<_> = left.iter().map(|name| format!("default/{name}")).collect();
        assert_eq!(names(&qhost), left, "{point}");
        // The next command finds all in order, and sweeps.
        create(&qhost, "next", "1MiB");
        assert_eq!(folders(&qhost).len(), left.len() + 1, "{point}: {:?}", folders(&qhost));
        let resized = qhost.run(&["volume", "resize", "db", "--size", "8MiB"]);
        resized.exits(0).says("8.00 MiB");
        qhost.run(&["volume", "copy", "db", "last"]).exits(0);
        for volume in ["db", "last"] {
            let bytes = fs::read(file_of(&qhost, volume)).unwrap();
            assert_eq!(bytes.len() as u64, 8 * MIB, "{point}");
            assert!(bytes.get(2 * 1024 * 1024 - 4..2 * 1024 * 1024) == Some(b"kept"), "{point}");
        }
    }
}

#[test]
fn a_copy_that_does_not_fit_leaves_nothing() {
    let qhost = qhost();
    let Some(_disk) = SmallDisk::under(&qhost, 64) else { return };
    create(&qhost, "db", "256MiB");
    let file = fs::File::options().write(true).open(file_of(&qhost, "db")).unwrap();
    for at in 0..40 {
        file.write_all_at(&vec![7; 1 << 20], at * 2 * MIB).unwrap();
    }
    let refused = qhost.run(&["volume", "copy", "db", "copy"]).exits(16);
    refused.says("cannot copy to").says("No space left on device");
    assert_eq!(names(&qhost), ["default/db"]);
    assert_eq!(folders(&qhost).len(), 1);
}

/// No VM uses a volume whose disk is a symbolic link or whose record is damaged.
#[test]
fn a_symlinked_disk_or_a_damaged_record_is_refused() {
    let (qhost, server) = (qhost(), ImageServer::start());
    create(&qhost, "db", "1MiB");
    let job = stays(&qhost, &server);
    let disk = file_of(&qhost, "db");
    let secret = qhost.file("secret", "the host's own");
    fs::remove_file(&disk).unwrap();
    std::os::unix::fs::symlink(&secret, &disk).unwrap();
    qhost.run(&["run", &job]).exits(16).says("symbolic link");
    qhost.run(&["volume", "copy", "db", "copy"]).exits(16).says("symbolic link");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's own");
    fs::write(disk.with_file_name("volume.json"), "{").unwrap();
    qhost.run(&["run", &job]).exits(16).says("read the record of");
    assert_eq!(names(&qhost), [""; 0]);
    // The volume can be removed, and created anew.
    qhost.run(&["volume", "create", "db", "--size", "1MiB"]).exits(2).says("is there already");
    qhost.run(&["volume", "rm", "db"]).exits(0);
    create(&qhost, "db", "1MiB");
    create(&qhost, "other", "1MiB");
    let [db, other] =
        ["db", "other"].map(|name| file_of(&qhost, name).with_file_name("volume.json"));
    fs::copy(other, db).unwrap();
    qhost.run(&["run", &job]).exits(16).says("it is the volume default/other's");
}
