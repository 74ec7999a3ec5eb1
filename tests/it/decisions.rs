//! The log of decisions, and its replay.

use std::{fs, net::TcpListener, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};

use qhost_model::{
    digest::Sha256,
    host_facts::{Accelerator, HostFacts, Resources, TenantUsage},
    job::{Checksum, ImageRequest, Restart, Task},
    launch::{Access, Asked, Egress, Machine, PortRequest, Protocol, Rules},
    masks::Masks,
};
use qhost_policy::{Allowance, Journal, Layer, Loader, Mode, Outcome, Record, Request, Source};
use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    configured, policy,
};

use crate::{qhost, snapshot};

pub(crate) fn records(qhost: &Qhost) -> Vec<Value> {
    records_of(qhost, "default")
}

pub(crate) fn records_of(qhost: &Qhost, tenant: &str) -> Vec<Value> {
    let log = qhost.state().join(format!("decisions/tenant-{tenant}/current.jsonl"));
    let log = fs::read_to_string(log).expect("a log");
    log.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

#[test]
fn every_decision_is_recorded() {
    let qhost = qhost();
    let server = ImageServer::start();
    let image = server.serve("/image", boot_sector::disk("hello", boot_sector::Then::PowerOff));
    let config = [
        configured("limits", "limits", json!({"memory_mib": 64}), ""),
        configured("sets", "probe-sets", json!({"memory_mib": 48}), ""),
        configured("broken", "probe-traps", json!({}), ""),
        "[host]\nchain = [\"sets\", \"limits\"]\n".into(),
    ];
    qhost.config(&config.concat());
    qhost.run(&["run", &qhost.job(&image, json!({}))]).exits(0);
    qhost.config(&config.concat().replace("{ memory_mib = 64 }", "{ memory_mib = 32 }"));
    qhost.run(&["run", &qhost.job(&image, json!({}))]).exits(11);
    qhost.config(&config.concat().replace("\"sets\", \"limits\"", "\"sets\", \"broken\""));
    qhost.run(&["run", &qhost.job(&image, json!({}))]).exits(12);
    // A plan is not acted upon, so it is no decision to record.
    qhost.run(&["plan", &qhost.job(&image, json!({}))]).exits(12);
    let records = records(&qhost);
    let outcomes: Vec<_> = records.iter().map(|record| record["outcome"].clone()).collect();
    assert_eq!(outcomes, ["allowed", "denied", "failed"]);
    let [allowed, denied, failed] = [&records[0], &records[1], &records[2]];
    allowed["time"].as_str().expect("text").parse::<Timestamp>().expect("a time");
    assert_eq!(allowed["task"]["tenant"], "default");
    assert_eq!(allowed["task"]["job"], "test");
    let sets = &allowed["decision"]["policies"][0];
    let digest = |bytes: &[u8]| Sha256::of(bytes).to_string();
    assert_eq!(sets["sha256"], digest(&fs::read(policy("probe-sets")).unwrap()));
    assert_eq!(sets["settings_sha256"], digest(br#"{"memory_mib":48}"#));
    assert_eq!(sets["changes"], json!([{"field": "resources.memory_mib", "from": 32, "to": 48}]));
    assert!(sets["cost"]["micros"].as_u64().expect("µs") > 0);
    assert!(sets["cost"]["peak_memory"].as_u64().expect("bytes") >= 65_536);
    assert_eq!(sets["cost"]["log_bytes"], 0);
    assert_eq!(allowed["decision"]["launch"]["resources"]["memory_mib"], 48);
    assert_eq!(denied["decision"]["policies"][1]["violations"][0]["code"], "memory-limit");
    assert_eq!(failed["decision"]["policies"][1]["answer"], "failed");
    assert!(failed["error"].as_str().expect("text").contains("it trapped"));
    assert_eq!(allowed["input_sha256"].as_str().expect("text").len(), 64);
}

#[test]
fn a_policy_that_does_not_load_is_recorded() {
    let qhost = qhost();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let file = qhost.file("bad.wasm", "no wasm");
    qhost.run(&["run", "--policy", &file, &job]).exits(12);
    let record = &records(&qhost)[0];
    assert_eq!(record["outcome"], "failed");
    assert!(record["error"].as_str().expect("text").contains("not a WebAssembly file"));
}

/// A decision that cannot be recorded is not acted upon.
#[test]
fn without_a_log_nothing_is_launched() {
    let qhost = qhost();
    let server = ImageServer::start();
    let image = server.serve("/image", boot_sector::disk("never", boot_sector::Then::PowerOff));
    fs::write(qhost.state().join("decisions"), "in the way").unwrap();
    qhost
        .run(&["run", &qhost.job(&image, json!({}))])
        .exits(16)
        .says("the decision cannot be recorded")
        .says("so nothing is launched");
    assert!(qhost.vms().is_empty() && server.requests().is_empty());
}

#[test]
fn secrets_are_masked_wherever_they_stand() {
    let qhost = qhost();
    qhost.config(
        "[decisions]\nmask_meta = [\"*token*\"]\nmask_args = [\"*password=*\"]\n[qemu]\nargs = []\n",
    );
    let job = json!({
        "name": "test", "driver": "qemu",
        "config": {
            "image_source": "https://images.example/x", "checksum": "0".repeat(64),
            "args": ["-object", "secret,password=hunter22"]
        },
        "resources": {"memory_mib": 32},
        "meta": {"API_TOKEN": "s3cr3t-value", "team": "web"}
    });
    let file = qhost.file("job.json", job.to_string());
    let escapes = policy("probe-escapes");
    qhost.run(&["run", "--policy", escapes.to_str().unwrap(), &file]).exits(11);
    let log =
        fs::read_to_string(qhost.state().join("decisions/tenant-default/current.jsonl")).unwrap();
    assert!(!log.contains("s3cr3t-value") && !log.contains("hunter22"), "{log}");
    let record = &records(&qhost)[0];
    assert_eq!(record["task"]["meta"], json!({"API_TOKEN": "***", "team": "web"}));
    assert_eq!(record["task"]["args"], json!(["-object", "***"]));
    assert_eq!(record["masked"], json!(["task.meta.API_TOKEN", "task.args.1"]));
    let log = qhost.state().join("decisions");
    let replayed =
        ["policy", "replay", log.to_str().unwrap(), "--policy", escapes.to_str().unwrap()];
    qhost.run(&replayed).says("1 with masked values");
}

#[test]
fn a_full_log_is_set_aside_and_old_ones_go() {
    let qhost = qhost();
    qhost.config("[decisions]\nmax_bytes = 3000\nfiles = 2\n");
    let job = qhost
        .job(&("https://images.example/x".into(), "0".repeat(64)), json!({"egress": "internet"}));
    for _ in 0..12 {
        qhost.run(&["run", &job]).exits(11);
    }
    let folder = qhost.state().join("decisions/tenant-default");
    let names = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let full = names().filter(|name| name.to_string_lossy().starts_with("until-")).count();
    assert_eq!(full, 2, "{:?}", names().collect::<Vec<_>>());
    for name in names().filter(|name| name != ".lock") {
        assert!(fs::metadata(folder.join(&name)).unwrap().len() <= 3000, "{name:?}");
    }
    let replayed = qhost.run(&["policy", "replay", "--json", folder.to_str().unwrap()]).exits(0);
    let records = replayed.json()["records"].as_u64().expect("a number");
    assert!((3..12).contains(&records), "{records}");
}

/// A process that is killed may leave half a line: the next record stands on a line of its own, and reading the log names the half one.
#[test]
fn half_a_line_costs_no_other_record() {
    let qhost = qhost();
    let job = qhost
        .job(&("https://images.example/x".into(), "0".repeat(64)), json!({"egress": "internet"}));
    qhost.run(&["run", &job]).exits(11);
    let log = qhost.state().join("decisions/tenant-default/current.jsonl");
    let whole = fs::read_to_string(&log).unwrap();
    fs::write(&log, format!("{whole}{}", &whole[..100])).unwrap();
    qhost.run(&["run", &job]).exits(11);
    let done = qhost.run(&["policy", "replay", log.to_str().unwrap()]).exits(1);
    done.says("current.jsonl:2: not a record").says("decisions: 2, of which 2 identical");
}

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn request(tenant: &str, index: u32) -> Request {
    let resources = Resources { cpus: 1 + index % 3, memory_mib: 16 + index };
    Request {
        task: Task {
            restart: Restart::default(),
            ready: None,
            not_looked_at: vec![],
            tenant: tenant.into(),
            job: format!("job-{}", index / 10),
            name: format!("task-{index}"),
            image: ImageRequest {
                source: "https://images.example/web.qcow2".parse().unwrap(),
                mirrors: vec![],
                checksum: Checksum::Image { sha256: Sha256::of(&index.to_le_bytes()) },
            },
            asked: Asked {
                resources,
                accelerator: index.is_multiple_of(2).then_some(Accelerator::Tcg),
                ports: vec![PortRequest {
                    label: "http".into(),
                    guest: 80,
                    host: None,
                    bind: None,
                    protocol: Protocol::Tcp,
                }],
                egress: Egress::Isolated,
                disk_bytes: None,
                disk_rate: qhost_model::launch::Rate::default(),
                persist: false,
                disks: vec![],
                seed: None,
                firmware: None,
                machine: Machine::default(),
                nics: qhost_model::launch::nics::default(),
                access: Access::default(),
                grace_s: None,
            },
            args: vec![],
            meta: [("index".to_owned(), index.to_string())].into(),
        },
        host: HostFacts {
            name: "host-1".into(),
            qemu_version: "10.0.2".into(),
            accelerators: vec![Accelerator::Tcg],
            architectures: qhost_model::host_facts::own_architecture(),
            firmware: qhost_model::host_facts::bios(),
            resources: Resources { cpus: 16, memory_mib: 65_536 },
            free: Resources { cpus: 8, memory_mib: 32_768 },
            ports_in_use: vec![22, 20_000 + u16::try_from(index % 100).unwrap()],
            tenant_usage: TenantUsage {
                vms: 1,
                resources: Resources { cpus: 1, memory_mib: 64 },
                ports: 1,
            },
        },
        rules: Rules::default(),
        occasion: qhost_policy::Occasion::Launch,
        time: Timestamp::from_second(1_790_000_000 + i64::from(index)).unwrap(),
    }
}

/// A thousand decisions of a chain of two, recorded as a run records them.
fn record_a_thousand(qhost: &Qhost) -> (std::path::PathBuf, Vec<Outcome>) {
    let source = |name: &str, module: &str, settings: Value| Source {
        name: name.into(),
        path: policy(module),
        pin: None,
        signers: None,
        settings: settings.to_string(),
        allowance: Allowance::default(),
        mode: Mode::Enforce,
        layer: Layer::Host,
        unseen: vec![],
    };
    let sources = vec![
        source("ports", "ports", json!({"first": 20000, "last": 20999})),
        source("limits", "limits", json!({"memory_mib": 512})),
    ];
    let chain = Loader::in_process().unwrap().chain(sources).unwrap();
    let folder = qhost.folder().join("recorded");
    let journal = Journal { folder: folder.clone(), max_bytes: 300_000, files: 100, max_age: DAY };
    let outcomes = (0..1000).map(|index| {
        let request = request("acme", index);
        let verdict = chain.decide(request.clone());
        journal.append(&Record::of(request, &verdict, &Masks::default())).unwrap();
        verdict.outcome()
    });
    (folder.clone(), outcomes.collect())
}

#[test]
fn a_thousand_decisions_made_again() {
    let qhost = qhost();
    let (log, outcomes) = record_a_thousand(&qhost);
    let denied = outcomes.iter().filter(|outcome| **outcome == Outcome::Denied).count();
    assert_eq!(denied, 1000 - 497, "16 to 512 MiB are allowed");
    let config = [
        configured("ports", "ports", json!({"first": 20000, "last": 20999}), ""),
        configured("limits", "limits", json!({"memory_mib": 512}), ""),
        "[host]\nchain = [\"ports\", \"limits\"]\n".into(),
    ];
    qhost.config(&config.concat());
    let log = log.to_str().unwrap();
    let again = qhost.run(&["policy", "replay", "--json", log]).exits(0).json();
    assert_eq!(
        (&again["records"], &again["identical"], &again["same"], &again["differ"]),
        (&json!(1000), &json!(1000), &json!(0), &json!(0))
    );
    // With a stricter limit, tasks of 401 to 512 MiB are denied now, and no others.
    let stricter =
        ["policy", "replay", "--json", log, "--policy-settings", r#"limits={"memory_mib": 400}"#];
    let stricter = qhost.run(&stricter).exits(1).json();
    let differences = stricter["differences"].as_array().expect("a list");
    let expected: Vec<_> = (401 - 16..=512 - 16).map(|index| format!("task-{index}")).collect();
    let found: Vec<_> = differences.iter().map(|one| one["task"].as_str().expect("text")).collect();
    assert_eq!(found, expected);
    assert!(differences.iter().all(|one| {
        (&one["was"], &one["now"], &one["violations"][0]["code"])
            == (&json!("allowed"), &json!("denied"), &json!("memory-limit"))
    }));
    // Another policy takes the place of one: the launches differ by what it writes.
    let sets = format!("limits={}", policy("probe-sets").display());
    let other = [
        "policy",
        "replay",
        "--json",
        log,
        "--policy",
        &sets,
        "--policy-settings",
        r#"limits={"cpus": 1}"#,
    ];
    let other = qhost.run(&other).exits(1).json();
    let launch = &other["differences"][0]["launch"];
    assert_eq!(launch, &json!([{"field": "resources.cpus", "from": 2, "to": 1}]));
}

/// A chain that refuses more than 40 MiB.
fn chain_of_limits() -> qhost_policy::Chain {
    let limits = Source {
        name: "limits".into(),
        path: policy("limits"),
        pin: None,
        signers: None,
        settings: r#"{"memory_mib": 40}"#.into(),
        allowance: Allowance::default(),
        mode: Mode::Enforce,
        layer: Layer::Host,
        unseen: vec![],
    };
    Loader::in_process().unwrap().chain(vec![limits]).unwrap()
}

#[test]
fn a_replay_reads_well() {
    let qhost = qhost();
    let journal =
        Journal { folder: qhost.folder().join("log"), max_bytes: 1 << 20, files: 1, max_age: DAY };
    let chain = Loader::in_process().unwrap().chain(vec![]).unwrap();
    for index in 0..3 {
        let request = request("acme", index * 20);
        let verdict = chain.decide(request.clone());
        journal.append(&Record::of(request, &verdict, &Masks::default())).unwrap();
    }
    let limits = policy("limits");
    let args = ["policy", "replay", "log", "--policy", limits.to_str().unwrap()];
    let strict = ["--policy-settings", r#"limits={"memory_mib": 40, "cpus": 2}"#];
    let done = qhost.run(&[&args[..], &strict].concat()).exits(1);
    snapshot("replay", &done.stdout, &qhost);
    qhost.run(&["policy", "replay", "gone"]).exits(2).says("cannot read the log of decisions gone");
    // The filters choose fewer of the decisions, and those that were refused and are allowed now.
    for (filter, count) in [
        (&["--task", "task-40"][..], 1),
        (&["--outcome", "denied"], 0),
        (&["--tenant", "acme", "--since", "2000-01-01T00:00:00Z"], 3),
        (&["--tenant", "other"], 0),
        (&["--since", "1s"], 0),
    ] {
        let json = qhost.run(&[&args[..], &strict, filter, &["--json"]].concat()).json();
        assert_eq!(json["records"], count, "{filter:?}");
    }
    let refused = chain_of_limits().decide(request("acme", 40));
    let log = Journal { folder: qhost.folder().join("refused"), ..journal };
    log.append(&Record::of(request("acme", 40), &refused, &Masks::default())).unwrap();
    let done = qhost.run(&["policy", "replay", "refused"]).exits(1);
    snapshot("replay-refused", &done.stdout, &qhost);
}

/// A task that was allowed and not launched is recorded as such, with what refused it, beside the decision and as an event.
#[test]
fn what_was_not_launched_says_why() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("up", Then::Hang));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let wide = "[ports]\nallow = [\"1024-65535\"]\n";
    let with_port = json!({"port_map": {"web": {"guest": 80, "host": port}}});
    let wrong = (image.0.clone(), "0".repeat(64));
    let gone = (server.url("/gone"), "0".repeat(64));
    let odd = server.serve("/odd", [&[b'x'; 257][..], b"ustar", &[0; 1000]].concat());
    let rows = [
        (
            "[host.quota]\nvms = 0\n",
            &image,
            json!({}),
            16,
            "host.quota.vms",
            "all tenants together may have 0 VMs",
        ),
        (
            "[host.quota]\nimage_bytes = 1\n",
            &image,
            json!({}),
            16,
            "host.quota.image_bytes",
            "may take 1 bytes",
        ),
        (wide, &image, with_port, 16, "the host's ports", "is taken"),
        ("", &wrong, json!({}), 14, "the image's checksum", "checksum mismatch"),
        ("[image]\nattempts = 1\n", &gone, json!({}), 13, "the image's fetch", "404"),
        ("", &odd, json!({}), 15, "the image's inspection", "its format is tar"),
    ];
    let mut refused = 0;
    for (toml, image, config, code, by, why) in rows {
        qhost.config(toml);
        let job = qhost.job(image, config);
        qhost.run(&["run", &job]).exits(code).says(why);
        refused += 1;
        let records = records(&qhost);
        let [.., decided, last] = records.as_slice() else { panic!("{records:?}") };
        assert_eq!(
            (&decided["outcome"], &last["outcome"]),
            (&json!("allowed"), &json!("not-launched"))
        );
        assert_eq!(last["not_launched"]["by"], by);
        assert!(last["not_launched"]["reason"].as_str().unwrap().contains(why), "{last}");
        assert_eq!(last["decision"], decided["decision"]);
        let events = qhost.run(&["events"]).exits(0).stdout;
        let last = events.lines().rfind(|line| line.contains("refused")).unwrap();
        assert!(last.contains(&format!("  by {by}: ")) && last.contains(why), "{last}");
        assert_eq!(events.matches("  refused ").count(), refused);
    }
    // A replay makes each decision again once.
    qhost.config(wide);
    let log = qhost.state().join("decisions");
    let again = qhost.run(&["policy", "replay", "--json", log.to_str().unwrap()]).json();
    assert_eq!(again["records"], refused, "{again}");
}

/// A policy's refusal is an event as well, by its name.
#[test]
fn what_a_policy_refused_is_an_event() {
    let qhost = qhost();
    qhost.config(
        &(configured("limits", "limits", json!({"memory_mib": 1}), "")
            + "[host]\nchain = [\"limits\"]\n"),
    );
    let job = qhost.job(&("https://images.example/disk".to_owned(), "0".repeat(64)), json!({}));
    qhost.run(&["run", &job]).exits(11);
    qhost
        .run(&["events"])
        .exits(0)
        .says("refused    -  default/")
        .says("by limits: refused by limits");
    let event = qhost.run(&["events", "--json"]).exits(0).json();
    assert_eq!((&event["event"], &event["by"]), (&json!("refused"), &json!("limits")));
    assert!(event.get("vm").is_none());
}

/// An operator asks which decisions there were, and why one ended as it did.
#[test]
fn decisions_are_listed_and_told_in_full() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("hello", Then::PowerOff));
    let job = qhost.job(&image, json!({}));
    qhost.run(&["decisions"]).exits(0).says("OUTCOME");
    let limits = |most: u32, more: &str| {
        let policy = configured("limits", "limits", json!({"memory_mib": most}), "");
        qhost.config(&(policy + "[host]\nchain = [\"limits\"]\n" + more));
        qhost.run(&["run", &job])
    };
    limits(64, "").exits(0);
    limits(16, "").exits(11);
    limits(64, "[host.quota]\nvms = 0\n").exits(16);
    let listed = |args: &[&str]| {
        let json = qhost.run(&[&["decisions", "--json"], args].concat()).exits(0).json();
        let decisions = json["decisions"].as_array().unwrap().clone();
        decisions
            .into_iter()
            .map(|one| one["outcome"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), ["not-launched", "allowed", "denied", "allowed"], "the latest first");
    assert_eq!(listed(&["-n", "1"]), ["not-launched"]);
    assert_eq!(listed(&["--outcome", "denied", "--all"]), ["denied"]);
    assert_eq!(listed(&["--policy", "limits", "--task", "test", "--tenant", "default"]).len(), 4);
    for none in
        [["--policy", "other"], ["--task", "other"], ["--tenant", "other"], ["--since", "0s"]]
    {
        assert_eq!(listed(&none), [""; 0], "{none:?}");
    }
    let text = qhost.run(&["decisions"]).exits(0).stdout;
    let lines: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    let [_, not_launched, _, denied, _] = lines.as_slice() else { panic!("{text}") };
    assert_eq!(denied[4..7], ["denied", "default/test", "limits"], "{text}");
    assert_eq!(not_launched[4..8], ["not", "launched", "default/test", "host.quota.vms"], "{text}");
    qhost
        .run(&["decisions", denied[0]])
        .exits(0)
        .says("outcome   denied\n")
        .says("refused by limits")
        .says(&format!("checksum  sha256:{}\n", image.1));
    qhost.run(&["decisions", not_launched[0]]).exits(0).says("refused   by host.quota.vms: ");
    qhost.run(&["decisions", "x"]).exits(2).says("no decision's id begins with x");
    qhost
        .run(&["decisions", "--outcome", "refused"])
        .exits(2)
        .says("expected one of allowed, denied,");
}
