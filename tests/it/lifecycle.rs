//! From a detached start to an end: readiness and restarts of a job, and the commands around a running VM.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    time::Instant,
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    terminal::on_terminal,
    wait_for,
};

use crate::qhost;

/// A job that boots a sector, with more in its config.
fn job(qhost: &Qhost, server: &ImageServer, then: Then, more: Value) -> String {
    qhost.job(&server.serve("/image", boot_sector::disk("the guest runs", then)), more)
}

fn found(qhost: &Qhost) -> Value {
    qhost.run(&["inspect", "--json", "test"]).exits(0).json()
}

#[test]
fn detached_it_runs_on_and_is_stopped() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang, json!({"port_map": {"http": 80}}));
    let report = qhost.run(&["run", "--json", "--detach", &job]).exits(0).json();
    assert_eq!(report["vm"]["state"], "running");
    assert_eq!(report["vm"]["cage"], "strict");
    assert_eq!(report["vm"].get("end"), None);
    let supervisor = qhost.supervisors().remove(0);
    // The supervisor has a session of its own, so that it is no command's child, and no terminal's.
    let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap();
    assert_eq!(session, supervisor);
    qhost.run(&["stop", "--grace", "0", report["vm"]["id"].as_str().unwrap()]).exits(0);
}

#[test]
fn ready_by_a_text_on_the_serial_console() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let ready = json!({"ready": {"serial": "guest runs"}});
    let up = job(&qhost, &server, Then::Hang, ready);
    let report = qhost.run(&["run", "--json", "-d", "--wait-ready", &up]).exits(0).json();
    assert_eq!(report["vm"]["state"], "running");
    assert!(found(&qhost)["ready_at"].is_string());
    qhost.run(&["events"]).exits(0).says("ready").says("default/test");
    qhost.run(&["kill", "test"]).exits(0);
    // A VM that never is ready has failed.
    let never = json!({"ready": {"serial": "never said", "timeout_s": 1}});
    let never = job(&qhost, &server, Then::Hang, never);
    qhost
        .run(&["run", "-d", "--wait-ready", &never])
        .exits(20)
        .says("the guest was not ready within 1 s");
    // A port of a guest without a network accepts, and says nothing.
    let port = json!({"port_map": {"http": 80}, "ready": {"tcp": "http", "timeout_s": 1}});
    let port = job(&qhost, &server, Then::Hang, port);
    qhost.run(&["run", "-d", "--wait-ready", &port]).exits(20).says("not ready within 1 s");
    let none = job(&qhost, &server, Then::Hang, json!({}));
    qhost.run(&["run", "-d", "--wait-ready", &none]).exits(2).says("has no ready check");
    qhost.run(&["run", "--wait-ready", &none]).exits(2).says("--detach");
    qhost.assert_nothing_left();
}

#[test]
fn restarted_by_its_policy_up_to_a_cap() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let restart = json!({"policy": "on-failure", "attempts": 2, "delay_s": 0});
    let failing = job(&qhost, &server, Then::Panic, json!({ "restart": restart }));
    qhost.run(&["run", &failing]).exits(20).says("restart 1 of 2 in 0 s").says("restart 2 of 2");
    let vm = found(&qhost);
    assert_eq!((&vm["state"], &vm["restarts"]), (&json!("failed"), &json!(2)));
    // The restarted guest has the same disk, on which it counts its starts.
    let restart = json!({"policy": "always", "attempts": 2, "delay_s": 0});
    let counting = job(&qhost, &server, Then::Count, json!({ "restart": restart }));
    let report = qhost.run(&["run", "--json", &counting]).exits(0).json();
    let console = fs::read_to_string(report["vm"]["console_log"].as_str().unwrap()).unwrap();
    // Behind each count comes the firmware's text of the next start.
    let starts = console.split("the guest runs\r\n").skip(1);
    let counts: String = starts.filter_map(|start| start.chars().next()).collect();
    assert_eq!(counts, "123");
    // A guest that shuts down did not fail.
    let restart = json!({"policy": "on-failure", "delay_s": 0});
    let done = job(&qhost, &server, Then::PowerOff, json!({ "restart": restart }));
    let report = qhost.run(&["run", "--json", &done]).exits(0).json();
    assert_eq!(report["vm"]["end"]["reason"], "shut-down");
    qhost.assert_nothing_left();
}

/// A guest that fails at once would keep its host busy with starts, for whatever its job asks.
#[test]
fn further_restarts_wait_whatever_the_job_says() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let restart = json!({"policy": "on-failure", "attempts": 1_000_000, "delay_s": 0});
    let failing = job(&qhost, &server, Then::Panic, json!({ "restart": restart }));
    let run = qhost.start(&["run", &failing]);
    run.says("restart 3 of 1000000 in 0 s");
    run.says("restart 4 of 1000000 in 1 s");
    run.says("restart 5 of 1000000 in 2 s");
    qhost.run(&["kill", "test"]).exits(0);
    run.end().exits(130);
}

/// A VM that waits for its next start can be stopped; after a requested stop it is not restarted.
#[test]
fn stopped_it_is_not_restarted() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let restart = json!({"policy": "always", "delay_s": 3600, "max_delay_s": 3600});
    let waiting = job(&qhost, &server, Then::PowerOff, json!({ "restart": restart }));
    qhost.run(&["run", "--detach", &waiting]).exits(0);
    wait_for("the wait", || {
        let vm = found(&qhost);
        (vm["state"] == "starting" && vm["restarts"] == 1).then_some(())
    });
    qhost.run(&["stop", "test"]).exits(0).says("exited").says("stopped before the guest ran");
    let restart = json!({"policy": "always", "delay_s": 0});
    let hanging = job(&qhost, &server, Then::Hang, json!({ "restart": restart }));
    let report = qhost.run(&["run", "--json", "--detach", &hanging]).exits(0).json();
    let id = report["vm"]["id"].as_str().unwrap();
    qhost.run(&["kill", id]).exits(0).says("QEMU had to be killed");
    qhost.run(&["wait", id]).exits(0);
    qhost.assert_nothing_left();
}

#[test]
fn restart_keeps_the_disk_of_what_runs_and_begins_what_has_ended_anew() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang, json!({"port_map": {"http": 80}}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    let before = found(&qhost);
    qhost.run(&["restart", "--grace", "0", "test"]).exits(0).says("running");
    let after = found(&qhost);
    assert_ne!(before["qemu"]["pid"], after["qemu"]["pid"]);
    assert_eq!(before["supervisor"]["pid"], after["supervisor"]["pid"]);
    assert_eq!(before["takes"]["forwards"], after["takes"]["forwards"]);
    qhost.run(&["kill", "test"]).exits(0);
    qhost.assert_nothing_left();
    qhost.run(&["restart", "test"]).exits(0).says("running");
    let again = found(&qhost);
    assert_eq!(again["id"], after["id"]);
    assert_eq!(again["takes"]["forwards"], after["takes"]["forwards"], "the same ports");
    qhost.run(&["rm", "test"]).exits(2).says("has not ended");
    // The VM's own place in a quota is enough for its restart.
    qhost.run(&["kill", "test"]).exits(0);
    qhost.config("[host.quota]\nvms = 1\n");
    qhost.run(&["restart", "test"]).exits(0).says("running");
    // A VM whose port is taken stays as it was.
    qhost.run(&["kill", "test"]).exits(0);
    let port = after["takes"]["forwards"][0]["host"].as_u64().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    qhost.run(&["restart", "test"]).exits(16).says(&format!("host port {port}"));
    drop(taken);
    assert_eq!(found(&qhost)["state"], "exited");
}

#[test]
fn paused_and_resumed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang, json!({}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    // The commands are more frequent than QEMU itself may report pauses.
    for _ in 0..3 {
        qhost.run(&["pause", "test"]).exits(0);
        qhost.run(&["ps"]).exits(0).says("paused");
        qhost.run(&["resume", "--json", "test"]).exits(0);
        assert_eq!(found(&qhost)["state"], "running");
    }
    qhost.run(&["pause", "test"]).exits(0);
    qhost.run(&["stop", "--grace", "0", "test"]).exits(0).says("QEMU quit");
}

/// A guest that does not power off has its grace period once, and not twice.
#[test]
fn a_deaf_guest_has_its_grace_once() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang, json!({}));
    qhost.run(&["run", "--detach", "--grace", "3600", &job]).exits(0);
    let began = Instant::now();
    qhost.run(&["stop", "--grace", "2", "test"]).exits(0).says("QEMU quit");
    let took = began.elapsed().as_secs_f64();
    assert!(took >= 2.0, "{took}");
    // The VM's own records tell how long the grace was, on however busy a machine.
    let changes = found(&qhost)["changes"].as_array().unwrap().clone();
    let at = |state: &str| {
        let change = changes.iter().find(|change| change["state"] == state).expect("the state");
        change["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let stopping = at("exited").duration_since(at("stopping")).as_secs_f64();
    assert!((2.0..3.9).contains(&stopping), "{stopping} s");
}

#[test]
fn what_it_uses_and_what_happened() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(
        &qhost,
        &server,
        Then::Count,
        json!({"restart": {"policy": "always", "delay_s": 3600}}),
    );
    let hang = qhost.file("hang.json", {
        let image = server.serve("/hang", boot_sector::disk("here", Then::Hang));
        let text =
            fs::read_to_string(qhost.job(&image, json!({"port_map": {"http": 80}}))).unwrap();
        text.replace("\"test\"", "\"hang\"")
    });
    qhost.run(&["run", "--detach", &job]).stdout.clear();
    qhost.run(&["run", "--detach", &hang]).exits(0);
    qhost.console_has("here");
    let read = |disk: &Value| disk["read_bytes"].as_u64() > Some(0);
    let vm = &wait_for("the boot sector to be read", || {
        let vm = qhost.run(&["stats", "--json", "hang"]).exits(0).json()["vms"][0].clone();
        vm["disks"].as_array().unwrap().iter().any(read).then_some(vm)
    });
    assert_eq!(vm["task"], "hang");
    assert!(vm["cpu_ms"].is_u64() && vm["resident_bytes"].as_u64() > Some(20 << 20), "{vm}");
    assert!(vm["cgroup"]["memory_bytes"].as_u64() > Some(1 << 20), "{vm}");
    assert_eq!(vm["connections"], 0);
    // An open connection to a forwarded port is counted.
    let port = qhost.run(&["inspect", "--json", "hang"]).exits(0).json();
    let port = port["takes"]["forwards"][0]["host"].as_u64().unwrap();
    let _open = std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    wait_for("the connection", || {
        let stats = qhost.run(&["stats", "--json", "hang"]).exits(0).json();
        (stats["vms"][0]["connections"].as_u64() > Some(0)).then_some(())
    });
    qhost.run(&["stats"]).exits(0).says("CPU TIME").says("hang-");
    let follow = qhost.start(&["events", "--follow", "--json"]);
    follow.says("\"event\":\"running\"");
    qhost.run(&["kill", "hang"]).exits(0);
    follow.says("\"event\":\"exited\"");
    qhost.run(&["events", "--since", "1h"]).exits(0).says("created").says("default/hang");
    let none = qhost.run(&["events", "--since", "2999-01-01T00:00:00Z"]).exits(0);
    assert_eq!(none.stdout, "");
    qhost.run(&["events", "--since", "yesterday"]).exits(2).says("how long ago");
    qhost.run(&["stats", "hang"]).exits(2).says("has ended");
    qhost.run(&["kill", "test"]).exits(0);
}

#[test]
fn logs_since() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Hang, json!({}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    qhost.console_has("the guest runs");
    qhost.run(&["logs", "--since", "1h", "test"]).exits(0).says("the guest runs");
    let later = qhost.run(&["logs", "--since", "2999-01-01T00:00:00Z", "test"]).exits(0);
    assert_eq!(later.stdout, "");
    qhost.run(&["kill", "test"]).exits(0);
}

/// The typed text reaches the guest, which echoes it.
#[test]
fn attached_to_the_console() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Echo, json!({}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    qhost.console_has("the guest runs");
    let mut attached = qhost.command(&["console", "test"]);
    attached.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut attached = attached.spawn().unwrap();
    let mut typed = attached.stdin.take().unwrap();
    let mut said = BufReader::new(attached.stdout.take().unwrap());
    // Text that is typed before the console is open is lost, so that it is typed again until the echo.
    wait_for("the echo", || {
        typed.write_all(b"x").unwrap();
        let log = fs::read_to_string(qhost.vms()[0].join("console.log")).unwrap();
        log.contains("x").then_some(())
    });
    let mut heard = vec![];
    said.read_until(b'x', &mut heard).unwrap();
    assert_eq!(heard.last(), Some(&b'x'));
    typed.write_all(b"yz\x1d not typed").unwrap();
    assert!(attached.wait().unwrap().success());
    let log = qhost.console_has("yz");
    assert!(!log.contains("not"), "{log}");
    qhost.run(&["kill", "test"]).exits(0);
    qhost.run(&["console", "test"]).exits(2).says("has ended");
}

/// Attaching to a console asks for it as it is: on a terminal, too, what the guest says reaches the terminal byte for byte.
#[test]
fn attached_to_the_console_on_a_terminal() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Echo, json!({}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    qhost.console_has("the guest runs");
    let shown = qhost.folder().join("shown");
    let mut attached = on_terminal(&qhost, 80, &["console", "test"]);
    attached.stdin(Stdio::piped()).stdout(fs::File::create(&shown).unwrap());
    let mut attached = attached.spawn().unwrap();
    let mut typed = attached.stdin.take().unwrap();
    const STEERS: &[u8] = b"\x1b[31m\x07\xc3\xa9";
    // Text that is typed before the console is open is lost, so that it is typed again until the echo.
    wait_for("the echo", || {
        typed.write_all(STEERS).unwrap();
        let shown = fs::read(&shown).unwrap();
        shown.windows(STEERS.len()).any(|here| here == STEERS).then_some(())
    });
    typed.write_all(b"\x1d").unwrap();
    attached.wait().unwrap();
    qhost.run(&["kill", "test"]).exits(0);
}

/// A guest that says nothing but nonsense, as fast as it can, neither stops nor fills the disk.
#[test]
fn a_flooded_console() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let job = job(&qhost, &server, Then::Flood, json!({}));
    qhost.run(&["run", "--detach", &job]).exits(0);
    let said = |qhost: &Qhost| {
        let vm = qhost.vms().remove(0);
        let bytes = |name| fs::metadata(vm.join(name)).map_or(0, |file| file.len());
        (bytes("console.log"), bytes("console.log.1"))
    };
    let (first, _) = wait_for("the flood", || Some(said(&qhost)).filter(|said| said.0 > 1 << 16));
    wait_for("more of it", || (said(&qhost) > (first, 0)).then_some(()));
    let (log, old) = said(&qhost);
    assert!(log.max(old) <= qhost_vm::limits::CONSOLE_LOG_BYTES + (1 << 20), "{log} {old}");
    qhost.run(&["stop", "--grace", "0", "test"]).exits(0);
}

/// The `kill_timeout` of a Nomad job is the guest's time to power off, before QEMU is told to quit.
#[test]
fn a_nomad_jobs_kill_timeout_is_the_grace() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (url, sha256) = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
    let task = json!({
        "Name": "test", "Driver": "qemu", "KillTimeout": 1_000_000_000,
        "Config": {"image_source": url, "checksum": sha256}, "Resources": {"MemoryMB": 32},
    });
    let nomad = json!({"Job": {"ID": "test", "TaskGroups": [{"Name": "test", "Tasks": [task]}]}});
    let job = qhost.file("nomad.json", nomad.to_string());
    qhost.run(&["run", "--detach", &job]).exits(0);
    let began = Instant::now();
    qhost.run(&["stop", "test"]).exits(0).says("the guest did not power off in time, QEMU quit");
    // Without the job's value, a guest has 30 s.
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
    qhost.assert_nothing_left();
}

/// A disk with nothing on it: the firmware says so on the console, and a guest that never begins is not waited for.
#[test]
fn an_image_that_does_not_boot() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/empty", vec![0; 1 << 20]);
    let run = |more: Value| qhost.run(&["run", "-d", "--wait-ready", &qhost.job(&image, more)]);
    let never = run(json!({"ready": {"serial": "never said", "timeout_s": 3600}})).exits(20);
    never.says("the firmware found no bootable device");
    let log = qhost.run(&["logs", "test"]).exits(0);
    assert!(log.stdout.contains("SeaBIOS"), "{}", log.stdout);
    qhost.run(&["run", "-d", &qhost.job(&image, json!({}))]).exits(0);
    wait_for("the firmware", || found(&qhost)["boot_failed_at"].is_string().then_some(()));
    let told = qhost.run(&["inspect", "test"]).exits(0);
    assert!(
        told.stdout.contains("boot       the firmware found no bootable device"),
        "{}",
        told.stdout
    );
    let events = qhost.run(&["events"]).exits(0);
    assert!(events.stdout.contains("boot-failed"), "{}", events.stdout);
    qhost.run(&["kill", "test"]).exits(0);
}
