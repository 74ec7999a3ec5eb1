//! Each field of a launch: a job asks for it, a policy sees that, another policy lowers it, and the record and a replay have both.

use serde_json::{Value, json};

use qhost_model::launch::FIELDS;
use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    configured,
};

use crate::{decisions::records, qhost};

const MIB: u64 = 1 << 20;

/// The value of a field that a job asks for, the value that a policy lowers it to, and the places where both are seen.
struct Lowered {
    field: &'static str,
    asked: Value,
    by: Value,
    /// The field in the contract, and a part of what a policy sees of it.
    seen: (&'static str, &'static str),
    /// The field's place in a launch, and its value in the end: none, if that is its value without being asked for.
    to: (&'static str, Value),
}

fn lowered() -> Vec<Lowered> {
    let row = |field, asked, by, seen, to| Lowered { field, asked, by, seen, to };
    let disks = json!({"disks": [{"name": "data", "size": "2MiB"}]});
    vec![
        row(
            "resources",
            json!({}),
            json!({"memory_mib": 24}),
            ("resources", "memory-mib: 32"),
            ("/resources/memory_mib", json!(24)),
        ),
        row(
            "accelerator",
            json!({"accelerator": "kvm"}),
            json!({"accelerator": "tcg"}),
            ("accelerator", "Kvm"),
            ("/accelerator", json!("tcg")),
        ),
        row(
            "ports",
            json!({"port_map": {"http": 80}}),
            json!({"drop_ports": true}),
            ("ports", "http"),
            ("/ports", json!([])),
        ),
        row(
            "egress",
            json!({"egress": "internet"}),
            json!({"egress": "isolated"}),
            ("egress", "Internet"),
            ("/egress", json!("isolated")),
        ),
        row(
            "disk_bytes",
            json!({"disk_bytes": 4 * MIB}),
            json!({"disk_bytes": 2 * MIB}),
            ("disks", "size-mib: Some(4)"),
            ("/disk_bytes", json!(2 * MIB)),
        ),
        row(
            "disk_rate",
            json!({"disk_rate": {"iops": 1000}}),
            json!({"operations": 500}),
            ("disks", "operations: Some(1000)"),
            ("/disk_rate/iops", json!(500)),
        ),
        row(
            "persist",
            json!({"persist": true}),
            json!({"persist": false}),
            ("disks", "persistent: true"),
            ("/persist", Value::Null),
        ),
        row(
            "disks",
            disks,
            json!({"data_mib": 1}),
            ("disks", "size-mib: Some(2)"),
            ("/disks/0/bytes", json!(MIB)),
        ),
        row(
            "seed",
            json!({"hostname": "web-1"}),
            json!({"drop_seed": true}),
            ("seed", "web-1"),
            ("/seed", Value::Null),
        ),
        row(
            "firmware",
            json!({"firmware": "uefi"}),
            json!({"firmware": "bios"}),
            ("firmware", "Uefi"),
            ("/firmware", Value::Null),
        ),
        row(
            "machine",
            json!({"nested": true}),
            json!({"nested": false}),
            ("machine", "nested: true"),
            ("/machine/nested", Value::Null),
        ),
        row(
            "nics",
            json!({}),
            json!({"drop_nics": true}),
            ("nics", "network: \"user\""),
            ("/nics", json!([])),
        ),
        row(
            "access",
            json!({"guest_agent": true}),
            json!({"agent": "none"}),
            ("access", "agent: AccessLevel::Interact"),
            ("/access/agent", Value::Null),
        ),
        row(
            "grace_s",
            json!({}),
            json!({"grace_seconds": 5}),
            ("grace-seconds", "Some(60)"),
            ("/grace_s", json!(5)),
        ),
    ]
}

/// The test fails for a new field without a row.
#[test]
fn every_field_is_seen_and_lowered_recorded_and_replayed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let mut disk = boot_sector::disk("runs", Then::PowerOff);
    disk.resize(1 << 20, 0);
    let image = server.serve("/image", disk);
    let rows = lowered();
    // Remarks and the room to grow are asked for by no job.
    let fields = FIELDS.iter().map(|field| field.name);
    let fields: Vec<_> = fields.filter(|name| !["warnings", "extensions"].contains(name)).collect();
    assert_eq!(rows.iter().map(|row| row.field).collect::<Vec<_>>(), fields);
    for Lowered { field, asked, by, seen: (named, seen), to: (place, to) } in rows {
        let config = [
            "[network]\ninternet = true\n[overlay]\npersist = true\n[machine]\nnested = true\n"
                .into(),
            configured("sees", "probe-sets", json!({"saw": named}), ""),
            configured("lowers", "probe-sets", by, ""),
            "[host]\nchain = [\"sees\", \"lowers\"]\n".into(),
        ];
        qhost.config(&config.concat());
        let job = qhost.job(&image, asked);
        let job = if field == "grace_s" { with_a_kill_timeout(&qhost, &job) } else { job };
        let done = qhost.run(&["run", &job]);
        assert_eq!(done.code, 0, "{field}: {}", done.stderr);
        let record = records(&qhost).pop().unwrap();
        let decision = &record["decision"];
        let saw = decision["launch"]["warnings"][0].as_str().unwrap();
        assert!(saw.starts_with(named) && saw.contains(seen), "{field}: {saw}");
        let now = decision["launch"].pointer(place).cloned().unwrap_or_default();
        assert_eq!(now, to, "{field}");
        let changes = decision["policies"][1]["changes"].as_array().unwrap();
        let of_field = |change: &&Value| {
            let name = change["field"].as_str().unwrap();
            name.split(['.', '[']).next() == Some(field)
        };
        assert!(changes.iter().any(|change| of_field(&change)), "{field}: {changes:?}");
        assert_eq!(record["task"]["name"], "test", "{field}");
        let log = qhost.file("one.jsonl", format!("{record}\n"));
        qhost.run(&["policy", "replay", &log]).exits(0).says("1 identical");
    }
}

/// The job in Nomad's form, which alone has a grace.
fn with_a_kill_timeout(qhost: &Qhost, job: &str) -> String {
    let job: Value = serde_json::from_slice(&std::fs::read(job).unwrap()).unwrap();
    let task = json!({
        "Name": "test",
        "Driver": "qemu",
        "KillTimeout": 60_000_000_000_u64,
        "Config": job["config"],
        "Resources": {"MemoryMB": 32},
    });
    let job = json!({"ID": "test", "TaskGroups": [{"Name": "group", "Tasks": [task]}]});
    qhost.file("nomad.json", job.to_string())
}
