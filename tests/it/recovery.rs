//! Recovery after kills: at each step of a launch and of a stop, the process that does that step is killed.

use std::fs;

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost, Running,
    boot_sector::{self, Then},
    named_points, succeed, wait_for,
};

use crate::qhost;

fn job(qhost: &Qhost, server: &ImageServer, more: Value) -> String {
    qhost.job(&server.serve("/image", boot_sector::disk("the guest runs", Then::Hang)), more)
}

fn vms(qhost: &Qhost) -> Vec<Value> {
    let list = qhost.run(&["ps", "--all", "--json"]).exits(0).json();
    list["vms"].as_array().unwrap().clone()
}

/// Checks the state after a kill: VMs that are said to run do, others are said to have ended, and the same job runs again.
fn settles(qhost: &Qhost, job: &str) {
    for vm in vms(qhost) {
        let (id, state) = (vm["id"].as_str().unwrap(), vm["state"].as_str().unwrap());
        match state {
            // The VM's supervisor may be just about to begin.
            "fetching" | "starting" | "running" | "stopping" => {
                wait_for("a supervisor", || (qhost.supervisors().len() == 1).then_some(()));
                let pid = vm["qemu"]["pid"].as_u64().map(|pid| pid.to_string());
                if let Some(pid) = pid.filter(|_| state == "running") {
                    assert!(qhost.qemus().contains(&pid), "{vm}");
                }
                qhost.run(&["kill", id]).code.to_string();
                qhost.run(&["wait", "--timeout", "30", id]).code.to_string();
            }
            "exited" | "failed" | "lost" => {}
            _ => panic!("{vm}"),
        }
    }
    qhost.assert_nothing_left();
    // The VM's port, its disk and its place in the quota are free.
    qhost.run(&["run", "--detach", job]).exits(0);
    let going_on = qhost.run(&["ps", "--json"]).exits(0).json();
    assert_eq!(going_on["vms"].as_array().unwrap().len(), 1, "{going_on}");
    let id = going_on["vms"][0]["id"].as_str().unwrap().to_owned();
    qhost.run(&["kill", &id]).exits(0);
    qhost.assert_nothing_left();
}

fn setup(qhost: &Qhost, server: &ImageServer) -> String {
    qhost.config("[host.quota]\nvms = 1\n[overlay]\npersist = true\n");
    job(
        qhost,
        server,
        json!({"persist": true, "port_map": {"http": {"guest": 80, "host": free_port()}}}),
    )
}

/// A port that is free now, and that this test alone asks for.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a VM; the process that reaches this point of a launch kills itself there.
fn killed_at(point: &str) {
    let server = ImageServer::start();
    let qhost = reaching(point);
    let job = setup(&qhost, &server);
    let output = qhost.command(&["run", "--detach", &job]).output().unwrap();
    assert!(was_reached(&qhost, point), "{point} was not reached: {output:?}");
    settles(&qhost.env("QHOST_KILL_AT", "nowhere"), &job);
}

/// A host on which the process that reaches this point writes that down and kills itself.
fn reaching(point: &str) -> Qhost {
    let qhost = qhost().env("QHOST_KILL_AT", point);
    let times = qhost.folder().join("times").display().to_string();
    qhost.env("QHOST_TIMES_OF_POINTS", &times)
}

fn was_reached(qhost: &Qhost, point: &str) -> bool {
    let times = fs::read_to_string(qhost.folder().join("times")).unwrap();
    times.lines().any(|line| line.starts_with(&format!("{point} ")))
}

/// Stops a VM that was started without kills; the process that reaches this point of a stop kills itself there.
fn killed_while_stopping_at(point: &str) {
    let server = ImageServer::start();
    let qhost = reaching(point);
    let job = setup(&qhost, &server);
    let started = qhost.run(&["run", "--json", "--detach", &job]).exits(0).json();
    let id = started["vm"]["id"].as_str().unwrap();
    let supervisor = qhost.supervisors();
    // The command that stops the VM finds the supervisor killed, and another one goes on.
    let qhost = qhost.env("QHOST_KILL_AT", "nowhere");
    if point == "stop.kill" {
        for qemu in qhost.qemus() {
            succeed("kill", &["-STOP", &qemu]);
        }
    }
    qhost.run(&["stop", "--grace", "1", id]).exits(0);
    assert!(was_reached(&qhost, point), "{point} was not reached");
    let vm = qhost.run(&["inspect", "--json", id]).exits(0).json();
    let state = vm["state"].as_str().unwrap();
    assert!(["exited", "failed", "lost"].contains(&state), "{vm}");
    assert!(!qhost.supervisors().contains(&supervisor[0]));
    let events = qhost.run(&["events", "--json"]).exits(0).stdout;
    let adopted = events.contains("\"adopted\"");
    let after_its_end = ["stop.ended", "stop.recorded", "stop.swept"].contains(&point);
    assert_eq!(adopted, !after_its_end, "{point}: {events}");
    if ["stop.recorded", "stop.swept"].contains(&point) {
        assert_eq!(state, "exited", "it was written down");
    }
    settles(&qhost, &job);
}

/// The run that would hear the stop was killed, and its supervisor has not yet begun: the command asks again.
#[test]
fn a_stop_that_was_not_heard() {
    let server = ImageServer::start();
    let qhost = reaching("launch.supervisor").env("QHOST_SLOW_AT", "supervise.begun=2000");
    let job = setup(&qhost, &server);
    qhost.command(&["run", "--detach", &job]).output().unwrap();
    assert_eq!(vms(&qhost)[0]["state"], "fetching");
    let stop = qhost.start(&["stop", "--json", "--grace", "1", "test"]);
    wait_for("its end", || qhost.supervisors().is_empty().then_some(()));
    assert_eq!(stop.end().exits(0).json()["vms"][0]["state"], "exited");
    qhost.assert_nothing_left();
}

macro_rules! points {
    ($($function:ident: $($name:ident = $point:literal),+;)+) => {
        $($(#[test] fn $name() { $function($point); })+)+
        /// Every point of the code, except those of the image store, which has tests of its own.
        const POINTS: &[&str] = &[$($($point),+),+];
    };
}

points! {
    killed_at:
        launch_reserved = "launch.reserved",
        launch_written = "launch.written",
        launch_supervisor = "launch.supervisor",
        supervise_begun = "supervise.begun",
        launch_starting = "launch.starting",
        launch_opened = "launch.opened",
        launch_spawned = "launch.spawned",
        cage_left = "cage.left",
        launch_caged = "launch.caged",
        launch_recorded = "launch.recorded",
        launch_go = "launch.go",
        launch_greeted = "launch.greeted",
        launch_negotiated = "launch.negotiated",
        launch_running = "launch.running";
    killed_while_stopping_at:
        stop_powerdown = "stop.powerdown",
        stop_quit = "stop.quit",
        stop_kill = "stop.kill",
        stop_ended = "stop.ended",
        stop_recorded = "stop.recorded",
        stop_swept = "stop.swept";
    killed_while_recovering_at:
        recover_held = "recover.held";
}

#[test]
fn every_point_has_a_test() {
    let tested = POINTS.iter().map(|point| (*point).to_owned()).collect();
    assert_eq!(named_points("launch|supervise|cage|stop|recover"), tested);
}

/// A command that adopts is killed before it has: the next one adopts.
fn killed_while_recovering_at(point: &str) {
    let server = ImageServer::start();
    let qhost = qhost();
    let job = setup(&qhost, &server);
    qhost.run(&["run", "--detach", &job]).exits(0);
    let qemu = qhost.qemus();
    qhost.kill_supervisor();
    let qhost = qhost.env("QHOST_KILL_AT", point);
    let output = qhost.command(&["ps"]).output().unwrap();
    assert_eq!(output.status.code(), None, "it was killed");
    let qhost = qhost.env("QHOST_KILL_AT", "nowhere");
    assert_eq!(vms(&qhost)[0]["state"], "running");
    assert_eq!(qhost.qemus(), qemu);
    settles(&qhost, &job);
}

#[test]
fn a_killed_supervisor_is_followed_by_another() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = setup(&qhost, &server);
    let run = qhost.start(&["run", "--json", &job]);
    qhost.console_has("the guest runs");
    let qemu = qhost.qemus();
    for _ in 0..3 {
        let supervisor = qhost.supervisors().remove(0);
        succeed("kill", &["-KILL", &supervisor]);
        // The command that waits for the VM adopts it, or this one does.
        wait_for("another", || {
            qhost.run(&["ps"]).exits(0);
            let now = qhost.supervisors();
            (now.len() == 1 && now[0] != supervisor).then_some(())
        });
        assert_eq!(qhost.qemus(), qemu, "the VM ran on");
    }
    // All resources of the VM are held again.
    qhost.run(&["run", &job]).exits(16).says("host port").says("is taken");
    qhost.run(&["image", "gc", "--max-bytes", "0"]).exits(0).says("0 B freed");
    qhost.run(&["stop", "--grace", "0", "test"]).exits(0);
    assert_eq!(run.end().exits(130).json()["vm"]["end"]["by"], "quit");
    qhost.assert_nothing_left();
}

/// Many commands at once come to a VM without a supervisor: the VM gets one.
#[test]
fn commands_at_once_adopt_once() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = setup(&qhost, &server);
    qhost.run(&["run", "--detach", &job]).exits(0);
    for _ in 0..3 {
        qhost.kill_supervisor();
        let commands: Vec<Running> = (0..8).map(|_| qhost.start(&["ps", "--json"])).collect();
        for command in commands {
            let list = command.end().exits(0).json();
            assert_eq!(list["vms"][0]["state"], "running", "{list}");
        }
        assert_eq!(qhost.supervisors().len(), 1);
    }
    // Two commands end the VM at once.
    let stops = [qhost.start(&["stop", "--grace", "0", "test"]), qhost.start(&["kill", "test"])];
    let codes = stops.map(|stop| stop.end().code);
    assert!(codes.contains(&0), "{codes:?}");
    qhost.assert_nothing_left();
}

/// A stopped VM's grace goes on under the supervisor that adopts it.
#[test]
fn an_adopted_stop_goes_on() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = setup(&qhost, &server);
    let run = qhost.start(&["run", "--grace", "2", &job]);
    qhost.console_has("the guest runs");
    run.signal("INT");
    run.says("pressing the guest's power button");
    succeed("kill", &["-KILL", &qhost.supervisors()[0]]);
    run.end().exits(130);
    let vm = qhost.run(&["inspect", "--json", "test"]).exits(0).json();
    assert_eq!(vm["ended"]["by"], "quit", "{vm}");
    qhost.assert_nothing_left();
}

/// A power cut while QEMU starts may leave any record of the launch empty. Such a VM is lost, and keeps nothing else from its work.
#[test]
fn after_a_power_cut() {
    const RECORDS: [&str; 4] = ["status.json", "plan.json", "task.json", "decision.json"];
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, json!({"port_map": {"http": 80}}));
    let started = || {
        let report = qhost.run(&["run", "--detach", "--json", &job]).exits(0).json();
        report["vm"]["id"].as_str().unwrap().to_owned()
    };
    let vms: Vec<_> = (0..=RECORDS.len()).map(|_| started()).collect();
    qhost.as_after_a_reboot();
    for (number, vm) in vms.iter().enumerate() {
        let folder = qhost.state().join("vms").join(vm);
        for (_, record) in
            RECORDS.iter().enumerate().filter(|(at, _)| *at == number || number == RECORDS.len())
        {
            fs::write(folder.join(record), "").unwrap();
        }
    }
    let recovered = qhost.run(&["recover", "--json"]).exits(0).json();
    assert_eq!(recovered["lost"].as_array().unwrap().len(), vms.len(), "{recovered}");
    let again = qhost.run(&["recover", "--json"]).exits(0).json();
    assert_eq!(again["lost"], json!([]), "{again}");
    for vm in &vms {
        assert_eq!(qhost.run(&["inspect", "--json", vm]).exits(0).json()["state"], "lost", "{vm}");
    }
    qhost.assert_nothing_left();
    // The decisions are in the journal, which is synced before anything is done.
    let decisions = qhost.run(&["decisions", "--json"]).exits(0).json();
    assert_eq!(decisions["decisions"].as_array().unwrap().len(), vms.len(), "{decisions}");
    let again = started();
    qhost.run(&["kill", &again]).exits(0);
    // A VM that lacks only its status is started again.
    qhost.run(&["restart", &vms[0]]).exits(0);
    qhost.run(&["kill", &vms[0]]).exits(0);
    qhost
        .run(&[&["rm"][..], &vms.iter().map(String::as_str).collect::<Vec<_>>()].concat())
        .exits(0);
    assert_eq!(qhost.vms().len(), 1);
}

/// After a reboot the recorded processes are gone: VMs are lost, and their restart policies apply with `qhost recover`.
#[test]
fn after_a_reboot() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let restart =
        json!({"restart": {"policy": "on-failure", "delay_s": 0}, "port_map": {"http": 80}});
    let wants_not = fs::read_to_string(job(&qhost, &server, json!({}))).unwrap();
    let wants_not = qhost.file("other.json", wants_not.replace("\"test\"", "\"other\""));
    let wants = job(&qhost, &server, restart);
    qhost.run(&["run", "--detach", &wants]).exits(0);
    qhost.run(&["run", "--detach", &wants_not]).exits(0);
    qhost.as_after_a_reboot();
    let recovered = qhost.run(&["recover", "--json"]).exits(0).json();
    assert_eq!(recovered["lost"].as_array().unwrap().len(), 2, "{recovered}");
    assert_eq!(recovered["restarted"].as_array().unwrap().len(), 1, "{recovered}");
    assert_eq!(qhost.run(&["inspect", "--json", "test"]).exits(0).json()["state"], "running");
    assert_eq!(qhost.run(&["inspect", "--json", "other"]).exits(0).json()["state"], "lost");
    qhost.run(&["inspect", "other"]).exits(0).says("the host was restarted while it ran");
    assert_eq!(qhost.qemus().len(), 1);
    // A second recovery has nothing to do.
    let again = qhost.run(&["recover", "--json"]).exits(0).json();
    assert_eq!(again, json!({"adopted": [], "lost": [], "restarted": [], "failed": []}));
    qhost.run(&["kill", "test"]).exits(0);
    qhost.assert_nothing_left();
}
