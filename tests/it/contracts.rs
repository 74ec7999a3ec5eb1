//! The contract's versions side by side: what a policy of each is shown, may write, and refuses by its silence.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use qhost_model::launch::FIELDS;
use qhost_tests::{
    Done, ImageServer, Qhost,
    boot_sector::{self, Then},
    configured, policy, wait_for,
};

use crate::{
    decisions::{records, records_of},
    qhost,
};

const MIB: u64 = 1 << 20;

fn nowhere(qhost: &Qhost, config: Value) -> String {
    qhost.job(&("https://images.example/web.qcow2".into(), "0".repeat(64)), config)
}

/// A host that asks policies, each given by a name, a module, settings and more lines of its table.
fn asks(qhost: &Qhost, more: &str, policies: &[(&str, &str, Value, &str)]) {
    let names: Vec<_> = policies.iter().map(|(name, ..)| format!("{name:?}")).collect();
    let chain = format!("[host]\nchain = [{}]\n", names.join(", "));
    let tables = policies
        .iter()
        .map(|(name, module, settings, more)| configured(name, module, settings.clone(), more));
    qhost.config(&(tables.collect::<String>() + &chain + more));
}

#[test]
fn a_policy_of_the_earlier_contract_is_shown_what_that_has_words_for() {
    let qhost = qhost();
    asks(&qhost, "[overlay]\npersist = true\n", &[("earlier", "probe-v0-1", json!({}), "")]);
    let old = policy("probe-v0-1").display().to_string();
    let inspected = qhost.run(&["policy", "inspect", "--json", &old]).exits(0).json();
    assert_eq!(inspected["world"], "qhost:policy/policy@0.1.0");
    assert_eq!(inspected["imports"], json!([]));
    let job = nowhere(&qhost, json!({"persist": true, "disk_bytes": 32 * MIB}));
    let planned = qhost.run(&["plan", "--json", &job]).exits(0).json();
    let launch = &planned["decision"]["launch"];
    assert_eq!(launch["disk_bytes"], 16 * MIB, "which it wrote into an extension");
    let said = launch["warnings"][0].as_str().unwrap();
    assert!(said.starts_with(&"0".repeat(64)), "{said}");
    assert!(said.contains(" persist=true disk-bytes=33554432 time=20"), "{said}");

    let list = "https://images.example/SHA256SUMS";
    let checksum = format!("{list}#sha256={}", "1".repeat(64));
    let job = nowhere(&qhost, json!({ "checksum": checksum }));
    let planned = qhost.run(&["plan", "--json", &job]).exits(0).json();
    let said = planned["decision"]["launch"]["warnings"][0].as_str().unwrap();
    assert!(said.starts_with(&format!("{} image.sums={list}", "1".repeat(64))), "{said}");
}

#[test]
fn what_it_decided_is_decided_again_by_a_replay() {
    let (qhost, server) = (qhost(), ImageServer::start());
    asks(&qhost, "", &[("earlier", "probe-v0-1", json!({}), "")]);
    let image = server.serve("/image", boot_sector::disk("runs", Then::PowerOff));
    qhost.run(&["run", &qhost.job(&image, json!({"disk_bytes": 32 * MIB}))]).exits(0);
    let record = &records(&qhost)[0];
    assert_eq!(record["task"]["disk_bytes"], 32 * MIB);
    assert_eq!(record["decision"]["launch"]["disk_bytes"], 16 * MIB);
    let log = qhost.state().join("decisions/tenant-default/current.jsonl");
    qhost.run(&["policy", "replay", log.to_str().unwrap()]).exits(0).says("1 identical");
}

#[test]
fn it_has_no_say_about_what_it_cannot_see() {
    let qhost = qhost();
    let machine = "[machine]\nnested = true\n";
    let nested =
        json!({"nested": true, "firmware": "uefi", "disks": [{"name": "data", "size": "1MiB"}]});
    let plan = |policies: &[(&str, &str, Value, &str)]| {
        asks(&qhost, machine, policies);
        qhost.run(&["plan", &nowhere(&qhost, nested.clone())])
    };
    let refused = plan(&[("earlier", "probe-v0-1", json!({}), "")]).exits(11);
    let refused = refused.says("refused by earlier");
    let refused = refused.says("contract 0.1, which has no word for machine.nested");
    let refused = refused.says("contract 0.1, which has no word for disks");
    refused.says(
        r#"have the policy built for contract 0.2; or have the operator list "machine.nested" in"#,
    );
    // The newer policy sees the field and says nothing against it; the earlier one's silence counts all the same.
    let both = [("newer", "limits", json!({}), ""), ("earlier", "probe-v0-1", json!({}), "")];
    plan(&both).exits(11).says("refused by earlier");
    plan(&both[..1]).exits(0);
    let unseen = "unseen = [\"machine.nested\"]";
    let refused = plan(&[("earlier", "probe-v0-1", json!({}), unseen)]).exits(11);
    refused.says("has no word for disks").says("has no word for firmware");
    let unseen = "unseen = [\"machine.nested\", \"disks\", \"firmware\"]";
    plan(&[("earlier", "probe-v0-1", json!({}), unseen)]).exits(0);
    // A policy in monitor mode does not refuse by its silence.
    plan(&[("earlier", "probe-v0-1", json!({}), "mode = \"monitor\"")]).exits(0);
}

/// Each field that the earlier contract has no word for is refused by its silence, and allowed where the operator lists it. The test fails for
/// a new field that is on neither list.
#[test]
fn each_field_without_a_word_is_refused() {
    /// Fields that the earlier contract has words for, or that no job asked for and no policy wrote when it was the newest.
    const WITH_A_WORD: [&str; 9] = [
        "resources",
        "accelerator",
        "ports",
        "egress",
        "disk_bytes",
        "nics",
        "grace_s",
        "warnings",
        "extensions",
    ];
    let persists = json!({"persist": true});
    let without = [
        ("seed", json!({"hostname": "web-1"}), None),
        // A job could ask for it then, so that only a policy's own word for it is unseen.
        ("persist", json!({}), Some(persists)),
        ("disk_rate", json!({"disk_rate": {"iops": 1000}}), None),
        ("disks", json!({"disks": [{"name": "data", "size": "1MiB"}]}), None),
        ("firmware", json!({"firmware": "uefi"}), None),
        ("machine.kind", json!({"machine_type": "q35"}), None),
        ("machine.architecture", json!({"architecture": "aarch64"}), None),
        ("machine.cpu", json!({"cpu": "qemu64"}), None),
        ("machine.nested", json!({"nested": true}), None),
        ("access.agent", json!({"guest_agent": true}), None),
        ("access.display", json!({"display": true}), None),
    ];
    let first = |word: &str| word.split('.').next().unwrap().to_owned();
    let mut words: BTreeSet<_> = without.iter().map(|(word, ..)| first(word)).collect();
    words.extend(WITH_A_WORD.map(String::from));
    let fields: BTreeSet<_> = FIELDS.iter().map(|field| field.name.to_owned()).collect();
    assert_eq!(words, fields);
    let qhost = qhost();
    let host =
        "[overlay]\npersist = true\n[machine]\nnested = true\ncpus = [\"max\", \"qemu64\"]\n";
    for (word, asked, sets) in without {
        let plan = |unseen: &str| {
            let mut chain = vec![("earlier", "probe-v0-1", json!({}), unseen)];
            if let Some(sets) = &sets {
                chain.insert(0, ("newer", "probe-sets", sets.clone(), ""));
            }
            asks(&qhost, host, &chain);
            qhost.run(&["plan", &nowhere(&qhost, asked.clone())])
        };
        plan("").exits(11).says(&format!("has no word for {word}"));
        // A machine of another architecture has a kind and a firmware of its own.
        let unseen = match word {
            "machine.architecture" => {
                "\"machine.architecture\", \"machine.kind\", \"firmware\"".to_owned()
            }
            word => format!("{word:?}"),
        };
        plan(&format!("unseen = [{unseen}]")).exits(0);
    }
}

/// An operation that needs a field without a word in the earlier contract is refused like the field.
#[test]
fn operations_without_a_word_are_refused() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let job = qhost.job(&image, json!({"guest_agent": true, "display": true}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    let shot = qhost.folder().join("shot.png").display().to_string();
    let operations = [
        ("access.agent", vec!["exec", "--timeout", "1", "test", "--", "id"], 20),
        ("access.display", vec!["screenshot", "test", "--output", &shot], 0),
    ];
    for (word, operation, code) in operations {
        asks(&qhost, "", &[("earlier", "probe-v0-1", json!({}), "")]);
        qhost.run(&operation).exits(11).says(&format!("has no word for {word}"));
        let record = records(&qhost).pop().unwrap();
        assert_eq!(
            (&record["outcome"], &record["occasion"]),
            (&json!("denied"), &json!("operation"))
        );
        let unseen = format!("unseen = [{word:?}]");
        asks(&qhost, "", &[("earlier", "probe-v0-1", json!({}), &unseen)]);
        // No agent runs in this guest.
        qhost.run(&operation).exits(code);
    }
    qhost.run(&["kill", "test"]).exits(0);
}

#[test]
fn what_the_newer_contract_wrote_goes_through_a_policy_of_the_earlier_one() {
    let qhost = qhost();
    let sets = json!({"console": "watch", "grace_seconds": 5});
    let chain = [("newer", "probe-sets", sets, ""), ("earlier", "probe-v0-1", json!({}), "")];
    asks(&qhost, "", &chain);
    let planned = qhost.run(&["plan", "--json", &nowhere(&qhost, json!({}))]).exits(0).json();
    let launch = &planned["decision"]["launch"];
    assert_eq!(launch["access"]["console"], "watch");
    assert_eq!(launch["grace_s"], 5);
    assert_eq!(planned["decision"]["policies"][1]["changes"].as_array().unwrap().len(), 1);
}

#[test]
fn an_extension_of_the_earlier_contract_is_one_number() {
    let qhost = qhost();
    let tries = |text: &str| -> Done {
        asks(&qhost, "", &[("wild", "probe-v0-1", json!({ "disk_bytes": text }), "")]);
        qhost.run(&["plan", &nowhere(&qhost, json!({}))])
    };
    for text in ["", "+1024", "01024", "1024 ", "many", "18446744073709551616"] {
        let says = "is not one number in decimal digits";
        tries(text).exits(12).says("the extension disk-bytes").says(says);
    }
    // A number that no disk has is refused by the host's rules.
    for text in ["0", "1000"] {
        tries(text).exits(11).says("host.disk-not-whole");
    }
}

#[test]
fn a_policy_may_write_nothing_that_this_host_cannot_do() {
    let qhost = qhost();
    for (sets, code, says) in [
        (json!({"add_disk": true}), 12, r#"a disk "root" that the request has not"#),
        (json!({"operations": 0}), 12, "a rate of 0 for disk"),
        (json!({"swap_disks": true}), 12, "its first disk is not root as it was shown"),
        (json!({"volume": "db"}), 12, r#"a change of disk "data" in more than its size"#),
        (json!({"data_mib": 0}), 11, "host.disk-not-whole"),
        (json!({"data_mib": 1 << 21}), 11, "host.disk-not-allowed"),
        (json!({"data_mib": 1 << 20}), 11, "host.disks-not-allowed"),
        (json!({"add_seed": true}), 12, "a seed where it was shown none"),
        (json!({"firmware": "uefi"}), 16, "host.firmware-not-offered"),
        (json!({"firmware": "coreboot"}), 12, r#"the firmware "coreboot" is not one"#),
        (json!({"listed": true}), 12, r#"the egress "listed" is not one"#),
        (json!({"architecture": "arm64"}), 12, r#"the architecture "arm64" is not one"#),
        (json!({"architecture": "aarch64"}), 12, "the architecture aarch64 where it was shown"),
        (json!({"machine": "virt"}), 12, "the machine virt, which is none of x86_64"),
        (json!({"machine": "microvm"}), 12, r#"the machine "microvm" is not one"#),
        (json!({"cpu": "max,+vmx"}), 12, r#"the CPU model "max,+vmx" is not one"#),
        (json!({"cpu": "qemu64"}), 11, "host.cpu-not-allowed"),
        (json!({"nested": true}), 11, "host.nested-not-allowed"),
        (json!({"persist": true}), 11, "host.persist-not-allowed"),
        (json!({"network": "lan"}), 16, "host.nic-not-offered"),
        (json!({"console": "none"}), 16, "host.access-not-offered"),
        (json!({"console": "all"}), 12, r#"the access level "all" is not one"#),
        (json!({"display": "interact"}), 16, "host.access-not-offered"),
        (json!({"grace_seconds": 3601}), 11, "host.grace-too-long"),
        (json!({"disk_bytes": 0}), 11, "host.disk-not-whole"),
    ] {
        let none = "[machine]\nfirmware = \"none-here\"\n";
        asks(&qhost, none, &[("wild", "probe-sets", sets.clone(), "")]);
        let disks = json!([{"name": "data", "size": "1MiB"}]);
        let done = qhost.run(&["plan", &nowhere(&qhost, json!({ "disks": disks }))]);
        assert!(done.says(says).exits(code).code == code, "{sets}");
    }
}

/// A value that a policy lowers is what QEMU gets, what the supervisor goes by, and what the record has.
#[test]
fn what_a_policy_lowers_is_launched() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let sets = json!({
        "persist": false, "nested": false, "drop_nics": true, "drop_ports": true, "console": "watch", "agent": "watch", "display": "none", "grace_seconds": 7
    });
    let more =
        "[overlay]\npersist = true\n[machine]\nnested = true\ncpus = [\"max\", \"qemu64\"]\n";
    asks(&qhost, more, &[("lowers", "probe-sets", sets, "")]);
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let asked = json!({
        "persist": true, "nested": true, "machine_type": "q35", "cpu": "qemu64", "port_map": {"http": 80}, "guest_agent": true, "display": true
    });
    qhost.run(&["run", "--detach", &qhost.job(&image, asked)]).exits(0);
    let plan = fs::read_to_string(qhost.vms()[0].join("plan.json")).unwrap();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let argv = plan["argv"].as_array().unwrap();
    let has = |text: &str| argv.iter().any(|one| one.as_str().unwrap().contains(text));
    assert!(has("q35,usb=off") && has("qemu64,vmx=off,svm=off"), "{argv:?}");
    assert!(!has("virtio-net") && !has("user,id=net"), "{argv:?}");
    assert!(has("org.qemu.guest_agent.0") && !has("VGA"), "{argv:?}");
    let exec = qhost.run(&["exec", "test", "--", "id"]).exits(20);
    exec.says("lets the agent in its guest be asked for information alone");
    let none = qhost.folder().join("none.png");
    qhost.run(&["screenshot", "test", "-o", none.to_str().unwrap()]).exits(20).says("no display");
    assert_eq!((&plan["grace_s"], &plan["overlay"]), (&json!(7), &json!("overlay.qcow2")));
    let refused = qhost.run(&["console", "test"]);
    assert!(refused.code != 0, "{}", refused.stderr);
    refused.says("its policies let its console be read, and not be typed into");
    qhost.console_has("runs");
    let log = qhost.run(&["logs", "test"]).exits(0);
    assert!(log.stdout.contains("runs"), "{}", log.stdout);
    let changes = records(&qhost)[0]["decision"]["policies"][0]["changes"].clone();
    let fields: Vec<_> =
        changes.as_array().unwrap().iter().map(|change| change["field"].clone()).collect();
    let expected = [
        "ports.http",
        "persist",
        "machine.nested",
        "nics",
        "access.console",
        "access.display",
        "access.agent",
        "grace_s",
    ];
    assert_eq!(json!(fields), json!(expected));
    qhost.run(&["kill", "test"]).exits(0);
}

/// The current policies are asked about an operation, and their answers are recorded before it is done.
#[test]
fn an_operation_is_permitted_or_denied_and_recorded() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let config = |more: &str, policies: &[(&str, &str, Value, &str)]| {
        asks(&qhost, &format!("[tenants.acme]\n{more}"), policies);
    };
    config("", &[]);
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let job = qhost.job(&image, json!({}));
    qhost.run(&["run", "--tenant", "acme", "--detach", &job]).exits(0);
    let attach = |args: &[&str]| qhost.run(&[&["console"], args].concat());
    let operators = json!({"operators_only": ["console"]});
    config("", &[("guests", "guests", operators, ""), ("earlier", "probe-v0-1", json!({}), "")]);
    let refused = attach(&["--tenant", "acme", "test"]).exits(11);
    refused.says("refused by guests").says("console is for operators alone");
    let vm = qhost.vms()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let record = records_of(&qhost, "acme").pop().unwrap();
    assert_eq!((&record["outcome"], &record["occasion"]), (&json!("denied"), &json!("operation")));
    let operation = &record["operation"];
    assert_eq!((&operation["vm"], &operation["operation"]), (&json!(vm), &json!("console")));
    assert_eq!(
        (&operation["actor"]["tenant"], &operation["actor"]["door"]),
        (&json!("acme"), &json!("cli"))
    );
    assert_eq!(record["decision"]["policies"][1]["answer"], "not-asked", "it has no word for it");
    let told = qhost.run(&["decisions"]).exits(0);
    assert!(told.stdout.contains("acme/test console"), "{}", told.stdout);

    // A policy that fails is against the operation; one in monitor mode is not.
    let fails = |mode: &str| config("", &[("traps", "probe-traps", json!({}), mode)]);
    fails("");
    attach(&["test"]).exits(12).says("failed in permit");
    assert_eq!(records_of(&qhost, "acme").pop().unwrap()["outcome"], "failed");
    // The command's standard input is empty, so that it detaches when the VM has ended.
    fails("mode = \"monitor\"");
    let attached = qhost.start(&["console", "test"]);
    wait_for("the record", || {
        let last = records_of(&qhost, "acme").pop()?;
        (last["outcome"] == "allowed" && last["occasion"] == "operation").then_some(())
    });
    qhost.run(&["kill", "test"]).exits(0);
    attached.end().exits(0);
    let log = qhost.state().join("decisions/tenant-acme/current.jsonl");
    // The decision is replayed by today's policies, none of which refuses.
    let replayed = qhost.run(&["policy", "replay", "--json", log.to_str().unwrap()]);
    let replayed = replayed.exits(1).json();
    assert_eq!(replayed["not_again"], json!([]), "{replayed}");
    assert!(replayed["differ"].as_u64() > Some(0), "{replayed}");
}
