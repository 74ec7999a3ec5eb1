//! The records of decisions: each end of a decision, each place of an image, no secrets, and for each tenant its own.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use qhost_model::{digest::Sha256, masks::Masks};
use qhost_policy::{
    Allowance, Deadline, Journal, Layer, Loader, Mode, Outcome, PolicyError, Record, Source,
    Verdict,
};
use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    configured, policy, wait_for,
};

use crate::{
    decisions::{DAY, records, request},
    qhost,
};

fn job(qhost: &Qhost, more: Value) -> String {
    qhost.job(&("https://images.example/x".into(), "0".repeat(64)), more)
}

/// A tenant's policy that never answers, with as long a deadline of its own as can be configured.
fn spins(mode: Mode) -> Source {
    Source {
        name: "spins".into(),
        path: policy("probe-spins"),
        pin: None,
        signers: None,
        settings: "{}".into(),
        allowance: Allowance { deadline: Duration::from_secs(60), ..Allowance::default() },
        mode,
        layer: Layer::Tenant,
        unseen: vec![],
    }
}

/// With any number of sources, in either mode of a policy, a decision ends in its time and is recorded.
#[test]
fn a_decision_that_runs_out_of_time_is_a_failure_with_a_record() {
    let qhost = qhost();
    for mode in [Mode::Enforce, Mode::Monitor] {
        let mut request = request("acme", 1);
        let mirror = |index| format!("https://{index}.images.example/x").parse().unwrap();
        request.task.image.mirrors = (1..8).map(mirror).collect();
        let chain = Loader::in_process().unwrap().chain(vec![spins(mode)]).unwrap();
        let limit = Duration::from_millis(300);
        let verdict = chain.decide_until(request.clone(), Deadline::after(limit));
        let says = "the decision took longer than 0.3 s, the most that loading and asking its policies may take together; it \
                    was at policy spins";
        assert_eq!(verdict.error().map(ToString::to_string).as_deref(), Some(says));
        let record = Record::of(request, &verdict, &Masks::default());
        assert_eq!((record.outcome, record.error.as_deref()), (Outcome::Failed, Some(says)));
        let fault = record.decision.policies[0].fault.as_deref();
        assert_eq!(fault, Some("in choose: the decision's 0.3 s were over"));
        let folder = qhost.folder().join("log");
        let journal = Journal { folder, max_bytes: 1 << 20, files: 1, max_age: DAY };
        journal.append(&record).unwrap();
    }
}

/// A policy in monitor mode that takes all of its own time does not make the decision longer than its deadline.
#[test]
fn a_decision_runs_out_of_time_at_any_of_its_places() {
    let mut request = request("acme", 1);
    let mirror = |index| format!("https://{index}.images.example/x").parse().unwrap();
    request.task.image.mirrors = (1..8).map(mirror).collect();
    let slow = Allowance { deadline: Duration::from_millis(200), ..Allowance::default() };
    let watched = Source { allowance: slow, ..spins(Mode::Monitor) };
    let chain = Loader::in_process().unwrap().chain(vec![watched]).unwrap();
    let Verdict::Failed(error, decision) =
        chain.decide_until(request, Deadline::after(Duration::from_millis(500)))
    else {
        panic!("it ended in time");
    };
    assert!(matches!(*error, PolicyError::Overdue { .. }), "{error}");
    // The answers about the source before are there too.
    assert!(decision.place.is_some());
    assert_eq!(decision.places[0].place.host_str(), Some("images.example"));
    let fault = decision.places[0].policies[0].fault.as_deref();
    assert_eq!(fault, Some("in choose: it ran longer than its deadline of 200 ms"));
}

#[test]
fn loading_counts_against_a_decisions_time() {
    let loader = Loader::in_process().unwrap().until(Deadline::after(Duration::ZERO));
    let error = loader.chain(vec![spins(Mode::Enforce)]).err().expect("no time is left");
    assert!(matches!(error, PolicyError::Overdue { .. }), "{error}");
}

/// Ctrl-C while a policy thinks: one record, and no VM.
#[test]
fn an_interrupted_decision_is_recorded_once() {
    let qhost = qhost();
    let config = [
        configured("spins", "probe-spins", json!({}), "deadline_ms = 60000"),
        "[tenants.acme]\nchain = [\"spins\"]\n".into(),
    ];
    qhost.config(&config.concat());
    let job = job(&qhost, json!({"image_source": ["https://a.example/x", "https://b.example/x"]}));
    let running = qhost.start(&["run", "--tenant", "acme", &job]);
    let compiled = |name: &Path| name.extension().is_some_and(|kind| kind == "note");
    wait_for("the policy to be compiled", || {
        let entries = fs::read_dir(qhost.state().join("compiled")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).find(|path| compiled(path))
    });
    running.signal("INT");
    running.end().exits(130);
    let log =
        fs::read_to_string(qhost.state().join("decisions/tenant-acme/current.jsonl")).unwrap();
    let [record] = log.lines().collect::<Vec<_>>()[..] else { panic!("one record: {log}") };
    let record: Value = serde_json::from_str(record).unwrap();
    assert_eq!(record["outcome"], "interrupted");
    assert_eq!(record["task"]["tenant"], "acme");
    assert_eq!(record["error"], "interrupted before the guest ran");
    assert!(qhost.vms().is_empty());
    let folder = qhost.state().join("decisions");
    let replayed = qhost.run(&["policy", "replay", folder.to_str().unwrap()]).exits(0);
    replayed
        .says(
            "tenant-acme/current.jsonl:1: acme's test cannot be decided again: it was interrupted",
        )
        .says("1 that cannot be made again");
}

#[test]
fn a_decision_that_cannot_be_made_is_recorded() {
    let qhost = qhost();
    let gone = configured("limits", "limits", json!({}), "settings_file = \"gone.json\"")
        .replace("settings = {  }", "");
    qhost.config(&(gone + "[host]\nchain = [\"limits\"]\n"));
    qhost.run(&["run", &job(&qhost, json!({}))]).exits(2);
    let records = records(&qhost);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["outcome"], "undecided");
    assert!(records[0]["error"].as_str().unwrap().contains("gone.json"));
}

/// An operator sees what a policy in monitor mode would refuse of a mirror, before the policy is enforced.
#[test]
fn what_is_said_of_a_mirror_is_shown_and_recorded() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/image", boot_sector::disk("x", Then::PowerOff));
    let by_name = url.replace("127.0.0.1", "localhost");
    let config = [
        configured(
            "watched",
            "trusted-images",
            json!({"hosts": ["127.0.0.1"]}),
            "mode = \"monitor\"",
        ),
        configured("limits", "limits", json!({}), ""),
        "[host]\nchain = [\"watched\", \"limits\"]\n".into(),
    ];
    qhost.config(&config.concat());
    let job = qhost.job(&(url.clone(), sha256), json!({"image_source": [url, by_name]}));
    let text = qhost.run(&["run", &job]).exits(0);
    let shown = format!("place     {by_name}\npolicy    refused in monitor mode by watched");
    text.says(&shown).says("image-not-trusted");
    let places = &records(&qhost)[0]["decision"]["places"];
    assert_eq!(places[0]["place"], json!(by_name));
    let policies = places[0]["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1, "the other said the same of both: {places}");
    assert_eq!(policies[0]["violations"][0]["code"], "image-not-trusted");
    let log = qhost.state().join("decisions");
    qhost.run(&["policy", "replay", log.to_str().unwrap()]).exits(0).says("1 identical");
}

/// A policy's warning about a mirror alone is shown and recorded beside its warning about the source.
#[test]
fn what_is_warned_of_a_mirror_is_shown_and_recorded() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/image", boot_sector::disk("x", Then::PowerOff));
    let by_name = url.replace("127.0.0.1", "localhost");
    let warns = configured("warns", "probe-sets", json!({"saw": "image"}), "");
    qhost.config(&format!("{warns}[host]\nchain = [\"warns\"]\n"));
    let job = qhost.job(&(url.clone(), sha256), json!({"image_source": [&url, &by_name]}));
    let text = qhost.run(&["run", &job]).exits(0);
    let (of_source, of_mirror) = text.stdout.split_once(&format!("place     {by_name}")).unwrap();
    assert!(of_source.contains(&url) && !of_source.contains(&by_name), "{of_source}");
    assert!(of_mirror.contains("warning") && of_mirror.contains("localhost"), "{of_mirror}");
    let decision = &records(&qhost)[0]["decision"];
    let warned = |of: &serde_json::Value| of["warnings"][0].as_str().unwrap().to_owned();
    assert!(warned(&decision["launch"]).contains(&url), "{decision}");
    assert!(warned(&decision["places"][0]).contains(&by_name), "{decision}");
}

/// One tenant's refused jobs push none of another's decisions out, whatever the tenants are called.
#[test]
fn what_is_kept_is_kept_a_tenant() {
    let qhost = qhost();
    qhost.config("[decisions]\nmax_bytes = 3000\nfiles = 2\n[tenants.\"..\"]\n[tenants.hostile]\n");
    let job = job(&qhost, json!({"egress": "internet"}));
    qhost.run(&["run", "--tenant", "..", &job]).exits(11);
    for _ in 0..12 {
        qhost.run(&["run", "--tenant", "hostile", &job]).exits(11);
    }
    let folder = qhost.state().join("decisions");
    let kept = |tenant: &str| {
        let entries = fs::read_dir(folder.join(tenant)).unwrap();
        let log = entries.flatten().map(|entry| fs::read_to_string(entry.path()).unwrap());
        log.map(|text| text.lines().count()).sum::<usize>()
    };
    assert_eq!(kept("tenant-.."), 1);
    assert!((3..12).contains(&kept("tenant-hostile")), "{}", kept("tenant-hostile"));
    assert!(!qhost.state().join("current.jsonl").exists());
    // A tenant that is not configured has no decisions.
    qhost.run(&["run", "--tenant", "unknown", &job]).exits(2);
    assert!(!folder.join("tenant-unknown").exists());
    let replayed = qhost.run(&["policy", "replay", "--json", folder.to_str().unwrap()]).exits(0);
    assert_eq!(replayed.json()["records"], json!(1 + kept("tenant-hostile")));
}

/// The version before kept all tenants' decisions in one place. They are read there, and are removed when they are old enough.
#[test]
fn a_log_of_the_version_before_is_read_and_ages_out() {
    let qhost = qhost();
    let job = job(&qhost, json!({"egress": "internet"}));
    qhost.run(&["run", &job]).exits(11);
    let folder = qhost.state().join("decisions");
    let before = folder.join("until-20240101T000000.000000Z.jsonl");
    fs::rename(folder.join("tenant-default/current.jsonl"), &before).unwrap();
    qhost.run(&["run", &job]).exits(11);
    let replay = ["policy", "replay", folder.to_str().unwrap()];
    qhost.run(&replay).exits(0).says("decisions: 2, of which 2 identical");
    let old = SystemTime::now() - 400 * DAY;
    File::options().write(true).open(&before).unwrap().set_modified(old).unwrap();
    qhost.config("[decisions]\nmax_days = 401\n[tenants.other]\n");
    qhost.run(&["run", "--tenant", "other", &job]).exits(11);
    assert!(before.exists());
    qhost.config("[decisions]\nmax_days = 399\n[tenants.another]\n");
    qhost.run(&["run", "--tenant", "another", &job]).exits(11);
    assert!(!before.exists());
    qhost.config("[decisions]\nmax_days = 0\n");
    qhost.run(&["run", &job]).exits(2).says("decisions.max_days");
}

#[test]
fn a_job_that_is_too_long_is_recorded_by_its_digest() {
    let qhost = qhost();
    let note = "x".repeat(4000);
    let meta: serde_json::Map<_, _> =
        (0..60).map(|index| (format!("key-{index}"), json!(note))).collect();
    let large = json!({
        "name": "large", "driver": "qemu",
        "config": {
            "image_source": "https://images.example/x", "checksum": "0".repeat(64),
            "egress": "internet", "args": ["-a"], "port_map": {"http": 80}
        },
        "resources": {"memory_mib": 32},
        "meta": meta,
    });
    qhost.run(&["run", &qhost.file("job.json", large.to_string())]).exits(11);
    let log = qhost.state().join("decisions/tenant-default/current.jsonl");
    assert!(fs::metadata(&log).unwrap().len() < 10_000);
    let record = &records(&qhost)[0];
    let task = &record["task"];
    assert_eq!((&task["tenant"], &task["name"]), (&json!("default"), &json!("large")));
    assert_eq!(task["image"]["source"], "https://images.example/x");
    assert_eq!((&task["ports"][0]["label"], &task["meta"]), (&json!("http"), &json!({})));
    let keys: std::collections::BTreeMap<_, _> = meta.into_iter().collect();
    let dropped = json!({"args": ["-a"], "meta": keys}).to_string();
    let sha256 = Sha256::of(dropped.as_bytes());
    assert_eq!(record["dropped"], json!({"bytes": dropped.len(), "sha256": sha256}));
    let replayed = qhost.run(&["policy", "replay", log.to_str().unwrap()]).exits(0);
    replayed.says("large cannot be decided again").says(&sha256.to_string());
}

const SIGNED: &str = "X-Id=AKIAEXAMPLE%2Feu&X-Signature=5ecr3t-of-an-image&for=http";

/// A signed URL's query is the image's key. The query is in nothing that is kept or shown, wherever it stood and whichever policy repeats
/// it; policies see it all the same.
#[test]
fn a_signed_urls_query_is_masked() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/image", boot_sector::disk("hello", Then::PowerOff));
    let (sums, pin) = server.serve("/SHA256SUMS", format!("{sha256}  image\n"));
    // The policy repeats the query, as far as the policy knows it.
    let repeats =
        json!({"warn": format!("of {url}?{SIGNED}: AKIAEXAMPLE/eu"), "extension": SIGNED});
    let config = [
        configured("repeats", "probe-sets", repeats, ""),
        "[host]\nchain = [\"repeats\"]\n".into(),
    ];
    qhost.config(&config.concat());
    let signed = format!("{url}?{SIGNED}");
    let job = json!({
        "name": "test", "driver": "qemu",
        "config": {
            "image_source": [signed, signed.replace("127.0.0.1", "localhost")],
            "checksum": format!("{sums}?{SIGNED}#sha256={pin}"),
            "port_map": {"http": 80},
        },
        "resources": {"memory_mib": 32},
        "meta": {"from": signed},
    });
    let job = qhost.file("job.json", job.to_string());
    let done = qhost.run(&["run", "--json", "-v", &job]).exits(0);
    let plain = qhost.run(&["plan", "-v", &job]).exits(0);
    for text in [&done.stdout, &done.stderr, &plain.stdout, &plain.stderr] {
        holds_no_secret(text);
    }
    assert_eq!(done.json()["task"]["image"]["source"], json!(format!("{url}?***")));
    fs::remove_file(&job).unwrap();
    fs::remove_file(qhost.folder().join("qhost.toml")).unwrap();
    for_each_file(&qhost.state(), &|path, text| {
        assert!(!has_secret(&text), "{}: {text}", path.display());
    });
    let record = &records(&qhost)[0];
    let masked =
        ["source?query", "mirrors.0?query", "sums?query"].map(|at| format!("task.image.{at}"));
    assert_eq!(record["masked"], json!([&masked[..], &["task.meta.from".to_owned()]].concat()));
    let warning = &record["decision"]["launch"]["warnings"][0];
    assert_eq!(warning, &json!(format!("of {url}?***: ***")));
    assert_eq!(record["decision"]["launch"]["ports"][0]["label"], "http");
}

fn has_secret(text: &str) -> bool {
    text.contains("AKIA") || text.contains("5ecr3t")
}

#[track_caller]
fn holds_no_secret(text: &str) {
    assert!(!has_secret(text), "{text}");
}

/// Looks at each file below a folder, except the images themselves.
fn for_each_file(folder: &Path, look: &dyn Fn(&Path, String)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_file(&path, look)
        } else {
            look(&path, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned())
        }
    }
}

/// A URL's query is not in an error about a job that is not understood either.
#[test]
fn a_bad_urls_query_is_not_shown() {
    let qhost = qhost();
    let bad = job(&qhost, json!({"image_source": format!("ftp://images.example/x?{SIGNED}")}));
    let done = qhost.run(&["run", &bad]).exits(10).says("ftp://images.example/x?…");
    holds_no_secret(&done.stderr);
}

/// A VM of a signed URL is started again from the store; without the image, only the job has the query.
#[test]
fn a_vm_of_a_signed_url_is_started_again() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[image.network]\nallow = [\"127.0.0.0/8\"]\n");
    let (url, sha256) = server.serve("/image", boot_sector::disk("hello", Then::PowerOff));
    let job = qhost.job(&(format!("{url}?{SIGNED}"), sha256.clone()), json!({}));
    let report = qhost.run(&["run", "--json", &job]).exits(0).json();
    let id = report["vm"]["id"].as_str().unwrap();
    qhost.run(&["restart", id]);
    wait_for("its end", || qhost.qemus().is_empty().then_some(()));
    assert_eq!(server.requests(), ["/image"]);
    qhost.run(&["wait", id]);
    qhost.run(&["image", "rm", &sha256]).exits(0);
    let done = qhost.run(&["restart", id]).exits(13).says("the query was not kept");
    done.says("run the job again").says("/image?…");
    assert_eq!(server.requests(), ["/image"], "it is not asked for without its query");
    // A file of the version before has the query.
    let task = qhost.state().join("vms").join(id).join("task.json");
    let whole = fs::read_to_string(&task).unwrap().replace("?***", &format!("?{SIGNED}"));
    fs::write(&task, whole).unwrap();
    qhost.run(&["restart", id]);
    assert_eq!(server.requests(), ["/image", "/image"]);
}

/// A command whose networks for images are wider says so.
#[test]
fn networks_of_one_command_are_said() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("hello", Then::PowerOff));
    let job = qhost.job(&image, json!({}));
    let line = "images    also from 127.0.0.0/8, by --image-allow or QHOST_IMAGE_ALLOW\n";
    for command in ["plan", "run"] {
        assert!(qhost.run(&[command, &job]).exits(0).stdout.contains(line), "{command}");
        let json = qhost.run(&[command, "--json", &job]).exits(0).json();
        assert_eq!(json["image_allow"], json!(["127.0.0.0/8"]));
    }
    let pull = ["image", "pull", &image.0, "--checksum", &image.1];
    assert!(qhost.run(&pull).exits(0).stderr.contains(line));
    let mut plain = qhost.command(&["plan", &job]);
    let output = plain.env_remove("QHOST_IMAGE_ALLOW").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("also from"));
}
