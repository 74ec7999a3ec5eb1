//! The store as an operator knows it: `qhost image ls`, `inspect`, `verify`, `rm`, `gc`, `path`, and stored files that change.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    hostile_images::{made, qcow2},
    linux_guest, wait_for,
};

use crate::qhost;

fn pull(qhost: &Qhost, server: &ImageServer, path: &str, bytes: Vec<u8>) -> String {
    let (url, sha256) = server.serve(path, bytes);
    qhost.run(&["image", "pull", &url, "--checksum", &sha256]).exits(0);
    sha256
}

fn stored(qhost: &Qhost, sha256: &str) -> PathBuf {
    qhost.state().join("images/sha256").join(&sha256[..2]).join(sha256)
}

/// Writes into a stored file, which no program should.
fn change(qhost: &Qhost, sha256: &str, bytes: &[u8]) {
    let path = stored(qhost, sha256);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
}

fn used(qhost: &Qhost, sha256: &str, ago: Duration) {
    let at = SystemTime::now() - ago;
    let note = stored(qhost, sha256).with_extension("used");
    fs::File::options().append(true).open(note).unwrap().set_modified(at).unwrap();
    // An image cannot have been used before it was fetched.
    let record = stored(qhost, sha256).with_extension("json");
    let mut known: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    known["fetched_at"] = json!(jiff::Timestamp::try_from(at).unwrap());
    fs::write(record, known.to_string()).unwrap();
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn what_is_stored() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let empty = qhost.run(&["image", "ls"]).exits(0).stdout;
    assert_eq!(empty.lines().count(), 1, "{empty}");
    let (url, raw) = server.serve("/disk.raw", boot_sector::disk("x", Then::PowerOff));
    let url = format!("{url}?token=secret");
    qhost.run(&["image", "pull", &url, "--checksum", &raw]).exits(0);
    let qcow2 = pull(&qhost, &server, "/disk.qcow2", qcow2(&[]));
    let iso = pull(
        &qhost,
        &server,
        "/cd",
        fs::read(linux_guest().join("grub-rescue-cdrom.iso")).unwrap(),
    );
    let list = qhost.run(&["image", "ls"]).exits(0);
    assert!(
        !list.stdout.contains("secret") && list.stdout.contains("/disk.raw?…"),
        "{}",
        list.stdout
    );
    let list = qhost.run(&["image", "ls", "--json"]).exits(0).json();
    let of = |key: &str| -> Vec<Value> {
        list["images"].as_array().unwrap().iter().map(|image| image[key].clone()).collect()
    };
    assert_eq!(of("sha256"), [json!(iso), json!(qcow2), json!(raw)]);
    assert_eq!(of("format"), [json!("iso"), json!("qcow2"), json!("raw")]);
    assert_eq!(of("disk_bytes")[1], json!(1 << 20));
    let one = qhost.run(&["image", "inspect", &raw[..8], "--json"]).exits(0).json();
    assert_eq!(one["path"], json!(stored(&qhost, &raw)));
    assert_eq!(one["used_by"], json!([]));
    assert!(one["disk_usage"].as_u64().unwrap() < 1 << 20, "the disk's zeros are holes");
    qhost.run(&["image", "inspect", &format!("sha256:{raw}")]).exits(0).says("read-only file");
    qhost
        .run(&["image", "inspect", "ffff"])
        .exits(2)
        .says("no stored image's digest begins with \"ffff\"");
    qhost.run(&["image", "path", ""]).exits(2).says("3 stored images");
    // A folder that cannot be read is not an empty one.
    fs::rename(qhost.state().join("images/sha256"), qhost.state().join("aside")).unwrap();
    fs::write(qhost.state().join("images/sha256"), "").unwrap();
    qhost.run(&["image", "ls"]).exits(16).says("images/sha256");
}

/// A file is inspected before it is published, as a host would judge it.
#[test]
fn a_file_is_inspected() {
    let qhost = qhost();
    let good = qhost.file("good", qcow2(&[]));
    qhost.run(&["image", "inspect", &good]).exits(0).says("qcow2").says("1.00 MiB (1048576 bytes)");
    let bad = made().into_iter().find(|image| image.check == "qcow2-data-file").unwrap();
    let bad = qhost.file("bad", bad.bytes);
    let refused = qhost.run(&["image", "inspect", &bad]).exits(15);
    refused.says(&bad).says("(check qcow2-data-file)");
    qhost.run(&["image", "inspect", "./none"]).exits(2).says("cannot read ./none");
}

#[test]
fn verify_puts_away_what_changed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let sound = pull(&qhost, &server, "/sound", boot_sector::disk("sound", Then::PowerOff));
    let changed = pull(&qhost, &server, "/changed", boot_sector::disk("before", Then::PowerOff));
    qhost.run(&["image", "verify"]).exits(0);
    change(&qhost, &changed, &boot_sector::disk("after.", Then::PowerOff));
    let report = qhost.run(&["image", "verify", "--json"]).exits(1).json();
    assert_eq!(report["outcome"], "check-failed");
    let of = |sha256: &str| {
        let images = report["images"].as_array().unwrap();
        images.iter().find(|image| image["sha256"] == sha256).unwrap()["check"].clone()
    };
    assert_eq!(of(&sound)["state"], "sound");
    assert_eq!(of(&changed)["state"], "quarantined");
    let quarantined = of(&changed)["to"].as_str().unwrap().to_owned();
    assert_eq!(fs::read(&quarantined).unwrap(), boot_sector::disk("after.", Then::PowerOff));
    qhost.run(&["image", "verify"]).exits(0);
    // The image is fetched again where it is needed.
    pull(&qhost, &server, "/changed", boot_sector::disk("before", Then::PowerOff));
    assert_eq!(server.requests(), ["/sound", "/changed", "/changed"]);
    qhost.run(&["image", "gc", "--older-than", "0s", "--dry-run"]).exits(0);
    assert!(PathBuf::from(&quarantined).exists());
}

/// The owner of a stored file can set its times while it is hashed: the file is hashed again, and not put away.
#[test]
fn an_image_whose_times_alone_move_stays() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let sha256 = pull(&qhost, &server, "/image", boot_sector::disk("sound", Then::PowerOff));
    let path = qhost.run(&["image", "path", &sha256]).exits(0).stdout;
    let qhost = qhost.env("QHOST_SLOW_AT", "store.hashed=1000");
    let times = qhost.folder().join("times");
    let qhost = qhost.env("QHOST_TIMES_OF_POINTS", times.to_str().unwrap());
    let verify = qhost.start(&["image", "verify"]);
    wait_for("the first hash", || fs::read_to_string(&times).ok().filter(|text| !text.is_empty()));
    let file = fs::File::open(path.trim()).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    verify.end().exits(0).says("sound");
    let hashed = fs::read_to_string(&times).unwrap().matches("store.hashed").count();
    assert_eq!(hashed, 2);
}

/// A changed size, time or inode is noticed at use: the file is hashed again, and used, or put away and fetched again.
#[test]
fn a_change_is_noticed_at_use() {
    let bytes = boot_sector::disk("before", Then::PowerOff);
    type Change = fn(&Qhost, &str);
    let changes: [(Change, bool); 5] = [
        // A restored backup changes the file in this way.
        (
            |qhost, sha256| {
                let path = stored(qhost, sha256);
                let copy = path.with_extension("copy");
                fs::copy(&path, &copy).unwrap();
                fs::rename(&copy, &path).unwrap();
            },
            true,
        ),
        (|qhost, sha256| change(qhost, sha256, &boot_sector::disk("before", Then::PowerOff)), true),
        (
            |qhost, sha256| change(qhost, sha256, &boot_sector::disk("after.", Then::PowerOff)),
            false,
        ),
        (|qhost, sha256| change(qhost, sha256, b"short"), false),
        (
            |qhost, sha256| {
                let writable = fs::Permissions::from_mode(0o644);
                fs::set_permissions(stored(qhost, sha256), writable).unwrap();
            },
            false,
        ),
    ];
    for (number, (change, is_sound)) in changes.into_iter().enumerate() {
        let (qhost, server) = (qhost(), ImageServer::start());
        let sha256 = pull(&qhost, &server, "/image", bytes.clone());
        change(&qhost, &sha256);
        let job = qhost.job(&(server.url("/image"), sha256.clone()), json!({}));
        qhost.run(&["run", &job]).exits(0).says("changed since it was hashed");
        assert_eq!(server.requests().len(), if is_sound { 1 } else { 2 }, "change {number}");
        assert_eq!(fs::read(stored(&qhost, &sha256)).unwrap(), bytes);
        assert_eq!(qhost.state().join("images/quarantine").exists(), !is_sound, "change {number}");
        let again = qhost.run(&["run", &job]).exits(0);
        assert!(!again.stderr.contains("changed"), "{}", again.stderr);
    }
}

#[test]
fn an_image_in_use_stays() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
    let running = qhost.start(&["run", "--grace", "0", &qhost.job(&image, json!({}))]);
    qhost.console_has("the guest runs");
    let vm = qhost.vms()[0].file_name().unwrap().to_str().unwrap().to_owned();
    qhost.run(&["image", "ls"]).exits(0).says(&vm);
    qhost.run(&["image", "rm", &image.1]).exits(2).says(&format!("is used by {vm}"));
    qhost
        .run(&["image", "gc", "--max-bytes", "0", "--older-than", "0s"])
        .exits(0)
        .says("0 B freed");
    // The image is in use even if its VM is not known, since a process has it open.
    fs::remove_file(qhost.vms()[0].join("plan.json")).unwrap();
    qhost.run(&["image", "rm", &image.1]).exits(2).says("is used; stop what uses it first");
    qhost
        .run(&["image", "gc", "--max-bytes", "0", "--dry-run"])
        .exits(0)
        .says("0 B would be freed");
    running.signal("INT");
    running.end().exits(130);
    qhost.run(&["image", "rm", &image.1]).exits(0);
    assert!(qhost.stored_images().is_empty());
}

#[test]
fn room_is_made_by_age_and_by_size() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = |name: &str| {
        let mut disk = boot_sector::disk(name, Then::PowerOff);
        disk.fill(b'x');
        disk[..name.len()].copy_from_slice(name.as_bytes());
        pull(&qhost, &server, &format!("/{name}"), disk)
    };
    let [old, older, new] = ["old", "older", "new"].map(image);
    used(&qhost, &old, 10 * DAY);
    used(&qhost, &older, 20 * DAY);
    let gc = |args: &[&str]| -> Vec<String> {
        let report = qhost.run(&[&["image", "gc", "--json"], args].concat()).exits(0).json();
        let removed = report["removed"].as_array().unwrap();
        removed.iter().map(|image| image["sha256"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(gc(&[]), [""; 0]);
    assert_eq!(gc(&["--older-than", "5d", "--dry-run"]), [older.clone(), old.clone()]);
    assert_eq!(gc(&["--older-than", "15d"]), [older]);
    assert_eq!(gc(&["--max-bytes", "10MiB"]), [""; 0]);
    assert_eq!(gc(&["--max-bytes", "1.5MiB"]), [old]);
    assert_eq!(qhost.stored_images(), [new]);
    qhost
        .run(&["image", "gc", "--older-than", "soon"])
        .exits(2)
        .says("expected a span of time: 30d, 12h");
}

/// A list of checksums is a place like a mirror, and policies are asked about the image's own digest too.
#[test]
fn a_list_of_checksums_is_judged_and_so_is_what_it_says() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/image", boot_sector::disk("x", Then::PowerOff));
    let (sums, pin) = server.serve("/SHA256SUMS", format!("{sha256}  image\n"));
    let elsewhere = sums.replace("127.0.0.1", "localhost");
    let trusted = qhost_tests::policy("trusted-images").display().to_string();
    let run = |command: &str, list: &str, settings: Value| {
        let job = qhost.job(&(url.clone(), format!("{list}#sha256={pin}")), json!({}));
        let settings = format!("trusted-images={settings}");
        qhost.run(&[command, "--policy", &trusted, "--policy-settings", &settings, "--json", &job])
    };
    let denied = run("run", &elsewhere, json!({"hosts": ["127.0.0.1"]})).exits(11).json();
    assert_eq!(denied["decision"]["place"], json!(elsewhere));
    assert_eq!(server.requests(), [""; 0]);
    let report = run("run", &sums, json!({"hosts": ["127.0.0.1"]})).exits(0).json();
    assert_eq!(report["task"]["image"]["sha256"], json!(sha256));
    assert_eq!(server.requests(), ["/SHA256SUMS", "/image"]);
    let records =
        fs::read_to_string(qhost.state().join("decisions/tenant-default/current.jsonl")).unwrap();
    assert!(records.contains(&sha256) && records.contains(&pin));
    // This job can be read only once.
    let job = qhost.job(&(url.clone(), format!("{sums}#sha256={pin}")), json!({}));
    let mut piped = qhost.command(&["run", "-"]);
    let output = piped.stdin(fs::File::open(job).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plan = run("plan", &sums, json!({"hosts": ["127.0.0.1"]})).exits(0).json();
    assert_eq!(plan["task"]["image"]["sha256"], json!(sha256));
    assert_eq!(plan["launch"]["image_stored"], json!(true));
}

/// A job's mirrors are all shown to its policies; a trusted mirror does not let in an untrusted one.
#[test]
fn every_mirror_is_judged() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/image", boot_sector::disk("x", Then::PowerOff));
    let by_name = url.replace("127.0.0.1", "localhost");
    let job = |sources: Value| {
        qhost.job(&(url.clone(), sha256.clone()), json!({ "image_source": sources }))
    };
    let trusted = qhost_tests::policy("trusted-images");
    let args = |settings: Value| {
        [
            "--policy".to_owned(),
            trusted.display().to_string(),
            "--policy-settings".into(),
            format!("trusted-images={settings}"),
        ]
    };
    let run = |job: &str, settings: Value| {
        let args = args(settings);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        qhost.run(&[&["run", "-v"], &args[..], &[job]].concat())
    };
    let one = json!({"hosts": ["127.0.0.1"]});
    let denied = run(&job(json!([url, by_name])), one.clone()).exits(11);
    denied.says(&format!("about     {by_name}")).says("image-not-trusted");
    assert_eq!(server.requests(), [""; 0]);
    let both = json!({"hosts": ["127.0.0.1", "localhost"]});
    let gone = server.url("/gone");
    run(&job(json!([gone, by_name])), both).exits(0).says("404");
    assert_eq!(server.requests(), ["/gone", "/image"]);
    // The image is the second source's now, and of no use to a job that names the first alone.
    run(&job(json!(url)), one).exits(0);
    assert_eq!(server.requests().len(), 3);
    for (sources, says) in [
        (json!([]), "one URL or more"),
        (json!(["ftp://x/y"]), "/config/image_source/0"),
        (json!(["http://x/", "http://u@x/"]), "/config/image_source/1"),
    ] {
        qhost.run(&["run", &job(sources)]).exits(10).says(says);
    }
}
