//! The fingerprint of this host, which is taken once.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;

use qhost_tests::{Qhost, succeed};

use crate::qhost;

#[test]
fn attributes_as_nomad_names_them() {
    let qhost = qhost();
    let fingerprint = qhost.run(&["fingerprint", "--json"]).exits(0).json();
    let version = succeed("qemu-system-x86_64", &["-version"]);
    let attributes = &fingerprint["attributes"];
    assert_eq!(attributes["driver.qemu"], "1");
    let found = attributes["driver.qemu.version"].as_str().expect("a version");
    assert!(version.contains(&format!("version {found}")), "{found} is not in {version}");
    let machines = fingerprint["machine_types"].as_array().expect("a list");
    assert!(machines.contains(&"pc".into()) && machines.contains(&"q35".into()));
    assert!(
        fingerprint["cpus"].as_u64() >= Some(1) && fingerprint["memory_mib"].as_u64() >= Some(256)
    );
    assert_eq!(fingerprint["accelerators"][0]["works"], true, "tcg");
    qhost.run(&["fingerprint"]).exits(0).says("driver.qemu.version").says("accelerator kvm");
}

/// The fingerprint's word on kvm must be true: a guest runs under it, or a job that asks for it is refused.
#[test]
fn kvm_is_offered_only_where_it_runs_guests() {
    let qhost = qhost();
    let fingerprint = qhost.run(&["fingerprint", "--json"]).exits(0).json();
    let kvm = &fingerprint["accelerators"][1];
    assert_eq!(kvm["name"], "kvm");
    let server = qhost_tests::ImageServer::start();
    let image = server.serve(
        "/i",
        qhost_tests::boot_sector::disk("up", qhost_tests::boot_sector::Then::PowerOff),
    );
    let job = qhost.job(&image, json!({"accelerator": "kvm"}));
    if kvm["works"] == true {
        qhost.run(&["run", &job]).exits(0);
        assert!(qhost.console_has("up").contains("up"));
    } else {
        assert!(!kvm["evidence"].as_str().expect("a reason").is_empty());
        // One probe's verdict serves all.
        let evidence = kvm["evidence"].as_str().expect("a reason");
        qhost.run(&["doctor"]).says(&format!("lack  kvm              {evidence}"));
        qhost.run(&["plan", &job]).exits(16).says("kvm does not run guest code on this host");
        qhost.run(&["run", &job]).exits(16).says("kvm does not run guest code on this host");
        assert_eq!(server.requests(), [""; 0]);
    }
}

#[test]
fn without_qemu() {
    let empty = qhost().env("PATH", "/nonexistent");
    empty
        .run(&["fingerprint"])
        .exits(16)
        .says("qemu-system-x86_64 is not on PATH")
        .says("apt-get install");
    let json = empty.run(&["fingerprint", "--json"]).exits(16).json();
    assert_eq!(json["outcome"], "cannot-run");
}

/// The real QEMU behind a script that counts how often it was started.
fn counting_qemu(qhost: Qhost) -> Qhost {
    let bin = qhost.folder().join("bin");
    fs::create_dir(&bin).unwrap();
    let real = succeed("sh", &["-c", "command -v qemu-system-x86_64"]);
    let count = qhost.folder().join("count");
    let script = format!("#!/bin/sh\necho x >> {}\nexec {} \"$@\"\n", count.display(), real.trim());
    fs::write(bin.join("qemu-system-x86_64"), script).unwrap();
    fs::set_permissions(bin.join("qemu-system-x86_64"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    qhost.env("PATH", &path)
}

#[test]
fn it_is_kept_until_qemu_changes() {
    let qhost = counting_qemu(qhost());
    let count =
        || fs::read_to_string(qhost.folder().join("count")).unwrap_or_default().lines().count();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    qhost.config("[image]\nattempts = 1\n");
    let job = qhost.job(&(format!("http://{free}/none"), "0".repeat(64)), json!({}));
    qhost.run(&["run", &job]).exits(13);
    let asked = count();
    assert!(asked >= 3, "version, machines, accelerators: asked {asked} times");
    qhost.run(&["run", &job]).exits(13);
    qhost.run(&["plan", &job]).exits(0);
    assert_eq!(count(), asked, "asked again although nothing changed");
    succeed(
        "touch",
        &["-d", "2020-01-01", qhost.folder().join("bin/qemu-system-x86_64").to_str().unwrap()],
    );
    qhost.run(&["plan", &job]).exits(0);
    assert!(count() > asked, "not asked again although QEMU changed");
}

/// The doctor prints one line a finding, with what would mend it, and each is true on this machine.
#[test]
fn the_doctor() {
    let qhost = crate::qhost();
    let report = qhost.run(&["doctor", "--json"]).exits(0).json();
    let findings = report["findings"].as_array().unwrap();
    let about = |what: &str| {
        let found = findings.iter().find(|finding| finding["about"] == what);
        found.unwrap_or_else(|| panic!("nothing about {what}")).clone()
    };
    for what in [
        "qemu",
        "tcg",
        "kvm",
        "cgroups",
        "landlock",
        "user namespaces",
        "file system",
        "free space",
        "memory",
        "ports",
        "time since boot",
    ] {
        let finding = about(what);
        assert_eq!(finding["fix"].is_null(), finding["health"] == "good", "{finding}");
    }
    assert!(about("qemu")["found"].as_str().unwrap().contains("qemu-system-x86_64"));
    assert_eq!(about("tcg")["health"], "good");
    let text = qhost.run(&["doctor"]).exits(0).stdout;
    assert_eq!(text.lines().count(), findings.len(), "{text}");
    // The doctor finds a missing QEMU, and says that no VM can run.
    let without = qhost.command(&["doctor"]).env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(without.status.code(), Some(16));
    assert!(
        String::from_utf8_lossy(&without.stdout)
            .contains("bad   qemu             qemu-system-x86_64 is not on PATH")
    );
    qhost.config("[overlay]\nmax_bytes = 9000000000000000\n[ports]\nallow = []\n");
    qhost
        .run(&["doctor"])
        .exits(0)
        .says("lack  free space")
        .says("lack  ports            0 of 0 taken");
}
