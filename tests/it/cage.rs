//! The cage from inside: a program runs in QEMU's place, as would a guest that had broken out into QEMU. Each test shows one claim. If this
//! machine cannot show one, the test says so by name.

mod flood;
mod network;
mod tried;

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    stand_in, succeed, wait_for,
};

use crate::qhost;

/// The program that does the listed deeds in QEMU's place, and prints the result of each.
pub(crate) const STAND_IN: &str = env!("CARGO_BIN_EXE_qemu-stand-in");

/// A scratch folder in which the stand-in is found as QEMU. It passes questions before a launch (version, accelerators) on to the real
/// QEMU.
pub(crate) fn with_stand_in(qhost: Qhost) -> Qhost {
    let path = stand_in::path(&qhost, STAND_IN);
    fs::remove_file(qhost.state().join("fingerprint.json")).unwrap();
    qhost.env("PATH", &path)
}

/// A disk with a list of the stand-in's deeds, since a guest brings everything on its disk.
pub(crate) fn deeds_on_disk(deeds: &[&str]) -> Vec<u8> {
    stand_in::disk("never boots", deeds)
}

struct Caged {
    qhost: Qhost,
    _server: ImageServer,
    /// The host port that is forwarded to the VM.
    port: u16,
}

impl Caged {
    /// A VM whose QEMU is the stand-in, and which does these deeds.
    fn doing(deeds: &[&str], config: Value) -> Self {
        Self::with(qhost(), deeds, config)
    }

    fn with(qhost: Qhost, deeds: &[&str], config: Value) -> Self {
        let server = ImageServer::start();
        let qhost = with_stand_in(qhost);
        let disk = deeds_on_disk(deeds);
        let mut more = json!({"port_map": {"http": 80}});
        more.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let job = qhost.job(&server.serve("/image", disk), more);
        let report = qhost.run(&["run", "--json", "--detach", &job]).exits(0).json();
        let port = report["vm"]["ports"][0]["host"].as_u64().unwrap_or(0);
        Self { qhost, _server: server, port: u16::try_from(port).unwrap() }
    }

    /// The console's text about the deeds, once all are done.
    fn said(&self) -> String {
        self.qhost.console_has("DONE")
    }
}

impl Drop for Caged {
    fn drop(&mut self) {
        self.qhost.run(&["kill", "test"]);
    }
}

/// Checks that a deed was refused with this error.
#[track_caller]
fn refused(said: &str, deed: &str, error: &str) {
    let line = said.lines().find(|line| line.starts_with(&format!("{deed}: ")));
    let line = line.unwrap_or_else(|| panic!("{deed} was not tried:\n{said}"));
    assert!(line.contains(error), "{line}");
}

#[test]
fn it_reads_none_of_the_hosts_files() {
    let mut secret = qhost();
    let own = secret.file("secret", "of the host");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o644)).unwrap();
    secret = secret.env("X", "x");
    let read = format!("read {own}");
    let deeds = [
        "read /etc/passwd",
        "read /etc/hostname",
        "read /proc/self/environ",
        "read /root/.bashrc",
        &read,
        "list /",
        "list /home",
    ];
    let caged = Caged::with(secret, &deeds, json!({}));
    let said = caged.said();
    for deed in deeds.iter().filter(|deed| deed.starts_with("read")) {
        refused(&said, deed, "No such file or directory");
    }
    refused(&said, "list /home", "No such file or directory");
    // QEMU sees only what it cannot do without.
    let root = said.lines().find(|line| line.starts_with("list /: ")).unwrap();
    assert!(!root.contains("proc") && !root.contains("home") && !root.contains("var"), "{root}");
}

#[test]
fn it_reads_no_other_vms_disk_or_console() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let other = qhost
        .job(&server.serve("/other", boot_sector::disk("I am private", Then::Hang)), json!({}));
    let other = qhost
        .file("other.json", fs::read_to_string(other).unwrap().replace("\"test\"", "\"other\""));
    qhost.run(&["run", "--detach", &other]).exits(0);
    let vm = qhost.vms().remove(0);
    let at = |name: &str| vm.join(name).display().to_string();
    let deeds = [
        format!("read {}", at("overlay.qcow2")),
        format!("read {}", at("console.log")),
        format!("unix {}", at("qmp.sock")),
        format!("unix {}", at("console.sock")),
        // QEMU cannot reach its own supervisor's socket either.
        format!("unix {}", at("control.sock")),
    ];
    let pid = qhost.qemus()[0].clone();
    let signal = format!("signal {pid}");
    let deeds: Vec<&str> = deeds.iter().map(String::as_str).chain([signal.as_str()]).collect();
    let caged = Caged::with(qhost, &deeds, json!({}));
    let said = caged.said();
    for deed in &deeds {
        let error = match deed {
            deed if deed.starts_with("read") => "No such file or directory",
            deed if deed.starts_with("unix") => "Operation not permitted",
            // The cage has a process namespace of its own, in which there is no such process.
            _ => "No such process",
        };
        refused(&said, deed, error);
    }
    caged.qhost.run(&["kill", "other"]).exits(0);
}

#[test]
fn it_starts_no_program() {
    let deeds =
        ["exec /bin/sh", "exec /usr/bin/env", "exec /lib64/../bin/ls", "memfd", "write-and-exec"];
    let said = Caged::doing(&deeds, json!({})).said();
    for deed in &deeds[..3] {
        refused(&said, deed, "No such file or directory");
    }
    refused(&said, "memfd", "Operation not permitted");
    refused(&said, "write-and-exec", "Read-only file system");
    // For a display QEMU needs files in memory, which it cannot execute.
    let said = Caged::doing(&["memfd", "memfd-exec"], json!({"display": true})).said();
    refused(&said, "memfd", "Operation not permitted");
    refused(&said, "memfd-exec", "Operation not permitted");
}

#[test]
fn it_gains_no_capability() {
    let deeds = ["capabilities", "setuid", "unshare", "mount", "chroot", "x32"];
    let said = Caged::doing(&deeds, json!({})).said();
    assert!(said.contains("capabilities: none, no new privileges, not root"), "{said}");
    for deed in &deeds[1..] {
        refused(&said, deed, "Operation not permitted");
    }
}

/// Each VM is another user.
#[test]
fn vms_are_users_of_their_own() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = qhost.job(&server.serve("/image", boot_sector::disk("up", Then::Hang)), json!({}));
    for _ in 0..2 {
        qhost.run(&["run", "--detach", &job]).exits(0);
    }
    let uids: Vec<String> = qhost
        .qemus()
        .iter()
        .map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap().to_owned()
        })
        .collect();
    if !is_root() {
        eprintln!("not shown here: vms_are_users_of_their_own needs root");
        return;
    }
    assert_eq!(uids.len(), 2);
    assert_ne!(uids[0], uids[1]);
    assert!(uids.iter().all(|uid| uid.starts_with("19000")), "{uids:?}");
}

fn is_root() -> bool {
    succeed("id", &["-u"]).trim() == "0"
}

#[test]
fn it_has_no_more_processes_than_it_may() {
    let said = Caged::doing(&["threads 1000"], json!({})).said();
    let most = qhost_cage::limits::CAGE_PROCESSES + 1;
    refused(&said, "threads 1000", "Resource temporarily unavailable");
    let made = said.lines().find_map(|line| line.strip_prefix("threads 1000: after ")).unwrap();
    let made: u64 = made.split(' ').next().unwrap().parse().unwrap();
    assert!(made <= most, "{made}");
}

#[test]
fn it_has_no_more_open_files_than_it_may() {
    let said = Caged::doing(&["files 5000"], json!({})).said();
    refused(&said, "files 5000", "Too many open files");
}

#[test]
fn it_writes_no_more_than_its_disk_may_have() {
    let qhost = qhost();
    qhost.config("[overlay]\nmax_bytes = 4194304\n");
    let said = Caged::with(qhost, &["fill"], json!({})).said();
    refused(&said, "fill", "File too large");
}

/// The kernel ends a VM that takes too much memory, and the end says so.
#[test]
fn it_takes_no_more_memory_than_it_may() {
    let caged = Caged::doing(&["memory 4096"], json!({}));
    let done = caged.qhost.run(&["wait", "test"]).exits(20);
    done.says("it took more memory than its cgroup may have");
}

/// The kernel bounds a guest's CPU time.
#[test]
fn it_takes_no_more_cpu_time_than_it_may() {
    let caged = Caged::doing(&["spin 4"], json!({}));
    caged.said();
    let vm = caged.qhost.vms().remove(0).file_name().unwrap().to_string_lossy().into_owned();
    let v1 = format!("/sys/fs/cgroup/cpu/qhost/tenant-default/{vm}/cpu.cfs_quota_us");
    let v2 = format!("/sys/fs/cgroup/qhost/tenant-default/{vm}/cpu.max");
    let quota = fs::read_to_string(&v1).or_else(|_| fs::read_to_string(v2)).unwrap();
    assert_eq!(quota.split_whitespace().next(), Some("125000"), "1.25 CPUs of 100 ms");
}

/// A mechanism that this host lacks refuses the launch, or is named.
#[test]
fn what_is_lacking_is_said() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("up", Then::PowerOff));
    let job = qhost.job(&image, json!({}));
    // This path is no cgroup.
    let nowhere = "cgroup = \"../../../proc/none\"\n";
    qhost.config(&format!("[cage]\n{nowhere}"));
    let refused = qhost.run(&["run", &job]).exits(16);
    refused.says("this host lacks what a VM is to be kept in").says("cage.level = \"best-effort\"");
    assert_eq!(server.requests(), [""; 0], "before anything was fetched");
    qhost.run(&["plan", &job]).exits(16);
    qhost.config(&format!("[cage]\nlevel = \"best-effort\"\n{nowhere}"));
    qhost.run(&["plan", &job]).exits(0).says("cage      best-effort; without a cgroup");
    qhost.run(&["run", &job]).exits(0).says("best-effort; without a cgroup");
    qhost.run(&["inspect", "test"]).exits(0).says("best-effort; without a cgroup");
    // A restart goes by the configuration of its own time.
    qhost.config(&format!("[cage]\n{nowhere}"));
    qhost.run(&["restart", "test"]).exits(16).says("this host lacks what a VM is to be kept in");
    qhost.config("");
    // The guest may have powered off by the time of this restart.
    qhost.run(&["restart", "test"]);
    qhost.run(&["wait", "test"]).exits(0);
    let whole = qhost.run(&["inspect", "test"]).exits(0);
    assert!(whole.stdout.contains("cage       strict\n"), "{}", whole.stdout);
    // The filter of egress needs a cgroup too, so that it is lacking here as well.
    let job = qhost.job(&image, json!({"egress": "internet"}));
    qhost.config(&format!("[network]\ninternet = true\n[cage]\n{nowhere}"));
    qhost.run(&["run", &job]).exits(16).says("a filter of what QEMU sends");
    // Without the filter a guest would reach all that this host does, even if other mechanisms may be left out.
    let best_effort = format!("[cage]\nlevel = \"best-effort\"\n{nowhere}");
    qhost.config(&format!("[network]\ninternet = true\n{best_effort}"));
    for verb in ["plan", "run"] {
        qhost.run(&[verb, &job]).exits(16).says("reaches this host's loopback, private networks");
    }
    let open = "[network]\ninternet = true\nunfiltered_internet = true\n";
    qhost.config(&format!("{open}[cage]\n{nowhere}"));
    qhost.run(&["run", &job]).exits(16).says("a filter of what QEMU sends");
    qhost.config(&format!("{open}{best_effort}"));
    for verb in ["plan", "run"] {
        qhost
            .run(&[verb, &job])
            .exits(0)
            .says("a filter of what QEMU sends")
            .says("its guest reaches this host's loopback, private networks and cloud metadata");
    }
    qhost
        .run(&["doctor"])
        .says("network.unfiltered_internet lets guests reach this host's loopback");
    qhost.config("[cage]\nusers = \"9-7\"\n");
    qhost.run(&["run", &job]).exits(2).says("expected FIRST-LAST");
}

/// Each form that a guest may have is refused where a mechanism is lacking that all guests are kept in.
#[test]
fn each_form_of_a_guest_needs_all_of_the_cage() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("up", Then::PowerOff));
    qhost.run(&["volume", "create", "kept", "--size", "1MiB"]).exits(0);
    for form in [
        json!({"hostname": "web"}),
        json!({"ignition": {"ignition": {"version": "3.4.0"}}}),
        json!({"disks": [{"name": "data", "size": "1MiB"}]}),
        json!({"disks": [{"name": "kept", "volume": "kept"}]}),
        json!({"disk_bytes": 33_554_432}),
        json!({"firmware": "uefi"}),
        json!({"guest_agent": true}),
        json!({"display": true}),
        json!({"machine_type": "q35"}),
        json!({"architecture": "aarch64"}),
    ] {
        let job = qhost.job(&image, form.clone());
        let nowhere = "cgroup = \"../../../proc/none\"\n";
        qhost.config(&format!("[cage]\n{nowhere}"));
        for verb in ["plan", "run"] {
            let refused = qhost.run(&[verb, &job]).exits(16);
            refused.says("this host lacks what a VM is to be kept in");
        }
        qhost.config(&format!("[cage]\nlevel = \"best-effort\"\n{nowhere}"));
        qhost.run(&["plan", &job]).exits(0).says("cage      best-effort; without a cgroup");
    }
    assert_eq!(server.requests(), [""; 0], "before anything was fetched");
    assert!(qhost.vms().is_empty());
}

#[test]
fn as_root_it_has_a_user_and_namespaces_of_its_own() {
    if !is_root() {
        eprintln!("not shown here: as_root_it_has_a_user_and_namespaces_of_its_own needs root");
        return;
    }
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = qhost.job(&server.serve("/image", boot_sector::disk("up", Then::Hang)), json!({}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    let qemu = qhost.qemus().remove(0);
    let status = fs::read_to_string(format!("/proc/{qemu}/status")).unwrap();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    assert!(!line("Uid:").split_whitespace().any(|uid| uid == "0"), "{status}");
    assert_eq!(line("Groups:").trim(), "", "{status}");
    let namespace =
        |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["mnt", "pid", "ipc", "uts", "net"] {
        assert_ne!(namespace(&qemu, kind), namespace("self", kind), "{kind}");
    }
    qhost.run(&["kill", "test"]).exits(0);
}

/// A user who is not root has a cage too: a user namespace.
#[test]
fn without_root_it_is_a_user_namespace() {
    if !is_root() {
        eprintln!("not shown here: without_root_it_is_a_user_namespace drops root first");
        return;
    }
    let (qhost, server) = (qhost().as_user(), ImageServer::start());
    qhost.config("[cage]\nlevel = \"best-effort\"\n");
    let job = qhost.job(&server.serve("/image", boot_sector::disk("up", Then::Hang)), json!({}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    let qemu = qhost.qemus().remove(0);
    let status = fs::read_to_string(format!("/proc/{qemu}/status")).unwrap();
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().to_owned()
    };
    assert!(value("Uid:").starts_with("65534"), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&value(set), 16), Ok(0), "{set}");
    }
    assert_eq!((value("NoNewPrivs:"), value("Seccomp:")), ("1".into(), "2".into()));
    let namespace =
        |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["user", "mnt", "pid", "ipc", "uts", "net"] {
        assert_ne!(namespace(&qemu, kind), namespace("self", kind), "{kind}");
    }
    qhost.run(&["kill", "test"]).exits(0);
    wait_for("its end", || qhost.qemus().is_empty().then_some(()));
}
