//! Chance against qhost: VMs are started, stopped, killed, stopped in their tracks, robbed of disk and ports, and their supervisors are
//! killed, for some minutes; then no trace of them may be left. A seed makes a failure repeatable: `QHOST_CHAOS_SEED`,
//! `QHOST_CHAOS_SECONDS`.

use std::{
    env, fs,
    net::{TcpListener, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost, Running,
    boot_sector::{self, Then},
    can_filter, command,
    disk::SmallDisk,
    succeed, wait_for,
};

use crate::qhost;

const VMS: usize = 20;

/// Xorshift: no library is needed for a die.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.roll(of.len())])
    }
}

fn signal(signal: &str, pid: &str) {
    // The process may be gone already, which is part of the game.
    let sent = command("kill").args([signal, pid]).stderr(std::process::Stdio::null()).status();
    sent.unwrap();
}

fn going_on(qhost: &Qhost) -> Vec<String> {
    let list = qhost.run(&["ps", "--json"]).exits(0).json();
    list["vms"].as_array().unwrap().iter().map(|vm| vm["id"].as_str().unwrap().to_owned()).collect()
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nothing_is_left_and_every_record_is_true() {
    let seed = number("QHOST_CHAOS_SEED", 20_261_124);
    let seconds = number("QHOST_CHAOS_SECONDS", 60);
    eprintln!("chaos: seed {seed}, {seconds} s");
    let mut dice = Dice(seed);
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(&format!(
        "[overlay]\nmax_bytes = 8388608\n[network]\ninternet = true\n{}",
        qhost.cage_for_udp()
    ));
    let disk = SmallDisk::under(&qhost, 320);
    let jobs = jobs(&qhost, &server);
    for job in &jobs {
        // The images are stored beforehand, since a fetch needs room, and other tests cover it.
        qhost.run(&["run", "--detach", "--grace", "0", job]).exits(0);
    }
    let outside = bystander(&qhost);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut commands: Vec<Running> = vec![];
    let mut stopped: Vec<String> = vec![];
    let mut deeds = [0_u32; 12];
    while Instant::now() < end {
        let deed = dice.roll(deeds.len());
        deeds[deed] += 1;
        let vms = going_on(&qhost);
        match deed {
            0 | 1 if vms.len() < VMS => {
                let job = dice.pick(&jobs).unwrap().as_str();
                let detached = ["run", "--detach", "--grace", "1", job];
                let args =
                    if dice.roll(2) == 0 { &detached[..] } else { &["run", "--grace", "1", job] };
                commands.push(qhost.start(args));
            }
            2 => commands
                .extend(dice.pick(&vms).map(|vm| qhost.start(&["stop", "--grace", "1", vm]))),
            3 => commands.extend(dice.pick(&vms).map(|vm| qhost.start(&["kill", vm]))),
            4 => commands
                .extend(dice.pick(&vms).map(|vm| qhost.start(&["restart", "--grace", "0", vm]))),
            5 => {
                if let Some(command) = dice.pick(&commands) {
                    command.try_signal("KILL");
                }
            }
            6 => dice.pick(&qhost.supervisors()).into_iter().for_each(|pid| signal("-KILL", pid)),
            7 => dice.pick(&qhost.qemus()).into_iter().for_each(|pid| signal("-KILL", pid)),
            8 => {
                let all = [qhost.supervisors(), qhost.qemus()].concat();
                if let Some(pid) = dice.pick(&all) {
                    signal("-STOP", pid);
                    stopped.push(pid.clone());
                }
            }
            10 => disk.iter().for_each(SmallDisk::fill),
            11 => disk.iter().for_each(SmallDisk::empty),
            _ => stopped.drain(..).for_each(|pid| signal("-CONT", &pid)),
        }
        commands.retain_mut(|command| !command.has_ended());
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("chaos: {deeds:?}");
    // The stopped processes are continued, the disk is emptied, and the remaining VMs are ended.
    stopped.drain(..).for_each(|pid| signal("-CONT", &pid));
    disk.iter().for_each(SmallDisk::empty);
    for vm in going_on(&qhost) {
        // Some VMs end by themselves meanwhile.
        commands.push(qhost.start(&["kill", &vm]));
    }
    wait_for("the end of all commands", || {
        commands.retain_mut(|command| !command.has_ended());
        for vm in going_on(&qhost) {
            qhost.run(&["kill", &vm]);
        }
        commands.is_empty().then_some(())
    });
    wait_for("the end of all VMs", || going_on(&qhost).is_empty().then_some(()));
    is_clean(&qhost);
    is_true(&qhost);
    assert_eq!(bystander(&qhost), outside, "nothing else was touched");
    // All jobs can be started again.
    for job in &jobs {
        qhost.run(&["run", "--detach", job]).exits(0);
    }
    wait_for("their ends", || {
        let left = going_on(&qhost);
        for vm in &left {
            // Some VMs end by themselves meanwhile.
            qhost.run(&["kill", vm]);
        }
        left.is_empty().then_some(())
    });
    is_clean(&qhost);
}

/// Guests of every kind, some with ports that they ask for by number.
fn jobs(qhost: &Qhost, server: &ImageServer) -> Vec<String> {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let udp = UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    // Egress takes root and BPF.
    let egress = if can_filter() { "internet" } else { "isolated" };
    let all = [
        (Then::Hang, json!({"port_map": {"http": 80}})),
        (Then::Hang, json!({"port_map": {"http": {"guest": 80, "host": port}}})),
        (Then::Hang, json!({"port_map": {"dns": {"guest": 53, "host": udp, "protocol": "udp"}}})),
        (Then::PowerOff, json!({})),
        (Then::Panic, json!({"restart": {"policy": "on-failure", "attempts": 3, "delay_s": 0}})),
        (Then::Flood, json!({})),
        // This guest writes beyond its quota of disk.
        (Then::Fill, json!({})),
        (Then::Hang, json!({"ready": {"serial": "chaos"}, "restart": "always", "egress": egress})),
    ];
    let job = |(number, (then, config)): (usize, (Then, Value))| {
        let mut disk = boot_sector::disk("chaos", then);
        disk.resize(34 << 20, 0);
        let text =
            fs::read_to_string(qhost.job(&server.serve(&format!("/{number}"), disk), config))
                .unwrap();
        qhost.file(
            &format!("job-{number}.json"),
            text.replace("\"test\"", &format!("\"vm{number}\"")),
        )
    };
    all.into_iter().enumerate().map(job).collect()
}

/// No process, cgroup, socket, overlay or reserved port is left.
fn is_clean(qhost: &Qhost) {
    qhost.assert_nothing_left();
    assert_eq!(qhost.cgroups(), Vec::<PathBuf>::new());
    for lock in fs::read_dir(qhost.state().join("ports")).into_iter().flatten() {
        let path = lock.unwrap().path();
        let held = fs::File::open(&path).unwrap().try_lock().is_err();
        assert!(!held, "{} is held", path.display());
    }
}

/// The record of a VM that is over says so.
fn is_true(qhost: &Qhost) {
    let list = qhost.run(&["ps", "--all", "--json"]).exits(0).json();
    for vm in list["vms"].as_array().unwrap() {
        let state = vm["state"].as_str().unwrap();
        assert!(["exited", "failed", "lost"].contains(&state), "{vm}");
        let changes = vm["changes"].as_array().unwrap();
        assert_eq!(changes.last().unwrap()["state"], state, "{vm}");
        // A known end has the state that belongs to it.
        match vm["ended"]["reason"].as_str() {
            Some("shut-down" | "stopped") => assert_eq!(state, "exited", "{vm}"),
            Some("panicked" | "out-of-memory" | "failed" | "not-started") => {
                assert_eq!(state, "failed", "{vm}")
            }
            Some("unseen") | None => assert_eq!(state, "lost", "{vm}"),
            Some(_) => panic!("{vm}"),
        }
        let task = vm["task"].as_str().unwrap();
        if state == "exited" && vm["ended"]["reason"] == "shut-down" {
            assert!(["vm3", "vm6"].contains(&task), "{task} does not shut down: {vm}");
        }
    }
}

/// The files beside the state folder.
fn bystander(qhost: &Qhost) -> String {
    let folder = qhost.folder().to_str().unwrap();
    succeed("find", &[folder, "-maxdepth", "1", "-type", "f", "-printf", "%p %s\n"])
        .lines()
        .filter(|line| !line.contains("job"))
        .collect()
}
