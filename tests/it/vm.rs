//! Real VMs from boot sectors: how they end, how they are stopped, and that nothing is left.

use std::{fs, net::TcpListener};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    qhost::processes_in,
    succeed, wait_for,
};
use serde_json::json;

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
    assert_eq!(status["state"], "ended");
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
    // The console's last lines are shown with it.
    done.says("  the guest runs");
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
    // Without the second one, this would take an hour.
    let running = qhost.start(&["run", "--grace", "3600", &job]);
    qhost.console_has("the guest runs");
    running.signal("INT");
    std::thread::sleep(std::time::Duration::from_millis(300));
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
    let qemu = processes_in(&qhost.state());
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
        let qemu = processes_in(&qhost.state());
        assert_eq!(qemu.len(), 1, "one process, QEMU");
        succeed("kill", &[signal, &qemu[0]]);
        running.end().exits(20).says(says);
        qhost.assert_nothing_left();
        fs::remove_dir_all(qhost.state().join("vms")).unwrap();
    }
}

#[test]
fn qemu_dies_with_a_killed_qhost_and_the_next_run_sweeps() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    let running = qhost.start(&["run", &job]);
    qhost.console_has("the guest runs");
    running.signal("KILL");
    running.end();
    wait_for("QEMU to die", || processes_in(&qhost.state()).is_empty().then_some(()));
    let abandoned = qhost.vms().remove(0);
    assert!(abandoned.join("overlay.qcow2").exists(), "killed, qhost cannot clean up");
    qhost.run(&["run", &self::job(&qhost, &server, Then::PowerOff)]).exits(0);
    qhost.assert_nothing_left();
    let status: serde_json::Value =
        serde_json::from_slice(&fs::read(abandoned.join("status.json")).unwrap()).unwrap();
    assert_eq!(status["state"], "lost", "its records stay, and tell the truth");
}

#[test]
fn qemu_gets_an_empty_environment() {
    let (qhost, server) = (qhost().env("SECRET_OF_THE_AGENT", "x"), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang);
    let running = qhost.start(&["run", "--grace", "0", &job]);
    qhost.console_has("the guest runs");
    let qemu = processes_in(&qhost.state());
    let environment = fs::read(format!("/proc/{}/environ", qemu[0])).unwrap();
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
    running.signal("INT");
    running.end().exits(130);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    let image = server.serve("/image", boot_sector::disk("never", Then::PowerOff));
    let job = qhost.job(&image, json!({"port_map": {"http": {"guest": 80, "host": taken}}}));
    qhost
        .run(&["run", &job])
        .exits(16)
        .says(&format!("host port {taken} (tcp on 127.0.0.1) is taken"));
    assert_eq!(server.requests(), [""; 0], "known before the image is fetched");
    assert!(qhost.vms().is_empty());
}

#[test]
fn ports_are_picked_within_what_is_allowed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("up", Then::PowerOff));
    let first =
        TcpListener::bind("127.0.0.1:23950").map(|taken| (taken, 23950)).expect("a free port");
    qhost.config("[ports]\nallow = [\"23950-23952\"]\n");
    let ports = json!({"a": 80, "b": {"guest": 81, "protocol": "udp"}, "c": 82});
    let report = qhost
        .run(&["run", "--json", &qhost.job(&image, json!({"port_map": ports}))])
        .exits(0)
        .json();
    let forwards = report["vm"]["ports"].as_array().expect("ports");
    let host = |label: &str| {
        let forward = forwards.iter().find(|forward| forward["label"] == label).expect("the port");
        forward["host"].as_u64().expect("a number")
    };
    assert_eq!([host("a"), host("b"), host("c")], [23951, 23950, 23952]);
    let too_many = json!({"a": 80, "b": 81, "c": 82});
    qhost
        .run(&["run", &qhost.job(&image, json!({"port_map": too_many}))])
        .exits(16)
        .says("no host port is free");
    drop(first);
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
    assert!(qhost.vms().is_empty(), "nothing half-made is left");
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
    for number in 0..qhost::limits::ENDED_VMS + 5 {
        let folder = qhost.state().join(format!("vms/old-{number}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("lock"), "").unwrap();
    }
    qhost.run(&["run", &job]).exits(0);
    assert_eq!(qhost.vms().len(), qhost::limits::ENDED_VMS + 1);
}
