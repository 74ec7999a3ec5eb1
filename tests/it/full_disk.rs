//! A state folder whose disk is full or fails, really: what runs goes on, and what an operator does works, whenever that comes.

use std::fs;

use serde_json::json;

use qhost_tests::{
    Done, ImageServer, Qhost,
    boot_sector::{self, Then},
    disk::{FailingDisk, SmallDisk},
    succeed, wait_for,
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

/// What an operator looks at, and how each VM is ended; all of it works while nothing can be written.
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
        // It is written down, too.
        assert_eq!(run.end().exits(130).json()["vm"]["state"], "exited");
        qhost.run(&["inspect", "test"]).exits(0).says("exited");
        qhost.run(&["run", &job]).exits(16).says("No space left on device");
        without_panic(&qhost, qhost.run(&["image", "gc", "--max-bytes", "0"])).exits(0);
        assert!(qhost.run(&["image", "ls", "--json"]).exits(0).json()["images"] == json!([]));
        qhost.run(&["rm", "test"]).exits(0);
        qhost.assert_nothing_left();
    }
}

/// A supervisor that was killed on it has a successor, which ends the VM as well.
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

/// The file system fails and becomes read-only: what runs is ended all the same, and what is said of that is true.
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
        // What cannot be done is said.
        let gc = without_panic(&qhost, qhost.run(&["image", "gc", "--max-bytes", "0"]));
        assert!(gc.code == 16 && gc.stderr.contains("Read-only file system"), "{gc:?}");
        wait_for("the last process", || {
            (qhost.supervisors().is_empty() && qhost.qemus().is_empty()).then_some(())
        });
        drop(disk);
    }
}

/// A VM that ends before the command that killed it has looked: only its supervisor, which is gone by then, could tell how.
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

/// The disk is filled at this point, whichever process is there.
fn filled_at(point: &str) {
    let server = ImageServer::start();
    let qhost = qhost();
    let state = qhost.state().display().to_string();
    let Some(disk) = SmallDisk::under(&qhost, 40) else { return };
    let job = job(&qhost, &server);
    let qhost = qhost.env("QHOST_FILL", &state).env("QHOST_FILL_AT", point);
    let started = without_panic(&qhost, qhost.run(&["run", "--detach", &job]));
    assert!([0, 16].contains(&started.code), "{point}: {started:?}");
    if point == "recover.held" {
        qhost.kill_supervisor();
    }
    if point == "stop.kill" {
        qhost.qemus().iter().for_each(|qemu| drop(succeed("kill", &["-STOP", qemu])));
    }
    let going_on = qhost.run(&["ps", "--json"]).exits(0).json();
    for vm in going_on["vms"].as_array().unwrap() {
        let id = vm["id"].as_str().unwrap();
        without_panic(&qhost, qhost.run(&["logs", id])).exits(0);
        let ended = without_panic(&qhost, qhost.run(&["stop", "--grace", "1", id])).exits(0);
        assert!(ended.stdout.contains("exited"), "{point}: {}", ended.stdout);
    }
    assert!(disk.is_full(), "{point} was not reached");
    assert_eq!(qhost.run(&["ps", "--json"]).exits(0).json()["vms"], json!([]), "{point}");
    without_panic(&qhost, qhost.run(&["image", "gc", "--max-bytes", "0"])).exits(0);
    qhost.assert_nothing_left();
}

macro_rules! points {
    ($($name:ident = $point:literal),+ $(,)?) => { $(#[test] fn $name() { filled_at($point); })+ };
}

points! {
    full_at_launch_reserved = "launch.reserved",
    full_at_launch_written = "launch.written",
    full_at_launch_supervisor = "launch.supervisor",
    full_at_supervise_begun = "supervise.begun",
    full_at_launch_starting = "launch.starting",
    full_at_launch_opened = "launch.opened",
    full_at_launch_caged = "launch.caged",
    full_at_launch_recorded = "launch.recorded",
    full_at_launch_greeted = "launch.greeted",
    full_at_launch_running = "launch.running",
    full_at_stop_powerdown = "stop.powerdown",
    full_at_stop_quit = "stop.quit",
    full_at_stop_kill = "stop.kill",
    full_at_stop_ended = "stop.ended",
    full_at_stop_recorded = "stop.recorded",
    full_at_recover_held = "recover.held",
}

/// A supervisor that is stopped in its tracks: within seconds it is said that it does not answer, and what is done about it.
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

#[test]
fn a_stop_without_an_answer_says_so() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.run(&["run", "--detach", &job(&qhost, &server)]).exits(0);
    let supervisor = qhost.supervisors().remove(0);
    succeed("kill", &["-STOP", &supervisor]);
    let stop = qhost.start(&["stop", "--grace", "1", "test"]);
    stop.says("its supervisor has not answered for 2 s; SIGTERM was sent to it");
    stop.says("Ctrl-C ends this wait, and takes nothing back");
    qhost.run(&["stats"]).exits(0).says("no answer within 3 s");
    succeed("kill", &["-CONT", &supervisor]);
    stop.end().exits(0);
    qhost.assert_nothing_left();
}

/// The hard limit on open files that a VM needs is named.
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
