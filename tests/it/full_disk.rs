//! A state folder whose disk really is full or fails: running VMs go on, and an operator's commands work, whenever that happens.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use qhost_tests::{
    Done, ImageServer, Qhost,
    api::Service,
    boot_sector::{self, Then},
    disk::{FailingDisk, SmallDisk},
    named_points, succeed, wait_for,
};

use crate::qhost;

/// A task that runs until it is stopped; the image is stored beforehand.
fn job(qhost: &Qhost, server: &ImageServer) -> String {
    let image = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
    qhost.run(&["image", "pull", &image.0, "--checksum", &image.1]).exits(0);
    qhost.job(&image, json!({"port_map": {"http": 80}}))
}

fn without_panic(qhost: &Qhost, done: Done) -> Done {
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    for vm in qhost.vms() {
        let log = fs::read_to_string(vm.join("supervisor.log")).unwrap_or_default();
        assert!(!log.contains("panicked"), "{log}");
    }
    done
}

/// Looks at the VM and ends it as an operator would; all of it works while nothing can be written.
fn is_looked_at_and_ends(qhost: &Qhost, how: &[&str]) {
    let run = |args: &[&str]| without_panic(qhost, qhost.run(args));
    run(&["ps"]).exits(0).says("running");
    run(&["logs", "test"]).exits(0).says("the guest runs");
    run(&["stats"]).exits(0).says("test-");
    run(&["inspect", "test"]).exits(0);
    run(how).exits(0).says("exited");
}

#[test]
fn what_runs_is_stopped_and_killed_on_a_full_disk() {
    for how in [&["stop", "--grace", "1", "test"][..], &["kill", "test"]] {
        let (qhost, server) = (qhost(), ImageServer::start());
        let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
        let job = job(&qhost, &server);
        let run = qhost.start(&["run", "--json", &job]);
        qhost.console_has("the guest runs");
        disk.fill();
        is_looked_at_and_ends(&qhost, how);
        // The end is recorded, too.
        assert_eq!(run.end().exits(130).json()["vm"]["state"], "exited");
        qhost.run(&["inspect", "test"]).exits(0).says("exited");
        qhost.run(&["run", &job]).exits(16).says("No space left on device");
        without_panic(&qhost, qhost.run(&["image", "gc", "--max-bytes", "0"])).exits(0);
        assert!(qhost.run(&["image", "ls", "--json"]).exits(0).json()["images"] == json!([]));
        qhost.run(&["rm", "test"]).exits(0);
        qhost.assert_nothing_left();
    }
}

/// After a supervisor was killed on a full disk, the next one ends the VM as well.
#[test]
fn what_runs_is_adopted_on_a_full_disk() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
    qhost.run(&["run", "--detach", &job(&qhost, &server)]).exits(0);
    qhost.console_has("the guest runs");
    disk.fill();
    qhost.kill_supervisor();
    is_looked_at_and_ends(&qhost, &["stop", "--grace", "1", "test"]);
    qhost.assert_nothing_left();
}

/// An ended VM that a full disk keeps from being started again has failed, and its record says by what.
#[test]
fn what_does_not_start_again_says_why() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
    qhost.run(&["run", "--detach", &job(&qhost, &server)]).exits(0);
    qhost.run(&["kill", "test"]).exits(0);
    let state = qhost.state().display().to_string();
    let mut restart = qhost.command(&["restart", "test"]);
    let restart = restart.env("QHOST_FILL", state).env("QHOST_FILL_AT", "restart.begun");
    let restarted = without_panic(&qhost, Done::of(restart.output().unwrap())).exits(16);
    restarted.says("No space left on device");
    disk.empty();
    let vm = &qhost.run(&["ps", "--all", "--json"]).exits(0).json()["vms"][0];
    assert_eq!((&vm["state"], &vm["ended"]["reason"]), (&json!("failed"), &json!("not-started")));
    let message = vm["ended"]["message"].as_str().unwrap();
    assert!(message.contains("No space left on device"), "{message}");
    qhost.run(&["restart", "test"]).exits(0).says("running");
    qhost.run(&["kill", "test"]).exits(0);
    qhost.assert_nothing_left();
}

/// The file system fails and becomes read-only: the VM is ended all the same, and what is said of that is true.
#[test]
fn what_runs_is_ended_on_a_disk_that_has_become_read_only() {
    for how in [&["stop", "--grace", "1", "test"][..], &["kill", "test"]] {
        let (qhost, server) = (qhost(), ImageServer::start());
        let Some(disk) = FailingDisk::under(&qhost) else { return };
        let run = qhost.start(&["run", "--json", &job(&qhost, &server)]);
        qhost.console_has("the guest runs");
        disk.fail();
        is_looked_at_and_ends(&qhost, how);
        assert_eq!(run.end().exits(130).json()["vm"]["state"], "exited");
        // Commands that cannot work on such a disk say so.
        let gc = without_panic(&qhost, qhost.run(&["image", "gc", "--max-bytes", "0"]));
        assert!(gc.code == 16 && gc.stderr.contains("Read-only file system"), "{gc:?}");
        wait_for("the last process", || {
            (qhost.supervisors().is_empty() && qhost.qemus().is_empty()).then_some(())
        });
        drop(disk);
    }
}

/// A VM ends before the command that killed it has looked: only its supervisor, which is gone by then, could tell how.
#[test]
fn an_end_on_a_read_only_disk_is_told_to_a_slow_command() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Some(disk) = FailingDisk::under(&qhost) else { return };
    qhost.run(&["run", "--detach", &job(&qhost, &server)]).exits(0);
    qhost.console_has("the guest runs");
    disk.fail();
    let mut kill = qhost.command(&["kill", "test"]);
    let killed = kill.env("QHOST_SLOW_AT", "end.asked=2000").output().unwrap();
    without_panic(&qhost, Done::of(killed)).exits(0).says("exited");
    wait_for("the last process", || {
        (qhost.supervisors().is_empty() && qhost.qemus().is_empty()).then_some(())
    });
    drop(disk);
}

/// Runs a VM from its start to its end, with `QHOST_FILL` done at this point, in whichever process reaches it.
fn from_start_to_end(qhost: &Qhost, job: &str, point: &str) {
    let started = without_panic(qhost, qhost.run(&["run", "--detach", job]));
    // A start that fails says so, or on a disk that takes no record at all, that its end is not known.
    assert!([0, 16, 20].contains(&started.code), "{point}: {started:?}");
    if point == "recover.held" {
        qhost.kill_supervisor();
    }
    if point == "stop.kill" {
        qhost.qemus().iter().for_each(|qemu| drop(succeed("kill", &["-STOP", qemu])));
    }
    let going_on = qhost.run(&["ps", "--json"]).exits(0).json();
    for vm in going_on["vms"].as_array().unwrap() {
        let id = vm["id"].as_str().unwrap();
        without_panic(qhost, qhost.run(&["logs", id])).exits(0);
        let ended = without_panic(qhost, qhost.run(&["stop", "--grace", "1", id])).exits(0);
        assert!(ended.stdout.contains("exited"), "{point}: {}", ended.stdout);
    }
}

/// The disk is full from this point on.
fn full_at(point: &str) {
    let (qhost, server) = (qhost(), ImageServer::start());
    let state = qhost.state().display().to_string();
    let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
    let job = job(&qhost, &server);
    let qhost = qhost.env("QHOST_FILL", &state).env("QHOST_FILL_AT", point);
    from_start_to_end(&qhost, &job, point);
    assert!(disk.is_full(), "{point} was not reached");
    assert_eq!(qhost.run(&["ps", "--json"]).exits(0).json()["vms"], json!([]), "{point}");
    without_panic(&qhost, qhost.run(&["image", "gc", "--max-bytes", "0"])).exits(0);
    qhost.assert_nothing_left();
}

/// The disk is read-only from this point on.
fn read_only_at(point: &str) {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Some(disk) = FailingDisk::under(&qhost) else { return };
    let job = job(&qhost, &server);
    let qhost = qhost.env("QHOST_FILL", &disk.trigger()).env("QHOST_FILL_AT", point);
    from_start_to_end(&qhost, &job, point);
    assert!(disk.has_failed(), "{point} was not reached");
    wait_for("the last process", || {
        (qhost.supervisors().is_empty() && qhost.qemus().is_empty()).then_some(())
    });
    drop(disk);
}

macro_rules! points {
    ($($name:ident = $point:literal),+ $(,)?) => {
        mod full_at { $(#[test] fn $name() { super::full_at($point); })+ }
        mod read_only_at { $(#[test] fn $name() { super::read_only_at($point); })+ }
        /// The tests cover each named point of a VM's life, but for one from which on the host's files are out of the process' sight.
        #[test]
        fn each_point_of_a_life_is_tried() {
            let tried = [$($point),+, "cage.left"].map(String::from);
            assert_eq!(named_points("launch|supervise|cage|stop|recover"), BTreeSet::from(tried));
        }
    };
}

points! {
    launch_reserved = "launch.reserved",
    launch_written = "launch.written",
    launch_supervisor = "launch.supervisor",
    supervise_begun = "supervise.begun",
    launch_starting = "launch.starting",
    launch_opened = "launch.opened",
    launch_spawned = "launch.spawned",
    launch_caged = "launch.caged",
    launch_go = "launch.go",
    launch_recorded = "launch.recorded",
    launch_greeted = "launch.greeted",
    launch_negotiated = "launch.negotiated",
    launch_running = "launch.running",
    stop_powerdown = "stop.powerdown",
    stop_quit = "stop.quit",
    stop_kill = "stop.kill",
    stop_ended = "stop.ended",
    stop_recorded = "stop.recorded",
    stop_swept = "stop.swept",
    recover_held = "recover.held",
}

/// The disk becomes full while an image is fetched or checked: the run says so, and once there is room, the next run has the image whole.
#[test]
fn full_while_an_image_is_fetched() {
    let points = named_points("fetch|pipe|store");
    for point in &points {
        let (qhost, server) = (qhost(), ImageServer::start());
        let state = qhost.state().display().to_string();
        let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
        let image = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
        let job = qhost.job(&image, json!({}));
        if point == "store.hashed" {
            qhost.run(&["image", "pull", &image.0, "--checksum", &image.1]).exits(0);
            // An image whose times have changed is read once more.
            let stored =
                succeed("find", &[&state, "-name", &format!("*{}*", image.1), "-type", "f"]);
            stored.lines().for_each(|file| drop(succeed("touch", &["-d", "2001-01-01", file])));
        }
        let fills = qhost
            .command(&["run", "--detach", &job])
            .env("QHOST_FILL", &state)
            .env("QHOST_FILL_AT", point)
            .output();
        let started = without_panic(&qhost, Done::of(fills.unwrap()));
        assert!([0, 16].contains(&started.code), "{point}: {started:?}");
        assert!(disk.is_full(), "{point} was not reached");
        if started.code == 0 {
            is_looked_at_and_ends(&qhost, &["kill", "test"]);
        } else {
            let says = ["No space left on device", "make room: qhost image gc"];
            assert!(says.iter().any(|says| started.stderr.contains(says)), "{point}: {started:?}");
        }
        without_panic(&qhost, qhost.run(&["image", "ls"])).exits(0);
        disk.empty();
        qhost.run(&["run", "--detach", &job]).exits(0);
        qhost.run(&["kill", "test"]).exits(0);
        qhost.assert_nothing_left();
    }
}

/// The disk becomes full during a change of a volume: the change is done, or the volume is as it was, and its data are.
#[test]
fn full_while_volumes_change() {
    const CHANGES: [(&str, &[&str]); 4] = [
        ("volume.create", &["create", "new", "--size", "1MiB"]),
        ("volume.copy", &["copy", "data", "new"]),
        ("volume.resize", &["resize", "data", "--size", "2MiB"]),
        ("volume.remove", &["rm", "data"]),
    ];
    let qhost = qhost();
    let state = qhost.state().display().to_string();
    let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
    let volumes = || qhost.run(&["volume", "ls", "--json"]).exits(0).json()["volumes"].clone();
    let names = |list: &Value| {
        let sizes = list.as_array().unwrap().iter();
        sizes.map(|it| format!("{} {}", it["name"], it["bytes"])).collect::<BTreeSet<_>>()
    };
    let points = named_points("volume.(create|copy|resize|remove)");
    for point in &points {
        qhost.run(&["volume", "create", "data", "--size", "1MiB"]).exits(0);
        let before = names(&volumes());
        let (_, change) = CHANGES.iter().find(|(of, _)| point.starts_with(of)).unwrap();
        let mut change = qhost.command(&[&["volume"], *change].concat());
        let done = change.env("QHOST_FILL", &state).env("QHOST_FILL_AT", point).output().unwrap();
        let done = without_panic(&qhost, Done::of(done));
        assert!([0, 16].contains(&done.code), "{point}: {done:?}");
        assert!(disk.is_full(), "{point} was not reached");
        let full = names(&volumes());
        disk.empty();
        let after = names(&volumes());
        assert_eq!(after, full, "{point}");
        if done.code == 16 {
            done.says("No space left on device");
            assert_eq!(after, before, "{point}");
        } else {
            assert_ne!(after, before, "{point}");
        }
        for name in ["data", "new"] {
            qhost.run(&["volume", "rm", name]);
        }
        assert_eq!(volumes(), json!([]), "{point}");
    }
}

/// The disk becomes full when a service has accepted a start: the service tells the start's result, and goes on.
#[test]
fn full_when_a_start_is_accepted() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let state = qhost.state().display().to_string();
    let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
    let job = job(&qhost, &server);
    let job = fs::read_to_string(job).unwrap();
    let qhost = qhost.env("QHOST_FILL", &state).env("QHOST_FILL_AT", "serve.accepted");
    let service = Service::start(&qhost);
    let done = service.done(service.post("/v1/vms", &job));
    assert!(disk.is_full(), "it was not reached");
    assert_eq!(done["state"], "failed", "{done}");
    assert!(done["error"].to_string().contains("No space left on device"), "{done}");
    service.get("/v1/vms").is(200);
    disk.empty();
    let refilled = service.done(service.post("/v1/vms", &job));
    // The second start fills the disk once more.
    assert_eq!(refilled["state"], "failed", "{refilled}");
    service.get("/health/live").is(204);
    service.end();
    qhost.assert_nothing_left();
}

/// A key's file is whole, or not there.
#[test]
fn a_key_that_does_not_fit_is_not_left_half_written() {
    let qhost = qhost();
    let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
    disk.fill();
    let keys = qhost.state().join("release");
    let made = qhost.run(&["policy", "keygen", keys.to_str().unwrap(), "--no-password"]);
    made.exits(2).says("No space left on device");
    let left = fs::read_dir(qhost.state()).unwrap().flatten().map(|file| file.file_name());
    let mut left: Vec<_> = left.filter_map(|name| name.into_string().ok()).collect();
    left.sort();
    assert_eq!(left, ["filler", "fingerprint.json"]);
    drop(disk);
}

/// A supervisor is stopped in its tracks: within seconds the command says that it does not answer, and what is done about it.
#[test]
fn a_stop_without_an_answer_says_so() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.run(&["run", "--detach", &job(&qhost, &server)]).exits(0);
    let supervisor = qhost.supervisors().remove(0);
    succeed("kill", &["-STOP", &supervisor]);
    let stop = qhost.start(&["stop", "--grace", "1", "test"]);
    stop.says("its supervisor has not answered for 2 s; SIGTERM was sent to it");
    stop.says("Ctrl-C ends this wait, and takes nothing back");
    for stats in [&["stats"][..], &["stats", "--json"]] {
        qhost.run(stats).exits(0).says("no answer within 3 s");
    }
    succeed("kill", &["-CONT", &supervisor]);
    stop.end().exits(0);
    qhost.assert_nothing_left();
}

/// The error names the hard limit on open files that a VM needs.
#[test]
fn a_low_limit_on_open_files_is_named() {
    if succeed("id", &["-u"]).trim() != "0" {
        eprintln!("not shown here: a_low_limit_on_open_files_is_named drops root first");
        return;
    }
    let (qhost, server) = (qhost().as_user(), ImageServer::start());
    qhost.config("[cage]\ncgroup = \"../none\"\n");
    let image = server.serve("/image", boot_sector::disk("never", Then::PowerOff));
    let job = qhost.job(&image, json!({}));
    let plan = qhost.command(&["plan", &job]);
    let mut limited = qhost_tests::command("prlimit");
    limited.arg("--nofile=256:256").arg(plan.get_program()).args(plan.get_args()).env_clear();
    limited.envs(plan.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let said = limited.current_dir(qhost.folder()).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("hard limit on open files to 1024 or more (ulimit -Hn"), "{said}");
}
