//! A root disk that is larger than its image: asked for, bounded, and lowered by a policy.

use std::{fs, time::Instant};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    configured, wait_for,
};

use crate::{decisions::records, qhost};

const MIB: u64 = 1 << 20;

/// Runs a guest of an image of 1 MiB that writes to 32 MiB: it says `K` if it has a disk of that size, `F` if not.
fn fills(qhost: &Qhost, server: &ImageServer, disk_bytes: &Value) -> char {
    let image = server.serve("/fill", boot_sector::disk("filling", Then::Fill));
    let job = qhost.job(&image, json!({ "disk_bytes": disk_bytes }));
    let report = qhost.run(&["run", "--json", &job]).exits(0).json();
    let console = fs::read_to_string(report["vm"]["console_log"].as_str().unwrap()).unwrap();
    console.chars().last().unwrap()
}

#[test]
fn a_guest_writes_beyond_its_images_end() {
    let (qhost, server) = (qhost(), ImageServer::start());
    assert_eq!(fills(&qhost, &server, &Value::Null), 'F');
    assert_eq!(fills(&qhost, &server, &json!(16 * MIB)), 'F');
    assert_eq!(fills(&qhost, &server, &json!(32 * MIB)), 'K');
    qhost.assert_nothing_left();
}

#[test]
fn a_disk_is_not_smaller_than_its_image_and_an_iso_has_none() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let mut image = boot_sector::disk("never", Then::PowerOff);
    image.resize(image.len() + 512, 0);
    let image = server.serve("/image", image);
    let small = qhost.job(&image, json!({"disk_bytes": MIB}));
    let says = "disk_bytes is 1048576: the image's disk has 1049088 bytes; ask for that or more";
    qhost.run(&["run", &small]).exits(16).says(says);
    // The image is stored now, so that a plan knows it too.
    qhost.run(&["plan", &small]).exits(16).says(says);
    let mut iso = vec![0; 64 << 10];
    iso[0x8000..0x8007].copy_from_slice(b"\x01CD001\x01");
    iso[0x8800..0x8807].copy_from_slice(b"\xffCD001\x01");
    let iso = qhost.job(&server.serve("/iso", iso), json!({"disk_bytes": MIB}));
    qhost.run(&["run", &iso]).exits(16).says("an ISO image takes no writes; leave disk_bytes out");
    qhost.assert_nothing_left();
}

#[test]
fn the_operator_bounds_it() {
    let qhost = qhost();
    let nowhere = ("https://images.example/x".to_owned(), "0".repeat(64));
    let job = |bytes: u64| qhost.job(&nowhere, json!({"disk_bytes": bytes}));
    let plan = qhost.run(&["plan", &job(1 << 40)]).exits(0);
    assert!(plan.stdout.contains("a disk of 1099511627776 bytes"), "{}", plan.stdout);
    let refused = qhost.run(&["plan", &job((1 << 40) + MIB)]).exits(11);
    refused.says("host.disk-not-allowed").says("ask for 1099511627776 or less");
    qhost.config("[image]\nmax_disk_bytes = 1048576\n");
    qhost.run(&["plan", &job(2 * MIB)]).exits(11).says("ask for 1048576 or less");
    qhost.run(&["plan", &job(MIB)]).exits(0);
}

/// A policy sees the size that is asked for, lowers it, and may refuse it; its choice is recorded, and made again by a replay.
#[test]
fn a_policy_lowers_it_and_a_replay_makes_it_again() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let config = |bytes: u64| {
        [
            configured("lowers", "probe-sets", json!({ "disk_bytes": bytes }), ""),
            configured("limits", "limits", json!({"disk_bytes": 16 * MIB}), ""),
            "[host]\nchain = [\"lowers\", \"limits\"]\n".into(),
        ]
        .concat()
    };
    qhost.config(&config(16 * MIB));
    assert_eq!(fills(&qhost, &server, &json!(32 * MIB)), 'F', "on a disk of half of that");
    let record = &records(&qhost)[0];
    assert_eq!(record["task"]["disk_bytes"], 32 * MIB);
    assert_eq!(record["decision"]["launch"]["disk_bytes"], 16 * MIB);
    let change = json!({"field": "disk_bytes", "from": 32 * MIB, "to": 16 * MIB});
    assert_eq!(record["decision"]["policies"][0]["changes"], json!([change]));
    let log = qhost.state().join("decisions/tenant-default/current.jsonl");
    qhost.run(&["policy", "replay", log.to_str().unwrap()]).exits(0).says("1 identical");

    qhost.config(&config(17 * MIB));
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    qhost.run(&["plan", &job]).exits(11).says("disk-limit").says("17825792 bytes of disk");
    let replayed = qhost.run(&["policy", "replay", log.to_str().unwrap()]);
    replayed.exits(1).says("disk_bytes");
}

/// The size of a disk in a qcow2 file's header.
fn size_of(overlay: &std::path::Path) -> u64 {
    u64::from_be_bytes(fs::read(overlay).unwrap()[24..32].try_into().unwrap())
}

#[test]
fn a_restart_has_the_same_disk_and_a_kept_one_is_not_resized() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[overlay]\npersist = true\n");
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let job = qhost.job(&image, json!({"disk_bytes": 4 * MIB}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    let overlay = qhost.vms()[0].join("overlay.qcow2");
    assert_eq!(size_of(&overlay), 4 * MIB);
    qhost.run(&["kill", "test"]).exits(0);
    qhost.run(&["restart", "test"]).exits(0);
    assert_eq!(size_of(&overlay), 4 * MIB);
    qhost.run(&["kill", "test"]).exits(0);

    let counts = server.serve("/counts", boot_sector::disk("run", Then::Count));
    let run = |bytes: u64| {
        let job = qhost.job(&counts, json!({"persist": true, "disk_bytes": bytes}));
        qhost.run(&["run", &job])
    };
    run(2 * MIB).exits(0);
    run(2 * MIB).exits(0);
    let refused = run(4 * MIB).exits(16).says("with a disk of 2097152 bytes");
    refused.says("the task's has 4194304").says("qhost overlay rm");
}

/// The rate is measured by the bytes that came to the disk since the start, however slow the machine is.
#[test]
fn a_guest_is_held_to_its_rate() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let mut disk = boot_sector::disk("filling", Then::Fill);
    disk.resize(34 << 20, 0);
    let image = server.serve("/fill", disk);
    const KIB: u64 = 256;
    let job = qhost.job(&image, json!({"disk_rate": {"kib_per_s": KIB}}));
    let planned = qhost.run(&["plan", &job]).exits(0);
    assert!(planned.stdout.contains("root disk limited to 256 KiB/s"), "{}", planned.stdout);
    let began = Instant::now();
    qhost.run(&["run", "--detach", &job]).exits(0);
    let written = wait_for("its first writes", || {
        let stats = qhost.run(&["stats", "--json", "test"]).exits(0).json();
        let disks = stats["vms"][0]["disks"].as_array()?.clone();
        let written = disks.iter().filter_map(|disk| disk["written_bytes"].as_u64()).max()?;
        (written > KIB << 10).then_some(written)
    });
    // A second's worth may come at once; reads count too.
    let most = (KIB << 10) * (began.elapsed().as_secs() + 3);
    assert!(written <= most, "{written} bytes, of {most}");
    qhost.run(&["kill", "test"]).exits(0);
    for (rate, says) in [
        (json!({"iops": 0}), "/config/disk_rate/iops"),
        (json!({"kib_per_s": 1.5}), "/config/disk_rate/kib_per_s"),
        (json!({"kib": 1}), "unknown key \"kib\""),
        (json!(5), "an object"),
    ] {
        let job = qhost.job(&image, json!({ "disk_rate": rate }));
        qhost.run(&["plan", &job]).exits(10).says(says);
    }
}
