//! Two tenants, one of them hostile in every way at once: the other's VMs, names and records are as without it. The cost of a start beside
//! it is a benchmark, `neighbours`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    hostile_tenant::{Harm, HostileTenant, config, shared_disk},
    terminal::{assert_harmless, run_on_terminal},
    wait_for,
};

use crate::{cage::STAND_IN, qhost};

const SAYS: &str = "I am web";

/// The duration is a minute, unless a run by hand is to be longer or shorter: `QHOST_NEIGHBOUR_SECONDS=600`.
fn duration() -> Duration {
    let seconds = std::env::var("QHOST_NEIGHBOUR_SECONDS").map_or(60, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// The tenant acme: its task `web`, and the ids of its VMs so far.
struct Acme {
    qhost: Arc<Qhost>,
    job: String,
    ids: Vec<String>,
}

impl Acme {
    fn run(&self, args: &[&str]) -> qhost_tests::Done {
        self.qhost.run(args).exits(0)
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.qhost.state().join("vms").join(id)
    }

    fn listed(&self, args: &[&str]) -> Vec<Value> {
        let list = self.run(&[&["ps", "--json", "--tenant", "acme"], args].concat()).json();
        list["vms"].as_array().unwrap().clone()
    }

    /// Runs one VM from its start to its end: each command is understood as acme's, and shows acme's objects alone.
    fn one_vm(&mut self) {
        let report = self.run(&["run", "--json", "--detach", "--tenant", "acme", &self.job]).json();
        let id = report["vm"]["id"].as_str().unwrap().to_owned();
        self.ids.push(id.clone());
        // The image was neither put away nor hashed again, whatever another tenant does to it.
        assert_eq!(report["image"]["cached"], json!(self.ids.len() > 1));
        let running = self.listed(&[]);
        let shown: Vec<_> =
            running.iter().map(|vm| (&vm["id"], &vm["task"], &vm["state"])).collect();
        assert_eq!(shown, [(&json!(id), &json!("web"), &json!("running"))]);
        wait_for("its console", || {
            self.run(&["logs", "acme/web"]).stdout.ends_with(&format!("{SAYS}\r\n")).then_some(())
        });
        let log = self.run(&["logs", "--tenant", "acme", "web"]).stdout;
        assert!(log.ends_with(&format!("{SAYS}\r\n")), "{log:?}");
        let stats = self.run(&["stats", "--json"]).json();
        let mine =
            stats["vms"].as_array().unwrap().iter().find(|vm| vm["id"] == json!(id)).unwrap();
        assert!(mine["resident_bytes"].as_u64() > Some(0), "{mine}");
        let stopped =
            self.run(&["stop", "--json", "--grace", "0", "--tenant", "acme", "web"]).json();
        assert_eq!(stopped["vms"].as_array().unwrap().len(), 1);
        let stopped = &stopped["vms"][0];
        assert_eq!((&stopped["id"], &stopped["ended"]["reason"]), (&json!(id), &json!("stopped")));
    }

    /// Commands for all users print on a terminal without steering it, whatever other tenants' names are.
    fn look(&self) {
        for args in
            [&["ps"][..], &["ps", "--all"], &["events"], &["image", "ls"], &["overlay", "ls"]]
        {
            let shown = run_on_terminal(&self.qhost, 80, args).exits(0);
            assert_harmless(&shown.stdout, "host ");
        }
    }

    /// The records that are kept of an ended VM, byte by byte.
    fn kept(&self, id: &str) -> [Vec<u8>; 3] {
        ["console.log", "decision.json", "status.json"]
            .map(|name| fs::read(self.folder(id).join(name)).unwrap())
    }

    /// Checks that each of acme's VMs is there with its console and its decision, that each of its launches is in its log of decisions and
    /// in its events, and that nothing else is.
    fn has_all_its_records(&self) {
        let mut listed: Vec<_> =
            self.listed(&["--all"]).iter().map(|vm| vm["id"].clone()).collect();
        let mut ids: Vec<_> = self.ids.iter().map(|id| json!(id)).collect();
        listed.sort_by_key(Value::to_string);
        ids.sort_by_key(Value::to_string);
        assert_eq!(listed, ids);
        for id in &self.ids {
            let log = self.run(&["logs", id]).stdout;
            assert!(log.ends_with(&format!("{SAYS}\r\n")), "{log:?}");
            let [_, decision, _] = self.kept(id);
            let decision: Value = serde_json::from_slice(&decision).unwrap();
            assert!(decision.is_object(), "{decision}");
            let whole = self.run(&["inspect", "--json", &format!("acme/{id}")]).json();
            assert_eq!((&whole["tenant"], &whole["task"]), (&json!("acme"), &json!("web")));
        }
        let log =
            fs::read_to_string(self.qhost.state().join("decisions/tenant-acme/current.jsonl"));
        let log = log.unwrap();
        let records: Vec<Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), self.ids.len());
        for record in &records {
            assert_eq!(
                (&record["task"]["tenant"], &record["task"]["name"]),
                (&json!("acme"), &json!("web"))
            );
        }
        let events = self.run(&["events", "--tenant", "acme"]).stdout;
        assert!(self.ids.iter().all(|id| events.contains(id)), "{events}");
        assert!(!events.contains("mallory"), "{events}");
    }
}

#[test]
fn a_hostile_neighbour_changes_nothing() {
    let (qhost, server) = (Arc::new(qhost()), ImageServer::start());
    qhost.config(&config(3));
    let image = server.serve("/image", shared_disk(SAYS));
    let job = fs::read_to_string(qhost.job(&image, json!({}))).unwrap();
    let job = qhost.file("acme.json", job.replace("\"test\"", "\"web\""));
    let mut acme = Acme { qhost: qhost.clone(), job, ids: vec![] };
    acme.one_vm();
    let first = acme.ids[0].clone();
    let kept = acme.kept(&first);
    let mallory = HostileTenant::start(&qhost, STAND_IN, &image, &first, Harm::ByCommandsToo);
    let until = Instant::now() + duration();
    while Instant::now() < until {
        acme.one_vm();
        acme.look();
    }
    let went_on = || {
        let events = qhost.run(&["events", "--tenant", "mallory"]).exits(0).stdout;
        events.contains("QEMU flooded its control socket").then_some(())
    };
    wait_for("a flood to be ended", went_on);
    let tried = mallory.tried();
    mallory.end();
    acme.has_all_its_records();
    assert_eq!(acme.kept(&first), kept);
    // The image that both tenants have is still acme's.
    let images = qhost.run(&["image", "ls", "--json"]).exits(0).json();
    let shared = images["images"].as_array().unwrap().iter();
    let shared: Vec<_> = shared.filter(|one| one["sha256"] == json!(image.1)).collect();
    assert_eq!((shared.len(), &shared[0]["tenant"]), (1, &json!("acme")));
    eprintln!("{} VMs of acme's in {} s beside: {tried}", acme.ids.len() - 1, duration().as_secs());
    qhost.assert_nothing_left();
}

/// Tenants share CPU time alike, however many VMs and commands one has; a start goes before those, until its guest runs or it takes long.
#[test]
fn commands_and_vms_are_in_their_tenants_cgroup() {
    let (qhost, server) =
        (qhost().env("QHOST_SLOW_AT", "launch.negotiated=2000"), ImageServer::start());
    qhost.config("[tenants.acme]\n");
    let image = server.serve("/image", shared_disk(SAYS));
    let job = qhost.job(&image, json!({}));
    // A start that fetches its image leaves the group of starts.
    qhost.run(&["run", "--detach", "--tenant", "acme", &job]).exits(0);
    qhost.run(&["kill", "acme/test"]).exits(0);
    let group = |pid: &str, end: &str| cpu_groups(pid).into_iter().find(|it| it.ends_with(end));
    // A start is in that group for a moment only, which this test may miss on a busy machine: then there is another start.
    let (run, starts) = wait_for("a command among the starts", || {
        let run = qhost.start(&["run", "--tenant", "acme", &job]);
        let (pid, until) = (run.pid().to_string(), Instant::now() + Duration::from_secs(5));
        while Instant::now() < until {
            if let Some(starts) = group(&pid, "/qhost/starts/tenant-acme") {
                return Some((run, starts));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        qhost.run(&["kill", "acme/test"]).exits(0);
        run.end();
        None
    });
    let pid = run.pid().to_string();
    let root = starts.strip_suffix("/starts/tenant-acme").unwrap();
    let of_qemu = || qhost.qemus().first().map(|pid| cpu_groups(pid)).filter(|it| !it.is_empty());
    let is_starting = |group: &String| *group == starts || group.ends_with("/qemu");
    let begins =
        wait_for("QEMU to be seen", || of_qemu().filter(|all| all.iter().all(is_starting)));
    let listed = qhost.run(&["ps", "--json", "--tenant", "acme"]).exits(0).json();
    let of_vm = format!("{root}/tenant-acme/{}/qemu", listed["vms"][0]["id"].as_str().unwrap());
    // With cgroups of version 2 a process has one group for all controllers.
    let expected = if has_v1() { &starts } else { &of_vm };
    assert!(begins.iter().all(|it| it == expected), "{begins:?}");
    // Tenants have equal shares, and their starts together four times a tenant's.
    let weight = |group: &str| {
        let (mount, file) = if has_v1() {
            ("/sys/fs/cgroup/cpu", "cpu.shares")
        } else {
            ("/sys/fs/cgroup", "cpu.weight")
        };
        let weight = fs::read_to_string(format!("{mount}{root}/{group}/{file}")).unwrap();
        weight.trim().parse::<u64>().unwrap() * 100 / if has_v1() { 1024 } else { 100 }
    };
    assert_eq!((weight("tenant-acme"), weight("starts")), (100, 400));
    let commands = format!("{root}/tenant-acme/commands");
    let all_are = |pid: &str, group: &String| {
        let all = cpu_groups(pid);
        (!all.is_empty() && all.iter().all(|it| it == group)).then_some(())
    };
    wait_for("the command to leave the starts", || all_are(&pid, &commands));
    wait_for("QEMU to leave the starts", || all_are(qhost.qemus().first()?, &of_vm));
    qhost.run(&["kill", "acme/test"]).exits(0);
}

/// A tenant's start waits for the tenant's other starts, says so, can be given up, and keeps no other tenant's start waiting.
#[test]
fn one_start_of_a_tenant_is_worked_on_at_a_time() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[tenants.acme]\n[tenants.mallory]\n");
    let job = qhost.job(&server.serve("/image", shared_disk(SAYS)), json!({}));
    fs::create_dir_all(qhost.state().join("turns")).unwrap();
    let turn = File::create(qhost.state().join("turns/mallory.lock")).unwrap();
    turn.lock().unwrap();
    let given_up = qhost.start(&["run", "--tenant", "mallory", &job]);
    given_up.says("waiting   for other starts of tenant mallory");
    qhost.run(&["run", "--detach", "--tenant", "acme", &job]).exits(0);
    given_up.signal("INT");
    given_up.end().exits(130).says("interrupted before the guest ran");
    let waits = qhost.start(&["run", "--detach", "--tenant", "mallory", &job]);
    assert_eq!(qhost.vms().len(), 1, "acme's alone");
    drop(turn);
    waits.end().exits(0);
    qhost.run(&["kill", "acme/test", "mallory/test"]).exits(0);
}

/// The groups that count the CPU time of a process's threads.
fn cpu_groups(pid: &str) -> Vec<String> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return vec![] };
    threads.filter_map(|thread| cpu_group(&thread.ok()?.path())).collect()
}

/// Whether CPU time is counted by a hierarchy of version 1.
fn has_v1() -> bool {
    fs::read_to_string("/proc/self/cgroup").unwrap().lines().any(|line| line.contains(":cpu"))
}

/// The group that counts a thread's CPU time.
fn cpu_group(thread: &Path) -> Option<String> {
    let groups = fs::read_to_string(thread.join("cgroup")).ok()?;
    let of = |wanted: fn(&str) -> bool| {
        let mut groups = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        groups.find(|(controllers, _)| wanted(controllers)).map(|(_, group)| group.to_owned())
    };
    of(|controllers| controllers.split(',').any(|one| one == "cpu")).or_else(|| of(str::is_empty))
}
