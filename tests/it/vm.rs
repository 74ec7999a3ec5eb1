//! Real VMs from boot sectors: how they end, how they are stopped, and that nothing is left.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio};

use serde_json::json;

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    command, succeed, wait_for,
};

use crate::qhost;

/// A job that boots a sector.
fn job(qhost: &Qhost, server: &ImageServer, then: Then) -> String {
    qhost.job(&server.serve("/image", boot_sector::disk("the guest runs", then)), json!({}))
}

#[test]
fn a_guest_that_powers_off() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::PowerOff);
    let report = qhost.run(&["run", "--json", &job]).exits(0).json();
    assert_eq!(report["outcome"], "done");
    assert_eq!(report["vm"]["end"]["reason"], "shut-down");
    assert_eq!(report["image"]["format"], "raw");
    let log = fs::read_to_string(report["vm"]["console_log"].as_str().expect("a path")).unwrap();
    assert!(log.contains("the guest runs"), "{log}");
    let status = fs::read(qhost.vms()[0].join("status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["state"], "exited");
    qhost.assert_nothing_left();
}

#[test]
fn a_summary_for_people() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::PowerOff);
    let done = qhost.run(&["run", &job]).exits(0);
    assert!(done.stdout.contains("none: the host's own rules decided alone"), "{}", done.stdout);
    assert!(done.stdout.contains("test: the guest shut down"), "{}", done.stdout);
    assert!(done.stderr.starts_with("running   test as VM test-"), "{}", done.stderr);
    assert!(!done.stdout.contains('\x1b') && !done.stderr.contains('\x1b'), "colours in a pipe");
}

#[test]
fn a_qcow2_guest() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let raw = qhost.file("raw", boot_sector::disk("from qcow2", Then::PowerOff));
    let qcow2 = format!("{raw}.qcow2");
    succeed("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", &raw, &qcow2]);
    let image = server.serve("/image", fs::read(qcow2).unwrap());
    let report = qhost.run(&["run", "--json", &qhost.job(&image, json!({}))]).exits(0).json();
    assert_eq!(report["image"]["format"], "qcow2");
    qhost.console_has("from qcow2");
}

#[test]
fn a_guest_that_panics() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Panic);
    let done = qhost.run(&["run", &job]).exits(20).says("the guest's kernel panicked");
    // The console's last lines are shown with the failure.
    done.says("the guest runs\n");
    qhost.assert_nothing_left();
}

#[test]
fn a_guest_that_ignores_its_power_button_is_made_to_quit() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    for (signal, args) in [("INT", ["run", "--grace", "0"]), ("TERM", ["run", "--grace", "1"])] {
        let running = qhost.start(&[&args[..], &[job.as_str()]].concat());
        qhost.console_has("the guest runs");
        running.signal(signal);
        let done = running.end().exits(130).says("pressing the guest's power button");
        done.says("the guest did not power off in time, QEMU quit");
        qhost.assert_nothing_left();
        fs::remove_dir_all(qhost.state().join("vms")).unwrap();
    }
}

#[test]
fn a_second_ctrl_c_hastens() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    // Without the second signal, this would take an hour.
    let running = qhost.start(&["run", "--grace", "3600", &job]);
    qhost.console_has("the guest runs");
    running.signal("INT");
    running.says("pressing the guest's power button");
    running.signal("INT");
    running.end().exits(130).says("QEMU quit");
    qhost.assert_nothing_left();
}

#[test]
fn a_stopped_qemu_is_killed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    let running = qhost.start(&["run", "--grace", "1", &job]);
    qhost.console_has("the guest runs");
    let qemu = qhost.qemus();
    succeed(
        "kill",
        &[&["-STOP"][..], &qemu.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
    );
    running.signal("INT");
    running.end().exits(130).says("QEMU had to be killed");
    qhost.assert_nothing_left();
}

#[test]
fn a_qemu_that_is_killed_is_a_failure() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    for (signal, says) in
        [("-KILL", "signal: 9"), ("-TERM", "QEMU was ended from outside: host-signal")]
    {
        let running = qhost.start(&["run", &job]);
        qhost.console_has("the guest runs");
        let qemu = qhost.qemus();
        assert_eq!(qemu.len(), 1, "one process, QEMU");
        succeed("kill", &[signal, &qemu[0]]);
        running.end().exits(20).says(says);
        qhost.assert_nothing_left();
        fs::remove_dir_all(qhost.state().join("vms")).unwrap();
    }
}

#[test]
fn a_qemu_that_crashes_while_it_is_stopped_is_a_failure() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    let running = qhost.start(&["run", "--grace", "60", &job]);
    qhost.console_has("the guest runs");
    let qemu = qhost.qemus();
    running.signal("INT");
    running.says("pressing the guest's power button");
    // For the first process of a namespace, no other signal from outside is a crash.
    succeed("kill", &["-KILL", &qemu[0]]);
    running.end().exits(20).says("signal: 9");
    qhost.assert_nothing_left();
}

/// A read from a standard input that never ends stands for every slow step of a decision.
#[test]
fn a_decision_can_be_interrupted() {
    let qhost = qhost();
    let mut command = qhost.command(&["run", "--json", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("qhost to catch SIGINT", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"))?;
        let caught = u64::from_str_radix(caught, 16).ok()?;
        (caught & 1 << (2 - 1) != 0).then_some(())
    });
    succeed("kill", &["-INT", &child.id().to_string()]);
    let status = wait_for("qhost to end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
}

#[test]
fn qemu_inherits_no_descriptor() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    let secret = qhost.file("secret", "of the agent");
    // A shell leaves a descriptor open, as an agent might.
    let script = format!("exec 9<{secret}; exec \"$0\" \"$@\"");
    let run = qhost.command(&["run", "--grace", "0", &job]);
    let mut command = command("sh");
    command.args(["-c", &script]).arg(run.get_program()).args(run.get_args());
    command.env_clear().envs(run.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.current_dir(qhost.folder()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    qhost.console_has("the guest runs");
    let qemu = qhost.qemus();
    let entries = fs::read_dir(format!("/proc/{}/fd", qemu[0])).unwrap().flatten();
    let open: Vec<_> = entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(!open.iter().any(|file| file.ends_with("secret")), "{open:?}");
    // The VM's supervisor does not keep the file open either.
    let supervisor = qhost.supervisors();
    let entries = fs::read_dir(format!("/proc/{}/fd", supervisor[0])).unwrap().flatten();
    let open: Vec<_> = entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(!open.iter().any(|file| file.ends_with("secret")), "{open:?}");
    succeed("kill", &["-INT", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_state_folder_that_others_may_write_to_is_refused() {
    let qhost = qhost();
    let job = qhost.job(&("http://127.0.0.1:1/x".into(), "0".repeat(64)), json!({}));
    fs::set_permissions(qhost.state(), fs::Permissions::from_mode(0o777)).unwrap();
    qhost.run(&["run", &job]).exits(2).says("(mode 777); use: chmod go-w");
}

/// A VM goes on without any command; the next command finds it as it is.
#[test]
fn a_vm_outlives_the_qhost_that_started_it() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    let running = qhost.start(&["run", &job]);
    qhost.console_has("the guest runs");
    running.signal("KILL");
    running.end();
    assert_eq!((qhost.qemus().len(), qhost.supervisors().len()), (1, 1));
    let found = qhost.run(&["inspect", "--json", "test"]).exits(0).json();
    assert_eq!(found["state"], "running");
    qhost.run(&["stop", "--grace", "0", "test"]).exits(0).says("exited");
    qhost.assert_nothing_left();
}

#[test]
fn qemu_gets_an_empty_environment() {
    let (qhost, server) = (qhost().env("SECRET_OF_THE_AGENT", "x"), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    let running = qhost.start(&["run", "--grace", "0", &job]);
    qhost.console_has("the guest runs");
    let qemu = qhost.qemus();
    let environment = fs::read(format!("/proc/{}/environ", qemu[0])).unwrap();
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
    running.signal("INT");
    running.end().exits(130);
}

#[test]
fn a_qemu_that_does_not_start_says_why() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[qemu]\nargs = [[\"-device\", \"no-such-device\"]]\n");
    let image = server.serve("/image", boot_sector::disk("never", Then::PowerOff));
    let job = qhost.job(&image, json!({"args": ["-device", "no-such-device"]}));
    qhost
        .run(&["run", &job])
        .exits(20)
        .says("QEMU did not start")
        .says("'no-such-device' is not a valid device model name");
    qhost.run(&["ps", "--all"]).exits(0).says("failed");
    qhost.assert_nothing_left();
}

#[test]
fn a_state_folder_with_a_long_and_odd_name() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::PowerOff);
    let state = format!("{}/a,b=c {}", qhost.folder().display(), "long".repeat(40));
    fs::create_dir(&state).unwrap();
    fs::copy(qhost.state().join("fingerprint.json"), format!("{state}/fingerprint.json")).unwrap();
    qhost.run(&["run", "--state-dir", &state, &job]).exits(0);
}

#[test]
fn ended_vms_are_kept_up_to_a_number() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::PowerOff);
    for number in 0..qhost_model::limits::ENDED_VMS + 5 {
        let folder = qhost.state().join(format!("vms/old-{number}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("lock"), "").unwrap();
    }
    qhost.run(&["run", &job]).exits(0);
    assert_eq!(qhost.vms().len(), qhost_model::limits::ENDED_VMS + 1);
}

/// A guest's write beyond its quota fails in the guest, without effect on the host's disk or QEMU.
#[test]
fn the_overlays_quota_stops_the_guests_writes() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let mut disk = boot_sector::disk("filling", Then::Fill);
    disk.resize(34 << 20, 0);
    let job = qhost.job(&server.serve("/image", disk), json!({}));
    for (toml, printed) in [("", 'K'), ("[overlay]\nmax_bytes = 4194304\n", 'F')] {
        qhost.config(toml);
        let report = qhost.run(&["run", "--json", &job]).exits(0).json();
        let console = fs::read_to_string(report["vm"]["console_log"].as_str().unwrap()).unwrap();
        let said = console.split("filling").nth(1).unwrap();
        assert!(said.ends_with(printed), "{toml:?}: {console}");
    }
    qhost.assert_nothing_left();
}

#[test]
fn an_overlay_is_kept_for_a_task_that_persists() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("run", Then::Count));
    let job = qhost.job(&image, json!({"persist": true}));
    qhost.run(&["run", &job]).exits(11).says("host.persist-not-allowed");
    qhost.config("[overlay]\npersist = true\n");
    let run = |job: &str, count: char| {
        let report = qhost.run(&["run", "--json", job]).exits(0).json();
        let console = fs::read_to_string(report["vm"]["console_log"].as_str().unwrap()).unwrap();
        assert!(console.ends_with(&format!("run\r\n{count}")), "{console}");
    };
    run(&job, '1');
    run(&job, '2');
    run(&job, '3');
    // The task without `persist` has a disk of its own, and so has another task.
    run(&qhost.job(&image, json!({})), '1');
    let job = qhost.job(&image, json!({"persist": true}));
    let other = fs::read_to_string(&job).unwrap().replace("\"test\"", "\"other\"");
    run(&qhost.file("other.json", other), '1');
    run(&job, '4');

    // The overlay's image is not removed.
    let used = qhost.run(&["image", "ls"]).exits(0);
    used.says("overlay:default/test").says("overlay:default/other");
    qhost.run(&["image", "rm", &image.1]).exits(2).says("is used by overlay:default/");
    qhost.run(&["image", "gc", "--max-bytes", "0"]).exits(0).says("0 B freed");

    // The overlay is not used over another image.
    let changed = server.serve("/changed", boot_sector::disk("changed", Then::Count));
    let changed = qhost.job(&changed, json!({"persist": true}));
    let refused = qhost.run(&["run", &changed]).exits(16).says("it lies over sha256:");
    let (_, name) = refused.stderr.trim().rsplit_once("qhost overlay rm ").expect("what to do");

    // A guest that broke into QEMU could make this of the overlay.
    let overlays = qhost.state().join("overlays");
    let mut folders = fs::read_dir(&overlays).unwrap().flatten().map(|entry| entry.path());
    let kept = folders.find(|path| path.to_str().unwrap().contains("/test-")).unwrap();
    let mut bytes = fs::read(kept.join("overlay.qcow2")).unwrap();
    bytes[79] = 4;
    fs::write(kept.join("overlay.qcow2"), bytes).unwrap();
    let job = qhost.job(&image, json!({"persist": true}));
    qhost.run(&["run", &job]).exits(16).says("qcow2-data-file");

    // The operator can remove the overlay.
    let list = qhost.run(&["overlay", "ls"]).exits(0).says(name).says("other");
    assert_eq!(list.stdout.lines().count(), 3, "{}", list.stdout);
    qhost.run(&["overlay", "rm", "../vms"]).exits(2).says("no overlay is kept by the name");
    qhost.run(&["overlay", "rm", name]).exits(0);
    run(&job, '1');
}

#[test]
fn a_kept_overlay_has_one_run_at_a_time() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[overlay]\npersist = true\n");
    let image = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
    let job = qhost.job(&image, json!({"persist": true}));
    let first = qhost.start(&["run", "--grace", "0", &job]);
    qhost.console_has("the guest runs");
    qhost.run(&["run", &job]).exits(16).says("another run of test has its kept overlay");
    let kept = qhost.run(&["overlay", "ls", "--json"]).exits(0).json()["overlays"][0].clone();
    assert_eq!(kept["in_use"], json!(true));
    let name = kept["name"].as_str().unwrap();
    qhost.run(&["overlay", "rm", name]).exits(16).says("another run of test has its kept overlay");
    first.signal("INT");
    first.end().exits(130);
}
