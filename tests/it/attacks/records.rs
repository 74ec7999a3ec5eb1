//! Records that were changed: what a broken-out QEMU can reach of its VM's folder, and what follows from anything that a crash, another
//! version or another program may have left there. No command hangs, takes memory without bound, follows a link out of the state folder, or
//! signals a process that is no VM's; and the other VMs are looked after all the same.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use serde_json::{Value, json};

use qhost_tests::{
    Done, ImageServer, Qhost,
    boot_sector::{self, Then},
    command, succeed, wait_for,
};

use crate::qhost;

/// Files outside of the state folder that must stay as they are.
struct Victim(PathBuf);

impl Victim {
    fn new(qhost: &Qhost) -> Self {
        let folder = qhost.folder().join("victim");
        fs::create_dir_all(folder.join("empty")).unwrap();
        fs::write(folder.join("file"), "precious").unwrap();
        for name in ["overlay.qcow2", "volume.raw"] {
            fs::write(folder.join(name), "precious").unwrap();
        }
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("file")
    }

    #[track_caller]
    fn is_unharmed(&self, after: &str) {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["empty", "file", "overlay.qcow2", "volume.raw"], "{after}");
        for name in ["file", "overlay.qcow2", "volume.raw"] {
            assert_eq!(fs::read_to_string(self.0.join(name)).unwrap(), "precious", "{after}");
        }
    }
}

struct Host {
    qhost: Qhost,
    server: ImageServer,
    victim: Victim,
    /// The folder of a VM that has ended, from which others are made.
    ended: PathBuf,
}

const PLANTED: &str = "planted-00000000";

impl Host {
    fn new() -> Self {
        let (qhost, server) = (qhost(), ImageServer::start());
        // An ordinary user's host may have no cgroup for VMs.
        if !rustix::process::geteuid().is_root() {
            qhost.config("[cage]\nlevel = \"best-effort\"\n");
        }
        let image = server.serve("/ended", boot_sector::disk("it ends", Then::PowerOff));
        let config = json!({"disks": [{"name": "data", "size": "1MiB"}]});
        qhost.run(&["run", &qhost.job(&image, config)]).exits(0);
        for volume in ["db", "models"] {
            qhost.run(&["volume", "create", volume, "--size", "1MiB"]).exits(0);
        }
        let ended = qhost.vms().remove(0);
        let victim = Victim::new(&qhost);
        Self { qhost, server, victim, ended }
    }

    /// Starts a VM that goes on.
    fn start(&self) -> PathBuf {
        let image = self.server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
        let disks = json!([
            {"name": "data", "size": "1MiB"},
            {"name": "db", "volume": "db"},
            {"name": "models", "volume": "models", "read_only": true},
        ]);
        let job = self.qhost.job(&image, json!({ "disks": disks, "firmware": "uefi" }));
        let report = self.qhost.run(&["run", "--detach", "--json", &job]).exits(0).json();
        self.qhost.state().join("vms").join(report["vm"]["id"].as_str().unwrap())
    }

    /// Makes a folder like that of the VM that has ended, but for its id.
    fn plant(&self) -> PathBuf {
        let planted = self.ended.with_file_name(PLANTED);
        if planted.exists() {
            fs::remove_dir_all(&planted).unwrap();
        }
        let (from, to) = (self.ended.to_str().unwrap(), planted.to_str().unwrap());
        succeed("cp", &["-a", from, to]);
        edit(&planted, "plan.json", |plan| plan["vm"] = json!(PLANTED));
        planted
    }

    /// Runs a command that must end in time and within bounds, whatever its exit code.
    #[track_caller]
    fn runs(&self, args: &[&str], after: &str) -> Done {
        let done = self.qhost.run_within(400 << 10, args);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(!said.contains("panicked"), "{args:?} after {after}: {said}");
        // Higher exit codes tell that a signal ended the command, or the sandbox's own SIGABRT.
        assert!(
            done.code < 128 && done.code != 101,
            "{args:?} after {after}: {} {said}",
            done.code
        );
        done
    }
}

#[track_caller]
fn edit(vm: &Path, record: &str, change: impl FnOnce(&mut Value)) {
    let path = vm.join(record);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn state_of(qhost: &Qhost, vm: &Path) -> Value {
    let list = qhost.run(&["ps", "--all", "--json"]).exits(0).json();
    let id = vm.file_name().unwrap().to_str().unwrap();
    let found = list["vms"].as_array().unwrap().iter().find(|found| found["id"] == id);
    found.unwrap_or_else(|| panic!("{id} is not in {list}"))["state"].clone()
}

/// In QEMU's place, the state folder shows only its disk to write to, its image to read, and its sockets.
#[test]
fn what_a_qemu_holds_of_the_state_folder() {
    let host = Host::new();
    let vm = host.start();
    let qemu = host.qhost.qemus().remove(0);
    let mut held = vec![];
    for entry in fs::read_dir(format!("/proc/{qemu}/fd")).unwrap() {
        let entry = entry.unwrap();
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let number = entry.file_name().into_string().unwrap();
        let info = fs::read_to_string(format!("/proc/{qemu}/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t")).unwrap();
        let writes = u32::from_str_radix(flags, 8).unwrap() & 0o3 != 0;
        if let Ok(inside) = target.strip_prefix(host.qhost.state()) {
            let inside = inside.display().to_string();
            // A volume's file has a key behind the volume's name.
            let of = |folder: &str| inside.starts_with(folder).then(|| folder.to_owned());
            let known = ["images", "volumes/db", "volumes/models"].into_iter().find_map(of);
            held.push((known.unwrap_or(inside), writes));
        }
    }
    held.sort();
    held.dedup();
    let own = |name: &str| {
        let file = vm.join(name);
        file.strip_prefix(host.qhost.state()).unwrap().display().to_string()
    };
    let expected = [
        ("images".to_owned(), false),
        (own("disk-data.raw"), true),
        (own("firmware.fd"), false),
        (own("overlay.qcow2"), true),
        (own("variables.fd"), true),
        ("volumes/db".to_owned(), true),
        ("volumes/models".to_owned(), false),
    ];
    assert_eq!(held, expected);
    // By its path, QEMU finds nothing of the state folder.
    let seen = format!("/proc/{qemu}/root{}", host.qhost.state().display());
    assert!(!Path::new(&seen).exists(), "{seen} is there");
}

type Plant = fn(&Path, &Victim);

/// Objects that may be in a file's place.
const PLANTS: &[(&str, Plant)] = &[
    ("a pipe", |path, _| drop(succeed("mkfifo", &[path.to_str().unwrap()]))),
    ("a link to another's file", |path, victim| symlink(victim.file(), path).unwrap()),
    ("a link to where there is nothing", |path, victim| {
        symlink(victim.0.join("made"), path).unwrap()
    }),
    ("a link to a device without end", |path, _| symlink("/dev/zero", path).unwrap()),
    ("a link to itself", |path, _| symlink(path, path).unwrap()),
    ("a folder", |path, _| fs::create_dir(path).unwrap()),
    ("a socket", |path, _| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
    ("a file of 4 GiB", |path, _| fs::File::create(path).unwrap().set_len(4 << 30).unwrap()),
    ("JSON 100,000 deep", |path, _| fs::write(path, "[".repeat(100_000)).unwrap()),
    ("bytes", |path, _| fs::write(path, [1; 4096]).unwrap()),
    ("no bytes", |path, _| fs::write(path, "").unwrap()),
];

const FILES: [&str; 14] = [
    "disk-data.raw",
    "firmware.fd",
    "variables.fd",
    "plan.json",
    "status.json",
    "task.json",
    "reserved.json",
    "lock",
    "console.log",
    "console.log.1",
    "console.times",
    "supervisor.log",
    "overlay.qcow2",
    "control.sock",
];

/// Each plant takes the place of each file of a VM: of a VM that has ended, and of a VM whose record says that it runs. Once, a pipe as a
/// lock had every command wait for ever, a file of 4 GiB was read whole, and a folder as a lock kept all other VMs from being adopted.
#[test]
fn anything_in_place_of_a_vms_files() {
    let host = Host::new();
    let good = host.start();
    for (what, plant) in PLANTS {
        for file in FILES {
            // `logs` copies a log of any length, so that this file would take long.
            if file.starts_with("console.log") && what.contains("GiB") {
                continue;
            }
            let after = format!("{what} as {file}");
            let planted = host.plant();
            let is_log = file.contains(".log") || file.contains("times");
            if !is_log {
                edit(&planted, "status.json", |status| status["state"] = json!("running"));
            }
            let path = planted.join(file);
            if path.exists() {
                fs::remove_file(&path).unwrap();
            }
            plant(&path, &host.victim);
            host.runs(&["ps", "--all"], &after).exits(0);
            let then: &[&str] = if is_log {
                &["logs", "--since", "1h", PLANTED]
            } else {
                &["stop", "--grace", "0", PLANTED]
            };
            host.runs(then, &after);
            host.victim.is_unharmed(&after);
        }
        // The other VMs are adopted although there is such a folder.
        let planted = host.plant();
        edit(&planted, "status.json", |status| status["state"] = json!("running"));
        fs::remove_file(planted.join("lock")).unwrap();
        plant(&planted.join("lock"), &host.victim);
        host.qhost.kill_supervisor();
        assert_eq!(state_of(&host.qhost, &good), "running", "{what} as a lock");
        // A process that is to be the supervisor is known by its name once it runs the supervisor's program.
        wait_for("its next supervisor", || (host.qhost.supervisors().len() == 1).then_some(()));
    }
}

/// Links are put in the place of files that a restart of a VM opens. Once, the console's output was added to the file that a link named.
#[test]
fn links_in_the_folder_of_a_vm_that_is_started_again() {
    for file in [
        "overlay.qcow2",
        "disk-data.raw",
        "firmware.fd",
        "variables.fd",
        "console.log",
        "console.times",
        "supervisor.log",
        "status.json",
        "plan.json.tmp",
    ] {
        let host = Host::new();
        let path = host.ended.join(file);
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        symlink(host.victim.file(), &path).unwrap();
        let id = host.ended.file_name().unwrap().to_str().unwrap();
        host.runs(&["restart", id], file);
        host.runs(&["wait", "--timeout", "30", id], file);
        host.victim.is_unharmed(file);
    }
}

/// A process that is no VM's.
struct Bystander(Child);

impl Bystander {
    fn new() -> Self {
        Self(command("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    /// The process in a record's form.
    fn record(&self) -> Value {
        let pid = self.0.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let ticks: u64 =
            stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        json!({"pid": pid, "started_ticks": ticks, "boot_id": boot.trim()})
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A record names another process, with everything that tells it apart from later ones. Once, that process was sent SIGTERM as the VM's
/// supervisor, and SIGKILL as its QEMU.
#[test]
fn a_record_that_names_another_process() {
    for (supervisor, qemu) in [(true, false), (false, true), (true, true)] {
        let host = Host::new();
        let mut bystander = Bystander::new();
        for command in [
            &["ps"][..],
            &["recover"],
            &["stop", "--grace", "0", PLANTED],
            &["kill", PLANTED],
            &["rm", PLANTED],
        ] {
            let planted = host.plant();
            edit(&planted, "status.json", |status| {
                status["state"] = json!("running");
                status["supervisor"] = if supervisor { bystander.record() } else { Value::Null };
                status["qemu"] = if qemu { bystander.record() } else { Value::Null };
            });
            host.runs(command, "another process");
            assert!(
                bystander.lives(),
                "{command:?}, as its supervisor: {supervisor}, as its QEMU: {qemu}"
            );
        }
        assert_eq!(state_of(&host.qhost, &host.plant()), "exited");
    }
    // The lock is held by another process, so that the VM seems to have a supervisor.
    let host = Host::new();
    let mut bystander = Bystander::new();
    let planted = host.plant();
    edit(&planted, "status.json", |status| {
        status["state"] = json!("running");
        status["supervisor"] = bystander.record();
        status["qemu"] = bystander.record();
    });
    let lock = fs::File::open(planted.join("lock")).unwrap();
    lock.lock().unwrap();
    for ask in [["kill"].as_slice(), &["stop", "--grace", "0"]] {
        let running = host.qhost.start(&[ask, &[PLANTED]].concat());
        // The command asks by the control socket first, then by a signal, and waits for an end that does not come.
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(bystander.lives(), "{ask:?}");
        running.signal("KILL");
        running.end();
    }
}

/// A plan by which QEMU would get other files, or a file outside would be removed, is not acted upon. QEMU runs on, and is adopted once the
/// record is as it was.
#[test]
fn a_plan_that_names_other_files() {
    let host = Host::new();
    let vm = host.start();
    let outside = |name: &str| host.victim.0.join(name).display().to_string();
    let plan = fs::read(vm.join("plan.json")).unwrap();
    let qemu = host.qhost.qemus();
    type Change<'a> = Box<dyn Fn(&mut Value) + 'a>;
    let changes: [(&str, Change<'_>); 9] = [
        ("another overlay", Box::new(|plan| plan["overlay"] = json!(outside("overlay.qcow2")))),
        (
            "an overlay above",
            Box::new(|plan| plan["overlay"] = json!("../../../victim/overlay.qcow2")),
        ),
        ("other variables", Box::new(|plan| plan["variables"] = json!(outside("file")))),
        (
            "another volume",
            Box::new(|plan| plan["disks"][1]["path"] = json!(outside("volume.raw"))),
        ),
        (
            "a disk above",
            Box::new(|plan| plan["disks"][0]["path"] = json!("../../../victim/volume.raw")),
        ),
        (
            "another name",
            Box::new(|plan| plan["disks"][0]["name"] = json!("../../../victim/volume.raw")),
        ),
        ("another image", Box::new(|plan| plan["image"]["path"] = json!(outside("file")))),
        (
            "an image above",
            Box::new(|plan| {
                let path = host.qhost.state().join("images/sha256/../../../victim/file");
                plan["image"]["path"] = json!(path);
            }),
        ),
        ("another id", Box::new(|plan| plan["vm"] = json!("another"))),
    ];
    for (what, change) in &changes {
        host.qhost.kill_supervisor();
        edit(&vm, "plan.json", change);
        host.runs(&["ps"], what).exits(0).says("a VM is not looked after");
        assert_eq!(host.qhost.supervisors(), [""; 0], "{what}");
        assert_eq!(host.qhost.qemus(), qemu, "{what}");
        host.victim.is_unharmed(what);
        fs::write(vm.join("plan.json"), &plan).unwrap();
        assert_eq!(state_of(&host.qhost, &vm), "running");
        wait_for("a supervisor", || (host.qhost.supervisors().len() == 1).then_some(()));
    }
}

/// A VM's cgroups are removed when it has ended. Once, a record with another id than its folder's had any empty folder removed.
#[test]
fn a_plan_that_has_other_folders_removed() {
    let host = Host::new();
    for id in ["empty", "../victim/empty"] {
        let planted = host.plant();
        edit(&planted, "plan.json", |plan| {
            plan["vm"] = json!(id);
            plan["cage"]["network"] = json!({"filtered": {"groups": host.victim.0, "tcp": [], "udp": [], "internet": false}});
        });
        edit(&planted, "status.json", |status| status["state"] = json!("running"));
        host.runs(&["ps"], id).exits(0);
        host.victim.is_unharmed(id);
        host.runs(&["rm", PLANTED], id).exits(0);
        host.victim.is_unharmed(id);
    }
}

/// A reservation that cannot be read leaves the status beside it: a VM whose QEMU runs is not taken for one that is over, and is
/// killed like any other.
#[test]
fn a_damaged_reservation_leaves_the_status() {
    let host = Host::new();
    for damage in [json!(7), json!([]), json!({"vms": -1}), Value::Null, json!("x".repeat(100_000))]
    {
        let vm = host.start();
        edit(&vm, "status.json", |status| status["reservation"] = damage.clone());
        let id = vm.file_name().unwrap().to_str().unwrap();
        let read = host.qhost.run(&["inspect", "--json", id]).exits(0).json();
        assert_eq!((&read["state"], &read["tenant"]), (&json!("running"), &json!("default")));
        host.qhost.run(&["kill", id]).exits(0);
        host.qhost.run(&["rm", id]).exits(0);
    }
}

/// Records with the largest and smallest numbers and times, and with names that no VM can have.
#[test]
fn records_beyond_all_bounds() {
    let host = Host::new();
    for at in ["-009999-01-02T01:59:59Z", "9999-12-30T22:00:00Z"] {
        let planted = host.plant();
        edit(&planted, "status.json", |status| {
            for change in status["changes"].as_array_mut().unwrap() {
                change["at"] = json!(at);
            }
            status["restarts"] = json!(u32::MAX);
            status["stop_by"] = json!(at);
            status["started_at"] = json!(at);
            status["state"] = json!("stopping");
            for key in ["vms", "cpus", "memory_mib", "disk_bytes", "ports"] {
                status["reservation"][key] = json!(u64::MAX);
            }
        });
        edit(&planted, "plan.json", |plan| plan["grace_s"] = json!(u64::MAX));
        for command in [&["ps", "--all"][..], &["inspect", PLANTED], &["stats"], &["rm", PLANTED]] {
            host.runs(command, at);
        }
    }
    // A folder by a name that no VM has is no VM, and its name gets nowhere.
    for name in ["\u{1b}]0;title\u{7}", "a b", ".hidden", "\u{3164}"] {
        fs::rename(host.plant(), host.ended.with_file_name(name)).unwrap();
    }
    let list = host.runs(&["ps", "--all"], "names").exits(0).stdout;
    assert!(!list.contains('\u{1b}') && list.lines().count() == 2, "{list}");
}
